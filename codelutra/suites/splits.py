"""Which problem is on which side: seeded, stratified, and the same for the same section on every machine."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import polars as pl

from codelutra.config import SuiteSection
from codelutra.schema import PROBLEMS, SPLIT, SPLITS, check

WHOLE = 2  # problems due to the smallest share: a group with fewer, rounded by itself, would give it far too few or none


def draw(seed: int, *what: object) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    text = "\0".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def normalise_prompt(prompt: str) -> str:
    """Its words: two prompts with the same ones are the same prompt."""
    return " ".join(re.findall(r"\w+", prompt.lower()))


def cap(problems: pl.DataFrame, section: SuiteSection) -> pl.DataFrame:
    """At most `section.train`, `.dev`, `.test` problems of each split, groups in their proportions, order kept.

    Nested: what a smaller cap keeps, a larger one keeps too.
    """
    limits = {"train": section.train, "dev": section.dev, "test": section.test}
    chance = pl.Series("chance", [draw(section.seed, "cap", i) for i in problems["problem_id"]], dtype=pl.Float64)
    side = ["split", "group"]
    turns = (
        problems.select("split", "group")
        .with_row_index("row")
        .with_columns(chance)
        .with_columns(place=(pl.col("chance").rank("ordinal").over(side) - 0.5) / pl.len().over(side))
        .sort("split", "place", "chance")
        .with_columns(turn=pl.int_range(pl.len()).over("split"))
    )
    limit = pl.col("split").cast(pl.String).replace_strict(limits, default=None, return_dtype=pl.Int64)
    kept = turns.filter(limit.is_null() | (pl.col("turn") < limit)).sort("row")["row"]
    return check(problems[kept], PROBLEMS)


def divide(
    problems: pl.DataFrame, same: Iterable[Sequence[Hashable]], shares: Mapping[str, float], seed: int
) -> pl.DataFrame:
    """Deal problems to splits by `shares`, group by group.

    Groups too small to be dealt by themselves (`WHOLE`) are dealt as one, each where the one before it left off: else
    every group of one would go to the largest share, and the others would stay empty. `same` gives, for each problem,
    things that must not be on two sides (its normalised query, its normalised prompt); problems that share one, directly
    or through others, stay together.
    """
    root = list(range(problems.height))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[Hashable, int] = {}
    for i, keys in enumerate(same):
        for key in enumerate(keys):
            root[find(i)] = find(first.setdefault(key, i))
    clumps = defaultdict[int, list[int]](list)
    for i in range(problems.height):
        clumps[find(i)].append(i)

    ids, groups = problems["problem_id"].to_list(), problems["group"].to_list()
    least, sizes = min(shares.values()), Counter(groups)
    dealt_with = [group if sizes[group] * least >= WHOLE else None for group in groups]  # None: all small groups

    def turn(clump: list[int]) -> tuple[float, float]:
        small = dealt_with[clump[0]] is None  # the large ones before, in an order of their own
        by_group = 1 + draw(seed, "divide a group", groups[clump[0]]) if small else 0.0
        return by_group, draw(seed, "divide", min(ids[i] for i in clump))

    split = [""] * problems.height
    counts: dict[str | None, dict[str, int]] = defaultdict(lambda: dict.fromkeys(shares, 0))
    for clump in sorted(clumps.values(), key=turn):
        count = counts[dealt_with[clump[0]]]
        # The side that is furthest behind its share; `shares` order breaks ties.
        side = max(shares, key=lambda s: shares[s] * (sum(count.values()) + len(clump)) - count[s])
        for i in clump:
            split[i] = side
            counts[dealt_with[i]][side] += 1
    return problems.with_columns(split=pl.Series(split, dtype=SPLIT))


def digests(problems: pl.DataFrame) -> dict[str, str]:
    """12 hex digits a split that has problems: equal for equal problems, in whatever order they come."""
    parts = problems.sort("problem_id").partition_by("split", as_dict=True)
    content = {split: parts[(split,)].write_ndjson().encode() for split in SPLITS if (split,) in parts}
    return {split: hashlib.sha256(text).hexdigest()[:12] for split, text in content.items()}


def overlaps(problems: pl.DataFrame, key: pl.Series) -> list[str]:
    """Values of `key` (one a problem) that occur on two sides, sorted."""
    sides = problems.select("split").with_columns(key=key).group_by("key").agg(pl.col("split").n_unique())
    return sides.filter(pl.col("split") > 1)["key"].sort().to_list()
