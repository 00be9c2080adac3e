"""Where a policy comes from when runs go on from runs (`model: run:NAME`), and what it has been taught on the way.

A dev or test problem that an earlier run trained on measures memory: a run that meets one is refused.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from codelutra.errors import UserError
from codelutra.findings import Findings, read_findings
from codelutra.suites.splits import normalise_prompt


def lineage(found: Findings) -> list[Findings]:
    """The runs that this one went on from, oldest first, and itself."""
    runs = [found]
    while (name := runs[0].summary["model"].removeprefix("run:")) != runs[0].summary["model"]:
        try:
            runs.insert(0, read_findings(found.path.parent / name))
        except UserError:  # removed since
            break
    return runs


def refuse_taught(problems: pl.DataFrame, model: str, runs: Path) -> None:
    """Raise UserError where `model` is a run's policy and was trained on a dev or test problem of `problems` (PROBLEMS).

    The same prompt but for spacing, case and punctuation is the same problem.
    """
    name = model.removeprefix("run:")
    if name == model or not (runs / name / "summary.json").is_file():  # what is wrong with the latter, `models` tells
        return
    measured = problems.filter(pl.col("split") != "train")
    ours = {normalise_prompt(p): (i, s) for i, s, p in measured.select("problem_id", "split", "prompt").rows()}
    for found in lineage(read_findings(runs / name)):
        frame = found.frame("problems.parquet")
        if frame is None or not found.best or not found.best["training"]:
            continue
        taught = map(normalise_prompt, frame.filter(pl.col("split") == "train")["prompt"])
        if both := sorted({ours[prompt] for prompt in taught if prompt in ours}):
            shown = ", ".join(f"{split} {problem_id}" for problem_id, split in both[:5])
            raise UserError(
                f"{len(both)} problems to measure on were train problems of run {found.path.name!r}, which {model} goes "
                f"back to: they would measure what it knows by heart ({shown}{', …' if len(both) > 5 else ''}). Keep its "
                f"sides (suite.splits_of: [{found.path / 'problems.parquet'}], for suite custom), choose other problems, or "
                "start from another model"
            )
