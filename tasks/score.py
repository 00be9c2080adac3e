"""What a policy's outcomes say about it."""

from __future__ import annotations

from prefect import task

from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Artifact
from tasks.options import cached_as, make


@task(task_run_name="score {split}", **cached_as(stages.score))
def score(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact, split: str) -> Artifact:
    return make(stages.score, run, outcomes, problems, expected, split)
