"""Right and wrong answers side by side."""

from __future__ import annotations

from prefect import task

from codelutra import stages
from codelutra.run import RunRef
from codelutra.store import Artifact
from tasks.options import cached_as, make


@task(name="pairs", **cached_as(stages.pairs))
def pairs(run: RunRef, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return make(stages.pairs, run, outcomes, problems, expected)
