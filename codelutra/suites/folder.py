"""Find a suite's files and read them, with errors that name the file and line.

`suite.path` is a folder, or `hf:org/name@revision`: a data set on the Hugging Face hub whose repository has the suite's
official files. DS-1000's has; where the hub holds parquet instead, download the official release. Pin the revision.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.reading.keys import shown
from codelutra.reading.text import Unreadable, parse_json, read_text


def find(section: SuiteSection, name: str) -> Path:
    """The suite's folder: `suite.path`, else `$CODELUTRA_DATA/<name>`."""
    root = os.environ.get("CODELUTRA_DATA")
    if section.path is None and not root:
        raise ConfigError(
            f"suite {name} needs its data: set suite.path to a folder in its official layout, or CODELUTRA_DATA to the "
            f"folder above {name}/"
        )
    folder = located(section.path if section.path is not None else f"{root}/{name}")
    if not os.path.isdir(folder):
        unset = "" if root else ", which is not set"
        raise ConfigError(f"suite {name}: no folder {folder}; check suite.path (or CODELUTRA_DATA{unset})")
    return folder


def first_file(folder: Path, *names: str) -> Path:
    """The first of `names` that the folder has. Raises ConfigError with all of them where it has none."""
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    raise ConfigError(f"no {' or '.join(names)} in {folder}; check suite.path")


def require_known(key: str, names: Sequence[str], known: Sequence[str], where: object) -> None:
    """Raise ConfigError where `suite.<key>` names what `where` does not have."""
    if unknown := [name for name in names if name not in known]:
        some = ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
        raise ConfigError(f"suite.{key}: {', '.join(unknown)} not in {where}; known: {some}")


def located(path: str) -> Path:
    """`suite.path` as a folder on this machine. A data set on the hub is downloaded into the hub's own cache."""
    return _from_hub(path) if path.startswith("hf:") else expand(path)


def expand(path: str, seen_from: Path = Path()) -> Path:
    """The path as it stands where there is such a file, else with `$NAME` and `~` expanded."""
    literal = seen_from / path
    return literal if os.path.lexists(literal) else seen_from / os.path.expanduser(os.path.expandvars(path))


def named_files(folder: Path, names: Sequence[str], section: SuiteSection) -> list[Path]:
    """The files that the suite in `folder` names. Raises ConfigError for one that it may not name.

    A suite may come from somebody else, so it reads only what its user gave it: its files lie in its folder, links followed;
    or all of them lie directly in the folder above; or `suite.outside` of the config names them, or folders of them.
    """
    files = [expand(name, folder) for name in names]
    if outside := outside_of(folder, files, section):
        raise ConfigError(
            f"the suite in {folder} names files outside its folder: {', '.join(map(str, outside))}. Put them into it; or, "
            f"where you trust it, name them in your config: suite.outside: {json.dumps([str(f) for f in outside])}"
        )
    return files


def outside_of(folder: Path, files: Sequence[Path], section: SuiteSection) -> list[Path]:
    """Those of a suite's files that it may not name."""
    top, real = os.path.realpath(folder), {file: Path(os.path.realpath(file)) for file in files}
    hub = (section.path or "").startswith("hf:")
    if not hub and all(file.parent == Path(top).parent for file in real.values()):
        return []
    own = Path(top).parents[1] if hub else Path(top)  # the hub's cache holds links to its blobs
    tops = [own, *(Path(os.path.realpath(expand(name))) for name in section.outside)]
    return [Path(os.path.abspath(file)) for file, lies in real.items() if not any(lies.is_relative_to(t) for t in tops)]


def plain_name(name: object) -> bool:
    """Whether it is the name of one file or folder, and no way to another."""
    return isinstance(name, str) and name not in ("", ".", "..") and len(name) < 200 and not {"/", "\0"} & {*name}


def _from_hub(reference: str) -> Path:
    repo, _, revision = reference.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
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
    """The value of a JSON file. Raises ConfigError."""
    try:
        return parse_json(_text(path))
    except ValueError as e:
        raise ConfigError(f"{path} is {e}; download it again") from e


def read_entries(path: Path, **needed: type) -> list[dict[str, Any]]:
    """The objects of a JSON list, or of a JSONL file. Raises ConfigError for one without a needed key, or with another type
    there."""
    found = [entry for _, entry in read_lines(path)] if ".jsonl" in path.suffixes else read_json(path)
    if not isinstance(found, list):
        raise ConfigError(f"{path} holds {shown(found)}, not a list of objects; take the file of the official release")
    for number, entry in enumerate(found, 1):
        wrong = [k for k, kind in needed.items() if not (isinstance(entry, dict) and isinstance(entry.get(k), kind))]
        if wrong or not isinstance(entry, dict):
            raise ConfigError(
                f"{path}, entry {number}: no {' and no '.join(f'{k} ({needed[k].__name__})' for k in wrong) or 'object'} in "
                f"{shown(entry)}; take the file of the official release"
            )
    return found


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSONL file; empty lines are skipped."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as e:
                raise ConfigError(f"{path}, line {number} is {e}") from e


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except Unreadable as e:
        raise ConfigError(f"{e}; see suite.path") from e
