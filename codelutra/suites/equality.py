"""Named, versioned comparison modes: when are two outputs the same answer?

    sql-strict/v2        multiset of rows, columns by position, floats within 1e-6; decides what is correct in training
    bird-ex/official     set of rows, as BIRD's evaluator compares (duplicates, order and float noise: see below)
    spider-testsuite/v1  multiset of rows under a permutation of columns, as Spider's test-suite evaluator compares
    python-value/v2      Python's `==`, floats within 1e-6 at any depth
    python-eq/official   Python's `==`, as the asserts of HumanEval and MBPP compare
    text/v3              what a program printed, trailing blanks aside; a float with all of its digits within 1e-6

Every outcome names the mode that judged it. Outputs are decoded sandbox values; for SQL
`{"columns": [...], "rows": [[...]], "truncated": bool}`. Not covered: `spider-testsuite/v1` sees results and not queries,
so it does not strip DISTINCT from both queries, as the evaluator does by default; and it sees one database, not many.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

from codelutra.suites.values import ABS_TOL, EXACT, REL_TOL, Near, digest, pairs_up

_MOST_ROWS = 200_000  # counted at most in the search for a permutation of columns
_NEAR = Near()

Row = Sequence[Any]


@dataclass(frozen=True)
class Mode:
    """One way to compare: `agrees(output, expected, ordered)`, and `canonical(output, ordered)`, JSON data
    that is equal for outputs that agree, as far as a tolerance lets it be."""

    agrees: Callable[[Any, Any, bool], bool]
    canonical: Callable[[Any, bool], Any]


def agrees(mode: str, output: Any, expected: Any, *, ordered: bool = False) -> bool:
    """Whether `output` is the same answer as `expected`.

    ordered: the order of rows counts. `sql-strict/v2` sets it where the reference has an outermost ORDER BY;
    `spider-testsuite/v1`, like its evaluator, where "order by" occurs anywhere in the reference. `sql-strict/v2` knows
    from `expected` which rows tie (`determined.py`); where it says nothing of ties, rows are compared one by one.
    """
    return MODES[mode].agrees(output, expected, ordered)


def answer_digest(mode: str, output: Any, *, ordered: bool = False) -> str:
    """32 hex digits, equal for outputs that agree. Floats are rounded to 6 significant digits, so two that agree within the
    tolerance may still differ here. It counts different answers; it never decides whether one is right."""
    data = json.dumps(MODES[mode].canonical(output, ordered), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{mode}\0{data}".encode()).hexdigest()[:32]


# ---- cells -----------------------------------------------------------------------------------------------------------


def _whole(cell: Any) -> Any:
    """The cell, a whole float as the integer it equals."""
    return int(cell) if type(cell) is float and cell.is_integer() and abs(cell) < EXACT else cell


def _bends(cell: Any) -> bool:
    """Whether a tolerance could make this cell equal another one."""
    return type(_whole(cell)) is float


def _is_number(cell: Any) -> bool:
    return type(cell) in (int, float)


def _rounded(cell: Any) -> Any:
    """JSON data for a digest: 6 significant digits. 2.9999999999 becomes 3, 1e-17 becomes 0; whole numbers stay."""
    if type(cell) is not float:
        return ["x", cell.hex()] if isinstance(cell, bytes) else ["s", cell] if isinstance(cell, str) else cell
    if not _bends(cell):
        return int(cell)
    near = 0.0 if abs(cell) < ABS_TOL else float(f"{cell:.6g}")
    return f"{near:.6g}" if _bends(near) else int(near)


# ---- bags of rows ----------------------------------------------------------------------------------------------------


def _same_bag(output: Sequence[Row], expected: Sequence[Row]) -> bool:
    """Whether the rows, all of one width, match one to one. Exact multisets first; tolerance only where that fails."""
    if len(output) != len(expected):
        return False
    left, right = _numbered(output, expected)
    counts, others = Counter(left), Counter(right)
    if counts == others:
        return True
    odd = [row for row, key in zip(output, left, strict=True) if counts[key] > others[key]]
    odd += [row for row, key in zip(expected, right, strict=True) if others[key] > counts[key]]
    inexact = sorted({i for row in odd for i, v in enumerate(row) if _bends(v)})
    if not inexact:
        return False
    near = {i: _clusters([row[i] for rows in (output, expected) for row in rows if _is_number(row[i])]) for i in inexact}
    groups: dict[tuple[int, ...], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, (rows, keys) in enumerate(((output, left), (expected, right))):
        for row, key in zip(rows, keys, strict=True):
            known = (
                near[i][v] if i in near and _is_number(v) else ~n for i, (v, n) in enumerate(zip(row, key, strict=True))
            )
            groups[tuple(known)][side].append(row)
    return all(len(a) == len(b) for a, b in groups.values()) and all(_pair_up(a, b, inexact) for a, b in groups.values())


def _numbered(*tables: Iterable[Row]) -> list[list[tuple[int, ...]]]:
    """The rows with a number in place of each cell, the same for equal cells: of a query's own cells an author could build
    rows whose hashes collide, and a set of those takes quadratic time."""
    numbers = dict[Any, int]()
    return [[tuple(numbers.setdefault(cell, len(numbers)) for cell in row) for row in rows] for rows in tables]


def _clusters(numbers: list[float]) -> dict[float, int]:
    """A number for each of these, the same for all that are the same within the tolerance (and for some more)."""
    found, last = dict[float, int](), 0
    for before, number in pairwise(ordered := sorted(set(numbers))):
        found[before] = last
        last += not math.isclose(before, number, rel_tol=2 * REL_TOL, abs_tol=2 * ABS_TOL)
    return found | dict.fromkeys(ordered[-1:], last)


def _pair_up(output: list[Row], expected: list[Row], columns: list[int]) -> bool:
    """A perfect matching of rows that are the same within the tolerance in `columns` (in the others they are equal)."""
    numeric = [i for i in columns if _is_number(output[0][i])]
    for i in numeric:  # a quick necessary condition: every column, sorted by itself, pairs up
        if not all(map(_NEAR.same, sorted(r[i] for r in output), sorted(r[i] for r in expected))):
            return False
    # By the column with the most values first. Noise in one column reorders rows that differ in the next.
    numeric.sort(key=lambda i: -len({row[i] for row in expected}))

    def numbers(row: Row) -> list[float]:
        return [row[i] for i in numeric]

    left, right = sorted(output, key=numbers), sorted(expected, key=numbers)
    if all(map(_same_row, left, right)):
        return True
    return pairs_up(left, right, lambda row: _window(row, right, numeric), _same_row)


def _same_row(a: Row, b: Row) -> bool:
    return all(map(_NEAR.same, a, b))


def _window(row: Row, right: list[Row], numeric: list[int]) -> range:
    """Indices of `right`, sorted by its first numeric column, whose rows can be near `row` in that column."""
    if not numeric:
        return range(len(right))
    of_row = itemgetter(numeric[0])
    slack = 2 * (abs(of_row(row)) * REL_TOL + ABS_TOL)
    low, high = of_row(row) - slack, of_row(row) + slack
    return range(bisect_left(right, low, key=of_row), bisect_right(right, high, key=of_row))


# ---- the modes -------------------------------------------------------------------------------------------------------


def _sql_strict(output: Any, expected: Any, ordered: bool) -> bool:
    if output["truncated"] or expected["truncated"] or len(output["columns"]) != len(expected["columns"]):
        return False
    rows, wanted, choices = output["rows"], expected["rows"], expected.get("choices") or []
    if rows == wanted:
        return True
    if len(rows) != len(wanted):
        return False
    if not ordered and not choices:
        return _same_bag(rows, wanted)
    ties = [(start, end, wanted[start:end]) for start, end in expected.get("ties") or []]
    place = 0
    for start, end, allowed in sorted([*ties, *choices], key=itemgetter(0)):
        if not all(map(_same_row, rows[place:start], wanted[place:start])) or not _drawn(rows[start:end], allowed):
            return False
        place = end
    return all(map(_same_row, rows[place:], wanted[place:]))


def _drawn(rows: Sequence[Row], allowed: Sequence[Row]) -> bool:
    """Whether the rows are some of those allowed, or all, each as often as it may be there."""
    if len(rows) == len(allowed):
        return _same_bag(rows, allowed)
    mine, theirs = _numbered(rows, allowed)
    left = Counter(theirs)
    exact = Counter(mine) & left
    left -= exact
    inexact = [row for row, key in zip(rows, mine, strict=True) if not _taken(exact, key)]
    rest = [row for row, key in zip(allowed, theirs, strict=True) if _taken(left, key)]
    numeric = [i for i in range(len(allowed[0])) if all(_is_number(row[i]) for row in (*inexact, *rest))]
    numeric.sort(key=lambda i: -len({row[i] for row in rest}))
    rest.sort(key=lambda row: [row[i] for i in numeric])
    return pairs_up(inexact, rest, lambda row: _window(row, rest, numeric), _same_row)


def _taken(bag: Counter[tuple[int, ...]], key: tuple[int, ...]) -> bool:
    """Take one from the bag, if there is one."""
    bag[key] -= 1
    return bag[key] >= 0


def _sql_canonical(output: Any, ordered: bool) -> Any:
    rows = [[_rounded(v) for v in row] for row in output["rows"]]
    return [len(output["columns"]), rows if ordered else sorted(rows, key=json.dumps), output["truncated"]]


def _bird_ex(output: Any, expected: Any, ordered: bool) -> bool:
    """`set(predicted) == set(ground truth)`, Python's equality, no tolerance: BIRD's `evaluation.py`."""
    rows, wanted = _numbered(output["rows"], expected["rows"])
    return set(rows) == set(wanted)


def _bird_canonical(output: Any, ordered: bool) -> Any:
    return sorted({json.dumps([_rounded(v) for v in row]) for row in output["rows"]})


def _spider(output: Any, expected: Any, ordered: bool) -> bool:
    """`result_eq` of Spider's test-suite evaluator (Zhong et al., 2020): some permutation of the columns makes the
    bags, or under "order by" the lists, equal; Python's equality, no tolerance; two empty results always agree. After
    `_MOST_ROWS` without success the two count as different."""
    rows, wanted = _numbered(output["rows"], expected["rows"])
    if not rows and not wanted:
        return True
    if len(rows) != len(wanted) or len(rows[0]) != len(wanted[0]):
        return False
    if rows == wanted or (not ordered and Counter(rows) == Counter(wanted)):
        return True
    columns, targets = list(zip(*rows, strict=True)), list(zip(*wanted, strict=True))
    if ordered:
        return Counter(columns) == Counter(targets)
    holding = defaultdict[tuple[int, ...], list[int]](list)
    for j, column in enumerate(columns):
        holding[tuple(sorted(column))].append(j)
    fits = [holding[tuple(sorted(target))] for target in targets]
    left = _MOST_ROWS // len(rows)  # steps, each as long as it has columns

    def search(chosen: list[int]) -> bool:
        nonlocal left
        n = len(chosen)
        left -= n
        if left < 0 or Counter(zip(*(columns[j] for j in chosen), strict=True)) != Counter(zip(*targets[:n], strict=True)):
            return False
        if n == len(fits):
            return True
        # Of equal columns the first unused one stands for all.
        tried: list[Any] = []
        for j in fits[n]:
            if j not in chosen and columns[j] not in tried:
                tried.append(columns[j])
                if search([*chosen, j]):
                    return True
        return False

    return search([])


def _spider_canonical(output: Any, ordered: bool) -> Any:
    columns = zip(*([_rounded(v) for v in row] for row in output["rows"]), strict=True)
    return sorted((list(c) if ordered else sorted(c, key=json.dumps) for c in columns), key=json.dumps)


def _lines(printed: Any) -> list[str] | None:
    """The lines without trailing blanks; None where a program's process gave something else than a text."""
    return [line.rstrip() for line in printed.rstrip().split("\n")] if isinstance(printed, str) else None


