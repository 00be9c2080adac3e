"""Canonical data: the only thing that leaves a program's process.

Used on both sides of the container's wall, so it needs nothing but the standard library. A value becomes a JSON
structure and comes back equal, type for type. Types are checked strictly (`type(x) is int`): a subclass of `int` with
its own `__eq__` is not data, it is a program, and is refused. Counter, OrderedDict and defaultdict cross as the dict
they equal.

    None bool str list   themselves              tuple      {"t": [...]}
    int                  itself; beyond 64 bits  {"i": hex}
    float                itself; or              {"f": "nan" | "inf" | "-inf"}
    bytes      {"b": base64}                     bytearray  {"B": base64}
    dict       {"d": [[key, value], ...]}        set        {"s": [...]}         frozenset  {"z": [...]}
    complex    {"c": [real, imag]}               Decimal    {"m": text}          Fraction   {"q": [n, d]}
    datetime   {"dt": [iso, fold]}               date       {"da": iso}          time       {"ti": [iso, fold]}
    timedelta  {"td": [days, seconds, us]}       range      {"r": [start, stop, step]}  Ellipsis {"e": 0}
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

MAX_DEPTH = 100
MAX_COLLISIONS = 256
_INT64 = 1 << 63
# What everybody returns for a dict, and what equals one. Exactly these types, read by dict's own method.
_DICTS = (collections.Counter, collections.OrderedDict, collections.defaultdict)


class NotRepresentable(ValueError):
    """The value is not plain data: a subclass, a custom object, too deep, or a circle."""


class Malformed(ValueError):
    """What came back is not canonical data."""


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON structure for `value`. Raises NotRepresentable naming the offending type.

    Sets are sorted by their members' JSON, so equal values give equal JSON; dicts keep their order.
    """
    if depth > MAX_DEPTH:
        raise NotRepresentable(f"the result is nested more than {MAX_DEPTH} deep, or contains itself")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else {"i": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"f": repr(value)}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [encode(item, depth + 1) for item in value]}
    if kind is dict or kind in _DICTS:
        return {"d": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in dict.items(value)]}
    if kind is set or kind is frozenset:
        members = sorted((encode(item, depth + 1) for item in value), key=json.dumps)
        return {"s" if kind is set else "z": members}
    rare = _RARE.get(kind)
    if rare is None:
        raise NotRepresentable(f"a result of type {kind.__module__}.{kind.__qualname__} is not plain data")
    tag, pack = rare
    return {tag: pack(value)}


def _clock(value: Any) -> list[Any]:
    if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
        raise NotRepresentable(f"a time zone of type {type(value.tzinfo).__qualname__} is not plain data")
    return [value.isoformat(), value.fold]


_RARE: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("b", lambda v: base64.b64encode(v).decode("ascii")),
    bytearray: ("B", lambda v: base64.b64encode(v).decode("ascii")),
    complex: ("c", lambda v: [encode(v.real), encode(v.imag)]),
    decimal.Decimal: ("m", str),
    fractions.Fraction: ("q", lambda v: [encode(v.numerator), encode(v.denominator)]),
    datetime.datetime: ("dt", _clock),
    datetime.date: ("da", lambda v: v.isoformat()),
    datetime.time: ("ti", _clock),
    datetime.timedelta: ("td", lambda v: [v.days, v.seconds, v.microseconds]),
    range: ("r", lambda v: [encode(v.start), encode(v.stop), encode(v.step)]),
    type(...): ("e", lambda v: 0),
}


def decode(structure: Any, depth: int = 0) -> Any:
    """The value behind a JSON structure from `encode`. Raises Malformed for anything else.

    The structure comes from a hostile process: unknown tags, wrong types and key sets built to collide are refused.
    """
    if depth > 2 * MAX_DEPTH:
        raise Malformed("nested too deep")
    kind = type(structure)
    if structure is None or kind is bool or kind is int or kind is float or kind is str:
        return structure
    if kind is list:
        return [decode(item, depth + 1) for item in structure]
    if kind is not dict or len(structure) != 1:
        raise Malformed("not a tagged value")
    ((tag, body),) = structure.items()
    unpack = _UNPACK.get(tag)
    if unpack is None:
        raise Malformed(f"unknown tag {tag[:20]!r}")
    try:
        return unpack(body, depth + 1)
    except Malformed:
        raise
    except (ValueError, TypeError, ArithmeticError, KeyError) as error:
        raise Malformed(f"bad body for tag {tag!r}: {str(error)[:200]}") from error


def _items(body: Any, depth: int) -> list[Any]:
    if type(body) is not list:
        raise Malformed("not a list")
    return [decode(item, depth) for item in body]


def _hashable(keys: Sequence[Any]) -> Sequence[Any]:
    # Thousands of integers with one hash make building a dict quadratic: an attack on whoever decodes.
    if len(keys) - len({hash(key) for key in keys}) > MAX_COLLISIONS:
        raise Malformed("keys that share their hash")
    return keys


def _dict(body: Any, depth: int) -> dict[Any, Any]:
    if type(body) is not list or any(type(item) is not list or len(item) != 2 for item in body):
        raise Malformed("not a list of pairs")
    keys = _hashable([decode(item[0], depth) for item in body])
    return dict(zip(keys, [decode(item[1], depth) for item in body], strict=True))


def _float(body: Any, depth: int) -> float:
    if body not in ("nan", "inf", "-inf"):
        raise Malformed("not a special float")
    return float(body)


def _int(body: Any, depth: int) -> int:
    if type(body) is not str:
        raise Malformed("not a hexadecimal integer")
    return int(body, 16)


def _pair(body: Any, depth: int) -> list[Any]:
    items = _items(body, depth)
    if len(items) != 2:
        raise Malformed("not two items")
    return items


def _moment(kind: Any, text: Any, fold: Any) -> Any:
    return kind.fromisoformat(_text(text)).replace(fold=fold)


def _text(body: Any) -> str:
    if type(body) is not str:
        raise Malformed("not a string")
    return body


_UNPACK: dict[str, Callable[[Any, int], Any]] = {
    "i": _int,
    "f": _float,
    "b": lambda body, depth: base64.b64decode(_text(body), validate=True),
    "B": lambda body, depth: bytearray(base64.b64decode(_text(body), validate=True)),
    "t": lambda body, depth: tuple(_items(body, depth)),
    "d": _dict,
    "s": lambda body, depth: set(_hashable(_items(body, depth))),
    "z": lambda body, depth: frozenset(_hashable(_items(body, depth))),
    "c": lambda body, depth: complex(*_pair(body, depth)),
    "m": lambda body, depth: decimal.Decimal(_text(body)),
    "q": lambda body, depth: fractions.Fraction(*_pair(body, depth)),
    "dt": lambda body, depth: _moment(datetime.datetime, *_pair(body, depth)),
    "da": lambda body, depth: datetime.date.fromisoformat(_text(body)),
    "ti": lambda body, depth: _moment(datetime.time, *_pair(body, depth)),
    "td": lambda body, depth: datetime.timedelta(*_items(body, depth)),
    "r": lambda body, depth: range(*_items(body, depth)),
    "e": lambda body, depth: ...,
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
