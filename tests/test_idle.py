"""Settings that nothing in a run reads are named, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from codelutra.config import load_config, parse_config, preset_names
from codelutra.config.idle import idle, idle_lines

MINIMAL: dict[str, Any] = {"name": "x", "suite": {"name": "starter-sql"}}

# Of what some objective, method or term of a loss reads alone, and of what all read, another value than its default.
SET: dict[str, dict[str, Any]] = yaml.safe_load("""
train: {
  beta: 0.3, dpo_weight: 2, sft_weight: 2, sft_norm: sequence, loss_type: hinge, sft_on: right, sft_earlier: true,
  replay_references: true, start: first, stop_on_drift: true, min_chosen_drift: -1, min_chosen_drift_per_token: -1,
  lora_rank: 8, lora_alpha: 9, learning_rate: 0.001, epochs: 2, batch_size: 8, max_length: 512, warmup: 0.2,
  weight_decay: 0.1,
}
pairs: {per_problem: 2, order: random, references: false, timeouts: false}
grpo: {kl: 0.1, epsilon: 0.1, loss: bnpo, negative_weight: 0.5, filter_groups: false, baseline_shift: 0.2}
sample: {temperature: 0.9, top_p: 1, samples_per_problem: 4}
""")
OF_PAIRS = (
    {f"pairs.{name}" for name in SET["pairs"]}
    | {
        f"train.{name}"
        for name in ("beta", "dpo_weight", "sft_weight", "sft_norm", "loss_type", "stop_on_drift", "min_chosen_drift")
    }
    | {"train.min_chosen_drift_per_token"}
)
OF_SAMPLES = {"train.sft_on", "train.sft_earlier", "train.start", "train.replay_references"}
OF_GRPO = {f"grpo.{name}" for name in SET["grpo"]}
NAMED = {
    "preference": OF_GRPO,
    "rft": OF_GRPO | OF_PAIRS,
    "sft": OF_GRPO | OF_PAIRS | OF_SAMPLES | {f"sample.{name}" for name in SET["sample"]},
    "grpo": OF_PAIRS | OF_SAMPLES | {"grpo.baseline_shift"},
}


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("objective", ["preference", "rft", "sft", "grpo"])
def test_a_setting_that_nothing_reads_is_named(objective: str, method: str) -> None:
    train = SET["train"] | {"objective": objective, "method": method}
    found = idle(parse_config(MINIMAL | SET | {"train": train, "pairs": SET["pairs"] | {"accumulate": False}}))
    rank = {"train.lora_rank", "train.lora_alpha"} if method == "full" else set()
    held = {"pairs.accumulate"} if objective in ("sft", "grpo") else set()  # it was set, against what start: first means
    assert set(found) == NAMED[objective] | rank | held


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"start": "first"}, "iterations": 1}, ["train.start: no effect, because there is one iteration"]),
        ({"train": {"start": "first"}}, []),
        ({"train": {"loss_type": "ipo"}}, []),
        ({"train": {"dpo_weight": 0, "beta": 0.5}}, ["train.beta: no effect, because train.dpo_weight is 0"]),
        ({"train": {"sft_weight": 0, "sft_norm": "sequence"}}, ["train.sft_norm: no effect, because train.sft_weight is 0"]),
        (
            {"train": {"sft_weight": 0, "sft_on": "right", "sft_earlier": True}},
            ["train.sft_on, train.sft_earlier: no effect, because train.sft_weight is 0"],
        ),
        ({"train": {"sft_earlier": True}}, ["train.sft_earlier: no effect, because train.sft_on is chosen"]),
        (
            {"train": {"objective": "rft", "replay_references": True}},
            ["train.replay_references: no effect, because train.sft_on is chosen"],
        ),
        (
            {"train": {"sft_on": "right", "sft_earlier": True}, "pairs": {"accumulate": True}},
            ["train.sft_earlier: no effect, because pairs.accumulate is true"],
        ),
        (
            {"warm_start": {"lora_rank": 8, "lora_alpha": 8}, "suite": {"name": "mbpp", "protocol": "in-domain"}},
            [
                "suite.protocol: no effect, because suite.name is mbpp",
                "warm_start.lora_rank, warm_start.lora_alpha: no effect, because warm_start.method is full",
            ],
        ),
        ({"prompt": {"thinking_tokens": 64}}, ["prompt.thinking_tokens: no effect, because prompt.thinking is false"]),
        ({"sample": {"more_temperature": 1.5}}, ["sample.more_temperature: no effect, because sample.more is 0"]),
        ({"select": {"samples": 8, "test": False}}, ["select.samples: no effect, because select.test is false"]),
        ({"api": {"price_in": 1}}, ["api.price_in: no effect, because model is no api: model"]),
        ({"iterations": 0, "train": {"objective": "sft", "beta": 0.5}}, []),
        ({}, []),
    ],
)
def test_what_is_named_says_why(change: dict[str, Any], said: list[str]) -> None:
    assert idle_lines(parse_config({**MINIMAL, **change})) == said


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_has_a_setting_that_nothing_reads(name: str) -> None:
    assert idle_lines(load_config(name)) == []
