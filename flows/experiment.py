"""What the flows of several runs share: every run is a subflow, and the table goes to the UI."""

from __future__ import annotations

from typing import Any

from codelutra.experiments.plan import Experiment, conclude, require_possible
from codelutra.store.paths import home_dir
from flows.refine import refine
from tasks.publish import publish_table


def run(experiment: Experiment, home: str | None) -> Any:
    """The experiment's result as JSON."""
    require_possible(experiment, home_dir(home))
    for arm in experiment.arms:
        refine(config=arm.source, overrides=list(arm.overrides), home=home)
    result = conclude(experiment, home_dir(home))
    publish_table(f"{experiment.kind}-{experiment.name}", result.table, f"{experiment.name}: {result.title}")
    return result.data
