"""The folder that an export is written to: it is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from codelutra.errors import UserError
from codelutra.store.files import refusing_full_disk


def require_free(out: Path) -> None:
    """Raise UserError where something lies at `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and not empty; export writes a new folder: give another one, or remove it")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end of the block; a block that raises leaves nothing. Raises UserError
    where something lies at `out` or the disk is full."""
    require_free(out)
    part = out.parent / f".{out.name}.part"  # what a killed export left is cleared away by the next
    shutil.rmtree(part, ignore_errors=True)
    try:
        with refusing_full_disk(out.parent, part):
            part.mkdir(parents=True)
            yield part
            os.rename(part, out)  # an empty `out` is replaced
    finally:
        shutil.rmtree(part, ignore_errors=True)
