"""What pipelines go through, how they filter and map it (`sources.yaml`), and inputs for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Inputs = Callable[[random.Random, list[int]], Any]


class Source(NamedTuple):
    """What is gone through.

    filters: name → (predicate, condition); a predicate that names a further argument in backticks makes it an argument of
    the function. maps: name → (phrase, expression, kinds of value: "coarse" where different items often give the same).
    """

    argument: str
    each: str
    items: str
    all: tuple[str, ...]
    some: tuple[str, ...]  # {} is the predicate
    filters: dict[str, tuple[str, str]]
    maps: dict[str, tuple[str, str, str]]
    inputs: Inputs  # draws what is gone through, with numbers near the given edges
    without: tuple[str, ...] = ()  # ends that say nothing here


def read_sources() -> dict[str, Source]:
    raw = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8"))["sources"]
    return {name: _source(inputs=INPUTS[name], **fields) for name, fields in raw.items()}


def _source(*, left_out: tuple[str, ...] = (), suffix: str = "", **fields: Any) -> Source:
    def rows(table: str, suffix: str) -> dict[str, Any]:
        kept = {key: row for key, row in fields[table].items() if key not in left_out}
        return {key + suffix: (row[0], row[1].format(*[fields["each"]] * 3), *row[2:]) for key, row in kept.items()}

    said = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Source(**said | {"filters": rows("filters", suffix), "maps": rows("maps", "")})


_WORDS = """
a an ape apple arrow banana bee blue boat book cake cat cloud comb dice dog door eagle ease ebb echo egg extra fare
fog goat gold house ice ink island kayak lamp level lime loop mango moon night noon nose oboe onion orange otto pea
pear pie plum radio rose salt sea seas snow sofa soup stars stone sun table taste tea toast tree umbrella violin wave
we willow wow yellow zone zoo
"""
_NAMES = "ada anna ben bob carla dora emma eve fritz ida lea mo nina otto paul sam sara tom"
WORDS, NAMES = _WORDS.split(), _NAMES.split()


def _near(rng: random.Random, edges: list[int]) -> int:
    """A small number, often right at the edge of a condition."""
    if edges and rng.random() < 0.4:
        return rng.choice(edges)
    return rng.choice([*range(-6, 15), *range(0, 31, 5), 21])


def _some_numbers(rng: random.Random, edges: list[int]) -> list[int]:
    return [_near(rng, edges) for _ in range(rng.choice([0, 1, 2, 3, 5, 6, 7, 8, 9]))]


def _some_words(rng: random.Random, edges: list[int]) -> list[str]:
    return rng.sample(WORDS, rng.choice([0, 1, 2, 6, 7, 8]))


def _some_text(rng: random.Random, edges: list[int]) -> str:
    return "".join(rng.choice("aeiouaeioubcdstxyzABEOSXYZ0123579  .,!") for _ in range(rng.choice([0, 9, 11, 13])))


def _upper_end(rng: random.Random, edges: list[int]) -> int:
    return rng.choice([0, 1, *(e for e in edges if e >= 0), *range(3, 22)])


def _digits(rng: random.Random, edges: list[int]) -> int:
    return rng.choice(
        [0, rng.randint(1, 9), rng.randint(1, 9), rng.randint(10, 99), *(rng.randint(10**4, 10**8) for _ in "123")]
    )


def _prices(rng: random.Random, edges: list[int]) -> dict[str, int]:
    return {word: abs(_near(rng, edges)) for word in rng.sample(WORDS[12:60], rng.choice([0, 1, 2, 4, 5, 6]))}


def _people(rng: random.Random, edges: list[int]) -> list[tuple[str, int]]:
    return [(name, abs(_near(rng, edges))) for name in rng.sample(NAMES, rng.choice([0, 1, 2, 4, 5, 6]))]


INPUTS: dict[str, Inputs] = {
    "numbers": _some_numbers,
    "words": _some_words,
    "letters": _some_text,
    "ranges": _upper_end,
    "digits": _digits,
    "prices": _prices,
    "people": _people,
}
