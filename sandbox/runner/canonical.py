"""Canonical data: the only thing that leaves a program's process.

Used on both sides of the container's wall, so it needs nothing but the standard library. A value becomes a JSON
structure and comes back equal, type for type. A subclass crosses as the type whose `==` it inherits (a namedtuple as the
tuple, an IntEnum's member as the int, a ChainMap as the dict: plain.py). One with an `==` of its own is not data, it is a
program, and is refused, except for dataclasses, whose generated `==` compares the fields.

    None bool str list   themselves              tuple       {"t": [...]}
    int                  itself; beyond 64 bits  {"i": hex}
    float                itself; or              {"f": "nan" | "inf" | "-inf"}
    bytes      {"b": base64}                     bytearray   {"B": base64}
    dict       {"d": [[key, value], ...]}        OrderedDict {"o": likewise}      Counter {"n": likewise}
    set        {"s": [...]}  (keys and items     frozenset   {"z": [...]}         deque   {"k": [...]}
               of a dict are sets too)
    complex    {"c": [real, imag]}               Decimal     {"m": text}          Fraction {"q": [n, d]}
    datetime   {"dt": [iso, fold]}               date        {"da": iso}          time     {"ti": [iso, fold]}
    timedelta  {"td": [days, seconds, us]}       range       {"r": [start, stop, step]}    Ellipsis {"e": 0}
    a dataclass' instance, an enum's member, a class, an array, a path, a UUID …   {"x": [kind, name, what]}

Whatever crosses is bounded, on both sides: MAX_DEPTH, MAX_ITEMS, MAX_DIGITS.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import fractions
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from sandbox.runner.plain import Named as Named
from sandbox.runner.plain import plain

MAX_DEPTH = 100
MAX_ITEMS = 250_000
MAX_DIGITS = 20_000  # of a Decimal or a Fraction: arithmetic with them takes quadratic time
MAX_COLLISIONS = 256
_MAX_BITS = int(MAX_DIGITS / math.log10(2))
_INT64 = 1 << 63


class NotRepresentable(ValueError):
    """The value is not plain data: a custom object, too deep, or a circle."""


class TooLarge(NotRepresentable):
    """The value is data, but more than crosses."""


class Malformed(ValueError):
    """What came back is not canonical data."""


def encode(value: Any) -> Any:
    """The JSON structure for `value`. Raises NotRepresentable naming the offending type, or TooLarge.

    Sets are sorted by their members' JSON, so equal values give equal JSON; dicts keep their order.
    """
    return _Encoder().encode(value, 0)


class _Encoder:
    def __init__(self) -> None:
        self.items = 0

    def encode(self, value: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH:
            raise NotRepresentable(f"the result is nested more than {MAX_DEPTH} deep, or contains itself")
        if self.items > MAX_ITEMS:
            raise TooLarge(f"the result holds more than {MAX_ITEMS} values")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return _int64(value)
        if kind is float:
            return _special(value)
        if kind is list:
            return self.all(list.__iter__(value), depth)
        if tag := _CONTAINERS.get(kind):
            members = self.all(kind.__iter__(value), depth)
            return {tag: sorted(members, key=json.dumps) if tag in "sz" else members}
        if tag := _DICTS.get(kind):
            return {tag: [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in dict.items(value)]}
        if rare := _RARE.get(kind):
            return {rare[0]: rare[1](value)}
        return self.unusual(value, kind, depth)

    def all(self, values: Any, depth: int) -> list[Any]:
        return [self.encode(item, depth + 1) for item in values]

    def unusual(self, value: Any, kind: type, depth: int) -> Any:
        """What stands for other data, and what has a name."""
        if kind is Named:  # it has crossed once already
            parts = value.what if value.kind != "data" else [[n, self.encode(v, depth + 1)] for n, v in value.what]
            return {"x": [value.kind, value.name, parts]}
        data = plain(value, kind)
        if data is not None:
            return self.encode(data, depth)
        raise NotRepresentable(f"a result of type {kind.__module__}.{kind.__qualname__} is not plain data")


def _int64(value: int) -> Any:
    return value if -_INT64 <= value < _INT64 else {"i": hex(value)}


def _clock(value: Any) -> list[Any]:
    if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
        offset = value.utcoffset()
        value = value.replace(tzinfo=None if offset is None else datetime.timezone(offset))
    return [value.isoformat(), value.fold]


def _decimal(value: decimal.Decimal) -> str:
    _, digits, exponent = value.as_tuple()
    if len(digits) > MAX_DIGITS or (isinstance(exponent, int) and abs(exponent) > MAX_DIGITS):
        raise TooLarge(f"a Decimal with {len(digits)} digits and the exponent {exponent}; at most {MAX_DIGITS} of each")
    return str(value)


def _fraction(value: fractions.Fraction) -> list[Any]:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits > _MAX_BITS:
        raise TooLarge(f"a Fraction of {bits} bits; at most {_MAX_BITS}")
    return [_int64(value.numerator), _int64(value.denominator)]


_CONTAINERS: dict[type, str] = {tuple: "t", set: "s", frozenset: "z", collections.deque: "k"}
_DICTS: dict[type, str] = {dict: "d", collections.OrderedDict: "o", collections.Counter: "n"}
_RARE: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("b", lambda v: base64.b64encode(v).decode("ascii")),
    bytearray: ("B", lambda v: base64.b64encode(v).decode("ascii")),
    complex: ("c", lambda v: [_special(v.real), _special(v.imag)]),
    decimal.Decimal: ("m", _decimal),
    fractions.Fraction: ("q", _fraction),
    datetime.datetime: ("dt", _clock),
    datetime.date: ("da", lambda v: v.isoformat()),
    datetime.time: ("ti", _clock),
    datetime.timedelta: ("td", lambda v: [v.days, v.seconds, v.microseconds]),
    range: ("r", lambda v: [_int64(v.start), _int64(v.stop), _int64(v.step)]),
    type(...): ("e", lambda v: 0),
}


def _special(value: float) -> Any:
    return value if math.isfinite(value) else {"f": repr(value)}


def decode(structure: Any) -> Any:
    """The value behind a JSON structure from `encode`. Raises Malformed for anything else.

    The structure comes from a hostile process: unknown tags, wrong types, more than crosses, and key sets built to
    collide are refused.
    """
    return _Decoder().decode(structure, 0)


class _Decoder:
    def __init__(self) -> None:
        self.items = 0

    def decode(self, structure: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH + 2:
            raise Malformed("nested too deep")
        if self.items > 2 * MAX_ITEMS:  # the parts of a Fraction or a range are no items of `encode`
            raise Malformed("too many values")
        kind = type(structure)
        if structure is None or kind is bool or kind is int or kind is float or kind is str:
            return structure
        if kind is list:
            return [self.decode(item, depth + 1) for item in structure]
        if kind is not dict or len(structure) != 1:
            raise Malformed("not a tagged value")
        ((tag, body),) = structure.items()
        unpack = _UNPACK.get(tag)
        if unpack is None:
            raise Malformed(f"unknown tag {tag[:20]!r}")
        try:
            return unpack(self, body, depth + 1)
        except Malformed:
            raise
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise Malformed(f"bad body for tag {tag!r}: {str(error)[:200]}") from error

    def all(self, body: Any, depth: int) -> list[Any]:
        if type(body) is not list:
            raise Malformed("not a list")
        return [self.decode(item, depth) for item in body]

    def ints(self, body: Any, count: int, depth: int) -> list[int]:
        items = self.all(body, depth)
        if len(items) != count or any(type(item) is not int for item in items):
            raise Malformed(f"not {count} integers")
        return items

    def pairs(self, body: Any, depth: int) -> dict[Any, Any]:
        if type(body) is not list or any(type(item) is not list or len(item) != 2 for item in body):
            raise Malformed("not a list of pairs")
        keys = _hashable([self.decode(item[0], depth) for item in body])
        return dict(zip(keys, [self.decode(item[1], depth) for item in body], strict=True))

    def complex(self, body: Any, depth: int) -> complex:
        real, imag = self.all(body, depth)
        return complex(float(real), float(imag))

    def fraction(self, body: Any, depth: int) -> fractions.Fraction:
        parts = self.ints(body, 2, depth)
        if max(part.bit_length() for part in parts) > _MAX_BITS:
            raise Malformed("a Fraction too large")
        return fractions.Fraction(*parts)

    def named(self, body: Any, depth: int) -> Named:
        kind, name, what = body
        if kind == "data":
            return Named(kind, _text(name), tuple((_text(n), self.decode(v, depth)) for n, v in what))
        if kind not in ("enum", "type", "path", "uuid"):
            raise Malformed("no kind of named value")
        return Named(kind, _text(name), _text(what))


def _hashable(keys: Sequence[Any]) -> Sequence[Any]:
    # Thousands of integers with one hash make building a dict quadratic: an attack on whoever decodes.
    if len(keys) - len({hash(key) for key in keys}) > MAX_COLLISIONS:
        raise Malformed("keys that share their hash")
    return keys


def _float(body: Any) -> float:
    if body not in ("nan", "inf", "-inf"):
        raise Malformed("not a special float")
    return float(body)


def _as_decimal(body: Any) -> decimal.Decimal:
    value = decimal.Decimal(_text(body))
    _decimal(value)  # raises TooLarge, a ValueError
    return value


def _moment(kind: Any, body: Any) -> Any:
    text, fold = body
    return kind.fromisoformat(_text(text)).replace(fold=fold)


def _text(body: Any) -> str:
    if type(body) is not str:
        raise Malformed("not a string")
    return body


_UNPACK: dict[str, Callable[[_Decoder, Any, int], Any]] = {
    "i": lambda d, body, depth: int(_text(body), 16),
    "f": lambda d, body, depth: _float(body),
    "b": lambda d, body, depth: base64.b64decode(_text(body), validate=True),
    "B": lambda d, body, depth: bytearray(base64.b64decode(_text(body), validate=True)),
    "t": lambda d, body, depth: tuple(d.all(body, depth)),
    "k": lambda d, body, depth: collections.deque(d.all(body, depth)),
    "d": _Decoder.pairs,
    "o": lambda d, body, depth: collections.OrderedDict(d.pairs(body, depth)),
    "n": lambda d, body, depth: collections.Counter(d.pairs(body, depth)),
    "s": lambda d, body, depth: set(_hashable(d.all(body, depth))),
    "z": lambda d, body, depth: frozenset(_hashable(d.all(body, depth))),
    "c": _Decoder.complex,
    "m": lambda d, body, depth: _as_decimal(body),
    "q": _Decoder.fraction,
    "dt": lambda d, body, depth: _moment(datetime.datetime, body),
    "da": lambda d, body, depth: datetime.date.fromisoformat(_text(body)),
    "ti": lambda d, body, depth: _moment(datetime.time, body),
    "td": lambda d, body, depth: datetime.timedelta(*d.ints(body, 3, depth)),
    "r": lambda d, body, depth: range(*d.ints(body, 3, depth)),
    "e": lambda d, body, depth: ...,
    "x": _Decoder.named,
}


def dumps(value: Any) -> str:
    """`value` as canonical JSON text."""
    return json.dumps(encode(value), separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """The value of canonical JSON text, from anybody. Raises Malformed."""
    try:
        structure = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {str(error)[:200]}") from error
    try:
        return decode(structure)
    except RecursionError as error:
        raise Malformed("nested too deep") from error
