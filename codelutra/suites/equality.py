"""Named, versioned comparison modes: when are two outputs the same answer?

    sql-strict/v2        multiset of rows, columns by position, floats within 1e-6; decides what is correct in training
    bird-ex/official     set of rows, as BIRD's evaluator compares (duplicates, order and float noise: see below)
    spider-testsuite/v1  multiset of rows under a permutation of columns, as Spider's test-suite evaluator compares
    python-value/v1      built-in values, type by type
    text/v1              what a program printed, trailing blanks aside

Every outcome names the mode that judged it. Outputs are decoded sandbox values; for SQL
`{"columns": [...], "rows": [[...]], "truncated": bool}`. Not covered: `spider-testsuite/v1` sees results and not queries,
so it does not strip DISTINCT from both queries, as the evaluator does by default; and it sees one database, not many.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

REL_TOL = 1e-6
ABS_TOL = 1e-9  # so that 0.1 + 0.2 - 0.3 is 0: a relative tolerance has no room around zero
_MOST_ROWS = 200_000  # counted at most in the search for a permutation of columns
_EXACT = 2.0**53  # above it every float is an integer

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


# ---- values ----------------------------------------------------------------------------------------------------------


def _exact(value: Any) -> Hashable:
    """A hashable stand-in, equal exactly where the values are the same: 1 = 1.0 and NaN = NaN, True ≠ 1, "1" ≠ 1."""
    if type(value) is float:
        if math.isnan(value):
            return "f", "nan"
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if value is None or type(value) is int:
        return value
    if isinstance(value, str | bytes | bool):
        return type(value).__name__, value
    if isinstance(value, dict):
        return "dict", frozenset((_exact(k), _exact(v)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return "set", frozenset(map(_exact, value))
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_exact, value))
    return type(value).__name__, repr(value)


def _is_number(value: Any) -> bool:
    """Whether a tolerance can apply: a number, but not NaN and not an integer too large for a float."""
    return (type(value) is int and value.bit_length() < 1000) or (type(value) is float and not math.isnan(value))


def _close(a: float, b: float) -> bool:
    """Whether two numbers are the same: integers exactly, others within the tolerance."""
    x, y = _exact(a), _exact(b)
    if x == y:
        return True
    if type(x) is int and type(y) is int:
        return False
    return math.isclose(a, b, rel_tol=REL_TOL, abs_tol=ABS_TOL)


def _same(a: Any, b: Any) -> bool:
    """The same value, type by type, floats within the tolerance at any depth."""
    if _is_number(a) and _is_number(b):
        return _close(a, b)
    if _exact(a) == _exact(b):
        return True
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, set | frozenset) and isinstance(b, set | frozenset):
        return _same_bag([(x,) for x in a], [(x,) for x in b])
    if isinstance(a, dict) and isinstance(b, dict) and len(a) == len(b):
        others = {_exact(k): v for k, v in b.items()}
        return all(_exact(k) in others and _same(v, others[_exact(k)]) for k, v in a.items())
    return False


def _rounded(value: Any) -> Any:
    """JSON data for a digest: 6 significant digits, sets and dicts in a canonical order."""
    if type(value) is float:
        return _rounded_float(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return ["s", value]
    if isinstance(value, bytes):
        return ["x", value.hex()]
    if isinstance(value, dict):
        return ["d", sorted(([_rounded(k), _rounded(v)] for k, v in value.items()), key=json.dumps)]
    if isinstance(value, set | frozenset):
        return ["e", sorted(map(_rounded, value), key=json.dumps)]
    if isinstance(value, list | tuple):
        return ["l" if isinstance(value, list) else "t", *map(_rounded, value)]
    return ["?", type(value).__name__, repr(value)]


def _rounded_float(value: float) -> Any:
    """2.9999999999 becomes 3, 1e-17 becomes 0; whole numbers stay as they are."""
    if value.is_integer() and abs(value) < _EXACT:
        return int(value)
    near = 0.0 if abs(value) < ABS_TOL else float(f"{value:.6g}")
    return int(near) if near.is_integer() and abs(near) < _EXACT else f"{near:.6g}"


# ---- bags of rows ----------------------------------------------------------------------------------------------------


def _same_bag(output: Sequence[Row], expected: Sequence[Row]) -> bool:
    """Whether the rows, all of one width, match one to one. Exact multisets first; tolerance only where that fails."""
    if len(output) != len(expected):
        return False
    left, right = Counter(map(_row_key, output)), Counter(map(_row_key, expected))
    if left == right:
        return True
    inexact = {i for row in (*(left - right), *(right - left)) for i, v in enumerate(row) if _may_bend(v)}
    if not inexact:
        return False
    groups: dict[Hashable, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((output, expected)):
        for row in rows:
            key = tuple(_shape(v) if i in inexact else _exact(v) for i, v in enumerate(row))
            groups[key][side].append(row)
    return all(len(a) == len(b) and _pair_up(a, b, sorted(inexact)) for a, b in groups.values())


def _row_key(row: Row) -> tuple[Hashable, ...]:
    return tuple(map(_exact, row))


def _may_bend(exact: Hashable) -> bool:
    """Whether a tolerance could make this (already exact) value equal another one."""
    return type(exact) is float or (type(exact) is tuple and exact[0] in ("list", "tuple", "set", "dict"))


def _shape(value: Any) -> Hashable:
    """What of a value must be equal whatever the tolerance: its type, or the value itself."""
    if _is_number(value):
        return "number"
    return type(value).__name__ if _may_bend(_exact(value)) else _exact(value)


def _pair_up(output: list[Row], expected: list[Row], columns: list[int]) -> bool:
    """A perfect matching of rows that are the same within the tolerance in `columns` (in the others they are equal)."""
    numeric = [i for i in columns if _is_number(output[0][i])]
    for i in numeric:  # a quick necessary condition: every column, sorted by itself, pairs up
        if not all(map(_close, sorted(r[i] for r in output), sorted(r[i] for r in expected))):
            return False

    def numbers(row: Row) -> list[float]:
        return [row[i] for i in numeric]

    left, right = sorted(output, key=numbers), sorted(expected, key=numbers)
    if all(_same_row(a, b) for a, b in zip(left, right, strict=True)):
        return True
    # Noise in one column reorders rows that differ in the next; augmenting paths (Kuhn) find a matching if there is one.
    near = [[j for j in _window(row, right, numeric) if _same_row(row, right[j])] for row in left]
    partner: dict[int, int] = {}
    return all(_augment(i, near, partner, set()) for i in range(len(left)))


def _same_row(a: Row, b: Row) -> bool:
    return all(map(_same, a, b))


def _window(row: Row, right: list[Row], numeric: list[int]) -> range:
    """Indices of `right`, sorted by its first numeric column, whose rows can be near `row` in that column."""
    if not numeric:
        return range(len(right))
    of_row = itemgetter(numeric[0])
    slack = 2 * (abs(of_row(row)) * REL_TOL + ABS_TOL)
    low, high = of_row(row) - slack, of_row(row) + slack
    return range(bisect_left(right, low, key=of_row), bisect_right(right, high, key=of_row))


def _augment(i: int, near: list[list[int]], partner: dict[int, int], seen: set[int]) -> bool:
    for j in near[i]:
        if j not in seen:
            seen.add(j)
            if j not in partner or _augment(partner[j], near, partner, seen):
                partner[j] = i
                return True
    return False


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
    left = Counter(map(_row_key, allowed))
    exact = Counter(map(_row_key, rows)) & left
    left -= exact
    inexact = [row for row in rows if not _taken(exact, _row_key(row))]
    rest = [row for row in allowed if _taken(left, _row_key(row))]
    if len(inexact) * len(rest) > _MOST_ROWS:
        return False
    for row in inexact:
        found = next((i for i, other in enumerate(rest) if _same_row(row, other)), None)
        if found is None:
            return False
        rest.pop(found)
    return True


def _taken(bag: Counter[tuple[Hashable, ...]], key: tuple[Hashable, ...]) -> bool:
    """Take one from the bag, if there is one."""
    bag[key] -= 1
    return bag[key] >= 0


def _sql_canonical(output: Any, ordered: bool) -> Any:
    rows = [[_rounded(v) for v in row] for row in output["rows"]]
    return [len(output["columns"]), rows if ordered else sorted(rows, key=json.dumps), output["truncated"]]


def _bird_ex(output: Any, expected: Any, ordered: bool) -> bool:
    """`set(predicted) == set(ground truth)`, Python's equality, no tolerance: BIRD's `evaluation.py`."""
    return set(map(tuple, output["rows"])) == set(map(tuple, expected["rows"]))


def _bird_canonical(output: Any, ordered: bool) -> Any:
    return sorted({json.dumps([_rounded(v) for v in row]) for row in output["rows"]})


def _spider(output: Any, expected: Any, ordered: bool) -> bool:
    """`result_eq` of Spider's test-suite evaluator (Zhong et al., 2020): some permutation of the columns makes the
    bags, or under "order by" the lists, equal; Python's equality, no tolerance; two empty results always agree. After
    `_MOST_ROWS` without success the two count as different."""
    rows, wanted = list(map(tuple, output["rows"])), list(map(tuple, expected["rows"]))
    if not rows and not wanted:
        return True
    if len(rows) != len(wanted) or len(rows[0]) != len(wanted[0]):
        return False
    columns, targets = list(zip(*rows, strict=True)), list(zip(*wanted, strict=True))
    if ordered:
        return Counter(columns) == Counter(targets)
    contents = [Counter(c) for c in columns]
    fits = [[j for j, c in enumerate(contents) if c == Counter(t)] for t in targets]
    left = _MOST_ROWS // len(rows)

    def search(chosen: list[int]) -> bool:
        nonlocal left
        left -= 1
        n = len(chosen)
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


def _lines(printed: Any) -> list[str]:
    return [line.rstrip() for line in str(printed).rstrip().splitlines()]


MODES = {
    "sql-strict/v2": Mode(_sql_strict, _sql_canonical),
    "bird-ex/official": Mode(_bird_ex, _bird_canonical),
    "spider-testsuite/v1": Mode(_spider, _spider_canonical),
    "python-value/v1": Mode(lambda out, exp, ordered: _same(out, exp), lambda out, ordered: _rounded(out)),
    "text/v1": Mode(lambda out, exp, ordered: _lines(out) == _lines(exp), lambda out, ordered: _lines(out)),
}
