"""Files are whole or absent, links never lead nowhere, a lock has one holder."""

from __future__ import annotations

from pathlib import Path

import pytest

from codelutra.store.files import link_atomic, locked, whole, write_atomic


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
