"""`doctor` looks without touching: real Docker, real metadata, no heavy imports."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from codelutra import hardware
from codelutra.cli import doctor
from codelutra.cli.doctor import Check, _libraries, checks, cluster, memory_bytes, prefect_server
from codelutra.cli.tables import checks_table
from codelutra.config import parse_config
from tests.helpers.http import Raw, answering
from tests.helpers.ports import free_port


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_this_machine_is_described_by_what_is_really_here() -> None:
    found = by_name(checks())
    assert found["python"].ok
    assert found["torch"].found == metadata.version("torch")
    assert found["docker"].ok
    assert found["gpu"].ok  # optional
    assert {"cores", "memory", "disk", "trl", "sandbox image", "models"} <= set(found)
    assert all(check.need and check.how_to_get_it for check in found.values())


@pytest.mark.parametrize(
    ("status", "origin", "found", "warn"),
    [
        (200, "*", "answers without a password and answers to pages of any origin", True),
        (200, "", "answers without a password", True),
        (401, "*", "answers to pages of any origin", True),
        (401, "http://127.0.0.1:4200", "asks for a password", False),
    ],
)
def test_a_prefect_server_that_anybody_may_ask_is_warned_of(status: int, origin: str, found: str, warn: bool) -> None:
    headers = {"access-control-allow-origin": origin} if origin else {}
    with answering(lambda _: Raw(status, "", headers), "/api") as plain:
        for url in (plain, plain.replace("//", "//user:s3cret@")):
            check = prefect_server(url)
            assert (check.found.endswith(f" {found}"), check.warn, check.ok) == (True, warn, True)
            row = checks_table([check]).records()[0]
            assert (row[""], "make ui" in row["how to get it"]) == (("!", True) if warn else ("✓", False))
            assert "s3cret" not in str(check)
    gone = prefect_server(plain.replace("//", "//user:s3cret@"))
    assert (gone.warn, gone.ok, "s3cret" in str(gone)) == (True, True, False)
    assert gone.found.startswith("none at ")


def test_a_configs_cluster_is_checked_where_it_has_one() -> None:
    here = {"name": "here", "suite": {"name": "starter-sql"}}
    none = cluster(parse_config(here))
    assert (none.ok, none.found) == (True, "none: here works on this machine")
    at = f"127.0.0.1:{free_port()}"
    gone = cluster(parse_config(here | {"cluster": {"address": at}}))
    assert not gone.ok
    assert gone.found.startswith(f"cluster.address {at}: no Ray cluster can be used there (")
    assert "`ray start --head` starts one" in gone.how_to_get_it


# The docker package leaves its socket to the garbage collector when connecting fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_daemon_that_does_not_answer_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///not/there.sock")
    found = by_name(checks())
    assert not found["docker"].ok
    assert "unix:///not/there.sock" in found["docker"].found
    assert "make setup" in found["docker"].how_to_get_it
    assert "sandbox image" not in found
    gc.collect()


def test_a_containers_memory_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert memory_bytes(tmp_path) == 16_000_000 * 1024
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    assert memory_bytes(tmp_path) == 16_000_000 * 1024
    limit.write_text("4294967296\n")
    assert memory_bytes(tmp_path) == 4 * 2**30


def test_a_library_of_another_version_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, version, requires in (("codelutra", "0.1", "trl<1.17,>=1.16; extra == 'train'"), ("trl", "0.9", "")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text + (f"Requires-Dist: {requires}\n" if requires else ""))
    monkeypatch.syspath_prepend(tmp_path)
    trl = by_name(checks())["trl"]
    assert (trl.ok, trl.found, trl.need) == (False, "0.9", "<1.17,>=1.16")


def test_without_prefect_a_run_cannot_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert by_name(list(_libraries()))["prefect"].ok
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where nothing is installed
    prefect = by_name(list(_libraries()))["prefect"]
    assert (prefect.ok, prefect.found) == (False, "none")
    assert "make setup" in prefect.how_to_get_it


@pytest.mark.parametrize(
    ("script", "visible", "torch", "says", "warns"),
    [
        ("echo '0, GPU-1, NVIDIA H100, 81559'", None, "2.13.0", "NVIDIA H100, 81559 MiB; not used", True),
        ("echo '0, GPU-1, NVIDIA H100, 81559'", None, "2.13.0+cpu", r"torch 2\.13\.0\+cpu is a CPU build", True),
        ("echo '0, GPU-1, NVIDIA H100, 81559'", "", "2.13.0", "none: .*CUDA_VISIBLE_DEVICES is ''", False),
        ("echo '0, GPU-1, NVIDIA H100, 81559'", "NoDevFiles", "2.13.0", "CUDA_VISIBLE_DEVICES is 'NoDevFiles'", False),
        ("true", None, "2.13.0", "none: .*nvidia-smi lists none", False),
        ("echo NVIDIA-SMI has failed; exit 9", None, "2.13.0", r"none: .*fails \(NVIDIA-SMI has failed\)", True),
        ("echo No devices were found", None, "2.13.0", "none: .*nvidia-smi fails", True),
        ("exec sleep 5", None, "2.13.0", r"fails \(.*timed out", True),
        (None, None, "2.13.0", r"fails \(.*Exec format error", True),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why_and_ends_nothing(
    script: str | None,
    visible: str | None,
    torch: str,
    says: str,
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "nvidia-smi").write_bytes(f"#!/bin/sh\n{script}\n".encode() if script else b"\x7fELF of another machine")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(hardware, "SMI_SECONDS", 0.5)
    for module in (doctor, hardware):
        monkeypatch.setattr(module, "torch_version", lambda: torch)
    monkeypatch.setattr(doctor, "gpu_capabilities", hardware.gpu_capabilities.__wrapped__)
    found = doctor._gpu()
    assert re.search(says, found.found)
    assert (found.ok, found.warn) == (True, warns)


def test_looking_imports_no_gpu_library() -> None:
    code = (
        "import sys; from codelutra.cli.doctor import checks; checks(); print({'torch', 'vllm', 'trl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
