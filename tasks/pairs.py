"""What the next step learns from: right and wrong answers side by side, or right answers alone."""

from __future__ import annotations

from prefect import task

from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Artifact
from tasks.options import cached_as, make


@task(name="pairs", **cached_as(stages.pairs))
def pairs(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return make(stages.pairs, run, outcomes, problems, expected)


@task(name="right answers", **cached_as(stages.answers))
def answers(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return make(stages.answers, run, outcomes, problems, expected)
