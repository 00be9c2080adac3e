"""Worked examples in prompts (`suite.shots`): train problems of the same group, with their references."""

from __future__ import annotations

import random
from itertools import takewhile

import polars as pl


def with_examples(problems: pl.DataFrame, shots: int, seed: int, references: pl.DataFrame | None = None) -> pl.DataFrame:
    """PROBLEMS whose prompts show `shots` worked train problems of the same group, never the problem itself.

    references: PROBLEMS that say which references may be shown; None allows all. The examples stand between the lines that
    all prompts of the group begin with (a schema) and the problem's own lines.
    """
    if not shots:
        return problems
    train = (problems if references is None else references).filter(pl.col("split") == "train", pl.col("reference") != "")
    known = {g: rows.select("problem_id", "prompt", "reference").rows() for (g,), rows in train.group_by("group")}
    shared = {g: shared_lines(rows["prompt"].to_list()) for (g,), rows in problems.group_by("group")}
    prompts = []
    for problem_id, group, prompt in problems.select("problem_id", "group", "prompt").rows():
        others = sorted(row for row in known.get(group, []) if row[0] != problem_id)
        drawn = random.Random(f"{seed} {problem_id}").sample(others, min(shots, len(others)))
        head = prompt.split("\n")[: shared[group]]
        own = ["\n".join(text.split("\n")[len(head) :]).strip() for text in (*(p for _, p, _ in drawn), prompt)]
        examples = [f"{asked}\n{reference.strip()}" for asked, (_, _, reference) in zip(own, drawn, strict=False)]
        prompts.append("\n\n".join(["\n".join(head).strip(), *examples, own[-1]]).strip())
    return problems.with_columns(prompt=pl.Series(prompts, dtype=pl.String))


def shared_lines(texts: list[str]) -> int:
    """How many lines all of `texts` have in common at their start."""
    columns = zip(*(t.split("\n") for t in texts), strict=False)
    return sum(1 for _ in takewhile(lambda lines: len(set(lines)) == 1, columns))
