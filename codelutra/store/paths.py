"""Where things are kept, and the commands that lead people there."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from codelutra.errors import UserError, redacted


def home_dir(home: str | Path | None = None) -> Path:
    """Where store/ and runs/ live: the argument, else $CODELUTRA_HOME, else this folder.

    Raises UserError for a file, and for a name that is no text (bytes that are not UTF-8), which parquet cannot have.
    """
    named = Path(home or os.environ.get("CODELUTRA_HOME") or ".")
    if "://" in (given := str(home or os.environ.get("CODELUTRA_HOME") or "")):
        raise UserError(
            f"home {redacted(given)!r} is no folder of this machine. Runs, and the cache of finished work, lie on a local "
            "disk; what is finished is shared by the config's `store`, or CODELUTRA_STORE"
        )
    if any("\ud800" <= c <= "\udfff" for c in str(named.absolute())):
        raise UserError(f"home {str(named.absolute())!r} has bytes in its name that are not UTF-8; give another --home")
    above = next((p for p in (named, *named.absolute().parents) if os.path.lexists(p)), named)
    if not os.path.isdir(above):
        raise UserError(f"home {str(named)!r} cannot be a folder, because {above} is a file; give another --home")
    return named.resolve()


def where_now(path: str, home: Path) -> str:
    """Where finished work lies that a record in `home` names by its path: there, although the home was moved since, or has
    another path in a container."""
    store, *rest = Path(path).parts[-3:] or ("",)
    here = home.joinpath(store, *rest)
    return str(here) if store == "store" and len(rest) == 2 and os.path.lexists(here) else path


def cache_dir() -> Path:
    """Models and generated suites, shared by all runs of this user: $CODELUTRA_CACHE, else ~/.cache/codelutra."""
    try:
        return Path(os.environ.get("CODELUTRA_CACHE") or "~/.cache/codelutra").expanduser()
    except RuntimeError as e:
        raise UserError(f"{e} Set HOME, or CODELUTRA_CACHE to a folder for models") from e


def accelerator_lock() -> Path:
    """Held by the one engine or trainer that works on this host's accelerator: $CODELUTRA_ACCELERATOR_LOCK, or in the cache.

    Runs on GPUs of their own (CUDA_VISIBLE_DEVICES) may have a file each, and then do not wait for each other.
    """
    named = os.environ.get("CODELUTRA_ACCELERATOR_LOCK")
    return Path(named).expanduser() if named else cache_dir() / "accelerator.lock"


def told_command(command: str, run: Path) -> str:
    """`command` about the run in directory `run`, with --home where the run is not in the current home."""
    home = Path(os.path.realpath(run)).parents[1]
    return command if home == home_dir() else f"{command} --home {shlex.quote(str(home))}"


def go_on_command(run: Path) -> str:
    """The command that continues the run in this directory."""
    return told_command(f"codelutra run {shlex.quote(str(run / 'run.yaml'))}", run)
