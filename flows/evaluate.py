"""Score models on a suite, for deployments; `codelutra evaluate` starts the same runs from a terminal."""

from __future__ import annotations

from typing import Any

from prefect import flow

from codelutra.experiments.evaluate import evaluation
from codelutra.store.paths import home_dir
from flows.experiment import run
from flows.naming import named
from tasks.server import claim


@flow(name="evaluate", flow_run_name=named("evaluate"), on_running=[claim])
def evaluate(
    models: list[str], config: str = "demo", overrides: list[str] | None = None, home: str | None = None
) -> list[dict[str, Any]]:
    """Measure models on dev and test, greedy, and compare each with the first.

    Args:
        models: names of `codelutra models`, or references: path:DIR, hf:org/name@revision, gguf:FILE,
            pypi:PACKAGE==VERSION, run:NAME.
        config: whose suite and sampling: a preset's name or the path of a YAML file.
        overrides: `section.key=value` strings laid over it; select.test=false leaves test closed.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    return run(evaluation(config, tuple(overrides or ()), models, home_dir(home)), home)
