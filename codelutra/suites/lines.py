"""Problems from a file of one's own: JSONL, a JSON list, or CSV with a header, each record checked against a shape.

A shape is a pydantic class. Beside its own keys it takes their usual names (`ALIASES`), in any case. null, NaN and an empty
CSV cell mean that a key is not given. Every fault is collected and said once, with the lines that have it.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from codelutra.errors import ConfigError
from codelutra.reading.keys import nearest, place, printable, shown
from codelutra.reading.separated import parse_table
from codelutra.reading.text import Unreadable, missing, parse_json, read_text
from codelutra.schema import PROBLEMS

SHOWN = 10  # faults in one message


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shape(Strict):
    """What a record may say."""

    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Other names of a key, as `_folded` writes them."""
    IGNORED: ClassVar[tuple[str, ...]] = ()
    """Keys of well-known data sets that say nothing new."""
    SEVERAL: ClassVar[tuple[str, ...]] = ()
    """Keys that may be given several times, with numbers behind their names: query, query_2, …"""

    @classmethod
    def named(cls) -> dict[str, str]:
        """Every name that is taken → its key."""
        return {name: key for key in cls.model_fields for name in (key, *cls.ALIASES.get(key, ()))}


class Record(NamedTuple):
    number: int
    value: Any
    """As it was read, or why it could not be."""


class Records(NamedTuple):
    unit: str
    """What is numbered: "line", "entry" (of a list, from 1) or "row" (of a table, the header being the first)."""
    found: list[Record]
    where: str = ""
    """Where they are from, as messages name it; "": the file that is read."""


S = TypeVar("S", bound=Shape)


def read_problems(
    path: Path, shape: type[S], make: Callable[[S, int], dict[str, Any] | None], given: Records | None = None
) -> pl.DataFrame:
    """The records of a file as PROBLEMS, or those `given`. `make` gives the row of a checked record and its number, or None
    to leave it out; it raises ValueError for a wrong one.

    Raises ConfigError with every fault, up to SHOWN, in their order.
    """
    unit, found, where = given or read_records(path)
    where = where or str(path)
    rows, faults, seen = list[dict[str, Any]](), defaultdict[str, list[int]](list), dict[str, int]()
    for number, value in found:
        try:
            row = make(checked(value, shape), number)
            if row and (known := seen.setdefault(row["problem_id"], number)) != number:
                raise ValueError(f"id {shown(row['problem_id'])} is on {unit} {known} already; ids must differ")
            rows += [row] if row else []
        except Wrong as e:
            for why in e.reasons:
                faults[why].append(number)
        except (RecursionError, MemoryError):
            faults["it holds a program that is nested too deeply to be read"].append(number)
        except (ValueError, SyntaxError) as e:
            faults[str(e)].append(number)
    if faults:
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in _told(unit, faults)))
    if not found:
        wanted = "a row a problem below its header" if unit == "row" else "one JSON object a line"
        raise ConfigError(f"{where} is empty; give it {wanted}, see docs/your-own-task.md")
    return pl.DataFrame(rows, schema=PROBLEMS)


