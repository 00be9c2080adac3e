"""What goes into an image's tag, and the lock of a build."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sandbox import SandboxError, ensure_image
from sandbox import image as images
from sandbox.client import connect
from sandbox.image import LABEL, build_layer, building, kinds, recipe, superseded


@pytest.mark.parametrize("name", ["REGISTRY_BASE", "OWN_BASE"])
def test_another_base_is_another_tag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe("python").tag
    monkeypatch.setattr(images, name, "another")
    assert recipe("python").tag != before


def test_the_base_of_the_registry_is_named_by_its_content() -> None:
    repository, _, digest = images.REGISTRY_BASE.partition("@sha256:")
    assert (repository, len(digest)) == ("python", 64)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_is_left_alone(
    dangling: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_text("mine")
    with building("codelutra/python:1"):
        (lock,) = tmp_path.glob("*.lock")
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(SandboxError, match="link"), building("codelutra/python:1"):
        pass
    assert victim.exists() != dangling
    assert dangling or victim.read_text() == "mine"


def test_the_lock_is_not_where_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path / "new" / "folder"))
    with building("codelutra/python:1"):
        (lock,) = (tmp_path / "new" / "folder").iterdir()
        assert lock.stat().st_mode & 0o077 == 0
        waits = subprocess.Popen(
            [sys.executable, "-c", "from sandbox.image import building\nwith building('codelutra/python:1'): print('in')"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waits.wait(1.0)
    assert waits.communicate(timeout=60)[0] == b"in\n"


def test_an_image_that_is_there_needs_no_lock(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", os.devnull + "/nowhere")
    assert ensure_image("python") == image
    with pytest.raises(SandboxError, match="CODELUTRA_CACHE"), building("codelutra/python:1"):
        pass


def test_images_of_other_versions_are_named_until_a_container_uses_them() -> None:
    other, layer = (f"codelutra/{kind}:{uuid.uuid4().hex[:12]}" for kind in ("python", "python-packages"))
    with contextlib.closing(connect()) as client:
        try:
            build_layer(client, layer, "", {"Dockerfile": b"FROM scratch\nLABEL made.for=a-test\n"})
            build_layer(client, other, layer, {"Dockerfile": b"ARG BASE\nFROM $BASE\n"}, labels={LABEL: "python"})
            found = superseded(client)
            assert found.index(other) < found.index(layer)
            assert not {recipe(k).tag for k in kinds()}.intersection(found)
            container = client.containers.create(other, "nothing")
            try:
                assert not {other, layer}.intersection(superseded(client))
            finally:
                container.remove(force=True)
        finally:
            for tag in (other, layer):
                client.images.remove(tag)
