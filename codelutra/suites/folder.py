"""Find a suite's files and read them, with errors that name the file and line.

`suite.path` is a folder, or `hf:org/name@revision`: a data set on the Hugging Face hub whose repository has the suite's
official files. DS-1000's has; where the hub holds parquet instead, download the official release. Pin the revision.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
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
    folder = located(section.path if section.path is not None else f"{root}/{name}")
    if not folder.is_dir():
        raise ConfigError(f"suite {name}: no folder {folder}; check suite.path (or CODELUTRA_DATA)")
    return folder


def first_file(folder: Path, *names: str) -> Path:
    """The first of `names` that the folder has. Raises ConfigError with all of them where it has none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"no {' or '.join(names)} in {folder}; check suite.path")


def require_known(key: str, names: Sequence[str], known: Sequence[str], where: object) -> None:
    """Raise ConfigError where `suite.<key>` names what `where` does not have."""
    if unknown := [name for name in names if name not in known]:
        shown = ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
        raise ConfigError(f"suite.{key}: {', '.join(unknown)} not in {where}; known: {shown}")


def located(path: str) -> Path:
    """`suite.path` as a folder on this machine. A data set on the hub is downloaded into the hub's own cache."""
    return _from_hub(path) if path.startswith("hf:") else expand(path)


def expand(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _from_hub(reference: str) -> Path:
    repo, _, revision = reference.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(f"suite.path {reference!r} is not hf:org/name@revision, e.g. hf:xlangai/DS-1000@main")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision or "main"))
    except LocalEntryNotFoundError as e:
        raise ConfigError(
            f"suite.path {reference} is not in the local hub cache and the hub cannot be reached; set HF_ENDPOINT or "
            "HTTPS_PROXY, or download it elsewhere and give the folder"
        ) from e
    except (HfHubHTTPError, HFValidationError) as e:
        raise ConfigError(
            f"suite.path {reference}: the hub has no such data set and revision for you ({str(e).splitlines()[0]}); check "
            "both, accept its terms if it is gated, set HF_TOKEN if it is private"
        ) from e


def read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as e:
        raise ConfigError(f"{path} is not JSON: {e}; download it again") from e


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSONL file; empty lines are skipped."""
    for number, line in numbered(path):
        try:
            yield number, json.loads(line)
        except ValueError as e:
            raise ConfigError(f"{path}, line {number} is not JSON: {e}") from e


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    yield from ((number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip())


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (gzip.BadGzipFile, EOFError) as e:
        raise ConfigError(f"{path} is not a whole gzip file: {e}; download it again") from e
    except OSError as e:
        raise ConfigError(f"no {path.name} in {path.parent}: {e.strerror}; check suite.path") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text: {e}") from e
