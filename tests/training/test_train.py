"""One training from start to end: the same bytes from the same seed, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from codelutra.config import WarmStartSection
from codelutra.errors import StageError, UserError
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import Train, place, some_pairs, some_problems
from tests.test_prompts import QWEN_3
from tests.training.test_grpo import ours_as_it_comes, some_groups

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def test_the_same_seed_gives_the_same_bytes(run: Train, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(some_pairs(8), into=name)
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "b/out/model.safetensors").read_bytes()


def test_thinking_reaches_the_tokens_that_are_trained(policy: Path, tmp_path: Path) -> None:
    """References get the template's empty thought; what the policy wrote, right answers of its own too, stays as it is."""
    from codelutra.training import launch
    from codelutra.training.worker.train import _examples

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = QWEN_3
    problems = some_problems(1)
    empty = "<think>\n\n</think>\n\n"
    for thinking in (False, True):
        spec = launch._spec("supervised", replace(place(policy, tmp_path), thinking=thinking), WarmStartSection())
        for written in (False, True):
            [example], _ = _examples(spec | {"written": written}, launch._as_examples(problems), tokenizer, 512)
            before = empty if thinking and not written else ""
            assert tokenizer.decode(example.answers[0][:-1]) == before + problems["reference"][0]
            assert tokenizer.decode(example.prompt).endswith(empty) is not thinking


def test_overlong_pairs_are_dropped_and_counted_never_cut(run: Train) -> None:
    pairs = some_pairs(5)
    long = pairs.with_columns(prompt=pl.when(pl.col("problem_id") == "p3").then(pl.lit("x " * 300)).otherwise("prompt"))
    summary = run(long)
    assert (summary["examples"], summary["too_long"]) == (4, 1)
    with pytest.raises(StageError, match="all 5 pairs are longer than max_length 16"):
        run(pairs, max_length=16)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_what_was_good(run: Train, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"at step \d+ of 60.*checkpoint-\d.*Lower learning_rate|not finite.*Lower learning_rate"
    ):
        run(some_pairs(12), learning_rate=1.0, weight_decay=100.0, epochs=20)
    assert not (tmp_path / "a/out/model.safetensors").exists()


def test_a_gradient_that_is_not_finite_is_not_blamed_on_a_rate_that_did_nothing_yet(policy: Path, tmp_path: Path) -> None:
    """The loss is finite: such a gradient came from a kernel on a GPU."""
    trainer = ours_as_it_comes(policy, some_groups(2), tmp_path / "work")
    next(trainer.model.parameters()).register_hook(lambda grad: grad * float("nan"))
    said = r"gradient is nan at step 1 of 1 \(loss -?0.*started from.*learning_rate is not the cause.*kernels"
    with pytest.raises(StageError, match=said):
        trainer.train()
    assert not [*(tmp_path / "work").glob("checkpoint-*")]


def test_log_probabilities_that_are_no_numbers_are_no_gap_of_zero(policy: Path, tmp_path: Path) -> None:
    trainer = ours_as_it_comes(policy, some_groups(2), tmp_path / "work")
    trainer.reference = {owner: values * float("nan") for owner, values in trainer.reference.items()}
    with pytest.raises(
        StageError, match=r"log-probability is nan nats from.*learning_rate is not the cause; look for weights"
    ):
        trainer.train()


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
