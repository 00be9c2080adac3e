"""A full disk is told as one, whoever meets it: polars, SQLite, a child, the ledger, the record."""

from __future__ import annotations

import contextlib
import errno
import re
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.watch import _failure
from codelutra.config import parse_config
from codelutra.errors import StageError, UserError, disk_is_full, of_the_system
from codelutra.execution.cache import OutcomeCache
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Recipe, Step, Store, write_frame
from codelutra.store.child import EndedEarlyError
from codelutra.store.files import write_atomic
from codelutra.store.places import open_place, require_place
from codelutra.store.run_dir import RunDir
from codelutra.store.shared import SharedStore
from tests.helpers.example_run import example_run

CONFIG = parse_config({"name": "r", "suite": {"name": "starter-sql"}})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    rest = folder / "rest"
    with contextlib.suppress(OSError), rest.open("wb", buffering=0) as f:
        while True:
            f.write(b"x" * 4096)
    return rest


def large(out: Path, work: Path) -> dict[str, Any]:
    return {
        "rows": write_frame(pl.DataFrame({"a": range(10**6)}).sample(fraction=1.0, seed=0, shuffle=True), out / "f.parquet")
    }


def test_a_frame_that_does_not_fit_is_told_and_leaves_nothing(small: Path) -> None:
    recipe, store = Recipe("score", 1, {}, {}), Store(small / "store")
    with pytest.raises(UserError, match=rf"disk full at {small}/store .*codelutra prune.*same command again"):
        store.make(Step(recipe, large))
    assert not list(small.rglob("f.parquet"))
    assert store.make(Step(recipe, lambda out, work: {"rows": 0})).facts == {"rows": 0}


def test_what_others_have_made_and_does_not_fit_is_told_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    recipe, place = Recipe("score", 1, {}, {}), open_place(str(tmp_path / "shared"))
    require_place(place)
    theirs = SharedStore(tmp_path / "theirs", place)
    theirs.make(Step(recipe, large))
    theirs.close()
    with pytest.raises(UserError, match=rf"disk full at {small}/store .*codelutra prune.*same command again"):
        SharedStore(small / "store", place).find(recipe)
    assert not list(small.rglob("f.parquet"))
    assert not list((small / "store" / ".partial").iterdir())


def test_a_record_that_does_not_fit_leaves_the_old_one(small: Path) -> None:
    write_atomic(small / "summary.json", "old")
    rest = fill(small)
    with pytest.raises(UserError, match=f"disk full at {small}/summary.json"):
        write_atomic(small / "summary.json", "x" * 9000)
    rest.unlink()
    assert (small / "summary.json").read_text() == "old"
    assert [p.name for p in small.iterdir()] == ["summary.json"]


def test_a_run_goes_on_once_there_is_space(small: Path) -> None:
    rest = fill(small)
    suite = {"name": "starter-sql", "train": 12, "dev": 8, "test": 4}
    with pytest.raises((OSError, UserError)) as full:
        example_run(small, skills=(0.5, 0.6), suite=suite)
    assert isinstance(full.value, UserError) or "disk full" in str(of_the_system(full.value))
    rest.unlink()
    subprocess.run(["mount", "-o", "remount,size=9m", small], check=True)
    run = example_run(small, skills=(0.5, 0.6), suite=suite)
    assert (run / "summary.json").is_file()


def test_a_run_that_cannot_even_write_its_ledger_raises_what_it_met(small: Path) -> None:
    with Run(small, CONFIG) as run:
        rest = fill(small)
        with pytest.raises(UserError, match=f"disk full at {run.dir.path}/"), run.refining():
            run.dir.ledger({"event": "note", "text": "x" * 9000})
        text = str(_failure(1, run.dir, 0, 0))
        assert "left no message: disk full at " in text, "its process could not say so"
        rest.unlink()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        pl.exceptions.ComputeError("No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError(
            "[enforce fail at inline_container.cc:664] . unexpected pos 1 vs 2; PytorchStreamWriter failed writing file"
        ),
    ],
)
def test_it_is_known_by_what_libraries_say(error: Exception) -> None:
    assert disk_is_full(error)
    later = KeyError("x")
    later.__cause__ = error
    assert "disk full at" in str(of_the_system(later))
    assert not disk_is_full(UserError(str(error)))


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "Input/output error"), KeyError("disk full")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not disk_is_full(error)
    assert of_the_system(error) is None


def test_a_training_that_ended_for_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("Traceback …\nOSError: [Errno 28] No space left on device\n")
    assert "disk full at" in str(EndedEarlyError("training", 1, tmp_path / "log.txt"))
    (tmp_path / "log.txt").write_text("Traceback …\nKeyError: 3\n")
    error: StageError = EndedEarlyError("training", 1, tmp_path / "log.txt")
    assert "disk full" not in str(error)


def test_verdicts_that_do_not_fit_are_no_traceback(small: Path) -> None:
    cache = OutcomeCache(small / "outcomes.sqlite3")
    fill(small)
    verdict = {"status": "correct", "output": "x" * 200}
    many = {i.to_bytes(8, "big"): verdict for i in range(9000)}
    with pytest.raises(UserError, match=r"disk full at .*outcomes\.sqlite3"):
        cache.put(many)
    cache.close()


@pytest.mark.parametrize("damage", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_verdicts_that_are_damaged_say_what_to_remove(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "outcomes.sqlite3").write_bytes(damage)
    with pytest.raises(UserError, match=r"outcomes\.sqlite3 cannot be used .*remove it"):
        OutcomeCache(tmp_path / "outcomes.sqlite3")


def test_the_end_of_the_log_tells_where_a_process_left_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    run.log.write_text("of an earlier start\n")
    before = run.log.stat().st_size
    with run.log.open("a") as f:
        f.write("ValueError: a reason\n\n")
    text = str(_failure(1, run, 0, 0, before))
    assert text.endswith(f"left no message\nThe end of {run.log}:\n  ValueError: a reason")
    with run.log.open("a") as f:
        f.write("RuntimeError: Failed to reach API at http://127.0.0.1:9/api/\n")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "no Prefect server answers at PREFECT_API_URL (http://127.0.0.1:9/api). Start it" in str(
        _failure(1, run, 0, 0, before)
    )


def test_a_machine_without_a_folder_for_temporary_files_is_told_which_variable_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(FileNotFoundError) as none:
        tempfile.mkdtemp()
    assert re.search("No usable temporary directory.*Set TMPDIR", str(of_the_system(none.value)))
