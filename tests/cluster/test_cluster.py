"""A real Ray cluster of nodes on this machine: the run is that of one machine, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.iterations import Iteration, frame, weights
from tests.helpers.ray_cluster import ROOT, RayCluster
from tests.helpers.tiny_model import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # on a busy machine a node takes a minute to start
SCRIPTED = f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers/scripted'}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite and a model."""
    folder = tmp_path_factory.mktemp("place")
    write_tiny_model(folder / "model")
    lines = [
        {"prompt": f"Write f of {i}.", "reference": f"def f(): return {i}", "function": "f", "cases": [[]]}
        | {"split": "train" if i % 3 else "dev"}
        for i in range(30)
    ]
    (folder / "suite.yaml").write_text("kind: python-function")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return {"PYTHONPATH": SCRIPTED, "CODELUTRA_CACHE": str(place / "cache"), "SCRIPTED_LOG": str(place / "answers")}


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[RayCluster]:
    with RayCluster(**environment, SCRIPTED_SECONDS="2") as running:
        yield running


def config(place: Path, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "one",
        "model": f"path:{place}/model",
        "iterations": 1,
        "suite": {"name": "custom", "path": str(place)},
        "engine": {"max_model_len": 256, "cache_gib": 0.1, "max_batch": 1},
        "sample": {"samples_per_problem": 4, "max_tokens": 64, "shard_problems": 2},
        "execute": {"workers": 1},
        "train": {"batch_size": 2, "micro_batch": 2, "checkpoint_steps": 1, "max_length": 256, "epochs": 2},
    }
    return base | changes


@pytest.mark.extended
def test_a_run_whose_nodes_are_killed_in_every_stage_makes_what_one_machine_makes_and_nothing_twice(
    place: Path, environment: dict[str, str], cluster: RayCluster
) -> None:
    first, fourth = cluster.add(), cluster.add()
    second = cluster.add(DOCKER_HOST="unix:///nowhere", SCRIPTED_LOG=str(place / "answers-of-second"))
    third = cluster.add(cpus=0)  # only executes
    asked = {"address": cluster.address, "cpus": 1}
    together = config(place)["train"] | {"processes": 2}
    with Iteration(place, "far", environment, config(place, cluster=asked, train=together)) as run:
        run.wait_until((place / "answers-of-second").exists)
        run.wait_until(lambda: any("no Docker daemon answers" in note for note in run.notes()))
        cluster.kill(second)  # while it samples
        run.wait_until(lambda: cluster.workers(third) and run.executing() >= 3)
        cluster.kill(third)  # while it executes: each of three nodes has a shard
        run.wait_until(lambda: list((run.home / "store/.partial").glob("train-*/work/checkpoint-*/whole.json")))
        assert all(cluster.runs(node, "codelutra.training.worker") for node in (first, fourth))
        cluster.kill(fourth)  # while it trains together with the first
        cluster.add()
        far = run.found()
        events, notes = run.events(), run.notes()
    with Iteration(place, "here", environment | {"SCRIPTED_LOG": ""}, config(place, execute={"workers": 4})) as alone:
        here = alone.found()

    made = Counter((e["stage"], e["key"]) for e in events if e["event"] == "made")
    assert set(made.values()) == {1}, "nothing whole is made again"
    told = [note for note in notes if note.startswith("an engine was lost")]
    again = sum(int(note.split("again: ")[1].split()[0]) for note in told)
    drawn = [line for file in place.glob("answers*") for line in file.read_text().splitlines()]
    twice = [line for line, times in Counter(drawn).items() if times > 1]
    assert len(set(drawn)) == 10 + 20 * 4
    assert told
    assert len(twice) <= 8 * again, "only the shards that were lost are drawn again"
    assert any("executes nothing more of this run: " in note for note in notes)
    assert any("was lost while executing" in note for note in notes)
    assert any("training begins again elsewhere, from its checkpoint" in note for note in notes)
    assert next(e["step"] for e in events if e["event"] == "resumed") >= 1

    for mine, other in zip(far["outcomes"], here["outcomes"], strict=True):
        assert mine["key"] == other["key"]
        assert frame(mine, "outcomes").equals(frame(other, "outcomes"))
    assert frame(far["scores"], "scores").equals(frame(here["scores"], "scores"))
    assert frame(far["pairs"], "pairs").equals(frame(here["pairs"], "pairs"))
    assert far["pairs"]["digest"] == here["pairs"]["digest"]
    assert far["trained"]["key"] == here["trained"]["key"]
    assert weights(far["trained"]) == pytest.approx(weights(here["trained"]), rel=1e-3, abs=1e-5)


CONNECT = """
import json, sys
from pathlib import Path
from codelutra.cluster.connection import connect, offered
from codelutra.config import parse_config
from codelutra.errors import UserError

for raw in json.loads(sys.argv[1]):
    try:
        connect(parse_config(raw), Path(sys.argv[2]), print)
        print("can be used")
    except UserError as e:
        print(" ".join(str(e).split()))
print(offered(parse_config(raw)))
"""


def test_a_cluster_without_gpus_is_refused_until_cores_are_named_and_leaves_nothing_in_the_store(
    place: Path, environment: dict[str, str], cluster: RayCluster, tmp_path: Path
) -> None:
    node = cluster.add()
    asked = [config(place, cluster={"address": cluster.address} | more) for more in ({}, {"cpus": 7}, {"cpus": 1})]
    command = [sys.executable, "-c", CONNECT, json.dumps(asked), str(tmp_path / "store")]
    told = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=True, timeout=600)
    cluster.kill(node)
    without_gpu, too_large, fine, offers = (line for line in told.stdout.splitlines() if line)
    assert "offers a GPU (`ray status` shows what they offer). Add nodes that have one, or set cluster.cpus" in without_gpu
    assert "cluster.cpus 7 is more than the 1 cores that its largest node offers" in too_large
    assert fine == "can be used"
    assert re.fullmatch(rf"{re.escape(cluster.address)}: \d nodes offer 0 GPUs, \d cores, \d × docker", offers)
    assert list((tmp_path / "store").iterdir()) == []
