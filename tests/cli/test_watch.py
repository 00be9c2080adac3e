"""What the terminal says while a run goes on."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from codelutra.cli.progress import Here, Lines, event_line, shown_on
from codelutra.cli.watch import _environment, _failure
from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.pipeline.run import Run


def shown(*states: dict[str, Any]) -> list[str]:
    """Lines printed above the bar of a terminal for these contents of progress.json."""
    text = io.StringIO()
    with shown_on(Console(file=text, width=200, force_terminal=True, color_system=None)) as bar:
        for state in states:
            bar.update(state | {"at": time.time() + 1})
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).replace("\r", "\n")
    return [line.strip() for line in said.splitlines() if ", step " in line]


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


def test_in_a_pipe_how_far_it_is_comes_as_lines_now_and_then() -> None:
    text = io.StringIO()
    console = Console(file=text, width=500)
    with shown_on(console) as quiet:
        quiet.update(None)
        quiet.update(step(1, loss=1.0) | {"at": time.time() + 1})
    assert text.getvalue() == "", "not more than a line in half a minute"
    lines = Lines(console, every=0)
    lines.update(None)
    now = time.time() + 1
    for done, later in ((4, 0), (10, 3)):
        lines.update(step(done, loss=1.0, **CHOSEN) | {"at": now + later})
    first, second, third = text.getvalue().splitlines()
    assert first == "  starting, 0 s so far"
    assert second == "  train policy 1: 4/40 steps, 0 s so far  ·  loss 1.000  chosen −4.0 (−0.5)"
    assert third == "  train policy 1: 10/40 steps, 2.0/s, 15 s left  ·  loss 1.000  chosen −4.0 (−0.5)"
    assert "\x1b" not in text.getvalue()


def test_a_stage_that_has_finished_nothing_yet_says_how_long_it_is_at_it() -> None:
    text = io.StringIO()
    lines = Lines(Console(file=text, width=200), every=0, began=0)
    lines.update({"stage": "sample base", "unit": "completions", "done": 0, "total": 2250, "at": time.time() - 240})
    assert text.getvalue() == "  sample base: 0/2,250 completions, 4 min so far\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_that_waits_says_so_and_not_how_far_the_stage_before_was(terminal: bool) -> None:
    now, text = time.time(), io.StringIO()
    console = Console(file=text, width=200, force_terminal=terminal)
    done = {"stage": "execute base/dev-001", "unit": "programs", "done": 78, "total": 78, "at": now - 300}
    wait = {"event": "waiting", "what": "the engine of [run b]", "at": now - 240}
    with shown_on(console, since=0.0) as screen:
        screen = screen if terminal else Lines(console, every=0, began=0)
        screen.update(done)
        screen.heard({"event": "made", "stage": "score"})
        before = len(text.getvalue())
        screen.heard(wait)
        screen.update(done)
        time.sleep(0.6 * terminal)  # the bar is drawn four times a second
        waiting = text.getvalue()[before:]
        screen.update(done | {"stage": "sample policy-0", "at": now})
        time.sleep(0.6 * terminal)
        assert "waiting for the engine of [run b]" in waiting
        assert "78/78" not in waiting
        assert "sample policy-0" in text.getvalue()[before + len(waiting) :]
    assert terminal or waiting.strip() == "waiting for the engine of [run b], 4 min so far"


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


FLOW = "import sys, time; from flows.command import main; main(lambda home, **given: time.sleep(float(home)))"
WAIT = [sys.executable, "-c", FLOW, "demo", "--watched", "--home"]


def test_a_flow_ends_well_while_it_is_still_watched() -> None:
    with subprocess.Popen([*WAIT, "0.5"], stdin=subprocess.PIPE) as flow:
        assert flow.wait(30) == 0


def test_a_flow_that_is_watched_ends_with_whoever_watches() -> None:
    with subprocess.Popen([*WAIT, "60"], stdin=subprocess.PIPE) as flow:
        time.sleep(3)
        assert flow.poll() is None
        assert flow.stdin
        flow.stdin.close()
        assert flow.wait(10) == 128 + signal.SIGTERM


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


@pytest.mark.parametrize("columns", [0, 80])
def test_a_command_that_works_itself_tells_how_far_it_is(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a line now and then; on a terminal its last line, which is gone at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr.isatty", lambda: bool(columns))
        with Here(every=0.05) as progress:
            for i in range(20):
                progress("references\x1b[2J", i, 20, "problems")
                time.sleep(0.01)
    said = capsys.readouterr().err
    assert "\x1b[2J" not in said
    if columns:
        assert said.count("\r") == 21
        assert said.endswith("\r\x1b[K")
    else:
        lines = said.splitlines()
        assert 2 <= len(lines) <= 5
        assert all(re.fullmatch(r"  references\\x1b\[2J: \d+/20 problems, 0 s so far", line) for line in lines)
