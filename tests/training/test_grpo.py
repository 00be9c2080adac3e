"""GRPO: TRL's trainer, rewards asked of the process that holds the sandbox."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest

from codelutra.config import SampleSection, TrainSection, parse_config
from codelutra.errors import StageError
from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.prompts import prompt_ids
from codelutra.schema import PROBLEMS
from codelutra.training import launch as train
from sandbox.protocol import Result, SqlJob
from tests.helpers.tiny_model import tiny_tokenizer, write_tiny_model

CONFIG = TrainSection(
    objective="grpo", batch_size=2, micro_batch=2, learning_rate=1e-2, warmup=0, checkpoint_steps=1, max_length=200
)
SAMPLE = SampleSection(samples_per_problem=4, max_tokens=8, top_p=1.0)


def problems(count: int) -> pl.DataFrame:
    rows = [
        {
            "problem_id": f"q{i}",
            "split": "train",
            "prompt": f"t(a, b)\nwhich a has b = {i}?",
            "reference": "SELECT 1",
            "language": "sql",
            "group": "t",
            "difficulty": "",
            "judge": "",
        }
        for i in range(count)
    ]
    return pl.DataFrame(rows, schema=PROBLEMS)


def place(policy: Path, at: Path) -> train.Training:
    return train.Training(policy, "Write SQL.", 0, at / "out", at / "work", at / "log", at / "lock")


@pytest.mark.slow
def test_every_answer_is_judged_here_and_what_is_rewarded_becomes_likelier(tmp_path: Path) -> None:
    policy, asked = write_tiny_model(tmp_path / "policy"), list[list[str]]()

    def judge(problem_ids: list[str], completions: list[str]) -> list[float]:
        asked.append(problem_ids)
        return [float(len(c.encode()) < 12) for c in completions]

    config = CONFIG.model_copy(update={"epochs": 6})
    long = pl.when(pl.col("problem_id") == "q0").then(pl.lit("SELECT " + "1 + " * 200 + "1"))  # says nothing of its prompt
    given = problems(4).with_columns(reference=long.otherwise("reference"))
    facts = train.grpo(place(policy, tmp_path), given, config, SAMPLE, judge)
    rows = [json.loads(line) for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert facts["steps"] == facts["planned_steps"] == len(rows) == 12
    assert facts["too_long"] == 0
    assert [set(Counter(ids).values()) for ids in asked] == [{4}] * 12, "K answers to each problem of a step"
    early, late = (sum(r["reward"] for r in part) / 4 for part in (rows[:4], rows[-4:]))
    assert late > early
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_template_without_a_system_role_is_asked_as_when_it_is_sampled_from(tmp_path: Path) -> None:
    """TRL's own rendering would raise; every token of a prompt and an answer is counted."""
    policy, heard = write_tiny_model(tmp_path / "policy"), list[str]()
    (policy / "chat_template.jinja").write_text(
        "{{ raise_exception('no system') if messages[0].role == 'system' }}"
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|endoftext|>' }}{% endfor %}{{ '<|im_start|>' }}"
    )

    def judge(problem_ids: list[str], completions: list[str]) -> list[float]:
        heard.extend(completions)
        return [float(n % 2) for n in range(len(completions))]

    facts = train.grpo(place(policy, tmp_path), problems(2), CONFIG, SAMPLE, judge)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (policy / "chat_template.jinja").read_text()
    asked = sum(len(prompt_ids(tokenizer, "Write SQL.", prompt)) for prompt in problems(2)["prompt"])
    assert len(heard) == 2 * 4
    assert 4 * asked < facts["tokens"] <= 4 * asked + 2 * 4 * SAMPLE.max_tokens


@pytest.mark.filterwarnings("ignore")  # of TRL's imports
def test_a_prompt_padded_on_the_left_gives_what_it_gives_alone(tmp_path: Path) -> None:
    """As TRL pads the prompts of a step to generate in batches."""
    import torch

    from codelutra.training.worker.adapters import load_policy

    model = load_policy(write_tiny_model(tmp_path / "policy")).eval()
    ids = torch.tensor([[17, 40, 99, 200]])
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
    mask = (torch.arange(9) >= 5).long()[None]
    with torch.no_grad():
        alone = model(ids).logits
        beside = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(0)).logits[:, 5:]
    assert (alone - beside).abs().max() < 1e-4


@pytest.mark.slow
def test_an_outage_while_judging_stops_training_which_then_goes_on_where_it_was(tmp_path: Path) -> None:
    asked, outage = list[list[str]](), [3]  # the third judgement fails

    def judge(problem_ids: list[str], completions: list[str]) -> list[float]:
        asked.append(problem_ids)
        if len(asked) in outage:
            raise StageError("the sandbox is gone")
        return [float(len(c) % 2) for c in completions]

    def training() -> dict[str, Any]:
        return train.grpo(place(policy, tmp_path), problems(4), config, SAMPLE, judge)

    policy, config = write_tiny_model(tmp_path / "policy"), CONFIG.model_copy(update={"epochs": 3})
    with pytest.raises(StageError, match="the sandbox is gone"):
        training()
    assert not (tmp_path / "out").exists()
    facts = training()
    assert (facts["resumed_from_step"], facts["steps"]) == (2, 6)
    assert len(asked) == 3 + 4, "the step that failed is judged again, those before it are not"
    assert asked[2] == asked[3]
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.filterwarnings("ignore")  # of TRL's imports
def test_prompts_too_long_for_any_answer_are_told_before_training(tmp_path: Path) -> None:
    from codelutra.training.worker.train import train as in_process

    problems(2).select("problem_id", "prompt", completion="reference").write_parquet(tmp_path / "examples.parquet")
    config, policy = CONFIG.model_copy(update={"max_length": 20}), write_tiny_model(tmp_path / "policy")
    spec = {
        "kind": "grpo",
        "policy": str(policy),
        "system": "",
        "seed": 0,
        "config": config.model_dump(mode="json"),
        "sample": SAMPLE.model_dump(mode="json"),
        "examples": str(tmp_path / "examples.parquet"),
        "out": str(tmp_path / "out"),
        "work": str(tmp_path / "work"),
    }
    with pytest.raises(StageError, match="longer than max_length 20"):
        in_process(spec, lambda event: None, lambda ids, completions: [])


class Away:
    """A pool whose containers are gone."""

    def map(self, jobs: Iterable[SqlJob]) -> Iterator[Result]:
        yield from (Result(job.id, "infra_error", error="container gone") for job in jobs)

    def close(self) -> None:
        pass


def test_a_reward_is_the_sandboxs_verdict_in_the_order_asked_and_never_an_outage(tmp_path: Path) -> None:
    config = parse_config({"name": "t", "suite": {"name": "starter-sql", "train": 8, "dev": 2, "test": 0}})
    with Run(tmp_path, config) as run:
        asked = run.make(stages.problems(run))
        expected = run.make(stages.references(run, asked))
        rows = asked.frame("problems").select("problem_id", "reference").head(3).rows()
        ids = [i for i, _ in rows for _ in range(3)]
        answers = [a for _, reference in rows for a in ("SELECT 1 WHERE 0", f"```sql\n{reference}\n```", "")]
        judge = stages.rewards(run, asked, expected)
        assert judge(ids, answers) == [0.0, 1.0, 0.0] * 3
        with run.use_pool() as pool:
            pool.close()
        run._pool = cast(Any, Away())
        with pytest.raises(StageError, match=r"1 of 2 rewards are infrastructure failures \(container gone\)"):
            judge(ids[:2], ["SELECT 7 -- not judged before", answers[1]])
