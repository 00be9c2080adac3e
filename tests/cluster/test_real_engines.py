"""The same with real vLLM on the nodes: a 135M model writes small functions, and a node is killed in every stage."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.store.paths import cache_dir
from tests.helpers.iterations import Iteration, frame
from tests.helpers.ray_cluster import ROOT, RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ASKED = ("the square of n", "n plus {i}", "n times {i}", "the string of n repeated {i} times", "a list of {i} copies of n")
WRITTEN = ("n * n", "n + {i}", "n * {i}", "str(n) * {i}", "[n] * {i}")
ENGINE, TRAINER = "codelutra.sampling", "codelutra.training.worker"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A suite whose programs take a moment, so that the machine they run on can be killed meanwhile."""
    lines = []
    for i in range(24):
        asked, written = ASKED[i % 5].format(i=i), WRITTEN[i % 5].format(i=i)
        prompt = f"Write a Python function f(n) that returns {asked}. Answer with the code alone."
        lines.append(
            {"prompt": prompt, "reference": f"def f(n):\n    return {written}", "function": "f", "cases": [[3], [7]]}
            | {"split": "train" if i % 3 else "dev", "setup": "import time\ntime.sleep(0.7)"}
        )
    (tmp_path / "suite.yaml").write_text("kind: python-function")
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(cache_dir() / "models")
    return tmp_path


def config(place: Path, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "one",
        "model": "smollm2-135m-instruct",
        "iterations": 1,
        "suite": {"name": "custom", "path": str(place)},
        "engine": {"max_model_len": 512, "cache_gib": 0.3, "max_batch": 1},
        "sample": {"samples_per_problem": 4, "max_tokens": 64, "shard_problems": 2},
        "execute": {"workers": 1},
        "train": {"batch_size": 2, "micro_batch": 2, "checkpoint_steps": 1, "max_length": 512, "learning_rate": 1e-6},
    }
    return base | changes


@pytest.mark.extended
def test_real_engines_on_nodes_that_are_killed_answer_as_one_machine_and_draw_only_what_was_lost_again(place: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "CODELUTRA_CACHE": str(place / "cache")}
    with RayCluster(**environment) as cluster:
        first, second, third = cluster.add(), cluster.add(), cluster.add(cpus=0)
        asked = {"address": cluster.address, "cpus": 1}
        together = config(place)["train"] | {"processes": 2}
        with Iteration(place, "far", environment, config(place, cluster=asked, train=together)) as run:
            run.wait_until(lambda: cluster.runs(second, ENGINE) and len(run.made("sample")) >= 3, 1200)
            cluster.kill(second)  # while it samples
            fourth = cluster.add()
            run.wait_until(lambda: cluster.workers(third) and run.executing(), 1200)
            cluster.kill(third)  # while it or another executes
            run.wait_until(lambda: list((run.home / "store/.partial").glob("train-*/work/checkpoint-*/whole.json")), 1200)
            assert all(cluster.runs(node, TRAINER) for node in (first, fourth))
            cluster.kill(fourth)  # while it trains together with the first
            cluster.add()
            far, events, notes = run.found(), run.events(), run.notes()
    with Iteration(place, "here", environment, config(place)) as alone:
        here = alone.found()

    made = Counter((e["stage"], e["key"]) for e in events if e["event"] == "made")
    assert set(made.values()) == {1}, "nothing whole is made again"
    lost = [note for note in notes if note.startswith("an engine was lost")]
    assert len(lost) == 1
    assert 0 <= int(lost[0].split("again: ")[1].split()[0]) < 12
    assert any("training begins again elsewhere, from its checkpoint" in note for note in notes)
    assert next(e["step"] for e in events if e["event"] == "resumed") >= 1

    mine, other = (pl.concat(frame(o, "outcomes") for o in found["outcomes"]) for found in (far, here))
    greedy = pl.col("greedy")
    assert mine.filter(greedy).equals(other.filter(greedy)), "greedy answers are the same, and judged alike"
    assert frame(far["scores"], "scores").equals(frame(here["scores"], "scores"))
    keys = ["problem_id", "sample", "greedy"]
    both = mine.join(other, on=keys, suffix="_alone", how="full", coalesce=True)
    assert both.height == mine.height == other.height == 8 + 16 * 4
    alike = both.filter(~greedy)["completion"] == both.filter(~greedy)["completion_alone"]
    print(f"{os.linesep}{alike.sum()} of {len(alike)} samples at temperature are alike; {len(lost)} engines lost: {lost}")
    judged = both.filter(pl.col("completion") == pl.col("completion_alone"))
    assert judged["status"].to_list() == judged["status_alone"].to_list(), "the same program is judged alike everywhere"
    assert {"correct", "wrong"} <= set(mine["status"])
