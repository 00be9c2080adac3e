"""Methods against each other on one config, for deployments; `codelutra compare` starts the same arms from a terminal."""

from __future__ import annotations

from typing import Any

from prefect import flow

from codelutra.experiments.method_table import comparison
from codelutra.experiments.methods import chosen_methods
from flows.experiment import run
from flows.naming import named
from tasks.server import claim


@flow(name="compare", flow_run_name=named("compare"), on_running=[claim])
def compare(
    config: str = "demo",
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
    home: str | None = None,
) -> dict[str, Any]:
    """Refine one model by several methods and compare them on the test split.

    Args:
        config: a preset's name or the path of a YAML file.
        methods: names from codelutra/experiments/methods.py; default warm-start, sft, rft, dpo, codelutra.
        seeds: of sampling, pairing and training; default 0.
        overrides: `section.key=value` strings laid over the config of every arm.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    arms = chosen_methods(",".join(methods or ["warm-start", "sft", "rft", "dpo", "codelutra"]))
    return run(comparison(config, tuple(overrides or ()), arms, seeds or [0]), home)
