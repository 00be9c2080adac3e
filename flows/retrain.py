"""Every night: is there something new? Then refine the promoted policy on it, and promote the result if it is better."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field, NonNegativeFloat, PositiveInt

from codelutra.errors import CodelutraError
from codelutra.experiments.changes import flips_table
from codelutra.experiments.failing import StillFailingError, due_now, note_failure
from codelutra.experiments.gate import Gate, guards, judged
from codelutra.experiments.plan import Arm, Overrides
from codelutra.experiments.retrain import ALPHA, Due, Record, Retraining, conclude, record_table
from codelutra.results.summary import RunSummary
from codelutra.store.paths import home_dir
from flows.naming import named
from flows.refine import refine
from tasks.events import tell_concluded, tell_failed
from tasks.publish import publish_table
from tasks.server import claim


@flow(name="retrain", flow_run_name=named("retrain"), on_running=[claim], on_failure=[tell_failed])
def retrain(
    config: str = "demo",
    overrides: list[str] | None = None,
    home: str | None = None,
    alpha: Annotated[float, Field(ge=0, le=1)] = ALPHA,
    keep: list[str] | None = None,
    margin: NonNegativeFloat | None = None,
    tries: PositiveInt = 1,
    wait_minutes: NonNegativeFloat = 10.0,
    again: bool = True,
) -> State[dict[str, Any]]:
    """Retrain where problems or settings have changed since the last time; costs nothing where they have not.

    Args:
        config: a preset's name or the path of a YAML file; its name is that of the promoted policy (promoted/NAME/).
        overrides: `section.key=value` strings laid over it.
        home: folder of store/, runs/ and promoted/; default $CODELUTRA_HOME, else the current folder.
        alpha: promote only with an exact McNemar p of at most this against the promoted policy on dev; 1 takes any gain.
        keep: guard suites, each a preset or the path of a YAML file: promote only without a significant loss on their dev
            problems, against the promoted policy and against the config's model.
        margin: promote only where a loss of so many points of pass@1 on every guard suite is ruled out (95 %).
        tries: how often to try where something that may pass is in the way: Docker is down, the engine does not start,
            servers do not answer, another process is at the run. What is finished is kept. What you must put right is not
            tried again.
        wait_minutes: between tries.
        again: whether to try again what failed before by its data or settings, though neither has changed.
    """
    root, gate = home_dir(home), Gate(alpha, tuple(keep or ()), margin)
    for left in reversed(range(tries)):
        try:
            row = _retrained(root, config, tuple(overrides or ()), gate, again=again)
        except StillFailingError as e:
            return Completed(message=str(e), data={})
        except CodelutraError as e:
            if not (e.transient and left):
                raise
            get_run_logger().warning("trying again in %g minutes, %d times at most: %s", wait_minutes, left, e)
            time.sleep(60 * wait_minutes)
        else:
            break
    if not row:
        return Completed(message="nothing new since the last retraining", data={})
    return Completed(message=f"{row.run}: {row.verdict}", data=row.model_dump(mode="json"))


def _retrained(root: Path, config: str, overrides: Overrides, gate: Gate, *, again: bool) -> Retraining | None:
    """The record's new row; None where there is nothing new."""
    due = due_now(root, config, overrides, again=again, require=gate.checked)
    if not due:
        return None
    try:
        return _concluded(root, due, gate)
    except CodelutraError as e:
        note_failure(root, due, e)
        raise


def _concluded(root: Path, due: Due, gate: Gate) -> Retraining:
    summary = _refined(due.arm, root)
    measured = guards(root, due, summary, gate)
    for arm in (arm for guard in measured for arm in guard.arms):
        _refined(arm, root)
    row = conclude(root, due, summary, alpha=gate.alpha, guards=judged(root, measured, gate.margin))
    publish_table(
        f"promoted-{due.name}", record_table(Record(root, due.name)), f"{due.name}: retrainings, ● is promoted now"
    )
    if row.flips.gained or row.flips.lost:
        said = f"{row.run}: dev problems that it solves and its start does not, and the other way round"
        publish_table(f"promoted-{due.name}-flips", flips_table(row.flips), said)
    tell_concluded(due.name, row)
    return row


def _refined(arm: Arm, root: Path) -> RunSummary:
    return refine(config=arm.source, overrides=list(arm.overrides), home=str(root))
