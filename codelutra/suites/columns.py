"""Which column of a file is which key of a problem: by `--columns`, by name, and for SQL by what a column holds.

What is no key is left out, except for a name that is nearly one: that is a slip, which the record says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from codelutra.errors import ConfigError
from codelutra.reading.keys import nearest, printable, shown
from codelutra.reading.text import missing
from codelutra.suites.lines import Record, Records, Shape, Wrong, folded, key_of, renamed
from codelutra.suites.shapes import FunctionLine, ProgramLine, SqlLine

_NEEDED: Mapping[type[Shape], Sequence[tuple[str, ...]]] = {  # one of each
    SqlLine: [("question",), ("query", "rows")],
    FunctionLine: [("prompt",), ("asserts", "cases", "tests")],  # with tests it is a ProgramLine
    ProgramLine: [("prompt",), ("tests",)],
}
_SQL = re.compile(r"[\s(\[\"']*(select|with|values)\b", re.IGNORECASE)
_MOST = 0.9  # share of a column's cells that must look like what it is taken for
_NEAR = 0.8  # of difflib: "qurey" is nearly "query"
_LISTED = 40  # columns in a message


class Fitted(NamedTuple):
    records: Records
    """Under the shape's own keys."""
    taken: dict[str, list[str]]
    """The columns that each key is taken from."""
    left_out: list[str]
    as_named: bool
    """Whether every column is a key or one of its usual names, so that suites read the file as it is."""


def parse_columns(options: Sequence[str], shape: type[Shape]) -> dict[str, list[str]]:
    """`question=Frage,query=SQL` as the columns of each key. Raises ConfigError."""
    chosen = dict[str, list[str]]()
    for option in (part for text in options for part in re.split(r",(?=\s*\w+\s*=)", text)):
        name, eq, column = option.partition("=")
        key, _ = key_of(name.strip(), shape)
        if not eq or not column:
            raise ConfigError(f"--columns {option!r}: write key=column, e.g. --columns question=Frage,query=SQL")
        if key not in shape.model_fields:
            known = ", ".join(shape.model_fields)
            raise ConfigError(
                f"--columns {option!r}: there is no key {name.strip()!r}; known: {known}{nearest(key, shape.named())}"
            )
        if key in chosen and key not in shape.SEVERAL:
            raise ConfigError(f"--columns gives the {key} twice, from {chosen[key][0]!r} and {column!r}; keep one")
        chosen.setdefault(key, []).append(column)
    return chosen


def fitted(records: Records, shape: type[Shape], chosen: Mapping[str, Sequence[str]], where: str) -> Fitted:
    """The records under the keys of a shape. Raises ConfigError, with the columns there are, where these cannot be told."""
    records = _opened(records, [c for named in chosen.values() for c in named])
    rows = [value for _, value in records.found if isinstance(value, dict)]
    held = {name: cell for row in reversed(rows) for name, cell in row.items()}
    columns = list(dict.fromkeys(name for row in rows for name in row))
    listed = [*dict.fromkeys(leaf for c in columns for leaf in _leaves(c, held[c]))]
    if unknown := [c for named in chosen.values() for c in named if c not in columns]:
        raise ConfigError(f"{where} has no column {unknown[0]!r}{nearest(unknown[0], listed)}; {_there_are(listed)}")
    taken = {key: list(named) for key, named in chosen.items()}
    free = [c for c in columns if not any(f"{name}.".startswith(f"{c}.") for named in taken.values() for name in named)]
    by_name = _by_name(free, shape)
    for key, named in by_name.items():
        if key in chosen:
            continue
        _require_one(key, named, rows, where, listed)
        taken[key] = named
    free = [c for c in free if not any(c in named for named in taken.values())]
    if shape is SqlLine:
        taken |= (found := _by_content(taken, free, rows))
        _require_names(found.get("query", []), where)
        free = [c for c in free if [c] not in found.values()]
    taken = {key: taken[key] for key in shape.model_fields if key in taken}
    slips = [] if chosen else [c for c in free if _is_slip(c, shape)]
    left_out = [c for c in free if c not in slips]
    if len(rows) == len(records.found):  # else the records say what is wrong with them
        _require_needed(taken, slips, shape, where, listed)
    as_named = not chosen and all(by_name.get(key) == named for key, named in taken.items())
    as_named &= all(key_of(c, shape)[0] in shape.IGNORED for c in left_out)
    found_records = [Record(n, _under(v, taken, slips, shape) if isinstance(v, dict) else v) for n, v in records.found]
    return Fitted(Records(records.unit, found_records, where), taken, left_out, as_named)


def _opened(records: Records, chosen: Sequence[str]) -> Records:
    """The records with a column more for each that is chosen by its way through objects and lists, as `input.text`."""
    ways = [c for c in chosen if "." in c]

    def opened(value: Any) -> Any:
        inner = {c: cell_of(value, c) for c in ways} if isinstance(value, dict) else {}
        return {**value, **{c: cell for c, cell in inner.items() if cell is not None}} if inner else value

    return records._replace(found=[Record(n, opened(value)) for n, value in records.found])