_VALUES = re.compile(r"\(got .*|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def _told(unit: str, faults: Mapping[str, list[int]]) -> Iterator[str]:
    """Each fault with the numbers of the records that have it. Where there are many, those that differ in a value alone are
    one, with the value of the first."""
    alike = dict[str, dict[str, list[int]]]()
    for why, numbers in sorted(faults.items(), key=lambda fault: fault[1][0]):
        alike.setdefault(_VALUES.sub("…", why) if len(faults) > SHOWN else why, {})[why] = numbers
    for same in [*alike.values()][:SHOWN]:
        why, numbers = next(iter(same)), sorted({n for found in same.values() for n in found})
        first = ", ".join(map(str, numbers[:3])) + (", …" if len(numbers) > 3 else "")
        plural = {"entry": "entries"}.get(unit, f"{unit}s")
        which = f"{unit} {first}" if len(numbers) == 1 else f"{len(numbers)} {plural} ({first})"
        yield f"{which}{f'; {unit} {numbers[0]}' if len(same) > 1 else ''}: {printable(why)}"
    if len(alike) > SHOWN:
        yield f"… and {len(alike) - SHOWN} more"


# ---- files --------------------------------------------------------------------------------------------------------------


def read_records(path: Path) -> Records:
    """The records of a file; those that cannot be read have a `Wrong` for their value. Raises ConfigError."""
    try:
        text = read_text(path)
        first = next((line for line in text.split("\n") if line.strip()), "")
        if not first:
            return Records("row" if _is_table(path) else "line", [])
        if _is_table(path):
            return Records("row", list(_table(text)))
        if first.lstrip().startswith("["):
            return Records("entry", [Record(n, entry) for n, entry in enumerate(_listed(text), 1)])
        _require_lines(text, first)
    except ValueError as e:
        why = " ".join(str(e).split())
        raise ConfigError(why if isinstance(e, Unreadable) else f"{path}: {why[:500]}") from e
    return Records("line", [Record(n, _line(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()])


def _is_table(path: Path) -> bool:
    return Path(path.name.lower().removesuffix(".gz")).suffix in (".csv", ".tsv")


def _line(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as e:
        return Wrong([str(e)])


def _listed(text: str) -> list[Any]:
    found = parse_json(text)
    assert isinstance(found, list)
    if found and all(isinstance(entry, list) for entry in found):
        raise ValueError("a list of lists; give a list of objects with keys, or the same rows as CSV with a header")
    return found


def _require_lines(text: str, first: str) -> None:
    """Raise ValueError where the file is one object over several lines, or an object around the list."""
    start = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError) as e:
        if first.lstrip().startswith("{"):
            return  # told line by line
        raise ValueError(
            f"its first line, {first.strip()[:40]!r}, begins no JSON; problems are JSON objects, one a "
            "line, or a table in a file whose name ends in .csv, .tsv or .parquet"
        ) from e
    if not isinstance(value, dict):
        return
    lists = [key for key, v in value.items() if isinstance(v, list) and v and all(isinstance(e, dict) for e in v)]
    if len(lists) == 1 and not start[end:].strip() and len(value[lists[0]]) > 1 and not {"question", "prompt"} & {*value}:
        raise ValueError(
            f"one object whose {shown(lists[0])} is a list of objects; give that list alone, or one object a line"
        )
    held = [v for v in value.values() if isinstance(v, dict | list)]
    if len(held) > 1 and len(held) == len(value) and not start[end:].strip():
        raise ValueError(
            f"one object that holds all problems (under {shown(next(iter(value)))}, …); give a list of them, or one a line, "
            "as pandas writes it: df.to_json(FILE, orient='records', lines=True)"
        )
    if "\n" in start[:end]:
        raise ValueError(
            "an object goes over several lines; give one JSON object a line (`jq -c .`), or a list of them in []"
        )


def _table(text: str) -> Iterator[Record]:
    for number, row in parse_table(text):
        yield Record(number, {name: Cell(cell) for name, cell in row.items()})


class Cell(str):
    """A text of a table, which may stand for a list."""


def meant(text: str) -> Any:
    """What a text stands for where a list is meant; the text itself where it is no JSON, and no literal of Python."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)  # as Python writes it: pandas does so with lists
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return str(text)


# ---- records ------------------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """What is wrong with a record; several things may be."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


def checked(value: Any, shape: type[S]) -> S:
    """The record as its shape. Raises Wrong."""
    if isinstance(value, Wrong):
        raise value
    if not isinstance(value, dict):
        raise Wrong([f"{shown(value)} is not an object with keys"])
    try:
        return shape.model_validate(renamed(value, shape))
    except ValidationError as e:
        # a list whose parts are all wrong is called too short, too
        errors = [error for error in e.errors() if error["type"] != "too_short" or not error["input"]]
        raise Wrong([said(error, shape) for error in errors]) from e


def renamed(value: Mapping[str, Any], shape: type[Shape]) -> dict[str, Any]:
    """The record under its shape's own keys, without what is missing. Raises Wrong where two keys say different things."""
    found, by, clashes, more = dict[str, Any](), dict[str, str](), list[str](), list[tuple[str, int, Any]]()
    for name, given in value.items():
        key, number = key_of(name, shape)
        if isinstance(given, Wrong) and key in shape.model_fields:
            raise Wrong([f"{key}: {reason}" for reason in given.reasons])
        if missing(given) or key in shape.IGNORED or (folded(name) == "sql" and isinstance(given, dict)):
            continue
        if number is not None:
            more.append((key, number, given))
            continue
        if isinstance(given, Cell):
            field = shape.model_fields.get(key)
            plain = field is None or field.annotation is str or key in shape.SEVERAL
            given = str(given) if plain else meant(given)
        if key in found and found[key] in ("", []):
            found[key], by[key] = given, name
        if key in found and found[key] != given and given not in ("", []):
            clashes.append(f"{by[key]!r} and {name!r} both give the {key}, and they differ; keep one")
        found.setdefault(key, given)
        by.setdefault(key, name)
    if clashes:
        raise Wrong(clashes)
    for key, _, given in sorted(more, key=lambda one: one[:2]):
        before = found.get(key, [])
        found[key] = [*(before if isinstance(before, list) else [before]), given]
    return found


def folded(name: str) -> str:
    """The name of a key as `ALIASES` write it."""
    return "_".join(name.strip().lower().replace("-", " ").split())


def key_of(name: str, shape: type[Shape]) -> tuple[str, int | None]:
    """The key of a shape that a name stands for, and its number where the key is one of SEVERAL: query_2. The name itself,
    folded if it is one of IGNORED, where it stands for no key."""
    if name in shape.model_fields:
        return name, None
    names, plain = shape.named(), folded(name)
    if plain in names or plain in shape.IGNORED:
        return names.get(plain, plain), None
    numbered = re.fullmatch(r"(.+?)_?(\d{1,3})", plain, re.ASCII)
    key = names.get(numbered[1]) if numbered else None
    return (key, int(numbered[2])) if numbered and key in shape.SEVERAL else (name, None)


def said(error: Any, shape: type[BaseModel]) -> str:
    """One of a ValidationError's errors."""
    where = place(error)
    if error["type"] == "extra_forbidden":
        names = shape.named() if issubclass(shape, Shape) else {name: name for name in shape.model_fields}
        known = f"; known here: {', '.join(shape.model_fields)}" if len(error["loc"]) == 1 else ""
        return f"{where}: unknown key{known}{nearest(str(error['loc'][-1]), names)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("tuple_type", "list_type"):
        message = "give a list"
    given = "" if error["type"] == "missing" or not where else f" (got {shown(error['input'])})"
    return f"{where}: {message}{given}" if where else message
