"""What a retraining tells Prefect, for automations: an event with its outcome. `scripts/notify.py` sends it to people.

    codelutra.retraining.promoted    its policy is the promoted one now
    codelutra.retraining.kept        it finished, and what was promoted before stays so
    codelutra.retraining.failed      it could not go on

The resource is `codelutra.promoted.NAME`, NAME being the config's. The payload has `text`, a sentence for people; of a
retraining that finished also `retraining`, its row of the record. A night that is killed cannot speak: Prefect's own event
`prefect.flow-run.Crashed` tells of it.
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event

from codelutra.errors import redacted
from codelutra.results import text
from codelutra.results.escapes import one_line
from codelutra.results.summary import policy_name

EVENT = "codelutra.retraining."
_SHOWN = 1000  # characters of an error


def tell_concluded(name: str, row: Any) -> None:
    """`row`: the Retraining of the config `name` that has just been concluded."""
    parts = [f"{row.run}: {row.verdict}, {policy_name(row.policy)}"]
    if row.dev and row.dev.n:
        parts.append(f"dev pass@1 {text.rate(row.dev)}")
    if row.paired:
        parts.append(f"against {row.paired.against} {text.paired(row.paired)}")
    parts += [guard.text for guard in row.guards if not guard.held]
    _emit(row.verdict, name, one_line("; ".join(parts)), {"retraining": row.model_dump(mode="json")})


def tell_failed(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of flows that fail."""
    name = str(flow_run.parameters.get("config", flow.name))
    said = one_line(redacted(str(state.message)))
    _emit("failed", name, f"{flow_run.name} failed: {said[:_SHOWN]}", {}, flow_run)


def _emit(outcome: str, name: str, said: str, payload: dict[str, Any], flow_run: FlowRun | None = None) -> None:
    """Where no server is to be had nothing happens. Inside a flow Prefect adds flow run, flow and deployment as related."""
    related = []
    if flow_run:  # told by a hook
        related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}]
    emit_event(
        event=f"{EVENT}{outcome}",
        resource={"prefect.resource.id": f"codelutra.promoted.{name}", "prefect.resource.name": name},
        related=related,
        payload={"text": said, **payload},
    )