def cell_of(row: Mapping[str, Any], column: str) -> Any:
    """The cell of a column, which may be named by its way through objects and lists; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for step in column.split("."):
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(step)) if step.isdecimal() else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _leaves(name: str, cell: Any) -> list[str]:
    """The names of what a cell holds: of the values in it, where it is an object or a list of objects."""
    if isinstance(cell, list) and all(isinstance(part, dict) for part in cell):
        cell = dict(enumerate(cell[:3]))
    inner = cell.items() if isinstance(cell, dict) else ()
    return [leaf for key, value in inner for leaf in _leaves(f"{name}.{key}", value)] or [name]


def told(taken: Mapping[str, Sequence[str]], left_out: Sequence[str]) -> str:
    """What was mapped from what: `question ← Frage, query ← SQL; left out: notes`."""
    said = ", ".join(key if [*named] == [key] else f"{key} ← {' and '.join(named)}" for key, named in taken.items())
    return said + (f"; left out: {', '.join(left_out)}" if left_out else "")


def _by_name(columns: Sequence[str], shape: type[Shape]) -> dict[str, list[str]]:
    """The columns that have the name of each key, numbered ones in their order."""
    found = dict[str, list[tuple[int, str]]]()
    for column in columns:
        key, number = key_of(column, shape)
        if key in shape.model_fields:
            found.setdefault(key, []).append((number or 0, column))
    return {key: [column for _, column in sorted(named, key=lambda one: one[0])] for key, named in found.items()}


def _require_one(
    key: str, named: Sequence[str], rows: Sequence[Mapping[str, Any]], where: str, columns: Sequence[str]
) -> None:
    """Raise ConfigError where two columns say different things of one key. Numbered ones may."""
    if len(named) < 2:
        return
    plain = [c for c in named if not re.search(r"\d\s*$", c)]
    for row in rows:
        cells = [(c, row[c]) for c in plain if not missing(row.get(c)) and row[c] not in ("", [])]
        if any(cell != cells[0][1] and not (isinstance(cell, dict) and folded(c) == "sql") for c, cell in cells[1:]):
            both = " and ".join(repr(c) for c, _ in cells[:2])
            raise ConfigError(
                f"{where}: {both} could both be the {key}, and they differ; {_there_are(columns)}. Say which one is, and "
                f"the other is left out: --columns '{key}={cells[0][0]}'"
            )


def _by_content(taken: Mapping[str, Any], free: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The one column of queries, and the one column of sentences, where names have not told them."""
    found = dict[str, list[str]]()
    texts = {c: [v for row in rows if isinstance(v := row.get(c), str) and v.strip()] for c in free}
    texts = {c: cells for c, cells in texts.items() if cells}
    queries = [c for c, cells in texts.items() if sum(map(bool, map(_SQL.match, cells))) >= _MOST * len(cells)]
    sentences = [c for c, v in texts.items() if c not in queries and sum(len(x.split()) > 2 for x in v) >= _MOST * len(v)]
    if len(queries) == 1 and not {"query", "rows"} & {*taken}:
        found["query"] = queries
    if len(sentences) == 1 and "question" not in taken:
        found["question"] = sentences
    return found


def _require_names(queries: Sequence[str], where: str) -> None:
    """Raise ConfigError where the name of a column of queries is a query: then the file begins with its first problem."""
    if query := next(filter(_SQL.match, queries), ""):
        raise ConfigError(
            f"{where}: its first row holds a query, {shown(query)}, in the place of the names of columns; put a row of "
            "names above it, such as question,query"
        )


def _is_slip(column: str, shape: type[Shape]) -> bool:
    name = folded(column)
    return len(name) > 3 and name not in shape.IGNORED and bool(get_close_matches(name, shape.named(), 1, _NEAR))


def _require_needed(
    taken: Mapping[str, Any], slips: Sequence[str], shape: type[Shape], where: str, columns: Sequence[str]
) -> None:
    wanting = [keys for keys in _NEEDED[shape] if not {*keys} & {*taken}]
    if not wanting or slips or not columns:
        return
    what = " and ".join(f"the {' or the '.join(keys)}" for keys in wanting)
    example = ",".join(f"{keys[0]}=COLUMN" for keys in wanting)
    raise ConfigError(f"{where}: no column is known as {what}; {_there_are(columns)}. Say which is: --columns {example}")


def _there_are(columns: Sequence[str]) -> str:
    shown = ", ".join(map(printable, columns[:_LISTED]))
    return f"its columns are: {shown}" + (f" and {len(columns) - _LISTED} more" if len(columns) > _LISTED else "")


def _under(
    row: Mapping[str, Any], taken: Mapping[str, Sequence[str]], slips: Sequence[str], shape: type[Shape]
) -> dict[str, Any] | Wrong:
    """As `_taken`, or what is wrong with a cell that is taken."""
    try:
        return _taken(row, taken, slips, shape)
    except Wrong as e:
        return e


def _taken(
    row: Mapping[str, Any], taken: Mapping[str, Sequence[str]], slips: Sequence[str], shape: type[Shape]
) -> dict[str, Any]:
    """A record under the keys of its shape; slips keep their names."""
    found = {c: row[c] for c in slips if c in row}
    for key, named in taken.items():
        cells = [renamed({key: row[c]}, shape)[key] for c in named if not missing(row.get(c))]
        filled = [cell for cell in cells if cell not in ("", [])]
        if cells:
            found[key] = filled if key in shape.SEVERAL and len(filled) > 1 else [*filled, *cells][0]
    return found
