"""What the terminal says while a run goes on."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from codelutra.cli.progress import _Bar, event_line
from codelutra.cli.watch import _environment, _failure
from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.pipeline.run import Run


def shown(*states: dict[str, Any]) -> list[str]:
    """Lines printed above the bar for these contents of progress.json."""
    text = io.StringIO()
    with _Bar(Console(file=text, width=200)) as bar:
        for state in states:
            bar.update(state | {"at": time.time() + 1})
    return [line.strip() for line in text.getvalue().splitlines() if "step " in line]


def step(done: int, stage: str = "train policy 1", total: int = 40, **measures: float) -> dict[str, Any]:
    return {"stage": stage, "done": done, "total": total, "unit": "steps", "measures": measures}


CHOSEN = {"chosen_log_prob": -4.0, "chosen_drift": -0.5}


def test_a_training_tells_its_log_probabilities_every_tenth_of_its_steps() -> None:
    lines = shown(*(step(i, loss=1.0, **CHOSEN) for i in range(1, 41)))
    assert len(lines) == 11
    assert lines[0] == "train policy 1, step 1: loss 1.000  chosen −4.0 (−0.5)"
    assert lines[-1].startswith("train policy 1, step 40:")


def test_the_next_training_starts_from_the_beginning_and_other_stages_stay_quiet() -> None:
    lines = shown(step(40, loss=1.0), step(7, "sample policy-1"), step(1, "train policy 2", loss=2.0))
    assert [line.split(",")[0] for line in lines] == ["train policy 1", "train policy 2"]


@pytest.mark.parametrize("text", ["no [/opt/cuda/lib]", "see [core.py:45]", "[bold]"])
def test_what_an_event_says_is_shown_as_it_is(text: str) -> None:
    said = io.StringIO()
    for event in (
        {"event": "note", "text": text},
        {"event": "waiting", "what": text},
        {"event": "damaged", "stage": "pairs", "moved_to": text},
    ):
        Console(file=said, width=200).print(event_line(event))
    assert said.getvalue().count(text) == 3


FLOW = "import sys, time; from flows.command import main; main(lambda config, **given: time.sleep(float(config)))"


def test_a_flow_ends_well_while_it_is_still_watched() -> None:
    with subprocess.Popen([sys.executable, "-c", FLOW, "0.5", "--watched"], stdin=subprocess.PIPE) as flow:
        assert flow.wait(30) == 0


def test_a_flow_that_is_watched_ends_with_whoever_watches() -> None:
    with subprocess.Popen([sys.executable, "-c", FLOW, "60", "--watched"], stdin=subprocess.PIPE) as flow:
        time.sleep(3)
        assert flow.poll() is None
        assert flow.stdin
        flow.stdin.close()
        assert flow.wait(10) == -signal.SIGTERM


def test_modules_in_the_folder_a_run_is_started_from_are_not_taken_for_its_own(tmp_path: Path) -> None:
    for name in ("tasks", "flows", "codelutra", "datasets"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    command = [sys.executable, "-m", "flows.refine", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, "--watched" in done.stdout) == (0, True), done.stderr


def test_a_second_start_of_a_run_is_refused_with_the_reason_and_changes_nothing(tmp_path: Path) -> None:
    config = parse_config({"name": "r", "suite": {"name": "starter-sql"}})
    with Run(tmp_path, config) as first, Run(tmp_path, config.model_copy(update={"iterations": 9})) as second:
        with first.refining():
            with pytest.raises(UserError), second.refining():
                raise AssertionError("refines the run a second time")
            assert f"iterations: {config.iterations}\n" in (first.dir.path / "run.yaml").read_text()
        told = _failure(2, second.dir, 0, os.getpid())
        assert (told.exit_code, "is going on in another process" in str(told)) == (2, True)
        assert "left no message" in str(_failure(1, first.dir, 0, os.getpid() + 1)), "it is no failure of another process"
        with second.refining():
            assert "iterations: 9\n" in (first.dir.path / "run.yaml").read_text()
