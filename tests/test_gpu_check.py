"""`scripts/gpu-check.sh` works where there is no card, with nothing but training's own libraries, and loses no row."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import ROOT, ROWS, Check, compared, left_behind
from tests.helpers.cores import one_core

ABSENT = ("docker", "vllm", "prefect", "typer", "gguf", "matplotlib")


def checked(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    more = {"PYTHON": sys.executable} | ({"PYTHONPATH": str(path)} if path else {})
    command = [ROOT / "scripts/gpu-check.sh", *arguments]
    with one_core():
        return subprocess.run(command, env=os.environ | more, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes that import torch and TRL
def test_a_bare_container_needs_training_s_libraries_only_and_a_killed_training_ends_in_the_same_weights(
    tmp_path: Path,
) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')")
    out = tmp_path / "gpu.json"
    ran = checked("--rows", "resume", "--minutes", "14", "--out", str(out), path=tmp_path)
    assert not ran.returncode, ran.stderr
    straight, resumed = (found := json.loads(out.read_text()))["rows"]
    assert (straight["row"], resumed["row"], found["no_time_for"]) == ("0.5b-full", "resume", [])
    assert straight["first_loss_agrees"]
    assert straight["ours"]["reference_gap"] == 0
    assert straight["ours"]["float32_gap_answer"] < (0.1 if found["bf16"] else 1e-3)
    assert straight["ours"]["log_probs"].startswith("shared prefixes")
    assert (resumed["first_start"], resumed["ours"]["resumed_from_step"]) == ("exit code -9", 2)
    assert resumed["ours"]["weights_apart_of_moved"] == 0
    assert resumed["ours"]["losses"] == straight["ours"]["losses"]

    ran = checked("--rows", "0.5b-full", "--minutes", "0", "--out", str(out))
    later = json.loads(out.read_text())
    assert later["rows"] == found["rows"], "what an earlier call measured stays"
    assert later["no_time_for"] == ["0.5b-full ours", "0.5b-full trl"]


def test_a_way_that_fails_says_why_in_its_row_and_keeps_the_steps_it_did(tmp_path: Path) -> None:
    given = argparse.Namespace(out=tmp_path / "gpu.json", minutes=10.0, rows="0.5b-full")
    check = Check(given, tmp_path, cuda=False, bf16=False)
    step = {"tokens": 10, "seconds": 2.0, "loss": 3.0}
    (tmp_path / "training.jsonl").write_text("".join(json.dumps(step) + "\n" for _ in range(4)))
    failed = check.way("0.5b-full", "trl", {"work": str(tmp_path)})
    assert failed["failed"].startswith("exit code 1: ")
    assert "KeyError: 'size'" in failed["failed"]
    assert (failed["losses"], failed["tokens_per_second_of_steps"]) == ([3.0] * 4, 5.0)
    assert left_behind(tmp_path / "nowhere") == {}


def test_losses_that_differ_are_told() -> None:
    ours, trl = ({"losses": [losses, 1.0], "tokens_per_second": 10.0} for losses in (12.0, 12.1))
    assert compared(ours, trl, 0.02)["first_loss_agrees"] is False
    assert compared(ours, ours, 0.02) == {"times_trl": 1.0, "loss_gaps": [0.0, 0.0], "first_loss_agrees": True}


def test_wrong_arguments_are_refused_in_a_line(tmp_path: Path) -> None:
    ran = checked("--wheels", str(tmp_path))
    assert (ran.returncode, ran.stderr) == (2, f"gpu-check: no *.whl in {tmp_path}\n")
    ran = checked("--rows", "70b-full")
    assert ran.returncode == 2
    assert f"unknown rows 70b-full; known: {', '.join(ROWS)}" in ran.stderr
