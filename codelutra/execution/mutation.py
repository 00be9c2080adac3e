"""New arguments like known ones: type-aware mutation that keeps what all known arguments have in common.

A problem does not say what a function does with other arguments. Where every known list is sorted, or every `n` is the
length of the list beside it, right programs may differ on lists that are not. So the new arguments keep each property
that all known ones have (`habits`). With few known ones this keeps too many properties, which gives fewer new inputs but
no wrong verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

Args = tuple[Any, ...]


@dataclass(frozen=True)
class Habit:
    """A property of all known arguments; `mend` makes other arguments have it, where that is easy."""

    holds: Callable[[Args], bool]
    mend: Callable[[Args], Args] = lambda args: args


def new_arguments(known: Sequence[Args], chance: random.Random) -> Iterator[Args]:
    """Arguments like the known ones, all new and all different, boundary values first. May end early."""
    common = habits(known)
    seen = {literal(args) for args in known}
    for candidate in _candidates(known, chance):
        for habit in common:
            if not habit.holds(candidate):
                candidate = habit.mend(candidate)
        if literal(candidate) not in seen and all(habit.holds(candidate) for habit in common):
            seen.add(literal(candidate))
            yield candidate


def literal(value: Any) -> str:
    """A value as Python writes it; the members of a set in an order that does not depend on the hash seed."""
    match value:
        case set() if value:
            return f"{{{', '.join(sorted(map(literal, value)))}}}"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case tuple():
            return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
        case dict():
            return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
        case int() if value.bit_length() > 10_000:  # Python writes 4,300 digits in decimal at most
            return hex(value)
        case _:
            return repr(value)


def _candidates(known: Sequence[Args], chance: random.Random, tries: int = 400) -> Iterator[Args]:
    base = known[0]
    for i, value in enumerate(base):
        for edge in boundaries(value):
            yield (*base[:i], edge, *base[i + 1 :])
    for _ in range(tries):
        others = [args for args in known if len(args) == len(base)]
        args = [chance.choice(others)[i] for i in range(len(base))] if chance.random() < 0.3 else list(chance.choice(others))
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            if args:
                i = chance.randrange(len(args))
                args[i] = mutated(args[i], chance)
        yield tuple(args)


def boundaries(value: Any) -> tuple[Any, ...]:
    """Values on which programs often break: empty, zero, one, the other sign."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (0, 1, -1, 2, value + 1, value - 1)
        case float():
            return (0.0, 1.0, -1.0, value + 0.5)
        case str():
            return ("", value[:1], value + value[-1:])
        case list() | tuple():
            return (value[:0], value[:1], value[:-1], value * 2)
        case set() | dict():
            return (type(value)(),)
        case _:
            return ()


