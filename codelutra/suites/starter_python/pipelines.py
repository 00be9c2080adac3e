"""Functions of one line: filter, map, and combine the items of a source.

A source has filters ("are even": `n % 2 == 0`) and maps ("the squares of": `n * n`); an end combines them ("the sum of":
`sum(…)`). Most combinations make a sensible question; `Source.functions` says how many are drawn. No two functions differ in
name or wording alone.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from codelutra.suites.splits import draw
from codelutra.suites.starter_python.functions import Function
from codelutra.suites.starter_python.sources import Source, drawn, read_sources, tables

EACH = 7  # inputs of a function, the shown one included
TRIED = 30  # inputs they are chosen from
SHOWN_CHARS = 60  # of the shown output


def pipelines() -> list[Function]:
    """The drawn functions of all sources, in a fixed order."""
    found = []
    for topic, source in read_sources().items():
        chosen = sorted(_functions(topic, source), key=lambda f: draw(0, "pipeline", topic, f.name))[: source.functions]
        found += [f._replace(inputs=_inputs(f)) for f in sorted(chosen, key=lambda f: f.name)]
    return found


def _functions(topic: str, source: Source) -> Iterator[Function]:
    """All combinations, without inputs."""
    for passing, (predicate, condition) in source.filters.items():
        for end, (phrases, program) in tables()["asking"].items():
            if end in source.without:
                continue
            name = "_".join((end, passing))
            asks = _one(phrases, name).format(_one(source.all, name), predicate)
            body = program.format(each=source.each, items=source.items, condition=condition)
            yield _function(topic, source, name, asks, body, predicate)
    for end, (phrases, program, kinds) in tables()["ends"].items():
        for change, (phrase, value, kind) in source.maps.items():
            if end in source.without or not set(kind.split()) & set(kinds.split()):
                continue
            for passing, (predicate, condition) in [*source.filters.items(), ("", ("", ""))]:
                if not (change or passing):
                    continue
                name = "_".join(part for part in (end, change, passing) if part)
                what = _one(source.some, name).format(predicate) if passing else _one(source.all, name)
                loop = f"for {source.each} in {source.items}" + (f" if {condition}" if passing else "")
                asks = _one(phrases, name).format(phrase.format(what))
                yield _function(topic, source, name, asks, program.format(value, loop), predicate)


def _one(phrases: Sequence[str], name: str) -> str:
    return phrases[int(draw(0, "phrase", tuple(phrases), name) * len(phrases))]


def _function(topic: str, source: Source, name: str, asks: str, body: str, predicate: str) -> Function:
    arguments = ", ".join([source.argument, *re.findall(r"`(\w+)`", predicate)])
    return Function(topic, name, asks, f"def {name}({arguments}):\n    return {body}", [])


def _inputs(function: Function) -> list[tuple[Any, ...]]:
    """Of TRIED random inputs, those that tell the function from its neighbours, then those with new outputs. The first is
    shown in the prompt, so its output is short and not empty."""
    rng = random.Random(f"starter-python {function.topic} {function.name}")
    programs = [function.program(), *(function._replace(source=s).program() for s in neighbours(function.source))]
    further = re.findall(r", (\w+)", function.source.split("\n")[0])
    edges = [n + step for n in map(int, re.findall(r"(?<=[<>=] )\d+|\d+(?= <=)", function.source)) for step in (-1, 0, 1)]
    tried = list[tuple[tuple[Any, ...], list[str]]]()
    for _ in range(TRIED):
        numbers = {argument: rng.choice(_NUMBERS[argument]) for argument in further if argument in _NUMBERS}
        gone_through = drawn(function.topic, rng, edges + [n + step for n in numbers.values() for step in (-1, 0, 1)])
        more = [numbers[a] if a in numbers else _letters(rng, gone_through, a) for a in further]
        arguments = (gone_through, *more)
        tried.append((arguments, [_output(program, arguments) for program in programs]))
    telling = [t for t in tried if t[1][0] not in _EMPTY and len(t[1][0]) <= SHOWN_CHARS]
    chosen, passing = [(telling or tried)[0]], set(range(1, len(programs)))
    while len(chosen) < EACH:
        given = Counter(outputs[0] for _, outputs in chosen)
        best = max(
            (t for t in tried if t not in chosen), key=lambda t: (sum(t[1][n] != t[1][0] for n in passing), -given[t[1][0]])
        )
        passing -= {n for n in passing if best[1][n] != best[1][0]}
        chosen.append(best)
    return [arguments for arguments, _ in chosen]


def neighbours(source: str) -> Iterator[str]:
    """The program with one number off by one, or with another comparison or operator."""
    start = source.index("\n")
    for m in re.finditer(r"\d+", source[start:]):
        for number in (int(m[0]) - 1, int(m[0]) + 1):
            yield source[: start + m.start()] + str(number) + source[start + m.end() :]
    for m in re.finditer(r" (<=|>=|==|!=|<|>|\+|-|\*) ", source[start:]):
        yield source[: start + m.start(1)] + _OTHER[m[1]] + source[start + m.end(1) :]


def _output(program: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    try:
        return repr(program(*arguments))
    except (IndexError, TypeError, ValueError, ZeroDivisionError) as e:  # only neighbours raise
        return repr(e)


_OTHER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "+"}
_EMPTY = ("[]", "0", "''", "None", "False")
_NUMBERS = {"limit": range(2, 13), "divisor": (2, 3, 4), "size": range(2, 6), "budget": range(3, 13)}


def _letters(rng: random.Random, gone_through: Any, argument: str) -> str:
    """A letter, or several for `allowed`, mostly one that occurs in what is gone through."""
    texts = [item if isinstance(item, str) else item[0] for item in gone_through] or ["e"]
    text = rng.choice(texts)
    if argument == "allowed":
        return rng.choice(["aeiou", "xyz", "0123456789", "".join(sorted(set(texts)))[:3]])
    return rng.choice([text[0], text[-1], "s"])
