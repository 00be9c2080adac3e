"""Every night: is there something new? Then refine the promoted policy on it, and promote the result if it is better."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from codelutra.experiments.retrain import Record, conclude, next_retraining, record_table
from codelutra.store.paths import home_dir
from flows.naming import named
from flows.refine import refine
from tasks.publish import publish_table
from tasks.server import claim


@flow(name="retrain", flow_run_name=named("retrain"), on_running=[claim])
def retrain(
    config: str = "demo", overrides: list[str] | None = None, home: str | None = None, alpha: float = 1.0
) -> State[dict[str, Any]]:
    """Retrain where problems or settings have changed since the last time; costs nothing where they have not.

    Args:
        config: a preset's name or the path of a YAML file; its name is that of the promoted policy (promoted/NAME/).
        overrides: `section.key=value` strings laid over it.
        home: folder of store/, runs/ and promoted/; default $CODELUTRA_HOME, else the current folder.
        alpha: promote only with an exact McNemar p of at most this against the promoted policy on dev; 1 takes any gain.
    """
    root = home_dir(home)
    due = next_retraining(root, config, tuple(overrides or ()))
    if not due:
        return Completed(message="nothing new since the last retraining", data={})
    arm = due.arm
    row = conclude(root, due, refine(config=arm.source, overrides=list(arm.overrides), home=home), alpha=alpha)
    publish_table(
        f"promoted-{due.name}", record_table(Record(root, due.name)), f"{due.name}: retrainings, ● is promoted now"
    )
    return Completed(message=f"{row.run}: {row.verdict}", data=row.model_dump(mode="json"))
