"""Where a policy comes from when runs go on from runs (`model: run:NAME`), and what it has been taught on the way.

A dev or test problem that an earlier run trained on measures memory: a run that meets one is refused.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import polars as pl

from codelutra.errors import UserError
from codelutra.results.findings import Findings, read_findings
from codelutra.results.load import load_summary
from codelutra.suites.splits import same_prompt


def lineage(found: Findings) -> list[Findings]:
    """The runs that this one went on from, oldest first, and itself; each once."""
    runs, names = [found], {found.path.name}
    while (name := _run_of(runs[0].summary.model, found.path.parent)) and name not in names:
        try:
            runs.insert(0, read_findings(found.path.parent / name))
        except UserError:  # removed since
            break
        names.add(name)
    return runs


def refuse_taught(problems: pl.DataFrame, model: str, runs: Path) -> None:
    """Raise UserError where `model` is a policy of a run in `runs` and was trained on a dev or test problem of `problems`.

    The same prompt is the same problem, and so are the same question and reference in the same group (a database whose
    schema has changed). A path to a run's policy is known as such; a copy elsewhere is not.
    """
    name = _run_of(model, runs)
    if not name or not (runs / name / "summary.json").is_file():  # what is wrong with the latter, `models` tells
        return
    measured = problems.filter(pl.col("split") != "train")
    ours = {key: (i, s) for i, s, *row in measured.select("problem_id", "split", *_KNOWN).rows() for key in _keys(*row)}
    for found in lineage(read_findings(runs / name)):
        frame = found.frame("problems.parquet")
        if frame is None or not found.best or not found.best.training:
            continue
        taught = {key for row in frame.filter(pl.col("split") == "train").select(_KNOWN).rows() for key in _keys(*row)}
        if both := sorted({ours[key] for key in taught & ours.keys()}):
            shown = ", ".join(f"{split} {problem_id}" for problem_id, split in both[:5])
            raise UserError(
                f"{len(both)} problems to measure on were train problems of run {found.path.name!r}, which {model} goes "
                f"back to: they would measure what it knows by heart ({shown}{', …' if len(both) > 5 else ''}). Keep its "
                f"sides (suite.splits_of: [{found.path / 'problems.parquet'}], for suite custom), choose other problems, "
                "or start from another model"
            )


_KNOWN = ("prompt", "reference", "group")


def _keys(prompt: str, reference: str, group: str) -> tuple[tuple[str, ...], ...]:
    asked = prompt.rstrip().rpartition("\n\n")[2]  # behind the schema and worked examples
    known: list[tuple[str, ...]] = [(same_prompt(asked), reference, group)] if reference else []
    return (same_prompt(prompt),), *known


def _run_of(model: str, runs: Path) -> str:
    """The name of the run whose policy `model` is, `run:NAME` or the path of its weights; "" where it is none."""
    scheme, _, rest = model.partition(":")
    if scheme == "run":
        return rest
    if scheme == "path":
        where = Path(os.path.realpath(Path(os.path.expandvars(rest)).expanduser()))
        for file in sorted(runs.glob("*/summary.json")):
            with contextlib.suppress(UserError):  # another run's damaged record is no concern of this one
                summary = load_summary(file.parent)
                if summary and any(p.training and Path(p.path) == where for p in summary.policies):
                    return file.parent.name
    return ""
