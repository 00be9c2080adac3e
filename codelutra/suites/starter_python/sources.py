"""What pipelines go through, how they filter and map it, and inputs for them: tables, nearly no code."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

Inputs = Callable[[random.Random, list[int]], Any]


class Source(NamedTuple):
    """What is gone through. Filters: name → (predicate, condition); one that names a further argument in backticks takes
    it. Maps: name → (phrase, expression, kinds of value: "coarse" where different items often give the same). `inputs`
    makes what is gone through, with numbers near the given edges."""

    argument: str
    each: str
    items: str
    all: tuple[str, ...]
    some: tuple[str, ...]  # {} is the predicate
    filters: dict[str, tuple[str, str]]
    maps: dict[str, tuple[str, str, str]]
    inputs: Inputs
    without: tuple[str, ...] = ()  # ends that say nothing here


NUMBER_FILTERS = {
    "even": ("are even", "{} % 2 == 0"),
    "odd": ("are odd", "{} % 2 == 1"),
    "positive": ("are greater than 0", "{} > 0"),
    "negative": ("are less than 0", "{} < 0"),
    "over_ten": ("are greater than 10", "{} > 10"),
    "at_least_five": ("are at least 5", "{} >= 5"),
    "under_four": ("are less than 4", "{} < 4"),
    "threes": ("are divisible by 3", "{} % 3 == 0"),
    "fives": ("are divisible by 5", "{} % 5 == 0"),
    "not_threes": ("are not divisible by 3", "{} % 3 != 0"),
    "two_to_eight": ("are between 2 and 8, both included", "2 <= {} <= 8"),
    "above": ("are greater than `limit`", "{} > limit"),
    "up_to": ("are not greater than `limit`", "{} <= limit"),
    "multiples": ("are divisible by `divisor`", "{} % divisor == 0"),
}
NUMBER_MAPS = {
    "": ("{}", "{}", "number coarse"),
    "squares": ("the squares of {}", "{} * {}", "number coarse"),
    "doubles": ("the doubles of {}", "2 * {}", "number"),
    "cubes": ("the cubes of {}", "{} ** 3", "number"),
    "successors": ("the numbers that are one larger than {}", "{} + 1", "number"),
    "texts": ("the digits, as text, of {}", "str({})", "text"),
}
WORD_FILTERS = {
    "long": ("have more than 4 letters", "len({}) > 4"),
    "short": ("have at most 3 letters", "len({}) <= 3"),
    "five": ("have exactly 5 letters", "len({}) == 5"),
    "even": ("have an even number of letters", "len({}) % 2 == 0"),
    "a_words": ('begin with "a"', '{}.startswith("a")'),
    "s_words": ('begin with "s"', '{}.startswith("s")'),
    "e_ends": ('end with "e"', '{}.endswith("e")'),
    "with_o": ('contain "o"', '"o" in {}'),
    "without_a": ('do not contain "a"', '"a" not in {}'),
    "starting": ("begin with `letter`", "{}.startswith(letter)"),
    "ending": ("end with `letter`", "{}.endswith(letter)"),
    "with_letter": ("contain `letter`", "letter in {}"),
    "over_size": ("have more than `size` letters", "len({}) > size"),
    "same_ends": ("begin and end with the same letter", "{}[0] == {}[-1]"),
}
_WORDS = """
a an ape apple arrow banana bee blue boat book cake cat cloud comb dice dog door eagle ease ebb echo egg extra fare
fog goat gold house ice ink island kayak lamp level lime loop mango moon night noon nose oboe onion orange otto pea
pear pie plum radio rose salt sea seas snow sofa soup stars stone sun table taste tea toast tree umbrella violin wave
we willow wow yellow zone zoo
"""
WORDS = _WORDS.split()
NAMES = [
    "ada",
    "anna",
    "ben",
    "bob",
    "carla",
    "dora",
    "emma",
    "eve",
    "fritz",
    "ida",
    "lea",
    "mo",
    "nina",
    "otto",
    "paul",
    "sam",
    "sara",
    "tom",
]


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


def _of(table: dict[str, Any], name: str, *left_out: str, suffix: str = "") -> dict[str, Any]:
    """A table of filters or maps over a variable of that name."""
    return {
        key + suffix: (row[0], row[1].format(*[name] * 3), *row[2:]) for key, row in table.items() if key not in left_out
    }


SOURCES = {
    "numbers": Source(
        "numbers",
        "n",
        "numbers",
        ("the numbers in `numbers`", "all items of the list `numbers`"),
        ("the numbers in `numbers` that {}", "those items of the list `numbers` that {}"),
        _of(NUMBER_FILTERS, "n"),
        {
            **_of(NUMBER_MAPS, "n"),
            "absolutes": ("the absolute values of {}", "abs(n)", "number coarse"),
            "negated": ("the negatives of {}", "-n", "number"),
            "last_digits": ("the remainders after division by 10 of {}", "n % 10", "number coarse"),
        },
        _some_numbers,
    ),
    "words": Source(
        "words",
        "word",
        "words",
        ("the words in `words`", "all items of the list `words`"),
        ("the words in `words` that {}", "those of the list `words` that {}"),
        _of(WORD_FILTERS, "word"),
        {
            "": ("{}", "word", "text word"),
            "capitals": ("{}, in capitals", "word.upper()", "text word"),
            "titled": ("{}, each with a capital first letter", "word.capitalize()", "text word"),
            "reversed": ("{}, each written backwards", "word[::-1]", "text word"),
            "lengths": ("the lengths of {}", "len(word)", "number coarse"),
            "firsts": ("the first letters of {}", "word[0]", "text coarse"),
            "lasts": ("the last letters of {}", "word[-1]", "text coarse"),
            "tails": ("{}, each without its first letter", "word[1:]", "text word"),
            "starts": ("the first two letters of each of {}", "word[:2]", "text coarse"),
        },
        _some_words,
    ),
    "letters": Source(
        "text",
        "c",
        "text",
        ("the characters of `text`",),
        ("the characters of `text` that {}",),
        {
            "vowels": ("are one of a, e, i, o, u", 'c in "aeiou"'),
            "digits": ("are digits", "c.isdigit()"),
            "capitals": ("are capital letters", "c.isupper()"),
            "small": ("are small letters", "c.islower()"),
            "letters": ("are letters", "c.isalpha()"),
            "not_vowels": ("are none of a, e, i, o, u", 'c not in "aeiou"'),
            "not_blank": ("are not blanks", 'c != " "'),
            "early": ('are "a", "b" or "c"', 'c in "abc"'),
            "others": ("are not equal to `letter`", "c != letter"),
            "chosen": ("occur in `allowed`", "c in allowed"),
            "no_digits": ("are not digits", "not c.isdigit()"),
        },
        {
            "": ("{}", "c", "text coarse"),
            "upper": ("{}, in capitals", "c.upper()", "text coarse"),
            "lower": ("{}, as small letters", "c.lower()", "text coarse"),
            "twice": ("{}, each written twice", "c * 2", "text"),
        },
        _some_text,
    ),
    "ranges": Source(
        "n",
        "i",
        "range(1, n + 1)",
        ("the whole numbers from 1 to `n`",),
        ("the whole numbers from 1 to `n` that {}",),
        _of(NUMBER_FILTERS, "i", "positive", "negative", "up_to", suffix="_to_n"),
        _of(NUMBER_MAPS, "i"),
        _upper_end,
        ("smallest", "different", "all"),
    ),
    "digits": Source(
        "n",
        "d",
        "map(int, str(n))",
        ("the digits of `n`",),
        ("the digits of `n` that {}",),
        _of(NUMBER_FILTERS, "d", "positive", "negative", "over_ten", "fives", "multiples", suffix="_digits"),
        _of(NUMBER_MAPS, "d", "texts"),
        _digits,
    ),
    "prices": Source(
        "prices",
        "item, price",
        "prices.items()",
        ("the items of the dict `prices`",),
        ("the items of the dict `prices` (item to price) that {}",),
        {
            "expensive": ("cost more than 10", "price > 10"),
            "cheap": ("cost less than 5", "price < 5"),
            "even": ("have an even price", "price % 2 == 0"),
            "within": ("cost at most `budget`", "price <= budget"),
            "dear": ("cost at least `limit`", "price >= limit"),
            "short": ("have fewer than 5 letters", "len(item) < 5"),
            "starting": ("begin with `letter`", "item.startswith(letter)"),
            "e_ends": ('end with "e"', 'item.endswith("e")'),
        },
        {
            "names": ("the names of {}", "item", "text word"),
            "prices": ("the prices of {}", "price", "number coarse"),
            "double_prices": ("twice the prices of {}", "price * 2", "number"),
            "capital_names": ("the names, in capitals, of {}", "item.upper()", "text word"),
            "dearer": ("the prices, each raised by 1, of {}", "price + 1", "number"),
        },
        _prices,
    ),
    "people": Source(
        "people",
        "name, age",
        "people",
        ("the pairs (name, age) in `people`",),
        ("the pairs (name, age) in `people` that {}",),
        {
            "adults": ("have an age of at least 18", "age >= 18"),
            "children": ("have an age below 12", "age < 12"),
            "odd": ("have an odd age", "age % 2 == 1"),
            "older": ("have an age above `limit`", "age > limit"),
            "a_names": ('have a name that ends with "a"', 'name.endswith("a")'),
            "long_names": ("have a name of more than 3 letters", "len(name) > 3"),
            "named": ("have a name that begins with `letter`", "name.startswith(letter)"),
        },
        {
            "names": ("the names of {}", "name", "text word"),
            "ages": ("the ages of {}", "age", "number coarse"),
            "next_ages": ("the ages, one year later, of {}", "age + 1", "number"),
            "titled": ("the names, each with a capital first letter, of {}", "name.capitalize()", "text word"),
            "initials": ("the first letters of the names of {}", "name[0]", "text coarse"),
        },
        _people,
    ),
}
