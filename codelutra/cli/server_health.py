"""The part of `codelutra health` that asks Prefect's server: flow runs that block others, wait, or find no worker."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from codelutra.cli.doctor import Check
from codelutra.errors import redacted
from sandbox import owner

_TIMEOUT = 10.0  # seconds
_OPEN = ("RUNNING", "CANCELLING", "PENDING")
Rows = list[dict[str, Any]]


def server(url: str, password: str) -> Iterator[Check]:
    """Nothing where no server is set up: then runs start one of their own."""
    if not url:
        yield Check("prefect server", True, "none is set up (PREFECT_API_URL): a run starts one of its own", "", "")
        return
    try:
        runs = _ask(url, password, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [*_OPEN]}}}, "limit": 200})
        late = _ask(url, password, "flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}, "limit": 200})
        waiting = {"flow_runs": {"state": {"name": {"any_": ["AwaitingConcurrencySlot"]}}}, "limit": 200}
        queued = _ask(url, password, "flow_runs/filter", waiting)
        limits = _ask(url, password, "v2/concurrency_limits/filter", {"limit": 200})
    except (OSError, ValueError, HTTPException) as e:
        how = "start it (`make ui`, or its service), or put PREFECT_API_URL and PREFECT_API_AUTH_STRING right"
        yield Check("prefect server", False, redacted(f"no answer at {url}: {e}"), "", how)
        return
    yield from _stuck(runs, queued, limits)
    if late:
        how = "start a worker: prefect worker start --pool codelutra"
        yield Check("prefect worker", False, f"{len(late)} flow runs are late: no worker takes {_names(late)}", "", how)


def _stuck(runs: Rows, queued: Rows, limits: Rows) -> Iterator[Check]:
    dead = [run for run in runs if owner.is_orphan({k: str(v) for k, v in (run.get("labels") or {}).items()})]
    alive = Counter(str(run.get("deployment_id")) for run in runs if run not in dead)
    held = {str(limit["name"]): int(limit["active_slots"]) for limit in limits}
    deployments = {name.partition(":")[2]: slots for name, slots in held.items() if name.startswith("deployment:")}
    stuck = sum(slots for deployment, slots in deployments.items() if slots > alive[deployment])
    if dead:
        how = "the next start of any run marks them Crashed; now: set their state to Crashed in the UI"
        yield Check("prefect runs", False, f"{len(dead)} are open though their process has ended: {_names(dead)}", "", how)
    if stuck and queued:
        how = "slots are freed five minutes after a kill; if not, `codelutra run` any config, or set the run to Crashed"
        said = f"{stuck} slots are held by no run, and {len(queued)} flow runs wait: {_names(queued)}"
        yield Check("prefect slots", False, said, "", how)
    if not dead and not (stuck and queued):
        waits = f"; {len(queued)} wait for their turn" if queued else ""
        yield Check("prefect server", True, f"answers; {len(runs)} flow runs at work{waits}", "", "")


def _names(runs: Rows) -> str:
    names = [str(run.get("name")) for run in runs[:5]]
    return ", ".join(names) + (", …" if len(runs) > 5 else "")


def _ask(url: str, password: str, what: str, body: dict[str, Any]) -> Rows:
    """The rows that a server's filter gives. Raises OSError, HTTPException or ValueError where it gives none."""
    ask = urllib.request.Request(
        f"{url.rstrip('/')}/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    if password:
        ask.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    with urllib.request.urlopen(ask, timeout=_TIMEOUT) as answer:
        rows = json.load(answer)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not what Prefect's server says")
    return rows
