"""DPO + λ·SFT on a tiny real model: the loss is TRL's, the reference is policy t-1."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch

from benchmarks.adapters import by_trl
from codelutra.config import TrainSection
from codelutra.errors import StageError
from codelutra.training.batches import plan
from codelutra.training.checkpoints import Job
from codelutra.training.worker.dpo import drift_alarm
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import Train, answer_log_probs, as_text, encoded, some_pairs, some_problems, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other
LOSSES = get_args(TrainSection.model_fields["loss_type"].annotation)


def trl_as_it_comes(policy: Path, pairs: pl.DataFrame, order: list[int], out: Path, **more: Any) -> list[dict[str, float]]:
    """TRL's own DPOTrainer on the same pairs, as text, in the given order."""
    from transformers import AutoModelForCausalLM

    rows = as_text(pairs[order]).select("prompt", "chosen", "rejected").to_dicts()
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    return by_trl("preference", model, rows, tiny_tokenizer(), out, learning_rate=1e-3, **more)[1]


def test_losses_and_gradients_are_those_of_trl_as_it_comes(policy: Path, run: Train, tmp_path: Path) -> None:
    pairs = some_pairs(12)
    run(pairs, bf16=False, sft_norm="token", sft_weight=0.7, beta=0.3, warmup=0.0, micro_batch=4)
    ours = pl.read_ndjson(tmp_path / "a/out/training.jsonl")
    order = [i for step in plan(encoded(pairs), 1, 4, 4, seed=0) for micro in step for i in micro]
    theirs = trl_as_it_comes(
        policy,
        pairs,
        order,
        tmp_path / "trl",
        per_device_train_batch_size=4,
        beta=0.3,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 0.7],
    )
    assert ours["loss"].to_list() == pytest.approx([r["loss"] for r in theirs], abs=1e-3)
    assert ours["grad_norm"].to_list() == pytest.approx([r["grad_norm"] for r in theirs], rel=1e-3)
    assert ours["margin"].to_list() == pytest.approx([r["rewards/margins"] for r in theirs], abs=1e-3)
    assert ours["chosen_log_prob"].to_list() == pytest.approx([r["logps/chosen"] for r in theirs], abs=1e-2)


def test_the_sequence_norm_sums_over_an_answer_and_averages_over_answers(policy: Path, run: Train, tmp_path: Path) -> None:
    pairs = some_pairs(4)
    run(pairs, bf16=False, sft_norm="sequence", sft_weight=0.5)
    first = pl.read_ndjson(tmp_path / "a/out/training.jsonl").row(0, named=True)
    examples = encoded(pairs)
    expected = -sum(e.weight * answer_log_probs(policy, e)[0] for e in examples) / 4
    assert first["sft"] == pytest.approx(expected, rel=1e-4)
    assert first["dpo"] == pytest.approx(0.6931, abs=1e-4)  # log 2: policy and reference are the same
    assert first["loss"] == pytest.approx(first["dpo"] + 0.5 * first["sft"], rel=1e-5)


def test_the_micro_batch_changes_memory_not_the_result(run: Train, tmp_path: Path) -> None:
    for micro_batch in (1, 4):
        run(some_pairs(8), into=f"m{micro_batch}", micro_batch=micro_batch, bf16=False, sft_norm="sequence")
    one, four = (pl.read_ndjson(tmp_path / f"m{m}/out/training.jsonl").to_dicts() for m in (1, 4))
    for name in ("loss", "grad_norm", "chosen_log_prob", "rejected_log_prob"):
        assert one[0][name] == pytest.approx(four[0][name], rel=1e-4)
    assert one[1]["loss"] == pytest.approx(four[1]["loss"], rel=0.02)  # Adam makes much of the smallest gradients' rounding


def test_replayed_references_join_the_sft_term(run: Train, tmp_path: Path) -> None:
    pairs, problems = some_pairs(8), some_problems(6)
    assert run(pairs, references=problems, bf16=False)["replayed"] == 6
    with_replay = pl.read_ndjson(tmp_path / "a/out/training.jsonl")
    row = with_replay.row(0, named=True)
    assert row["replay"] > 0
    assert row["loss"] == pytest.approx(row["dpo"] + row["sft"] + row["replay"], rel=1e-5)


