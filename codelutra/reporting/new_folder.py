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
    """Raise UserError where something lies at `out`, other than what a killed export left there."""
    if out.exists() and (not out.is_dir() or any(file.name != _part(out).name for file in out.iterdir())):
        raise UserError(f"{out} is there and not empty; export writes a new folder: give another one, or remove it")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end of the block; a block that raises leaves nothing. Raises UserError
    where something lies at `out` or the disk is full."""
    require_free(out)
    part, whole = _part(out), Path(os.path.realpath(out))
    shutil.rmtree(part, ignore_errors=True)
    try:
        with refusing_full_disk(part.parent, part):
            part.mkdir(parents=True)
            yield part
            if part.parent == whole:
                for file in sorted(part.iterdir()):
                    os.rename(file, whole / file.name)
            else:
                os.rename(part, whole)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(out: Path) -> Path:
    """What is filled: beside `out`; or in it, where there is an empty folder, which may be a mounted volume, or where
    somebody is. The next export clears away what a killed one left."""
    whole = Path(os.path.realpath(out))
    return (whole if whole.is_dir() else whole.parent) / f".{whole.name}.part"
