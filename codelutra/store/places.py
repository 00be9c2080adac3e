"""From the address of a shared store (`s3://…` or a folder) to its place, and whether a store can be there."""

from __future__ import annotations

import json

from codelutra.errors import UserError
from codelutra.store.folder import Folder
from codelutra.store.place import MARKER, Place, PlaceError
from codelutra.store.s3 import Bucket

_LAYOUT = {"codelutra_store": 1}
_MOST = 1 << 16  # bytes of a marker


def open_place(address: str) -> Place:
    """The place of an address. Raises UserError where a library for it is missing. Asks it nothing."""
    return Bucket(address) if address.startswith("s3://") else Folder(address)


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


def require_shared(place: Place) -> None:
    """Raise UserError where nobody could share work through `place` until somebody puts it right. One that is away may come
    back: work goes on without it, and the first question says so."""
    try:
        require_place(place)
    except PlaceError as e:
        if e.lasting:
            raise UserError(
                f"store {place.address}: {e}. Put it right, or start without it (store: '' or CODELUTRA_STORE unset): "
                "finished work then stays on this machine"
            ) from e
