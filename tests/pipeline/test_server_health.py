"""What `codelutra health` asks of Prefect's server, asked of a real one."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from codelutra.cli.server_health import server
from sandbox import owner
from tests.helpers.loop import prefect_server


def test_a_real_server_tells_what_blocks_what_waits_and_what_nobody_takes(tmp_path: Path) -> None:
    with prefect_server(tmp_path) as api:

        def made(what: str, **fields: Any) -> Any:
            body, kind = json.dumps(fields).encode(), {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(f"{api}/{what}/", body, kind), timeout=60) as answer:
                return json.load(answer)

        (well,) = server(api, "")
        assert (well.ok, well.found) == (True, "answers; 0 flow runs at work")
        flow = made("flows", name="retrain")["id"]
        gone = owner.marks() | {owner.STARTED: "1"}
        running = {"type": "RUNNING"}
        made("flow_runs", flow_id=flow, name="ours", labels=owner.marks(), state=running)
        assert [c.found for c in server(api, "")] == ["answers; 1 flow runs at work"]
        made("flow_runs", flow_id=flow, name="dead", labels=gone, state=running)
        made("flow_runs", flow_id=flow, name="late", state={"type": "SCHEDULED", "name": "Late"})
        made("flow_runs", flow_id=flow, name="waits", state={"type": "SCHEDULED", "name": "AwaitingConcurrencySlot"})
        made("v2/concurrency_limits", name="deployment:1", limit=1, active_slots=1)
        found = {c.name: c.found for c in server(api, "") if not c.ok}
    assert found == {
        "prefect runs": "1 are open though their process has ended: dead",
        "prefect slots": "1 slots are held by no run, and 1 flow runs wait: waits",
        "prefect worker": "1 flow runs are late: no worker takes late",
    }
