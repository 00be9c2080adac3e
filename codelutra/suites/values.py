"""When are two Python values the same? Python's `==`, and floats within a tolerance.

Values are decoded sandbox values (sandbox/runner/canonical.py): plain data of bounded size and depth, so Python's own `==`
on scalars and keys runs no foreign code. Every value is visited once; what could take longer than that, pairing up the
members of two sets within a tolerance, has a budget (`Undecided`).
"""

from __future__ import annotations

import cmath
import hashlib
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sandbox.protocol import Named

REL_TOL = 1e-6
ABS_TOL = 1e-9  # so that 0.1 + 0.2 - 0.3 is 0: a relative tolerance has no room around zero
EXACT = 2**53  # from here on every float is an integer, and integers have no tolerance
MOST_COMPARED = 100_000  # pairs of rows or members that are compared to match them one to one
_MOST_BITS = 200_000  # of an integer that is compared with a Decimal: converting it takes quadratic time
_NUMBERS = (bool, int, float, complex, Decimal, Fraction)


class Undecided(Exception):
    """The comparison takes too long to be made."""


@dataclass(frozen=True)
class Near:
    """Compares two values as `==` does, floats within the tolerances. Both at 0: exactly as `==`, but NaN is NaN."""

    relative: float = REL_TOL
    absolute: float = ABS_TOL

    def same(self, a: Any, b: Any) -> bool:
        if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
            return same_number(a, b) or self.close(a, b)
        if isinstance(a, list | tuple | deque):
            alike = isinstance(b, deque if isinstance(a, deque) else type(a))
            return alike and len(a) == len(b) and all(map(self.same, a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            return self.same_dict(a, b)
        if isinstance(a, set | frozenset) and isinstance(b, set | frozenset):
            left, right = [x for x in a if x not in b], [x for x in b if x not in a]
            return len(left) == len(right) and self.same_members(left, right)
        if isinstance(a, Named) and isinstance(b, Named):
            return (a.kind, a.name) == (b.kind, b.name) and self.same(a.what, b.what)
        return type(a) not in _NUMBERS and type(b) not in _NUMBERS and bool(a == b)

    def close(self, a: Any, b: Any) -> bool:
        """Whether two numbers are the same but for the noise of floats. Of exact numbers only small integers can be."""
        if not (self.relative or self.absolute) or not (_has_noise(a) and _has_noise(b)) or type(a) is type(b) is int:
            return False
        if type(a) is complex or type(b) is complex:
            return cmath.isclose(a, b, rel_tol=self.relative, abs_tol=self.absolute)
        if float(a).is_integer() and float(b).is_integer() and (type(a) is not type(b) or max(abs(a), abs(b)) < EXACT):
            return False  # whole numbers are exact
        return math.isclose(a, b, rel_tol=self.relative, abs_tol=self.absolute)

    def same_dict(self, a: dict[Any, Any], b: dict[Any, Any]) -> bool:
        if isinstance(a, Counter) and isinstance(b, Counter):
            a, b = ({k: n for k, n in c.items() if n} for c in (a, b))  # no entry is 0
        if len(a) != len(b):
            return False
        in_order = isinstance(a, OrderedDict) and isinstance(b, OrderedDict)
        if in_order and not all(x == y or (_is_nan(x) and _is_nan(y)) for x, y in zip(a, b, strict=True)):
            return False
        nans, others = [v for k, v in a.items() if _is_nan(k)], [v for k, v in b.items() if _is_nan(k)]
        return (
            len(nans) == len(others)
            and all(map(self.same, nans, others))
            and all(_is_nan(k) or (k in b and self.same(v, b[k])) for k, v in a.items())
        )

    def same_members(self, left: list[Any], right: list[Any]) -> bool:
        """Whether members that have no equal pair up within the tolerance."""
        with suppress(TypeError):  # not everything has an order
            if all(map(self.same, sorted(left), sorted(right))):
                return True
        return pairs_up(left, right, lambda _: range(len(right)), self.same)


def same_number(a: Any, b: Any) -> bool:
    """Python's `==` of two numbers, and NaN is NaN."""
    if not comparable(a, b):
        return False
    try:
        return bool(a == b) or (_is_nan(a) and _is_nan(b))
    except ArithmeticError:  # a signalling NaN
        return _is_nan(a) and _is_nan(b)


def comparable(a: Any, b: Any) -> bool:
    """False for a Decimal and an integer that is larger than any Decimal that crosses: to convert it takes long."""
    return Decimal not in (type(a), type(b)) or not any(isinstance(x, int) and x.bit_length() > _MOST_BITS for x in (a, b))


def _is_nan(value: Any) -> bool:
    if type(value) is Decimal:
        return value.is_nan()
    return type(value) in (float, complex) and value != value


def _has_noise(value: Any) -> bool:
    """Whether a tolerance may apply: floats, and what integers floats stand for."""
    return type(value) in (float, complex) or (type(value) is int and abs(value) < EXACT)


def pairs_up(
    left: Sequence[Any], right: Sequence[Any], candidates: Callable[[Any], Iterable[int]], same: Callable[[Any, Any], bool]
) -> bool:
    """Whether there is a perfect matching of `left` and `right` under `same`.

    candidates: which of `right` may be the same as one of `left`. Augmenting paths (Kuhn), found breadth first.
    Raises Undecided after MOST_COMPARED comparisons.
    """
    spent = 0
    near = list[list[int]]()
    for one in left:
        found = list[int]()
        for j in candidates(one):
            spent += 1
            if spent > MOST_COMPARED:
                raise Undecided(f"more than {MOST_COMPARED} comparisons of parts that differ by float noise alone")
            if same(one, right[j]):
                found.append(j)
        if not found:
            return False
        near.append(found)
    of_right, of_left = dict[int, int](), dict[int, int]()
    for start in range(len(left)):
        reached, queue, end = dict[int, int](), deque([start]), -1  # reached: an index of right, from which of left
        while queue and end < 0:
            i = queue.popleft()
            spent += len(near[i])
            for j in near[i]:
                if j not in reached:
                    reached[j] = i
                    if j not in of_right:
                        end = j
                        break
                    queue.append(of_right[j])
        if end < 0:
            return False
        if spent > 10 * MOST_COMPARED:
            raise Undecided("matching parts that differ by float noise alone takes too many steps")
        while end >= 0:  # turn the path over
            i = reached[end]
            of_right[end], of_left[i], end = i, end, of_left.get(i, -1)
    return True


# ---- digests -----------------------------------------------------------------------------------------------------------


def digest(value: Any) -> bytes:
    """16 bytes, equal for equal values. Floats are rounded to 6 significant digits, so two that are the same within the
    tolerance may differ here. Built from the parts' digests: its time is linear however deep a value is nested."""
    if isinstance(value, _NUMBERS):
        return _hashed("n", _number(value))
    if isinstance(value, str):
        return _hashed("s", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes | bytearray):
        return _hashed("b", bytes(value))
    if isinstance(value, list | tuple | deque):
        return _hashed(type(value).__name__, *map(digest, value))
    if isinstance(value, set | frozenset):
        return _hashed("set", *sorted(map(digest, value)))
    if isinstance(value, dict):
        kept = [(k, v) for k, v in value.items() if v] if isinstance(value, Counter) else value.items()
        return _hashed("dict", *sorted(digest(k) + digest(v) for k, v in kept))
    if isinstance(value, Named):
        return _hashed(f"{value.kind} {value.name}", digest(value.what))
    if isinstance(value, range):
        ends = (value[0], value[-1]) if value else ()
        return _hashed("range", *map(_number, ends), _number(value.step if len(set(ends)) > 1 else 0))
    if isinstance(value, datetime) and value.tzinfo:
        return _hashed("datetime", repr(value.timestamp()).encode())
    return _hashed(type(value).__name__, repr(value).encode("utf-8", "backslashreplace"))


def _hashed(kind: str, *parts: bytes) -> bytes:
    summed = hashlib.blake2b(kind.encode("utf-8", "surrogatepass"), digest_size=16)
    for part in parts:
        summed.update(len(part).to_bytes(8))
        summed.update(part)
    return summed.digest()


def _number(value: Any) -> bytes:
    """One text for equal numbers: whole ones in hexadecimal, others with 6 significant digits."""
    if isinstance(value, complex):
        return _number(value.real) if not value.imag else _number(value.real) + b"j" + _number(value.imag)
    if isinstance(value, int):
        return hex(value).encode()
    if isinstance(value, float) and math.isfinite(value):
        if value.is_integer() and abs(value) < EXACT:
            return hex(int(value)).encode()
        near = 0.0 if abs(value) < ABS_TOL else float(f"{value:.6g}")
        return hex(int(near)).encode() if near.is_integer() and abs(near) < EXACT else f"{near:.6g}".encode()
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > 40:
        return str(value.normalize()).encode()  # its ratio could have thousands of digits
    if isinstance(value, Fraction) or (isinstance(value, Decimal) and value.is_finite()):
        top, bottom = value.as_integer_ratio()
        if bottom == 1:
            return hex(top).encode()
        try:
            return _number(top / bottom)
        except OverflowError:
            return f"{hex(top)}/{hex(bottom)}".encode()
    return str(float("nan") if _is_nan(value) else float(value)).encode()
