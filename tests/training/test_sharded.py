"""A model in parts: what two processes train that each hold half of it, against one process that holds it whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from codelutra.config import TrainSection, WarmStartSection, in_key
from codelutra.errors import UserError
from tests.helpers.several import job, kill_at, start, summaries
from tests.helpers.training import Train, distance, some_groups, some_pairs, some_problems, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # TRL, transformers and torch warn about each other
    pytest.mark.timeout(900),  # processes import torch on what may be two busy cores
]

PAIRS: dict[str, Any] = {"epochs": 1.5, "sft_norm": "sequence", "learning_rate": 1e-4, "replay_references": True}
LORA = {"method": "lora", "learning_rate": 0.01}
KINDS: dict[str, dict[str, Any]] = {
    "full": PAIRS,
    "lora": PAIRS | LORA,
    "right": PAIRS | {"sft_on": "right", "gradient_checkpointing": True},  # one or two answers a step beside the pairs
    "padded": PAIRS | {"epochs": 0.5},  # a window keeps prefixes from being shared
    "sft": {"epochs": 1.5, "learning_rate": 1e-4},
    "grpo": {"epochs": 1.5, "learning_rate": 1e-4},
}
ROUNDED = PAIRS | LORA | {"epochs": 0.5}
KILLED = PAIRS | {"epochs": 4}
TIMES, BY_MICRO_BATCH = {"seconds", "tokens_per_second"}, {"chosen_drift_per_token", "kl"}


def lesson(kind: str) -> dict[str, Any]:
    """Examples, references where there are any, and settings: arguments of `run` and of `job`."""
    if kind in ("sft", "grpo"):
        return {"examples": some_groups(4, count=2) if kind == "grpo" else some_problems(13), "bf16": False, **KINDS[kind]}
    settings = KINDS | {"killed": KILLED, "rounded": ROUNDED}
    return {"examples": some_pairs(13), "references": some_problems(7), "bf16": kind == "rounded", **settings[kind]}


@pytest.fixture(scope="module")
def windowed(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a Mistral whose tokens see 16 tokens back."""
    folder = tmp_path_factory.mktemp("windowed") / "policy"
    shutil.copytree(policy, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def two(policy: Path, windowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes trained, a folder each lesson, and `killed`: a training ended by kill -9."""
    at, parts = tmp_path_factory.mktemp("two"), {"processes": 2, "sharding": "full"}
    starts = dict.fromkeys((*KINDS, "rounded", "killed"), policy) | {"padded": windowed}
    jobs = [job(at / kind, before, **lesson(kind), **parts) for kind, before in starts.items()]
    kill_at(5, at / "killed/work", start(2, at / "jobs.json", jobs), at / "jobs.log")
    return at


def require_equal(ours: Path, theirs: Path, policy: Path, *but: str) -> None:
    """Records, but for some fields, and weights are the same within 1e-4, and weights within a thousandth of how far they
    moved."""
    a, b = (pl.read_ndjson(folder / "out/training.jsonl") for folder in (ours, theirs))
    assert a.columns == b.columns
    assert len(a) == len(b)
    for name in set(a.columns) - TIMES - set(but):
        assert a[name].to_list() == pytest.approx(b[name].to_list(), rel=1e-4, abs=1e-4), name
    x, y, before = weights(ours / "out"), weights(theirs / "out"), weights(policy)
    assert x.keys() == y.keys() == before.keys()
    assert max((x[n] - y[n]).abs().max().item() for n in y) < 1e-4
    assert distance(x, y) < 1e-3 * distance(before, y)


@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_train_what_one_whole_does(
    kind: str, two: Path, run: Train, policy: Path, windowed: Path, tmp_path: Path
) -> None:
    before = windowed if kind == "padded" else policy
    one = run(start=before, **lesson(kind))
    assert one["shared_prefixes"] == (kind != "padded")
    require_equal(two / kind, tmp_path / "a", before)
    for said in summaries(two / kind):
        assert said["weights_here"] == pytest.approx(said["weights"] / 2, rel=0.01)
        assert said["log_probs"] == one["log_probs"]
    shutil.copytree(two / kind / "work", tmp_path / "b/work")  # with its last checkpoint, of two halves
    assert run(start=before, into="b", **lesson(kind))["resumed_from_step"] == one["steps"] - 1
    require_equal(tmp_path / "b", tmp_path / "a", before)


def test_frozen_weights_are_in_bfloat16_beside_an_adapter_in_float32(two: Path, run: Train, tmp_path: Path) -> None:
    one, (said, _) = run(**lesson("rounded")), summaries(two / "rounded")
    assert said["log_probs"] == one["log_probs"], "the ways were compared in float32, a layer at a time"
    assert said["policy_gap"] == pytest.approx(one["policy_gap"], rel=1e-3, abs=1e-5)
    assert said["reference_gap"] < 1e-3
    assert said["weights_here"] == pytest.approx(said["weights"] / 2, rel=0.01)
    ours, theirs = (pl.read_ndjson(folder / "out/training.jsonl") for folder in (two / "rounded", tmp_path / "a"))
    assert ours["loss"].to_list() == pytest.approx(theirs["loss"].to_list(), rel=0.01)
    assert weights(two / "rounded/out").keys() == weights(tmp_path / "a/out").keys()


@pytest.mark.extended
def test_three_processes_go_on_with_what_two_or_one_left(two: Path, run: Train, policy: Path, tmp_path: Path) -> None:
    run(**lesson("killed"))
    for into, kind in (("whole", "full"), ("adapter", "lora")):
        with pytest.raises(InterruptedError):
            run(into=into, stop_at=4, **lesson(kind))
    shutil.copytree(two / "killed/work", tmp_path / "killed/work")
    lessons, parts = {"killed": "killed", "whole": "full", "adapter": "lora"}, {"processes": 3, "sharding": "full"}
    jobs = [job(tmp_path / into, policy, **lesson(kind), **parts) for into, kind in lessons.items()]
    three = start(3, tmp_path / "jobs.json", jobs)
    assert three.wait() == 0, (tmp_path / "jobs.log").read_text()[-6000:]
    assert summaries(tmp_path / "killed")[0]["resumed_from_step"] >= 3
    assert [s["resumed_from_step"] for into in ("whole", "adapter") for s in summaries(tmp_path / into)] == [3] * 6
    for ours, theirs in (("killed", tmp_path / "a"), ("whole", two / "full"), ("adapter", two / "lora")):
        require_equal(tmp_path / ours, theirs, policy, *BY_MICRO_BATCH)  # three make other micro-batches


def test_a_model_without_layers_is_refused() -> None:
    from codelutra.training.worker.sharding import shard

    with pytest.raises(UserError, match=r"Linear does not name its decoder layers .* set sharding none"):
        shard(torch.nn.Linear(1, 1), None)


@pytest.mark.parametrize("section", [TrainSection, WarmStartSection])
def test_what_cannot_be_sharded_is_refused_with_the_way_out(section: Any) -> None:
    with pytest.raises(ValidationError, match="processes 1 there is nobody to share the model; set processes to 2 or more"):
        section(sharding="full")
    with pytest.raises(ValidationError, match="weights in 4 bits are not sharded; set method to lora or full"):
        section(sharding="full", processes=2, method="qlora")
    assert in_key(section(sharding="full", processes=2)) == in_key(section())
