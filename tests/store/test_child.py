"""A flow that is killed leaves nothing running for long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codelutra.cli import watch
from codelutra.sampling import engine
from codelutra.store.child import OWNER, reap_strays
from codelutra.training import launch as train
from sandbox.owner import started


def child_of(owner: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {OWNER: owner})
    while b"input()" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        pass  # between fork and exec it still has our environment
    return child


def test_what_a_dead_flow_left_is_killed_and_what_a_live_one_runs_is_not() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    stray, ours = child_of(f"{dead.pid}:12345"), child_of(f"{os.getpid()}:{started(os.getpid())}")
    try:
        assert stray.pid in reap_strays()
        assert stray.wait(10) == -9
        assert ours.poll() is None
    finally:
        for child in (stray, ours):
            child.kill()
            child.communicate()


@pytest.mark.parametrize("environment", [engine.environment(), train.environment(1), watch._environment()])
def test_our_processes_run_our_modules_whatever_lies_in_the_current_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for name in ("codelutra", "datasets", "tasks"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    look = "import codelutra, importlib.util as u; print(codelutra.__file__, u.find_spec('tasks').origin)"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    root = Path(__file__).parents[2]
    assert done.stdout.split() == [str(root / "codelutra/__init__.py"), str(root / "tasks/__init__.py")], done.stderr
