from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import math
import pathlib
import re
import types
import uuid
import zoneinfo
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.runner import canonical
from sandbox.runner.canonical import (
    MAX_DIGITS,
    MAX_ITEMS,
    Malformed,
    Named,
    NotRepresentable,
    TooLarge,
    decode,
    dumps,
    encode,
    loads,
)

NUMBERS = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False) | st.fractions()
TIMES = st.dates() | st.datetimes() | st.times() | st.timedeltas()
SCALARS = st.none() | st.booleans() | st.text() | st.binary() | st.decimals(allow_nan=False) | NUMBERS | TIMES
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=8
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(HASHABLE, inner, max_size=5) | st.sets(HASHABLE, max_size=4),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """The value with every type spelled out: 1, True and 1.0 are equal, these are not."""
    if isinstance(value, dict):
        return [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(typed, value)))
    return type(value), repr(value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(VALUES)
def test_what_crosses_comes_back_equal_type_for_type(value: Any) -> None:
    assert typed(loads(dumps(value))) == typed(value)


def test_nan_infinities_negative_zero_and_big_integers_survive() -> None:
    back = loads(dumps([math.nan, math.inf, -math.inf, -0.0, 2**70, -(2**70), 10**6000]))
    assert math.isnan(back[0])
    assert back[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, back[3]) == -1
    assert back[4:] == [2**70, -(2**70), 10**6000]


def test_text_that_is_not_unicode_survives() -> None:
    assert loads(dumps("a\udcff\0\U0001f600")) == "a\udcff\0\U0001f600"


def test_equal_sets_have_equal_text() -> None:
    assert dumps({3, "a", 1}) == dumps({"a", 1, 3})


class Colour(enum.IntEnum):
    RED = 1


class Shade(enum.Enum):
    DARK = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    cached: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass
class Alike:
    x: int

    def __eq__(self, other: object) -> bool:
        return True


Pair = collections.namedtuple("Pair", "x y")
NAMED: list[tuple[Any, Any]] = [
    (Pair(1, [2]), (1, [2])),
    (Colour.RED, 1),
    (type("I", (int,), {})(7), 7),
    (type("S", (str,), {})("a"), "a"),
    (type("L", (list,), {})([1]), [1]),
    (type("D", (dict,), {})(a=1), {"a": 1}),
    (type("M", (decimal.Decimal,), {})("1"), decimal.Decimal(1)),
    ({"a": 1}.keys(), {"a"}),
    ({"a": 1}.items(), {("a", 1)}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (Point(1, 5), Named("data", "Point", (("x", 1),))),
    ({Point(1)}, {Named("data", "Point", (("x", 1),))}),
    (Shade.DARK, Named("enum", "Shade", "DARK")),
    (int, Named("type", "", "int")),
    (pathlib.PurePosixPath("a/b"), Named("path", "", "a/b")),
    (uuid.UUID(int=1), Named("uuid", "", str(uuid.UUID(int=1)))),
    (type("B", (bytearray,), {})(b"a"), bytearray(b"a")),
    (type("C", (complex,), {})(1j), 1j),
    (memoryview(b"ab"), b"ab"),
    (array.array("i", [1, 2]), Named("data", "array", (("items", [1, 2]),))),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
    (collections.UserDict(a=[1]), {"a": [1]}),
    (collections.UserDict(a=1).keys(), {"a"}),
    (collections.UserList([1, (2,)]), [1, (2,)]),
    (collections.UserString("a"), "a"),
    (types.SimpleNamespace(b=1, a=[2]), Named("data", "namespace", (("a", [2]), ("b", 1)))),
    (slice(1, None), Named("data", "slice", (("start", 1), ("stop", None), ("step", None)))),
    (re.compile("a"), Named("data", "Pattern", (("pattern", "a"), ("flags", 32)))),
    (datetime.UTC, Named("data", "timezone", (("offset", datetime.timedelta(0)),))),
    (ipaddress.ip_network("10.0.0.0/8"), Named("path", "IPv4Network", "10.0.0.0/8")),
    (datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
]


@pytest.mark.parametrize(("value", "crossed"), NAMED, ids=lambda value: type(value).__name__)
def test_a_subclass_crosses_as_the_type_whose_equality_it_inherits(value: Any, crossed: Any) -> None:
    for there, back in ((value, crossed), ([value], [crossed]), ({"k": value}, {"k": crossed})):
        assert typed(loads(dumps(there))) == typed(back)
        assert typed(loads(dumps(loads(dumps(there))))) == typed(back)


EQUAL = {"__eq__": lambda self, other: True, "__hash__": None}
FOREIGN = [
    type("I", (int,), EQUAL)(1),
    type("S", (str,), EQUAL)("a"),
    type("L", (list,), EQUAL)(),
    type("T", (tuple,), EQUAL)(),
    type("C", (collections.Counter,), EQUAL)("a"),
    type("U", (collections.UserDict,), EQUAL)(a=1),
    type("N", (types.SimpleNamespace,), EQUAL)(a=1),
    Alike(1),
    object(),
    {}.values(),
    (i for i in [1]),
    print,
]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_what_only_looks_like_data_is_refused(value: Any) -> None:
    for wrapped in (value, [value], (1, value), {"k": value}):
        with pytest.raises(NotRepresentable):
            encode(wrapped)


def test_the_dicts_of_the_standard_library_cross_by_their_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections.Counter, "items", lambda self: [("forged", 1)], raising=False)
    for value in (collections.Counter("aab"), collections.OrderedDict(b=1, a=2)):
        back = loads(dumps(value))
        assert type(back) is type(value)
        assert dict(dict.items(back)) == dict(dict.items(value))
        assert list(back) == list(value)


TOO_LARGE = {
    "items": [0] * (MAX_ITEMS + 1),
    "the same list a thousand times": [[0] * 1000] * 1000,
    "digits of a Decimal": decimal.Decimal("1" * (MAX_DIGITS + 1)),
    "exponent of a Decimal": decimal.Decimal("1e-100000"),
    "digits of a Fraction": fractions.Fraction(10**30_000, 3),
}


@pytest.mark.parametrize("value", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_more_than_crosses_is_refused_on_both_sides(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge, match=r"at most|more than"):
        encode(value)
    for name in ("MAX_ITEMS", "MAX_DIGITS", "_MAX_BITS"):
        monkeypatch.setattr(canonical, name, 10**9)
    structure = encode([value, [value]])
    monkeypatch.undo()
    with pytest.raises(Malformed):
        decode(structure)


def test_circles_and_depth_are_refused_clearly() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(NotRepresentable, match="deep"):
        encode(circle)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"x": 1}',
        '{"t": 1}',
        '{"d": [1]}',
        '{"d": [[[1], 2]]}',
        '{"s": [[1]]}',
        '{"b": "%"}',
        '{"b": 1}',
        '{"f": "1"}',
        '{"i": 1}',
        '{"i": "xyz"}',
        '{"q": [1, 0]}',
        '{"m": "x"}',
        '{"dt": "x"}',
        '{"td": ["a", 1, 1]}',
        '{"r": [1, 2, 0]}',
        '{"c": [1]}',
        '{"t": [], "s": []}',
        "[" * 100_000 + "]" * 100_000,
        "9" * 10_000,
        '{"t": [' * 300 + "]}" * 300,
        '{"x": ["nobody", "A", "b"]}',
        '{"x": ["data", "A", [["x"]]]}',
        '{"x": ["enum", "A", 1]}',
        '{"m": "1e999999"}',
        '{"r": [0, 1, 2, 3]}',
        '{"td": [1e999, 0, 0]}',
        '{"c": ["a", 1]}',
        '{"dt": ["2020-01-01", "x"]}',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        loads(text)


def test_keys_built_to_collide_are_refused_quickly() -> None:
    keys = [{"i": hex(i * (2**61 - 1))} for i in range(2, 30_000)]
    with pytest.raises(Malformed, match="hash"):
        decode({"s": keys})
    with pytest.raises(Malformed, match="hash"):
        decode({"d": [[key, None] for key in keys]})


def test_the_structure_is_plain_json() -> None:
    assert json.loads(json.dumps(encode({1: (2.5, b"x")}))) == {"d": [[1, {"t": [2.5, {"b": "eA=="}]}]]}