def mutated(value: Any, chance: random.Random) -> Any:
    """A value of the same type, a little different."""
    match value:
        case bool():
            return not value
        case int():
            near = chance.choice((value + 1, value - 1, value * 2, value // 2, -value, value + chance.randint(-10, 10)))
            return chance.choice((near, near, near, chance.randint(-9, 9), value + chance.randint(0, 2 * abs(value) + 9)))
        case float():
            return chance.choice((value + 1, value - 1, value * 2, value / 2, -value, round(chance.uniform(-10, 10), 2)))
        case str():
            return "".join(_sequence(list(value), chance, _character))
        case list():
            return _sequence(value, chance, mutated)
        case tuple():
            return tuple(_sequence(list(value), chance, mutated, resize=chance.random() < 0.3))
        case set():
            return set(_sequence(sorted(value, key=literal), chance, mutated))
        case dict() if value:
            items = _sequence(list(value.items()), chance, lambda item, c: (item[0], mutated(item[1], c)))
            return dict(items)
        case _:
            return value


def _sequence(
    items: list[Any], chance: random.Random, change: Callable[[Any, random.Random], Any], resize: bool = True
) -> list[Any]:
    """Items with some changed, moved, left out or repeated."""
    if not items:
        return items
    items = list(items)
    i, j = chance.randrange(len(items)), chance.randrange(len(items))
    match chance.choice(("change", "change", "swap", "drop", "repeat", "shuffle", "reverse", "cut", "insert")):
        case "drop" if resize:
            del items[i]
        case "repeat" if resize:
            items.insert(j, items[i])
        case "insert" if resize:
            items.insert(i, change(items[j], chance))
        case "cut" if resize:
            items = items[min(i, j) : max(i, j) + 1]
        case "swap":
            items[i], items[j] = items[j], items[i]
        case "shuffle":
            chance.shuffle(items)
        case "reverse":
            items.reverse()
        case _:
            items[i] = change(items[i], chance)
    return items


def _character(character: str, chance: random.Random) -> str:
    return chance.choice((character.swapcase(), chr(ord(character) + 1), chance.choice("aeiouxyz019 _-.")))


# ---- what all known arguments have in common --------------------------------------------------------------------------


def habits(known: Sequence[Args]) -> list[Habit]:
    """The properties that every known tuple of arguments has, of those this module knows."""
    width = len(known[0])
    found = [Habit(lambda args: len(args) == width)]
    for i in range(width):
        seen = set[str]().union(*(kinds(args[i]) for args in known if len(args) == width))
        found.append(Habit(lambda args, i=i, seen=seen: kinds(args[i]) <= seen))  # type: ignore[misc]
        found += [_habit(test, mend, i) for test, mend in _OF_ONE]
    for i, j in permutations(range(width), 2):
        found += [_habit(test, mend, i, j) for test, mend in _OF_TWO]
    return [habit for habit in found if all(len(args) == width and habit.holds(args) for args in known)]


def _habit(test: Callable[..., bool], mend: Callable[..., Any] | None, *at: int) -> Habit:
    """What `test` says of the arguments at these places. `mend` makes the first of them anew, from all of them."""

    def holds(args: Args) -> bool:
        return test(*(args[i] for i in at))

    def mended(args: Args) -> Args:
        return (*args[: at[0]], mend(*(args[i] for i in at)), *args[at[0] + 1 :]) if mend else args

    return Habit(holds, mended)


def kinds(value: Any, path: str = "") -> set[str]:
    """The types in a value, by depth, and the kinds of characters in its texts."""
    path += f".{type(value).__name__}"
    if isinstance(value, str):
        return {path, *(f"{path}:{_sort(c)}" for c in value)}
    if isinstance(value, dict):
        return {path}.union(*(kinds(k, path + "k") | kinds(v, path) for k, v in value.items()))
    if isinstance(value, list | tuple | set):
        return {path}.union(*(kinds(v, path) for v in value))
    return {path}


def _sort(character: str) -> str:
    if character.isalpha():
        return "upper" if character.isupper() else "lower"
    return "digit" if character.isdigit() else "space" if character.isspace() else character


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple | set):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, str | list | tuple | set | dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ():
        yield from _containers(inner)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | set | dict) else -1


def _ordered(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(set(map(type, value))) > 1:
        return not isinstance(value, list | tuple)
    return isinstance(next(iter(value), 0), int | float | str) and all(a <= b for a, b in pairwise(value))


def _ascending(value: Any) -> Any:
    return type(value)(sorted(value)) if isinstance(value, list | tuple) else value


# (test of one argument, what mends it). A test is true of values that it does not apply to.
_OF_ONE: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any] | None], ...] = (
    (lambda v: all(x >= 0 for x in _leaves(v) if _number(x)), None),
    (lambda v: all(x > 0 for x in _leaves(v) if _number(x)), None),
    (lambda v: all(len(c) > 0 for c in _containers(v)), None),
    (lambda v: len({len(c) for c in v if isinstance(c, list | tuple)}) < 2 if isinstance(v, list | tuple) else True, None),
    (lambda v: len({repr(x) for x in v}) == len(v) if isinstance(v, list | tuple) else True, None),
    (_ordered, _ascending),
)
# The same of two arguments; the first is mended.
_OF_TWO: tuple[tuple[Callable[[Any, Any], bool], Callable[[Any, Any], Any] | None], ...] = (
    (lambda a, b: _length(a) == _length(b) != -1, None),
    (lambda a, b: _number(a) and _number(b) and a <= b, None),
    (lambda a, b: _number(a) and a <= _length(b), None),
    (lambda a, b: _number(a) and a < _length(b), None),
    (lambda a, b: type(a) is int and a == _length(b), lambda a, b: _length(b)),
)
