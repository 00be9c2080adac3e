"""Values of types that compare as plain data does, as that data.

What decides is the `==` that a type has or inherits: a namedtuple has the tuple's, a ChainMap that of all mappings. A type
with an `==` of its own is not data.
"""

from __future__ import annotations

import array
import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import types
import uuid
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Named:
    """What is equal by its name and its parts: "data" (a dataclass: its fields), "enum", "type", "path", "uuid"."""

    kind: str
    name: str
    what: Any

    def __repr__(self) -> str:
        if self.kind == "data":
            return f"{self.name}({', '.join(f'{n}={v!r}' for n, v in self.what)})"
        return f"{self.name}.{self.what}" if self.kind == "enum" else str(self.what)


def plain(value: Any, kind: type) -> Any:
    """What crosses in place of a value of this type, which is none of the plain types; None where nothing does."""
    equal: Any = kind.__eq__
    for base, made in _BASES:
        if equal is base.__eq__ and issubclass(kind, base):
            return made(value)
    if issubclass(kind, enum.Enum) and equal is object.__eq__:
        return Named("enum", kind.__qualname__, str(value.name))
    if dataclasses.is_dataclass(kind) and _generated(equal):
        names = [field.name for field in dataclasses.fields(kind) if field.compare]
        return _data(kind.__qualname__, **{n: getattr(value, n) for n in names})
    if isinstance(value, type):
        return Named("type", "", value.__qualname__)
    if isinstance(value, pathlib.PurePosixPath) and kind.__module__ == "pathlib":
        return Named("path", "", str(value))
    if kind.__module__ == "ipaddress":  # addresses, networks and interfaces are equal by what they are written as
        return Named("path", kind.__qualname__, str(value))
    if isinstance(value, uuid.UUID) and kind.__module__ == "uuid":
        return Named("uuid", "", str(value))
    return None


def _generated(method: Any) -> bool:
    """Whether `dataclass` wrote this method: it compiles it from text without a file."""
    return getattr(getattr(method, "__code__", None), "co_filename", "") == "<string>"


def _data(kind: str, /, **parts: Any) -> Named:
    return Named("data", kind, tuple(parts.items()))


def _buffer(view: memoryview) -> Any:
    return view.tobytes() if view.format == "B" and view.ndim == 1 else _data("memoryview", items=view.tolist())


_ORDERED = collections.OrderedDict[int, int]()
_MAPPING, _SET = collections.abc.Mapping, collections.abc.Set
# Types whose values, and those of their subclasses, cross as another type does; each read by the type's own methods.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (str, str.__str__),
    (float, float.__float__),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
    (list, lambda v: list(list.__iter__(v))),
    (collections.OrderedDict, lambda v: collections.OrderedDict(dict.items(v))),
    (collections.Counter, lambda v: collections.Counter(dict(dict.items(v)))),
    (dict, lambda v: dict(dict.items(v))),
    (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
    (collections.deque, lambda v: collections.deque(collections.deque.__iter__(v))),
    (bytes, lambda v: bytes(memoryview(v))),
    (bytearray, lambda v: bytearray(memoryview(v))),
    (complex, complex.__complex__),
    (decimal.Decimal, decimal.Decimal),
    (fractions.Fraction, fractions.Fraction),
    *((kind, set) for kind in map(type, ({}.keys(), {}.items(), _ORDERED.keys(), _ORDERED.items()))),
    (memoryview, _buffer),
    (array.array, lambda v: _data("array", items=array.array.tolist(v))),
    (types.MappingProxyType, dict),
    (types.SimpleNamespace, lambda v: _data("namespace", **dict(sorted(vars(v).items())))),
    (slice, lambda v: _data("slice", start=v.start, stop=v.stop, step=v.step)),
    (re.Pattern, lambda v: _data("Pattern", pattern=v.pattern, flags=v.flags)),
    (datetime.timezone, lambda v: _data("timezone", offset=v.utcoffset(None))),
    (collections.UserList, lambda v: list(v.data)),
    (collections.UserString, lambda v: str(v.data)),
    (_MAPPING, lambda v: dict(v.items())),
    (_SET, set),
)
