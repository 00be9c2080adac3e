"""A model in parts: what two processes train that each hold half of it, against one process that holds it whole."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import TrainSection, WarmStartSection
from tests.helpers.several import in_processes, job
from tests.helpers.training import Train, parent, some_pairs, some_problems, until_step, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other

SAME = {"epochs": 1.5, "sft_norm": "sequence", "learning_rate": 1e-4}
SHARDED = {"processes": 2, "sharding": "full"}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"replay_references": True},
    "lora": {"method": "lora", "learning_rate": 0.01, "replay_references": True},
    "right": {"sft_on": "right", "sft_norm": "token", "gradient_checkpointing": True},  # one or two answers a step beside the pairs
    "sft": {},
}


def examples_of(kind: str) -> tuple[pl.DataFrame, pl.DataFrame | None, dict[str, Any]]:
    if kind == "sft":
        return some_problems(13), None, {"epochs": 1.5, "learning_rate": 1e-4}
    return some_pairs(13), some_problems(7), SAME | KINDS[kind]


@pytest.fixture(scope="module")
def two(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Folder and summaries of each kind, trained by two processes."""
    at, jobs = tmp_path_factory.mktemp("two"), []
    for kind in KINDS:
        examples, references, settings = examples_of(kind)
        jobs.append(job(at / kind, policy, examples, references, **settings, **SHARDED))
    return {kind: (at / kind, said) for kind, said in zip(KINDS, in_processes(2, at / "jobs.json", jobs), strict=True)}


@pytest.mark.timeout(900)  # three processes import torch on what may be two busy cores
@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_train_what_one_whole_does(
    kind: str, two: dict[str, tuple[Path, list[dict[str, Any]]]], run: Train, policy: Path, tmp_path: Path
) -> None:
    examples, references, settings = examples_of(kind)
    more = {} if references is None else {"references": references}
    one = run(examples, bf16=False, **more, **settings)
    at, said = two[kind]
    assert [s["weights_here"] * 2 for s in said] == pytest.approx([one_whole(policy, kind, said)] * 2, rel=0.01)
    ours, theirs = (pl.read_ndjson(folder / "out/training.jsonl") for folder in (at, tmp_path / "a"))
    assert ours.columns == theirs.columns and len(ours) == one["steps"]
    for name in ours.columns:
        if name not in ("seconds", "tokens_per_second"):
            print(name, ours[name].to_list(), theirs[name].to_list())
    a, b, start = weights(at / "out"), weights(tmp_path / "a/out"), weights(policy)
    assert a.keys() == b.keys()
    print("MAX", max((a[n] - b[n]).abs().max().item() for n in b), "MOVED", max((start[n] - b[n]).abs().max().item() for n in b))


def one_whole(policy: Path, kind: str, said: list[dict[str, Any]]) -> int:
    return said[0]["weights"]
