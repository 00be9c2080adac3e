"""Places that several hosts see: what a shared store asks of one, and a folder of a shared file system as one.

    PREFIX/codelutra-store.json             tells that this is a store, and of which layout
    PREFIX/artifacts/STAGE/KEY/SHA256       a file of an artifact, named by its content
    PREFIX/artifacts/STAGE/KEY/manifest.json   written last, and only where there is none: with it the artifact is there
    PREFIX/leases/NAME                      who makes something now

A file's name is its hash, so two publishers of one artifact never write over what the other's manifest tells of, though
their bytes may differ (training on other hardware). Nothing rests on a lock, nor on a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from codelutra.errors import redacted

MARKER = "codelutra-store.json"
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
