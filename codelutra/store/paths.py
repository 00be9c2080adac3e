"""Where things are kept, and the commands that lead people there."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def home_dir(home: str | Path | None = None) -> Path:
    """Where store/ and runs/ live: the argument, else $CODELUTRA_HOME, else the current folder."""
    return Path(home or os.environ.get("CODELUTRA_HOME") or ".").resolve()


def cache_dir() -> Path:
    """Models and generated suites, shared by all runs of this user: $CODELUTRA_CACHE, else ~/.cache/codelutra."""
    return Path(os.environ.get("CODELUTRA_CACHE") or "~/.cache/codelutra").expanduser()


def told_command(command: str, run: Path) -> str:
    """`command` about the run in directory `run`, with --home where the run is not in the current home."""
    home = run.resolve().parents[1]
    return command if home == home_dir() else f"{command} --home {shlex.quote(str(home))}"


def go_on_command(run: Path) -> str:
    """The command that continues the run in this directory."""
    return told_command(f"codelutra run {shlex.quote(str(run / 'run.yaml'))}", run)