_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


def _same_text(output: Any, expected: Any) -> bool:
    """The same lines; of numbers that are expected with all the digits of a float, nobody asked for a format."""
    lines, wanted = _lines(output), _lines(expected)
    if lines == wanted or lines is None or wanted is None or len(lines) != len(wanted):
        return lines == wanted
    return all(map(_same_line, lines, wanted))


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted or "." not in wanted:
        return line == wanted
    parts, right = _NUMBER.split(line), _NUMBER.split(wanted)
    near = (
        a == b or (n % 2 == 1 and _is_noisy(b) and _NEAR.same(float(a), float(b)))
        for n, (a, b) in enumerate(zip(parts, right, strict=False))
    )
    return len(parts) == len(right) and all(near)


def _is_noisy(number: str) -> bool:
    """Whether a number is written with all the digits that a float has."""
    digits = re.sub(r"[eE].*|\D", "", number).lstrip("0")
    return "." in number and len(digits) >= 15


def _text_canonical(printed: Any) -> Any:
    lines = _lines(printed)
    rounded = partial(_NUMBER.sub, lambda found: f"{float(found[0]):.6g}" if _is_noisy(found[0]) else found[0])
    return lines and [rounded(line) if "." in line else line for line in lines]


def _python(near: Near) -> Mode:
    return Mode(lambda out, exp, ordered: near.same(out, exp), lambda out, ordered: digest(out).hex())


MODES = {
    "sql-strict/v2": Mode(_sql_strict, _sql_canonical),
    "bird-ex/official": Mode(_bird_ex, _bird_canonical),
    "spider-testsuite/v1": Mode(_spider, _spider_canonical),
    "python-value/v2": _python(_NEAR),
    "python-eq/official": _python(Near(0.0, 0.0)),
    "text/v3": Mode(lambda out, exp, ordered: _same_text(out, exp), lambda out, ordered: _text_canonical(out)),
}
