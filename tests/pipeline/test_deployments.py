"""What runs unattended: the deployments of prefect.yaml on a real server, and the systemd units."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from tasks.server import OURS
from tests.helpers.prefect_server import ROOT, asking, served


def post(url: str, password: str, body: Any) -> Any:
    """As docs/retraining.md has curl do it."""
    headers = {"content-type": "application/json", "authorization": "Basic " + base64.b64encode(password.encode()).decode()}
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_deployment_is_taken_queues_and_starts_from_outside(tmp_path: Path) -> None:
    with served(tmp_path) as env:
        prefect = [sys.executable, "-m", "prefect"]
        for command in (["work-pool", "create", "codelutra", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
            done = subprocess.run([*prefect, *command], env=env, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        with asking(env), get_client(sync_client=True) as client:
            there = {d.name: d for d in client.read_deployments()}
        assert set(there) == {"demo", "refine", "compare", "evaluate", "nightly", "on-new-data"}
        for name, deployment in there.items():
            assert OURS in deployment.tags, f"{name}: its dead runs are known by that tag"
            assert deployment.global_concurrency_limit, name
            assert deployment.global_concurrency_limit.limit == 1
            assert not any(schedule.active for schedule in deployment.schedules), f"{name}: off as shipped"
        api, password = env["PREFECT_API_URL"], env["PREFECT_API_AUTH_STRING"]
        known = post(f"{api}/deployments/name/retrain/nightly", password, None)
        begun = post(f"{api}/deployments/{known['id']}/create_flow_run", password, {"parameters": {"config": "demo"}})
        assert begun["state"]["type"] == "SCHEDULED"
        assert begun["parameters"]["tries"] == 3, "what is not given stays as deployed"


def test_the_units_name_scripts_that_are_there_and_systemd_takes_them(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([ROOT / "scripts/services.sh"], env=env, capture_output=True, text=True, cwd="/", check=True)
    units = sorted((tmp_path / ".config/systemd/user").iterdir())
    assert [u.name for u in units] == ["codelutra-server.service", "codelutra-worker.service"]
    for unit in units:
        assert str(unit) in done.stdout
        (command,) = (line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        script = Path(command.removeprefix("ExecStart=").strip('"'))
        assert (script.parent, script.stat().st_mode & 0o100) == (ROOT / "scripts", 0o100)
    if not (verify := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not installed: Debian's package systemd has it")
    done = subprocess.run([verify, "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
