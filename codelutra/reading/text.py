"""Text and JSON.

Text is UTF-8, or UTF-16 with a byte order mark; gzip is unpacked. Line ends become "\\n". Devices, pipes and folders are
refused before they are opened.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable
from gzip import BadGzipFile, GzipFile
from itertools import chain
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20  # of a text file, unpacked
MAX_DEPTH = 100  # of nested lists and mappings
MAX_DIGITS = 400  # of a number

_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FORMATS = {
    b"SQLite format 3\0": "a SQLite database",
    b"PK\3\4": "a zip archive or an Excel file; save it as CSV or JSONL",
    b"PAR1": "a parquet file; `codelutra init` reads it, suites read CSV and JSONL",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls); save it as CSV or JSONL",
    b"%PDF": "a PDF file",
    b"ARROW1": "an Arrow or Feather file; save it as parquet, CSV or JSONL",
    b"version https://git-lfs": "a pointer of Git LFS in the place of the file; `git lfs pull` fetches the file itself",
    b"\xfd7zXZ\0": "compressed with xz; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
}


class Unreadable(ValueError):
    """What a file holds is of no use; says the file and why."""


def require_file(path: Path) -> int:
    """The size of a regular file. Raises Unreadable for anything else, without opening it."""
    try:
        found = os.stat(path)
    except OSError as e:
        raise Unreadable(f"no {path.name[:200]} in {str(path.parent)[:1000]}: {e.strerror}; check the path") from e
    except ValueError as e:  # a NUL, or a character that no file name can have
        raise Unreadable(f"{str(path)!r} is no path: {e}") from e
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    raise Unreadable(f"{path} is {_kind(found.st_mode)}, not a file; give the file itself")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """The text of a file of at most `most` bytes, without its byte order mark. Raises Unreadable."""
    size = require_file(path)
    if size > most:
        raise Unreadable(f"{path} has {size / 2**20:,.0f} MiB; at most {most / 2**20:,.0f} are read")
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as e:
        raise Unreadable(f"{path} cannot be read: {e.strerror}") from e
    if raw[:2] == b"\x1f\x8b" or path.suffix == ".gz":
        raw = _unpacked(path, raw, most)
    return _decoded(path, raw).replace("\r\n", "\n").replace("\r", "\n")


def _unpacked(path: Path, raw: bytes, most: int) -> bytes:
    try:
        text = GzipFile(fileobj=io.BytesIO(raw)).read(most + 1)
    except (BadGzipFile, EOFError, zlib.error) as e:
        raise Unreadable(f"{path} is not a whole gzip file: {e}; download it again") from e
    if len(text) > most:
        raise Unreadable(f"{path} unpacks to more than {most / 2**20:,.0f} MiB; that is the most that is read")
    return text


def _decoded(path: Path, raw: bytes) -> str:
    if what := format_of(raw):
        raise Unreadable(f"{path} is not text: it is {what}")
    encoding = next((name for mark, name in _BOMS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise Unreadable(
            f"{path}, line {line} is not {encoding.removesuffix('-sig').upper()} text: byte 0x{raw[e.start]:02x} at "
            f"position {e.start}; save the file as UTF-8"
        ) from e
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise Unreadable(
            f"{path}, line {line} holds a NUL: it is a binary file, or UTF-16 without its mark; save it as UTF-8"
        )
    return text.lstrip("\ufeff")


def format_of(head: bytes) -> str:
    """What a file is that begins like this, where it is none of text's, with the way out; or ""."""
    if head[8:12] == b"DUCK":
        return "a DuckDB database"
    return next((what for magic, what in _FORMATS.items() if head.startswith(magic)), "")


# ---- JSON ---------------------------------------------------------------------------------------------------------------


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError with the reason; a key twice in an object is one."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_int)
    except json.JSONDecodeError as e:
        line = f"line {e.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"not JSON: {e.msg} at {line}column {e.colno}") from e
    except RecursionError as e:
        raise ValueError(TOO_DEEP) from e
    if text.count("[") + text.count("{") > MAX_DEPTH or _SURROGATE.search(text):
        require_plain(value)
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice; keep one")
    return found


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def require_plain(value: Any) -> None:
    """Raise ValueError where a value is nested too deeply, or a text cannot be written as UTF-8."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        for text in (v for v in level if isinstance(v, str) and not v.isascii()):
            require_characters(text)
        level = list(chain.from_iterable(map(_inside, level)))
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value, value.values())
    return value if isinstance(value, list) else ()


def require_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{text[e.start]!r} is half a character (a lone surrogate); write the whole one") from e


_ABSENT = {"null", "nan", "none", "na", "n/a", "#n/a", "<na>", "nat", "\\n"}


def absent(cell: str) -> bool:
    """Whether a table's text stands for nothing: blank, or the word that a tool writes for NULL."""
    return not (text := cell.strip()) or (len(text) < 5 and text.lower() in _ABSENT)


def missing(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that data frames write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))
