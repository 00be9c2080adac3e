"""Log-probabilities of answers under a policy that is not trained, against a plain forward of transformers' model."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from codelutra.prompts import answer_ids, prompt_ids
from codelutra.training.launch import Training
from codelutra.training.likelihood import ANSWERS, FOUND, log_probs
from tests.helpers.training import SYSTEM, some_pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def test_they_are_those_of_a_plain_forward_in_the_order_asked(policy: Path, tmp_path: Path) -> None:
    pairs = some_pairs(5)
    sides = [pairs.select("prompt", completion=side, ended=side == pl.lit("chosen")) for side in ("chosen", "rejected")]
    asked = pl.concat(sides).with_columns(ended=pl.Series([True] * 5 + [False] * 5), written=True)
    told: list[tuple[int, int]] = []
    about = Training(
        policy,
        SYSTEM,
        0,
        tmp_path,
        tmp_path / "work",
        tmp_path / "log",
        tmp_path / "lock",
        lambda d, t, e: told.append((d, t)),
    )
    found = log_probs(about, asked)
    assert found.schema == FOUND
    tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy).float().eval()
    for row, (log_prob, tokens) in zip(asked.rows(named=True), found.rows(), strict=True):
        prompt = prompt_ids(tokenizer, SYSTEM, row["prompt"])
        answer = answer_ids(tokenizer, row["completion"], ended=row["ended"])
        with torch.no_grad():
            plain = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = sum(float(plain[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
        assert log_prob == pytest.approx(expected, abs=1e-3)
        assert tokens == len(answer)
    assert told[0] == (0, 10)


def test_an_answer_without_a_token_is_certain_and_spoils_no_other(policy: Path, tmp_path: Path) -> None:
    """Of a prompt that was too long to be asked, the longest of all, there is an answer that was never begun."""
    answer = {"prompt": "short", "completion": "SELECT 1", "ended": True, "written": True}
    never = {"prompt": "too long " * 90, "completion": "", "ended": False, "written": True}
    about = Training(policy, SYSTEM, 0, tmp_path, tmp_path / "work", tmp_path / "log", tmp_path / "lock")
    (alone,) = log_probs(about, pl.DataFrame([answer], schema=ANSWERS)).rows()
    assert log_probs(about, pl.DataFrame([never, answer], schema=ANSWERS)).rows() == [(0.0, 0), alone]
    assert log_probs(about, pl.DataFrame([never], schema=ANSWERS)).rows() == [(0.0, 0)]


def test_no_answers_start_no_process(policy: Path, tmp_path: Path) -> None:
    about = Training(policy, SYSTEM, 0, tmp_path, tmp_path / "work", tmp_path / "log", tmp_path / "lock")
    assert log_probs(about, pl.DataFrame(schema=ANSWERS)).is_empty()
    assert not (tmp_path / "work").exists()
