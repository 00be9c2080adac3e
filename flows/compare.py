"""Methods against each other on one config, for deployments; `codelutra compare` starts the same arms from a terminal."""

from __future__ import annotations

from typing import Any

from prefect import flow

from codelutra.config import load_config
from codelutra.experiments.method_table import compare as compare_runs
from codelutra.experiments.method_table import table_rows, write_comparison
from codelutra.experiments.methods import arm, chosen_methods
from codelutra.pipeline.run import home_dir
from flows.naming import named
from flows.refine import refine
from tasks.publish import publish_comparison


@flow(name="compare", flow_run_name=named("compare"))
def compare(
    config: str = "demo",
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
    home: str | None = None,
) -> dict[str, Any]:
    """Refine one model by several methods and hold them against each other on the test split.

    Args:
        config: a preset's name or the path of a YAML file.
        methods: names from codelutra/methods.py; default warm-start, sft, rft, dpo, codelutra.
        seeds: of sampling, pairing and training; default 0.
        overrides: `section.key=value` strings laid over the config of every arm.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    arms = chosen_methods(",".join(methods or ["warm-start", "sft", "rft", "dpo", "codelutra"]))
    drawn, laid_over = seeds or [0], tuple(overrides or ())
    for seed in drawn:
        for method in arms:
            _, more = arm(config, laid_over, method, seed)
            refine(config=config, overrides=list(more), home=home)
    result = compare_runs(home_dir(home), config, laid_over, arms, dict.fromkeys(arms, drawn))
    name = load_config(config, laid_over).name
    write_comparison(result, home_dir(home) / "comparisons" / name)
    publish_comparison(name, table_rows(result))
    return result
