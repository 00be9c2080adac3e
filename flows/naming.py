"""What a flow run is called in Prefect's UI: its flow and the name in its config, overrides included."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run

from codelutra.config import load_config
from codelutra.errors import CodelutraError


def named(flow: str) -> Callable[[], str]:
    """For `flow_run_name`: "refine-demo", and the config as it was given where it cannot be read (the run will say why)."""

    def name() -> str:
        given = flow_run.parameters
        try:
            return f"{flow}-{load_config(given['config'], tuple(given.get('overrides') or ())).name}"
        except CodelutraError:
            return f"{flow}-{given['config']}"

    return name
