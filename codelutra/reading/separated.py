"""Tables as text: CSV with any usual separator, quoted as RFC 4180 says. What breaks that rule is refused with its line:
read loosely, a cell would lose its quotes without a word.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import suppress

from codelutra.reading.keys import shown
from codelutra.reading.text import absent

SEPARATORS = ",;\t|"
Rows = list[list[str]]


def without_marker(text: str) -> tuple[str, str]:
    """The text without a first line `sep=;`, as Excel takes it, and the separator that it names, or ""."""
    marker = re.match(r'"?sep=([^"\n])"?[ \t,;|]*(?:\n|\Z)', text)
    return (text[marker.end() :], marker[1]) if marker else (text, "")


def parse_table(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, cell of each column) of the rows that are not empty, without cells that stand for nothing. Raises ValueError.

    The header is row 1, and what stands above it counts. Columns without a name that number the rows are left out; others
    without one are "column 2" and so on.
    """
    body, separator = without_marker(text.lstrip("\n"))
    header = body.lstrip("\n")
    first = 1 + text[: len(text) - len(header)].count("\n")
    if not header.strip():
        return
    names, *rows = _rows(header, separator)
    unnamed = [at for at, name in enumerate(names) if re.fullmatch(r"\s*|Unnamed: \d+", name)]
    numbering = {at for at in unnamed if all(re.fullmatch(r"\s*\d*\s*", row[at]) for row in rows if at < len(row))}
    kept = {at: name if name.strip() else f"column {at + 1}" for at, name in enumerate(names) if at not in numbering}
    given = [names[at] for at in kept if at not in unnamed]
    if 2 * len(given) < len(kept):
        raise ValueError(
            f"its first row names {len(given)} of {len(kept)} columns ({', '.join(map(shown, given))}); delete what stands "
            "above the row of names, or add the names that it lacks"
        )
    named = [*kept.values()]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise ValueError(f"the column {shown(twice)} is there twice; keep one")
    for number, row in enumerate(rows, 1 + first):
        if filled := {kept[at]: cell for at, cell in enumerate(row) if at in kept and not absent(cell)}:
            yield number, filled


def _rows(text: str, separator: str) -> Rows:
    """The header and the rows, none wider than it: by the separator of most columns that all rows agree on. Raises
    ValueError as the likeliest one does."""
    header = text.partition("\n")[0]
    likely = [separator] if separator else sorted(SEPARATORS, key=header.count, reverse=True)
    found, faults = list[Rows](), list[ValueError]()
    for mark in [m for m in likely if m in header] or likely[:1]:
        try:
            found.append(_parsed(text, mark))
        except ValueError as e:
            faults.append(e)
    if not found:
        raise faults[0]
    return next((rows for rows in found if all(len(row) in (0, len(rows[0])) for row in rows)), found[0])


def _parsed(text: str, separator: str) -> Rows:
    """Raises ValueError for text that is no table with this separator."""
    try:
        rows = _strictly(text, separator, blanks=False)
        if not any(re.match(' +"', cell) and separator + cell in text for row in rows for cell in row):
            return rows
    except ValueError:
        if f'{separator} "' not in text:
            raise
    with suppress(ValueError):
        return _strictly(text, separator, blanks=True)  # `a, "b, c"`
    return _strictly(text, separator, blanks=False)


def _strictly(text: str, separator: str, *, blanks: bool) -> Rows:
    csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=blanks)
    rows: Rows = []
    try:
        for row in lines:
            if rows and any(map(str.strip, row[len(rows[0]) :])):
                raise ValueError(
                    f"line {lines.line_num}: {len(row)} cells, the header has {len(rows[0])}; a cell with {separator!r} "
                    "in it goes in quotes"
                )
            rows.append(row)
    except csv.Error as e:
        raise ValueError(f"line {lines.line_num}: {e}; a quote within a quoted cell is written twice") from e
    return rows
