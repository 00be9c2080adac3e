"""Files that are whole or absent, and the lock by which processes take turns."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import polars as pl
import yaml

from codelutra.errors import UserError, disk_is_full, full_disk
from sandbox import owner

_LONG_GONE = 3600.0  # seconds after which the scratch file of a process we cannot see is nobody's
# What a file that is not as it was written makes its readers raise.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    yaml.YAMLError,
    pl.exceptions.PolarsError,
)


def beside(path: Path) -> Path:
    """A name of our own in the same folder: what is written there takes `path`'s place by a rename.

    What killed processes left beside `path` in their turn is removed.
    """
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and _abandoned(left, left.name[len(path.name) + 2 :]):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{this_process()}.{time.monotonic_ns()}")


def _abandoned(scratch: Path, maker: str) -> bool:
    """Whether a scratch file's maker is gone: known of processes here, judged by age of any other."""
    named, _, number = maker.partition(".")
    if not number.isdecimal():
        return False  # none of ours
    machine, *process = named.split("-")
    if machine == _machine() and len(process) == 2:
        return owner.started(process[0]) != process[1]
    try:
        return time.time() - scratch.lstat().st_mtime > _LONG_GONE
    except FileNotFoundError:  # finished meanwhile
        return False


def this_process() -> str:
    """A name of this process among all processes of all machines, for `is_gone`."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{owner.started(pid)}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine, by its name, has ended. Of other machines nothing is known: False."""
    machine, _, rest = process.partition("-")
    pid, _, started = rest.partition("-")
    return machine == _machine() and pid.isdecimal() and owner.started(pid) != started


@cache
def _machine() -> str:
    """This machine since it started, and which of its process tables we are in."""
    return hashlib.sha256(f"{owner.host()} {owner.boot()}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch file to write, which becomes `path` at the end of the block; a block that raises leaves `path` as it was.

    Raises UserError where the disk is full.
    """
    scratch = beside(path)
    try:
        yield scratch
        fsync(scratch)
        os.replace(scratch, path)
    except Exception as e:
        if disk_is_full(e) and not isinstance(e, UserError):
            raise full_disk(path) from e
        raise
    finally:
        scratch.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing. Text is written as UTF-8."""
    with whole(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def link_atomic(link: Path, target: Path) -> None:
    """Point `link` at `target` by a relative path; whoever reads meanwhile finds the old target or the new one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    scratch = beside(link)
    scratch.symlink_to(os.path.relpath(target, link.parent.resolve()))
    os.replace(scratch, link)


@contextlib.contextmanager
def locked(
    path: Path, *, wait: bool = True, shared: bool = False, waiting: Callable[[], None] = lambda: None, holder: str = ""
) -> Iterator[None]:
    """Hold an flock on `path`; the kernel releases it when the process dies. Raises BlockingIOError if not `wait`.

    `shared`: together with others that share it. `waiting` is called once if another holds it. `holder`, for people, is
    what `lock_holder` tells meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _lock_file(path)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            waiting()
            fcntl.flock(fd, kind)
        if holder:
            with contextlib.suppress(OSError):  # a file of another user, a full disk
                os.ftruncate(fd, 0)
                os.pwrite(fd, holder.encode(), 0)
        yield
    finally:
        os.close(fd)


def _lock_file(path: Path) -> int:
    """An open lock file; one that another user made need only be readable."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # less the umask
    except PermissionError:
        if path.exists():
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        raise


def lock_holder(path: Path) -> str:
    """Who holds `path`, as told to `locked`; "" where nothing was told."""
    with contextlib.suppress(OSError):
        return " ".join(path.read_text(errors="replace").split())[:200]
    return ""


def is_locked(path: Path) -> bool:
    """Whether somebody holds `path` for themselves now. Writes nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def refusing_full_disk(at: Path, unfinished: Path) -> Iterator[None]:
    """On a full disk, remove the folder `unfinished` and raise UserError with the free space at `at`."""
    try:
        yield
    except Exception as e:
        if not disk_is_full(e):
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        raise full_disk(f"{at} ({shutil.disk_usage(at).free / 2**30:.2f} GiB free; {str(e).splitlines()[0][:200]})") from e


@contextlib.contextmanager
def reading(file: Path, mend: str) -> Iterator[None]:
    """What keeps the block from reading `file` becomes a UserError: the file, what is wrong, and `mend`, the way out.

    A file that is not there stays a FileNotFoundError.
    """
    try:
        require_plain_file(file)
        yield
    except FileNotFoundError:
        raise
    except PermissionError as e:
        raise UserError(f"{file} cannot be read ({e.strerror}); get the right to read it, or {mend}") from e
    except UNREADABLE as e:
        raise UserError(f"{file} is damaged ({cause(e)}); {mend}") from e


def require_plain_file(file: Path) -> None:
    """Raise ValueError for a pipe, a socket or a device: reading one may never end."""
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        raise ValueError("it is a pipe, a socket or a device")


def cause(error: BaseException) -> str:
    """An error in a line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


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
