"""A run that goes on in another process, followed from here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codelutra.cli.follow import at_work
from codelutra.errors import UserError
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run

FEW = {"name": "starter-sql", "train": 10, "dev": 8, "test": 8}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(example_run(tmp_path, name="going", skills=(0.1, 0.4), suite=FEW, finished=False))


def following(run: RunDir, *names: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "codelutra.cli", "status", *names, "--follow", "--home", str(run.path.parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr
    assert process.stderr.readline().startswith("following going")
    return process


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """All that is still said. (`communicate` would lose what was read ahead with the first line.)"""
    assert process.stdout
    assert process.stderr
    with process:
        err, out = process.stderr.read(), process.stdout.read()
    return out, err


def test_what_was_told_and_what_comes_is_shown_with_its_time_to_the_end_of_the_run(run: RunDir) -> None:
    with run.hold():
        run.ledger({"event": "note", "text": "told before"})
        process = following(run)
        run.ledger({"event": "waiting", "what": "the engine of another run on this host (run x, process 7)"})
        time.sleep(1)
        run.ledger({"event": "measured", "text": "told [meanwhile] \x1b[2J"})
    out, err = rest(process)
    assert process.returncode == 0, err
    said = [
        line for line in err.splitlines() if " ! told before" in line or "told [meanwhile]" in line or "waiting for" in line
    ]
    assert [bool(re.match(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d  ", line)) for line in said] == [True] * 3, err
    assert "(run x, process 7)" in err
    assert "\x1b" not in err, "what a model wrote acts on no terminal"
    assert err.splitlines()[0].startswith("engine: ")
    assert "going: starter-sql" in out, "and at the end the record"
    assert re.search(r"began \d{4}-\d\d-\d\d \d\d:\d\d; last heard of ", out)


def test_an_interrupt_leaves_the_run_alone(run: RunDir) -> None:
    with run.hold():
        process = following(run, "going")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = rest(process)
        assert run.held
    assert (process.returncode, "Traceback" in err) == (0, False), err
    assert "running" in out


def test_which_run_is_meant_is_found_or_asked(run: RunDir) -> None:
    runs = run.path.parent
    with pytest.raises(UserError, match="no run goes on under"):
        at_work(runs)
    example_run(runs.parent, name="other", skills=(0.1, 0.4), suite=FEW, finished=False)
    with run.hold():
        assert at_work(runs) == "going"
        with RunDir(runs / "other").hold(), pytest.raises(UserError, match="2 runs go on: going, other; say which"):
            at_work(runs)
    done = codelutra("status", "nope", "--follow", "--home", str(runs.parent))
    assert (done.returncode, "no run 'nope'" in done.stderr) == (2, True)
    done = codelutra("status", "other", "-f", "--home", str(runs.parent))
    assert (done.returncode, "other does not go on now" in done.stderr, "interrupted" in done.stdout) == (0, True, True)
