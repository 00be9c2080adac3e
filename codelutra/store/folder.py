"""A folder of a file system that other hosts mount too, as a place for a shared store."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from codelutra.addresses import folder_of_store
from codelutra.errors import CodelutraError, disk_is_full
from codelutra.store.files import beside, cause, fsync, whole
from codelutra.store.place import MARKER, Moved, PlaceError

_CHUNK = 16 << 20  # bytes in memory at a time


class Folder:
    """Objects below a folder. Temporary names begin with a dot."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._root = folder_of_store(address)

    def require(self) -> None:
        if not self._root.is_dir():
            raise PlaceError("there is no such folder; mount it or make it first", lasting=True)

    def read(self, name: str, most: int) -> bytes | None:
        with self._asking(), contextlib.suppress(FileNotFoundError), open(self._path(name), "rb") as f:
            return f.read(most + 1)
        return None

    def size(self, name: str) -> int | None:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            return self._path(name).stat().st_size
        return None

    def create(self, name: str, content: bytes) -> bool:
        """By a hard link, which a network file system makes once and for all hosts."""
        with self._asking():
            target = self._room_for(name)
            scratch = beside(target)
            try:
                scratch.write_bytes(content)
                fsync(scratch)
                os.link(scratch, target)
            except FileExistsError:
                return False
            finally:
                scratch.unlink(missing_ok=True)
            fsync(target.parent)
        return True

    def replace(self, name: str, content: bytes) -> None:
        with self._asking(), whole(self._room_for(name)) as scratch:
            scratch.write_bytes(content)

    def remove(self, name: str) -> None:
        with self._asking():
            self._path(name).unlink(missing_ok=True)

    def put(self, name: str, file: Path, moved: Moved) -> None:
        with self._asking(), whole(self._room_for(name)) as scratch:
            _copy(file, scratch, moved)

    def get(self, name: str, file: Path, moved: Moved) -> None:
        with self._asking(into=file):
            _copy(self._path(name), file, moved)

    def _path(self, name: str) -> Path:
        """Where `name` is or would be. In the empty folder on which a share was mounted, nothing is missing: it is away."""
        if not (self._root if name == MARKER else self._root / MARKER).exists():
            raise PlaceError(f"{self._root} does not hold {MARKER} any more; is it mounted?")
        return self._root / name

    def _room_for(self, name: str) -> Path:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _asking(self, into: Path | None = None) -> Iterator[None]:
        """Errors of the place become PlaceErrors; those of a file here, `into`, stay what they are."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as e:
            if into and (str(e.filename) == str(into) or disk_is_full(e)):
                raise
            refused = e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP)
            raise PlaceError(f"{e.filename or self._root}: {cause(e)}", lasting=refused) from e
        except CodelutraError as e:  # its disk is full
            raise PlaceError(str(e)) from e


def _copy(source: Path, target: Path, moved: Moved) -> None:
    with open(source, "rb") as read, open(target, "wb") as written:
        while chunk := read.read(_CHUNK):
            written.write(chunk)
            moved(len(chunk))
