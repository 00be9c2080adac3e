"""The problems of a run with generated cases, through the run's sandbox and model."""

from __future__ import annotations

import polars as pl

from codelutra import models
from codelutra.execution import testgen
from codelutra.pipeline.run import Run
from codelutra.suites.python import PythonSuite


def with_cases(run: Run, frame: pl.DataFrame, proposer: models.Model | None) -> pl.DataFrame:
    """PROBLEMS with the generated cases that the config asks for (`suite.generated_cases`)."""
    section, suite = run.config.suite, run.suite
    if not section.generated_cases or not isinstance(suite, PythonSuite):
        return frame
    propose = None
    if proposer:
        propose = testgen.asking(
            proposer.path,
            frame,
            suite.system,
            engine=run.config.engine,
            seed=section.seed,
            log=run.dir.log,
            lock=run.accelerator_lock,
            waiting=run.waiting,
            progress=run.progress("propose cases", "completions"),
        )
    with run.use_pool() as pool:
        return testgen.extend(
            frame,
            suite,
            pool,
            per_problem=section.generated_cases,
            seed=section.seed,
            timeout_seconds=run.config.execute.timeout_seconds,
            propose=propose,
            progress=run.progress("generate cases", "runs"),
        )
