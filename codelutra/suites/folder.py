"""Where a suite's files are, and reading them with errors that say where."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError


def find(section: SuiteSection, name: str) -> Path:
    """The suite's folder: `suite.path`, else `$CODELUTRA_DATA/<name>`."""
    root = os.environ.get("CODELUTRA_DATA")
    if section.path is None and not root:
        raise ConfigError(
            f"suite {name} needs its data: set suite.path to a folder in its official layout, or CODELUTRA_DATA to the "
            f"folder above {name}/"
        )
    folder = expand(section.path if section.path is not None else f"{root}/{name}")
    if not folder.is_dir():
        raise ConfigError(f"suite {name}: no folder {folder}; check suite.path (or CODELUTRA_DATA)")
    return folder


def expand(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as e:
        raise ConfigError(f"{path} is not JSON: {e}; download it again") from e


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSONL file; empty lines are skipped."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as e:
                raise ConfigError(f"{path}, line {number} is not JSON: {e}") from e


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"no {path.name} in {path.parent}: {e.strerror}; check suite.path") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text: {e}") from e
