"""Score models on a suite, for deployments; `codelutra evaluate` starts the same runs from a terminal."""

from __future__ import annotations

from typing import Any

from prefect import flow

from codelutra.config import load_config
from codelutra.experiments.evaluate import arm, evaluation, table_rows
from codelutra.pipeline.run import home_dir
from flows.naming import named
from flows.refine import refine
from tasks.publish import publish_evaluation


@flow(name="evaluate", flow_run_name=named("evaluate"))
def evaluate(
    models: list[str], config: str = "demo", overrides: list[str] | None = None, home: str | None = None
) -> list[dict[str, Any]]:
    """Measure models on dev and test, greedy, and hold each against the first.

    Args:
        models: references: path:DIR, hf:org/name@revision, gguf:FILE, pypi:PACKAGE==VERSION, run:NAME.
        config: whose suite and sampling: a preset's name or the path of a YAML file.
        overrides: `section.key=value` strings laid over it; select.test=false leaves test closed.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    arms = {model: arm(config, tuple(overrides or ()), model, home_dir(home)) for model in models}
    for _, more in arms.values():
        refine(config=config, overrides=list(more), home=home)
    rows = evaluation(home_dir(home), {model: parsed.name for model, (parsed, _) in arms.items()})
    publish_evaluation(load_config(config).name, table_rows(rows))
    return rows
