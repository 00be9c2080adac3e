"""Files are whole or absent, links never lead nowhere, a lock has one holder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from codelutra.store.files import is_locked, link_atomic, lock_holder, locked, whole, write_atomic
from tests.helpers.rights import rights_count


def write_half(path: Path) -> None:
    with whole(path) as scratch:
        scratch.write_text("half")
        raise ValueError("boom")


def test_a_file_that_could_not_be_finished_stays_as_it_was(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", "β and λ")
    with pytest.raises(ValueError, match="boom"):
        write_half(tmp_path / "f")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "β and λ"
    write_atomic(tmp_path / "f", b"\0whole")
    assert (tmp_path / "f").read_bytes() == b"\0whole"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_is_moved_to_another_target_and_leads_there_when_its_folder_is_reached_through_a_link(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "there" / name).mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "there" / "a")
    for name in ("a", "b"):
        link_atomic(tmp_path / "short" / "deep" / "link", tmp_path / "there" / name)
        assert (tmp_path / "short" / "deep" / "link").resolve() == tmp_path / "there" / name
    assert [p.name for p in (tmp_path / "short" / "deep").iterdir()] == ["link"]


def test_a_lock_is_free_again_once_its_holder_is_done(tmp_path: Path) -> None:
    with locked(tmp_path / "l"), pytest.raises(BlockingIOError), locked(tmp_path / "l", wait=False):
        pass
    with locked(tmp_path / "l", wait=False):
        pass


def _dies_writing(file: str) -> None:
    with whole(Path(file)) as scratch:
        scratch.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_killed_writers_left_goes_when_the_file_is_written_again(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for _ in range(2):
        writer = fork.Process(target=_dies_writing, args=(str(tmp_path / "f"),))
        writer.start()
        writer.join()
    (tmp_path / ".f.123.456").write_text("of 0.1.0")
    os.utime(tmp_path / ".f.123.456", (time.time() - 7200,) * 2)
    (tmp_path / ".f.elsewhere-1-2.3").symlink_to("of another machine that is at it now")
    others = [".f.lock", ".f.txt", ".g.123.456", ".f"]
    for name in others:
        (tmp_path / name).write_text("no scratch file of f")
    assert len(list(tmp_path.iterdir())) >= 7
    with whole(tmp_path / "f") as mine:
        mine.write_text("mine")
        write_atomic(tmp_path / "f", "another thread's")
        assert mine.exists(), "its maker lives"
    assert {p.name for p in tmp_path.iterdir()} == {"f", ".f.elsewhere-1-2.3", *others}
    assert (tmp_path / "f").read_text() == "mine"


def test_a_lock_file_of_another_user_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / "l").touch()
    (tmp_path / "l").chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with rights_count():
            with locked(tmp_path / "l", holder="run r"):
                assert is_locked(tmp_path / "l")
            with pytest.raises(PermissionError), locked(tmp_path / "new"):
                pass
    finally:
        tmp_path.chmod(0o755)


def _holds(lock: str, held: Any, end: Any) -> None:
    with locked(Path(lock), holder="run demo, process 7"):
        held.set()
        end.wait(20)


def test_who_waits_can_say_for_whom(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held, end = fork.Event(), fork.Event()
    holder = fork.Process(target=_holds, args=(str(tmp_path / "l"), held, end))
    holder.start()
    assert held.wait(10)
    seen: list[str] = []

    def waiting() -> None:
        seen.append(lock_holder(tmp_path / "l"))
        end.set()

    with locked(tmp_path / "l", waiting=waiting):
        assert seen == ["run demo, process 7"]
    holder.join()
    assert not is_locked(tmp_path / "l")
    assert not is_locked(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_lock_is_shared_by_those_who_share_it(tmp_path: Path) -> None:
    with locked(tmp_path / "l", shared=True), locked(tmp_path / "l", shared=True, wait=False):
        with pytest.raises(BlockingIOError), locked(tmp_path / "l", wait=False):
            pass
        assert not is_locked(tmp_path / "l"), "nobody has it alone"
