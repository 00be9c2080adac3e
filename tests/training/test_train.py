"""One training from start to end: the same bytes from the same seed, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from codelutra.errors import StageError, UserError
from tests.helpers.training import Train, some_pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def test_the_same_seed_gives_the_same_bytes(run: Train, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(some_pairs(8), into=name)
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "b/out/model.safetensors").read_bytes()


def test_overlong_pairs_are_dropped_and_counted_never_cut(run: Train) -> None:
    pairs = some_pairs(5)
    long = pairs.with_columns(prompt=pl.when(pl.col("problem_id") == "p3").then(pl.lit("x " * 300)).otherwise("prompt"))
    summary = run(long)
    assert (summary["examples"], summary["too_long"]) == (4, 1)
    with pytest.raises(StageError, match="all 5 pairs are longer than max_length 16"):
        run(pairs, max_length=16)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_what_was_good(run: Train, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"at step [23] of 3.*checkpoint-\d.*Lower learning_rate|not finite.*Lower learning_rate"
    ):
        run(some_pairs(12), learning_rate=1e30)
    assert not (tmp_path / "a/out/model.safetensors").exists()


def test_a_tokenizer_needs_an_end_but_neither_template_nor_padding(policy: Path, run: Train, tmp_path: Path) -> None:
    bare = shutil.copytree(policy, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    less = json.loads((bare / "tokenizer_config.json").read_text())
    less = {k: v for k, v in less.items() if k not in ("pad_token", "chat_template")}
    (bare / "tokenizer_config.json").write_text(json.dumps(less))
    assert run(some_pairs(4), start=bare)["steps"] == 1
    less.pop("eos_token")
    (bare / "tokenizer_config.json").write_text(json.dumps(less))
    with pytest.raises(UserError, match="no end token"):
        run(some_pairs(4), start=bare)


def test_a_model_nobody_knows_is_refused_by_name(policy: Path, run: Train, tmp_path: Path) -> None:
    odd = shutil.copytree(policy, tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"model_type": "abacus", "architectures": ["AbacusForCausalLM"]}))
    with pytest.raises(UserError, match=r"odd does not load as a causal language model.*abacus"):
        run(some_pairs(4), start=odd)


def test_a_training_in_bf16_leaves_autocast_off(run: Train) -> None:
    run(some_pairs(4), bf16=True)
    assert not torch.is_autocast_enabled("cpu")
