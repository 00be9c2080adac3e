"""The folder of an export: whole or not there, whatever way leads to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from codelutra.errors import UserError
from codelutra.reporting.new_folder import new_folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with places to export to; the current one."""
    here = tmp_path / "here"
    for name in ("empty", "full", "behind"):
        (here / name).mkdir(parents=True)
    (here / "full" / "note").write_text("mine")
    (here / "link").symlink_to("behind")
    (here / "dangling").symlink_to("nowhere")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(here)
    return here


def fill(out: Path) -> None:
    with new_folder(out) as part:
        (part / "sub").mkdir()
        (part / "sub" / "file").write_text("whole")


@pytest.mark.parametrize("way", ["new", "deep/new", "empty", "link", "link/", "dangling", "empty/../new", "new\nline"])
def test_any_way_to_a_folder_that_is_new_or_empty_is_taken(way: str, here: Path) -> None:
    fill(Path(way))
    assert (Path(way) / "sub" / "file").read_text() == "whole"
    assert [p.name for p in Path(way).iterdir()] == ["sub"]
    assert not list(here.rglob("*.part"))
    with pytest.raises(UserError, match="not empty"):
        fill(Path(way))


@pytest.mark.parametrize("way", [".", "", "../current"])
def test_the_current_folder_stays_the_current_folder(
    way: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "current")
    fill(Path(way))
    assert Path("sub/file").read_text() == "whole"


@pytest.mark.parametrize("way", ["new", "empty", "link", "dangling"])
def test_what_fails_or_is_killed_leaves_nothing_in_the_way(way: str, here: Path) -> None:
    entered = new_folder(Path(way))
    part = entered.__enter__()
    (part / "half").write_text("half")
    assert not entered.__exit__(ValueError, ValueError("what broke"), None), "it is raised on"
    assert not part.exists()
    part.mkdir()  # as a kill leaves it
    (part / "half").write_text("half")
    fill(Path(way))
    assert not list(here.rglob("half"))


@pytest.mark.parametrize("way", ["full", "full/", "full/note", "/", "..", "/dev/null"])
def test_what_is_there_is_left_alone(way: str, here: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        fill(Path(way))
    assert (here / "full" / "note").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_mounted_volume_is_filled(here: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "none", here / "empty"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        fill(Path("empty"))
        assert Path("empty/sub/file").read_text() == "whole"
    finally:
        subprocess.run(["umount", here / "empty"], check=True)
