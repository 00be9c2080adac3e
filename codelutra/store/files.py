"""Files that are whole or absent, and the lock by which processes take turns."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from codelutra.errors import UserError


def _beside(path: Path) -> Path:
    """A name of our own in the same folder: what is written there takes `path`'s place by a rename."""
    return path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch file to write, which becomes `path` at the end of the block; a block that raises leaves `path` as it was."""
    scratch = _beside(path)
    try:
        yield scratch
        fsync(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing. Text is written as UTF-8."""
    with whole(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def link_atomic(link: Path, target: Path) -> None:
    """Point `link` at `target` by a relative path; whoever reads meanwhile finds the old target or the new one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(link)
    scratch.symlink_to(os.path.relpath(target, link.parent.resolve()))
    os.replace(scratch, link)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an flock on `path`; the kernel releases it when the process dies. Raises BlockingIOError if not `wait`.

    `waiting` is called once if another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            waiting()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def refusing_full_disk(at: Path, unfinished: Path) -> Iterator[None]:
    """On a full disk, remove the folder `unfinished` and raise UserError with the free space at `at`."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        free = shutil.disk_usage(at).free / 2**30
        raise UserError(
            f"disk full at {at} ({free:.2f} GiB free): nothing half-written was kept; free some space "
            "(`codelutra prune` shows what no run uses) and give the same command again"
        ) from e


def refuse_foreign(file: Path, folder: Path) -> None:
    """Raise UserError where `file` is a link that leads out of `folder`: what is there is not ours to copy or publish.

    The hub's cache is made of links: a snapshot's lead into the blobs of the same repository.
    """
    there, real = folder.resolve(), file.resolve()
    inside = [there]
    if there.parent.name == "snapshots" and there.parents[1].name.startswith("models--"):
        inside.append(there.parents[1] / "blobs")
    if not any(real.is_relative_to(place) for place in inside):
        raise UserError(
            f"{file} is a link that leads out of its folder, to {real}: it is not copied, nor published with the model. "
            "Put the file itself there, or remove the link"
        )


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Have the kernel write a file, or a folder's names, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
