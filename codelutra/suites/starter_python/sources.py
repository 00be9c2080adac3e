"""What pipelines go through, how they filter and map it (`sources.yaml`), and inputs for them."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Source(NamedTuple):
    """What is gone through.

    functions: how many are drawn from all combinations.
    filters: name → (predicate, condition); a predicate that names a further argument in backticks makes it an argument of
    the function. maps: name → (phrase, expression, kinds of value: "coarse" where different items often give the same).
    """

    functions: int
    argument: str
    each: str
    items: str
    all: tuple[str, ...]
    some: tuple[str, ...]  # {} is the predicate
    filters: dict[str, tuple[str, str]]
    maps: dict[str, tuple[str, str, str]]
    without: tuple[str, ...] = ()  # ends that say nothing here


@cache
def tables() -> dict[str, Any]:
    """What `sources.yaml` holds."""
    raw: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8"))
    return raw


def read_sources() -> dict[str, Source]:
    return {name: _source(**fields) for name, fields in tables()["sources"].items()}


def _source(*, left_out: tuple[str, ...] = (), suffix: str = "", **fields: Any) -> Source:
    def rows(table: str, suffix: str) -> dict[str, Any]:
        kept = {key: row for key, row in fields[table].items() if key not in left_out}
        return {key + suffix: (row[0], row[1].format(*[fields["each"]] * 3), *row[2:]) for key, row in kept.items()}

    said = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Source(**said | {"filters": rows("filters", suffix), "maps": rows("maps", "")})


def drawn(topic: str, rng: random.Random, edges: list[int]) -> Any:
    """Something for a function of this topic to go through, its numbers often near `edges`."""
    words, names = tables()["words"].split(), tables()["names"].split()
    match topic:
        case "numbers":
            return [_near(rng, edges) for _ in range(rng.choice([0, 1, 2, 3, 5, 6, 7, 8, 9]))]
        case "words":
            return rng.sample(words, rng.choice([0, 1, 2, 6, 7, 8]))
        case "letters":
            return "".join(rng.choice("aeiouaeioubcdstxyzABEOSXYZ0123579  .,!") for _ in range(rng.choice([0, 9, 11, 13])))
        case "ranges":
            return rng.choice([0, 1, *(e for e in edges if e >= 0), *range(3, 22)])
        case "digits":
            few = [0, rng.randint(1, 9), rng.randint(1, 9), rng.randint(10, 99)]
            return rng.choice([*few, *(rng.randint(10**4, 10**8) for _ in range(3))])
        case "prices":
            return {word: abs(_near(rng, edges)) for word in rng.sample(words[12:60], rng.choice([0, 1, 2, 4, 5, 6]))}
        case "people":
            return [(name, abs(_near(rng, edges))) for name in rng.sample(names, rng.choice([0, 1, 2, 4, 5, 6]))]
    raise ValueError(f"no inputs are drawn for {topic}; add a case here")


def _near(rng: random.Random, edges: list[int]) -> int:
    """A small number, often right at the edge of a condition."""
    if edges and rng.random() < 0.4:
        return rng.choice(edges)
    return rng.choice([*range(-6, 15), *range(0, 31, 5), 21])
