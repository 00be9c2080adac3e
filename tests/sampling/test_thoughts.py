"""Thinking in the real engine: a thought is ended at its budget, cut before the program is taken out, and counted."""

from __future__ import annotations

import shutil
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import EngineSection, SampleSection
from codelutra.errors import UserError
from codelutra.prompts import answer_ids, prompt_ids
from codelutra.sampling.engine import Engine
from codelutra.sampling.shards import plan_shards, sample_shards
from codelutra.schema import PROBLEMS
from tests.helpers.tiny_model import write_tiny_model
from tests.sampling.test_answers import says, serving
from tests.test_prompts import ALWAYS_THINKS, GEMMA

pytestmark = pytest.mark.slow

ENGINE = EngineSection(dtype="float32", max_model_len=128, cache_gib=0.25, max_batch=16)
SAMPLE = SampleSection(samples_per_problem=4, max_tokens=6, shard_problems=4)
SYSTEM, BUDGET = "Write SQL.", 9


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noise model whose template opens a thought. It never ends one by itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_model(tmp_path_factory.mktemp("thinker"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = ALWAYS_THINKS
    model.resize_token_embeddings(max(512, len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problems() -> pl.DataFrame:
    same = {"language": "sql", "group": "", "difficulty": "", "judge": "", "reference": ""}
    rows = [{"problem_id": f"{s}{i}", "split": s, "prompt": f"How many {i}?"} for s in ("train", "dev") for i in range(4)]
    return pl.DataFrame([row | same for row in rows], schema=PROBLEMS)


def sampled(policy: Path, at: Path, *, sample: SampleSection = SAMPLE, thinking: int = 0) -> pl.DataFrame:
    stream = sample_shards(
        policy,
        SYSTEM,
        plan_shards(problems(), SAMPLE),
        sample=sample,
        thinking=thinking,
        engine=ENGINE,
        seed=0,
        log=at / "log",
        lock=at / "lock",
    )
    return pl.concat(frame for _, frame in stream)


def test_a_thought_is_ended_at_its_budget_and_an_answer_follows_it(thinker: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, frame = AutoTokenizer.from_pretrained(thinker), sampled(thinker, tmp_path, thinking=BUDGET)
    assert frame.height == 4 + 4 * 4
    for row in frame.rows(named=True):
        _, closes, answer = row["completion"].partition("</think>")
        assert row["thinking_tokens"] <= BUDGET + 1, "of which one is the mark"
        assert row["completion_tokens"] <= row["thinking_tokens"] + SAMPLE.max_tokens
        assert closes or row["finish_reason"] == "stop"
        assert row["code"].strip() in answer
    ended = frame.filter(pl.col("thinking_tokens") >= BUDGET)  # what the prompt has behind the mark counts with it
    assert ended.height > 10, "noise hardly ends a thought by itself"
    close = tokenizer.convert_tokens_to_ids("</think>")
    for completion in ended["completion"]:
        assert answer_ids(tokenizer, completion, ended=False, thinking=True).count(close) >= 1
    asked = prompt_ids(tokenizer, SYSTEM, "How many 0?", thinking=True)
    assert frame.filter(problem_id="train0")["prompt_tokens"][0] == len(asked)

    plain = sampled(thinker, tmp_path)
    assert "thinking_tokens" not in plain.columns
    assert plain["completion_tokens"].max() <= SAMPLE.max_tokens
    asked = prompt_ids(tokenizer, SYSTEM, "How many 0?")
    assert plain.filter(problem_id="train0")["prompt_tokens"][0] == len(asked)


@pytest.mark.parametrize(
    ("template", "thinking", "says"),
    [
        (GEMMA, BUDGET, "prompt.thinking is on, and .*has no switch"),
        ("{{ raise_exception('only with tools') }}", 0, "does not render a chat of user: only with tools; mend"),
    ],
)
def test_a_template_that_cannot_ends_the_engine_with_one_message(
    template: str, thinking: int, says: str, thinker: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(thinker, tmp_path / "other")
    (other / "chat_template.jinja").write_text(template)
    with (
        Engine(other, ENGINE, seed=0, thinking=thinking, log=tmp_path / "log", lock=tmp_path / "lock") as engine,
        pytest.raises(UserError, match=says),
    ):
        list(iter(engine.hear, None))


def tokens(policy: Path, text: str) -> int:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(policy)(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("said", "text", "finish_reason", "code"),
    [
        ("I count.</think>SELECT 1", "I count.</think>SELECT 1", "stop", "SELECT 1"),
        ("```sql\nSELECT 2\n```", "```sql\nSELECT 2\n```", "stop", ""),  # all of it is the thought that the prompt opened
        ("I count." * 9 + "</think>SELECT 1", None, "length", ""),  # the server kept no budget
    ],
)
def test_what_a_server_thinks_is_cut_counted_and_kept_to_the_budget(
    said: str, text: str | None, finish_reason: str, code: str, thinker: Path, tmp_path: Path
) -> None:
    asked = list[Any]()

    def answer(to: BaseHTTPRequestHandler) -> None:
        choice = {"text": said, "finish_reason": "stop"}
        says({"choices": [choice], "usage": {"completion_tokens": tokens(thinker, said)}})(to)

    with serving(answer, says({"data": [{"id": thinker.name}]}), asked) as (url, _):
        section = SAMPLE.model_copy(update={"endpoints": (url,), "max_tokens": 60})
        frame = sampled(thinker, tmp_path, sample=section, thinking=20)
    assert {(body["thinking_token_budget"], body["max_tokens"]) for body in asked} == {(20, 80)}
    row = frame.row(0, named=True)
    assert (row["finish_reason"], row["code"]) == (finish_reason, code)
    assert row["completion"] == text if text else said.startswith(row["completion"].strip())
    thought = row["completion"].partition("</think>")
    assert row["thinking_tokens"] == tokens(thinker, "".join(thought[:2])) <= 21
    assert row["completion_tokens"] == tokens(thinker, row["completion"])


def test_marks_that_a_server_leaves_out_of_its_text_are_refused(thinker: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    other = shutil.copytree(thinker, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    tokenizer.save_pretrained(other)
    section = SAMPLE.model_copy(update={"endpoints": ("http://127.0.0.1:9/v1",)})
    with pytest.raises(UserError, match="servers leave </think> out of their text"):
        sampled(other, tmp_path, sample=section, thinking=20)
