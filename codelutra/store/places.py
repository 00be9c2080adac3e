"""Places that several hosts see: what a shared store asks of one, and a folder of a shared file system as one.

    PREFIX/codelutra-store.json             tells that this is a store, and of which layout
    PREFIX/artifacts/STAGE/KEY/SHA256       a file of an artifact, named by its content
    PREFIX/artifacts/STAGE/KEY/manifest.json   written last, and only where there is none: with it the artifact is there
    PREFIX/leases/NAME                      who makes something now

A file's name is its hash, so two publishers of one artifact never write over what the other's manifest tells of, though
their bytes may differ (training on other hardware). Nothing rests on a lock, nor on a clock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from codelutra.addresses import folder_of_store
from codelutra.errors import CodelutraError, UserError, disk_is_full, redacted
from codelutra.store.files import beside, cause, fsync, whole

MARKER = "codelutra-store.json"
_LAYOUT = {"codelutra_store": 1}
_CHUNK = 16 << 20  # bytes in memory at a time
_MOST = 1 << 16  # bytes of a marker or lease

Moved = Callable[[int], None]  # called with the bytes that have just gone over; may raise


class PlaceError(Exception):
    """A place did not do what it was asked. The text names no credentials."""

    def __init__(self, said: str, *, lasting: bool = False) -> None:
        """`lasting`: waiting does not help; somebody has to put it right."""
        super().__init__(redacted(said))
        self.lasting = lasting


class Place(Protocol):
    """Objects by name. Every method raises PlaceError where the place does not answer, or refuses."""

    address: str

    def require(self) -> None:
        """Raise PlaceError, lasting, where this cannot be a place for a store."""

    def read(self, name: str, most: int) -> bytes | None:
        """A small object, up to `most` bytes and one more; None where there is none."""

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""

    def create(self, name: str, content: bytes) -> bool:
        """Make a small object, whole or not at all, unless there is one of this name: False then."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""

    def remove(self, name: str) -> None:
        """Have no object of this name."""

    def put(self, name: str, file: Path, moved: Moved) -> None:
        """Copy a file there, whole or not at all, in bounded memory."""

    def get(self, name: str, file: Path, moved: Moved) -> None:
        """Copy an object to a file here, in bounded memory. Raises FileNotFoundError where there is none."""


def open_place(address: str) -> Place:
    """The place of an address. Raises UserError where a library for it is missing. Asks it nothing."""
    if not address.startswith("s3://"):
        return Folder(address)
    from codelutra.store.s3 import Bucket

    return Bucket(address)


def require_place(place: Place) -> None:
    """Raise PlaceError where no store can be at `place`; one that is empty is marked as a store."""
    place.require()
    found = place.read(MARKER, _MOST)
    if found is None:
        place.create(MARKER, json.dumps(_LAYOUT).encode())
        found = place.read(MARKER, _MOST)
    try:
        layout = json.loads(found or b"")
    except ValueError:
        layout = None
    if layout != _LAYOUT:
        raise PlaceError(
            f"{MARKER} there is not what this version of codelutra writes; use the version that made the store, or give "
            "another prefix",
            lasting=True,
        )


def require_shared(address: str) -> None:
    """Raise UserError where a run could not share its work through `address`; "" is no place, and always right."""
    if not address:
        return
    try:
        require_place(open_place(address))
    except PlaceError as e:
        raise UserError(
            f"store {address}: {e}. Put it right, or start without it (store: '' or CODELUTRA_STORE unset): finished work "
            "then stays on this machine"
        ) from e


class Folder:
    """A folder of a file system that other hosts mount too."""

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
