"""Which problem is in which split: seeded, stratified, and the same for the same section on every machine."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.reading.text import Unreadable, require_file
from codelutra.schema import PROBLEMS, SPLIT, SPLITS, check
from codelutra.suites.folder import expand

KNOWN_BY = ("prompt", "reference", "group", "language")  # columns that tell whether two problems are the same
WHOLE = 2  # a group is dealt by itself where the smallest share gets this many of it; rounding would spoil smaller ones


def draw(seed: int, *what: object) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    text = "\0".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def normalise_prompt(prompt: str) -> str:
    """The words of a prompt in lower case. Problems whose prompts have the same words are dealt to the same split."""
    return " ".join(re.findall(r"\w+", prompt.lower()))


_ASKED = re.compile(
    r"""\d+(?:[.,]\d+)+ | \.\d+ | \w+        # words; a number with its points
    | [<>=!]= | [<>=≤≥≠≈¬±×÷∈∉⊂∪∩→∞√+/%^&|~\\$€£¥#@] | !(?=\w) | (?<=\d)!
    | (?<![^\W\d])-(?=[\w.(]) | (?<=\w)-(?=\d)   # a sign, not a hyphen between words
    | (?<=\s)[-*]+(?=\s) | (?<=\w)\*+(?=\w)   # between operands, not Markdown's emphasis""",
    re.VERBOSE,
)


def same_prompt(prompt: str) -> str:
    """Equal for prompts that ask the same: as `normalise_prompt`, and numbers, signs and operators count."""
    return " ".join(_ASKED.findall(prompt.lower().translate({0x2212: "-", 0x2013: "-"})))


def cap(problems: pl.DataFrame, section: SuiteSection) -> pl.DataFrame:
    """At most `section.train`, `.dev` and `.test` problems of each split, groups in proportion, in their order.

    A larger cap keeps everything that a smaller one keeps.
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


def shown(problems: pl.DataFrame, section: SuiteSection) -> pl.DataFrame:
    """PROBLEMS in which only `section.references` train problems have their reference, those the model may learn from.

    They are the ones that `cap` would keep of the train problems that have a reference. A larger number shows everything
    that a smaller one shows.
    """
    if section.references is None:
        return problems
    train = problems.filter(pl.col("split") == "train", pl.col("reference") != "")
    taught = cap(train, section.model_copy(update={"train": section.references}))["problem_id"]
    hidden = (pl.col("split") == "train") & ~pl.col("problem_id").is_in(taught.implode())
    return problems.with_columns(reference=pl.when(hidden).then(pl.lit("")).otherwise("reference"))


def earlier_sides(problems: pl.DataFrame, files: Sequence[str]) -> list[str | None]:
    """The split that each problem had in `files` (PROBLEMS as parquet); None for a new problem. See `_known_by`.

    A problem that was train in any file is train: a policy may know it. Raises ConfigError for any other file.
    """
    if not files:
        return [None] * problems.height
    side: dict[tuple[str, ...], str] = {}
    for file in files:
        try:
            require_file(expand(file))
            seen = pl.read_parquet(expand(file), glob=False, columns=[*KNOWN_BY, "split"])
            seen = seen.cast(dict.fromkeys(KNOWN_BY, pl.String))
            seen = seen.with_columns(pl.col("split").cast(pl.String).cast(SPLIT)).drop_nulls()
        except (OSError, Unreadable, pl.exceptions.PolarsError) as e:
            raise ConfigError(
                f"suite.splits_of {file!r} is no problems.parquet of a run ({str(e).splitlines()[0]}); give "
                "runs/NAME/problems.parquet, or leave it out to deal all problems anew"
            ) from e
        for *known, split in seen.rows():
            for key in _known_by(*known):
                side[key] = min(side.get(key, split), split, key=SPLITS.index)
    found = []
    for row in problems.select(KNOWN_BY).rows():
        sides = [side[key] for key in _known_by(*row) if key in side]
        found.append(min(sides, key=SPLITS.index) if sides else None)
    return found


def _known_by(prompt: str, reference: str, group: str, language: str) -> list[tuple[str, ...]]:
    """Keys that recognise a problem after its schema, its file's name or its reference has changed, but not all three."""
    asked = normalise_prompt(prompt.partition("\n\n")[2] if language == "sql" else prompt)  # what stands behind the schema
    by_reference = [("both", asked, reference), ("reference", reference, group)] if reference else []
    return [("prompt", normalise_prompt(prompt)), ("asked", asked, group), *by_reference]


def divide(
    problems: pl.DataFrame,
    same: Iterable[Sequence[Hashable]],
    shares: Mapping[str, float],
    seed: int,
    held: Sequence[str | None] = (),
) -> pl.DataFrame:
    """Deal problems to splits by `shares`, group by group.

    same: for each problem, what must not be in two splits (its normalised query, its normalised prompt); a frozenset where
    there are several of a kind. Problems that share one, directly or through others, stay together.
    held: for each problem the split it must have, or None; empty where none must. Problems that stay together get the first
    of SPLITS that any of them must have.

    Groups too small to be dealt by themselves (`WHOLE`) are dealt as one group. Otherwise each group of one would go to
    the largest share, and the other splits would stay empty.
    """
    root = list(range(problems.height))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[Hashable, int] = {}
    for i, keys in enumerate(same):
        for place, key in enumerate(keys):
            for one in key if isinstance(key, frozenset) else (key,):
                root[find(i)] = find(first.setdefault((place, one), i))
    clumps = defaultdict[int, list[int]](list)
    for i in range(problems.height):
        clumps[find(i)].append(i)

    ids, groups = problems["problem_id"].to_list(), problems["group"].to_list()
    least, sizes = min(shares.values()), Counter(groups)
    dealt_with = [group if sizes[group] * least >= WHOLE else None for group in groups]  # None: all small groups

    def held_on(clump: list[int]) -> str | None:
        return next((s for s in SPLITS if any(held[i] == s for i in clump)), None) if held else None

    def turn(clump: list[int]) -> tuple[bool, float, float]:
        small = dealt_with[clump[0]] is None  # large groups come first
        by_group = 1 + draw(seed, "divide a group", groups[clump[0]]) if small else 0.0
        return held_on(clump) is None, by_group, draw(seed, "divide", min(ids[i] for i in clump))

    split = [""] * problems.height
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for clump in sorted(clumps.values(), key=turn):
        count = counts[dealt_with[clump[0]]]
        # The side that is furthest behind its share; `shares` order breaks ties.
        side = held_on(clump) or max(shares, key=lambda s: shares[s] * (count.total() + len(clump)) - count[s])
        for i in clump:
            split[i] = side
            counts[dealt_with[i]][side] += 1
    return problems.with_columns(split=pl.Series(split, dtype=SPLIT))


def digests(problems: pl.DataFrame) -> dict[str, str]:
    """12 hex digits for each split that has problems: equal for equal problems, in any order."""
    parts = problems.sort("problem_id").partition_by("split", as_dict=True)
    content = {split: parts[(split,)].write_ndjson().encode() for split in SPLITS if (split,) in parts}
    return {split: hashlib.sha256(text).hexdigest()[:12] for split, text in content.items()}