def test_half_a_pass_replays_half_of_the_references() -> None:
    examples = encoded(some_pairs(8))
    for epochs, replayed in ((0.5, 4), (1, 8), (2, 16)):
        config = TrainSection(batch_size=2, micro_batch=2, epochs=epochs)
        job = Job(Path(), Path(), Path(), config, 0, examples, plan(examples, epochs, 2, 2, 0), examples, None, print)
        assert sum(len(job.replayed_at(step)) for step in range(len(job.steps))) == replayed


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_that_a_config_may_name_trains(loss_type: str, run: Train, tmp_path: Path) -> None:
    run(some_pairs(4), loss_type=loss_type)
    losses = pl.read_ndjson(tmp_path / "a/out/training.jsonl")["loss"]
    assert len(losses) == 1
    assert losses.is_finite().all()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_reference_is_the_policy_of_the_iteration_before(method: str, policy: Path, run: Train, tmp_path: Path) -> None:
    pairs, start = some_pairs(6), policy
    examples = encoded(pairs)
    for iteration in ("1", "2"):
        summary = run(pairs, start=start, into=iteration, method=method, learning_rate=0.02, epochs=3, bf16=False)
        assert summary["reference_gap"] < 1e-3
        used = pl.read_parquet(next((tmp_path / iteration / "work").glob("reference-*.parquet"))).sort("example", "answer")
        sums = used["log_probs"].list.sum().to_list()
        for i, e in enumerate(examples):
            assert sums[2 * i : 2 * i + 2] == pytest.approx(answer_log_probs(start, e), abs=0.01)
        moved = [answer_log_probs(tmp_path / iteration / "out", e)[0] - answer_log_probs(start, e)[0] for e in examples]
        assert max(map(abs, moved)) > 1  # while the iterations' policies are nats apart
        start = tmp_path / iteration / "out"


def test_a_reference_that_is_not_the_policy_before_is_refused(run: Train, tmp_path: Path) -> None:
    run(some_pairs(4))
    file = next((tmp_path / "a/work").glob("reference-*.parquet"))
    frame = pl.read_parquet(file)
    frame.with_columns(pl.col("log_probs").list.eval(pl.element() + 1e-3)).write_parquet(file)
    with pytest.raises(StageError, match="reference is not policy t-1"):
        run(some_pairs(4))


def test_updates_too_small_for_bf16_are_kept(policy: Path, run: Train, tmp_path: Path) -> None:
    """bf16 has 8 bits of mantissa: a step of 1e-6 on a weight of 0.2 rounds away unless the weights are float32."""
    run(some_pairs(4), learning_rate=1e-6)
    before, after = weights(policy), weights(tmp_path / "a/out")
    moved = total = 0
    for name, old in before.items():
        assert after[name].dtype == torch.float32
        moved += ((after[name] != old) & (after[name].bfloat16() == old.bfloat16())).sum().item()
        total += old.numel()
    assert moved > 0.2 * total


def test_a_lora_policy_is_its_adapter_merged_in_float32(policy: Path, run: Train, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run(some_pairs(4), method="lora", learning_rate=0.02)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy), tmp_path / "a/out/adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "a/out")
    ids = torch.tensor([encoded(some_pairs(1))[0].prompt])
    with torch.no_grad():
        assert (adapted(ids).logits - merged(ids).logits).abs().max() < 1e-3
        assert (adapted(ids).logits - AutoModelForCausalLM.from_pretrained(policy)(ids).logits).abs().max() > 0.1


def test_training_stops_where_chosen_answers_drift_when_asked_to(run: Train) -> None:
    summary = run(some_pairs(12), min_chosen_drift=1000.0, stop_on_drift=True)
    assert (summary["drift_alarm_step"], summary["steps"], summary["stopped_early"]) == (1, 1, "drift")
    assert run(some_pairs(12), into="b", min_chosen_drift=-1000.0, stop_on_drift=True)["drift_alarm_step"] is None


def test_a_training_that_stopped_at_a_drift_and_was_killed_stops_there_again(run: Train, tmp_path: Path) -> None:
    drifting = {"epochs": 3, "min_chosen_drift": -1e-3, "stop_on_drift": True, "loss_type": "apo_down", "sft_weight": 0.0}
    once = run(some_pairs(12), **drifting)
    before = weights(tmp_path / "a/out")
    again = run(some_pairs(12), **drifting)  # what it left is there still: its work folder goes when its artifact is safe
    assert 1 < once["drift_alarm_step"] == once["steps"] == again["steps"] < once["planned_steps"]
    assert again["resumed_from_step"] == once["steps"] - 1
    after = weights(tmp_path / "a/out")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_drift_of_short_answers_is_seen_by_the_token() -> None:
    """Six nats off 12 tokens are no 10 nats an answer, and half a nat a token. Steps without a pair say nothing."""
    rows = [{"step": i, "chosen_drift": -i, "chosen_drift_per_token": -i / 12} for i in range(1, 9)]
    rows.insert(3, {"step": 100})
    assert drift_alarm(rows, TrainSection(min_chosen_drift_per_token=-0.51)) is None
    assert drift_alarm(rows, TrainSection(min_chosen_drift_per_token=-0.49))["step"] == 8  # type: ignore[index]
    found = drift_alarm(rows, TrainSection(min_chosen_drift_per_token=-0.25))
    assert found == {"step": 6, "per": "token", "drift": pytest.approx(-4 / 12, abs=1e-3)}
    assert drift_alarm(rows, TrainSection(min_chosen_drift=-2.4, min_chosen_drift_per_token=-9)) == {
        "step": 4,
        "per": "answer",
        "drift": -2.5,
    }
    older = [{"step": 1, "chosen_drift": -11.0}]
    assert drift_alarm(older, TrainSection()) == {"step": 1, "per": "answer", "drift": -11.0}
    assert drift_alarm([{"step": 1}], TrainSection()) is None
