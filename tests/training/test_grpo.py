"""GRPO on groups of a tiny real model: the loss is TRL's, the old policy is policy t-1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from codelutra.config import GrpoSection, TrainSection
from codelutra.errors import StageError
from codelutra.training import launch as train
from codelutra.training.batches import group_examples, plan
from codelutra.training.checkpoints import Job
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import SMALL, SYSTEM, Train, answer_log_probs, distance, place, some_groups, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other
VARIANTS = [
    {"loss": "dapo"},
    {"loss": "grpo", "epsilon_high": 0.4},
    {"loss": "bnpo", "kl": 0.3},
    {"loss": "dr_grpo", "importance_sampling_level": "sequence", "epsilon": 0.05},
    {"loss": "grpo", "importance_sampling_level": "sequence", "kl": 0.1},
]


def records(at: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (at / "out/training.jsonl").read_text().splitlines()]


def as_trl_wants(examples: list[Any], old: list[list[float]]) -> dict[str, Any]:
    """A batch of TRL's GRPOTrainer: prompts padded on the left, answers on the right; each sample a row of its own."""
    rows = [(e, values) for e, values in zip(examples, old, strict=True) for _ in range(int(e.weight))]
    wide, long = max(len(e.prompt) for e, _ in rows), max(len(e.answers[0]) for e, _ in rows)

    def padded(values: list[Any], size: int, left: bool = False) -> list[Any]:
        rest = [0] * (size - len(values))
        return rest + values if left else values + rest

    logps = torch.tensor([padded(values, long) for _, values in rows])
    return {
        "prompt_ids": torch.tensor([padded(e.prompt, wide, left=True) for e, _ in rows]),
        "prompt_mask": torch.tensor([padded([1] * len(e.prompt), wide, left=True) for e, _ in rows]),
        "completion_ids": torch.tensor([padded(e.answers[0], long) for e, _ in rows]),
        "completion_mask": torch.tensor([padded([1] * len(e.answers[0]), long) for e, _ in rows]),
        "advantages": torch.tensor([e.advantage for e, _ in rows]),
        "old_per_token_logps": logps,
        "ref_per_token_logps": logps,
        "num_items_in_batch": torch.tensor(float(sum(len(e.answers[0]) for e, _ in rows))),
    }


def trl_as_it_comes(policy: Path, out: Path) -> Any:
    """TRL's own GRPOTrainer, that has not drawn anything."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    size = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 64}
    args = GRPOConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", **size)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    data = {"train_dataset": Dataset.from_list([{"prompt": "x"}]), "processing_class": tiny_tokenizer()}
    trainer = GRPOTrainer(model, lambda **_: [0.0], args=args, **data)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def ours_as_it_comes(policy: Path, groups: pl.DataFrame, work: Path) -> Any:
    """Our trainer before its first step: one batch of one micro-batch."""
    from codelutra.training.worker.adapters import load_policy
    from codelutra.training.worker.grpo import Grpo

    examples, config = [*group_examples(groups, tiny_tokenizer(), SYSTEM, 256)], TrainSection(objective="grpo")
    steps, emit = [[list(range(len(examples)))]], lambda event: None
    work.mkdir()
    settings = config.model_copy(update={"learning_rate": 1e-3})
    job = Job(policy, work, work, settings, 0, examples, steps, [], tiny_tokenizer(), emit, False, group=GrpoSection())
    job.max_tokens = 64
    trainer = Grpo(job, load_policy(policy))
    trainer.prepare()
    return trainer


def gradient(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_loss_and_gradient_are_those_of_trl_whatever_the_variant(policy: Path, tmp_path: Path) -> None:
    """Away from the old policy, so that ratios are clipped; each of an answer's samples is a row of TRL's batch."""
    ours = ours_as_it_comes(policy, some_groups(3, count=2), tmp_path / "work")
    theirs, micro = trl_as_it_comes(policy, tmp_path / "trl"), ours.job.steps[0][0]
    assert ours.collate(micro)["reference"].shape[0] == 12
    draw = torch.Generator().manual_seed(0)
    ours.reference = {k: v + 0.6 * torch.randn(v.shape, generator=draw) for k, v in ours.reference.items()}
    batch = as_trl_wants(ours.job.examples, [ours.reference[i, 0].tolist() for i in micro])
    ours.state.global_step, losses = 1, list[float]()
    ours.before_step(0, [micro])
    for variant in VARIANTS:
        ours.config = section = GrpoSection(**variant)
        ours.parts, more = list[dict[str, float]](), {"advantages": batch["advantages"]}
        loss = ours.compute_loss(ours.model, ours.collate(micro))
        assert 0.02 < ours.parts[0]["clip_fraction"] < 0.98, "else this test would see too little"
        theirs.loss_type, theirs.beta = section.loss, section.kl
        theirs.epsilon_low, theirs.epsilon_high = section.epsilon, section.epsilon_high or section.epsilon
        theirs.importance_sampling_level = section.importance_sampling_level
        wanted = theirs._compute_loss(theirs.model, batch | more)
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-5), variant
        mine, its = gradient(ours.model, loss), gradient(theirs.model, wanted)
        for name, grad in mine.items():
            assert torch.allclose(grad, its[name], rtol=1e-3, atol=1e-4), (variant, name)
        losses.append(loss.item())
    assert len({round(loss, 4) for loss in losses}) == len(VARIANTS)


@pytest.mark.parametrize("loss", ["dapo", "bnpo"])
def test_the_micro_batch_changes_memory_not_the_result_but_for_bnpo(loss: Any, run: Train, tmp_path: Path) -> None:
    for size in (4, 12):
        run(some_groups(3), into=f"{size}", grpo=GrpoSection(loss=loss, kl=0.1), batch_size=12, micro_batch=size, bf16=False)
    four, twelve = (records(tmp_path / size)[0] for size in ("4", "12"))
    for name in ("ratio", "reward", "entropy", "positive_advantage", "wrong_drift"):
        assert four[name] == pytest.approx(twelve[name], rel=1e-4, abs=1e-5), name
    assert (four["grad_norm"] == pytest.approx(twelve["grad_norm"], rel=1e-4)) == (loss == "dapo")


def test_an_answer_of_two_samples_is_two_answers(run: Train, tmp_path: Path) -> None:
    """Counted once with weight 2, or as two rows: the same step, at half the cost."""
    groups = some_groups(2, count=2)
    apart = pl.concat([groups.filter(pl.col("count") > i) for i in (0, 1)]).with_columns(count=pl.lit(1, pl.Int32))
    for into, frame, size in (("a", groups, 8), ("b", apart, 12)):
        run(frame, into=into, bf16=False, batch_size=size, micro_batch=size, epochs=1)
    ours, theirs = records(tmp_path / "a")[0], records(tmp_path / "b")[0]
    for name in ("loss", "grad_norm", "entropy", "reward", "positive_advantage"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    assert ours["tokens"] < theirs["tokens"]


def test_right_answers_become_likelier_and_wrong_ones_less_likely(policy: Path, run: Train, tmp_path: Path) -> None:
    groups = some_groups(3)
    facts = run(groups, epochs=3, batch_size=4, bf16=False)
    rows = records(tmp_path / "a")
    assert (facts["steps"], facts["examples"]) == (9, 12)
    assert facts["reference_gap"] < 1e-3
    assert facts["shared_prefixes"]
    assert rows[-1]["right_drift"] > 0 > rows[-1]["wrong_drift"]
    assert rows[0]["positive_advantage"] == pytest.approx(-rows[0]["negative_advantage"])
    right = next(e for e in group_examples(groups, tiny_tokenizer(), SYSTEM, 256) if e.reward)
    assert answer_log_probs(tmp_path / "a/out", right)[0] > answer_log_probs(policy, right)[0] + 1


def test_without_negative_weight_only_right_answers_have_a_gradient(run: Train, tmp_path: Path) -> None:
    groups = some_groups(3)
    run(groups, bf16=False, grpo=GrpoSection(negative_weight=0.0, loss="dr_grpo"), batch_size=12, micro_batch=12)
    only_right = groups.with_columns(advantage=pl.when(pl.col("reward") > 0).then("advantage").otherwise(0.0))
    run(only_right, into="b", bf16=False, grpo=GrpoSection(loss="dr_grpo"), batch_size=12, micro_batch=12)
    ours, theirs = records(tmp_path / "a")[0], records(tmp_path / "b")[0]
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert ours["negative_advantage"] == 0


def test_an_old_policy_that_is_not_the_policy_before_is_refused(run: Train, tmp_path: Path) -> None:
    run(some_groups(2), batch_size=8)
    file = next((tmp_path / "a/work").glob("reference-*.parquet"))
    frame = pl.read_parquet(file)
    frame.with_columns(pl.col("log_probs").list.eval(pl.element() + 1e-3)).write_parquet(file)
    with pytest.raises(StageError, match="reference is not policy t-1"):
        run(some_groups(2), batch_size=8)


def test_answers_too_long_are_left_out_and_counted(run: Train) -> None:
    groups = some_groups(3)
    long = groups.with_columns(
        completion=pl.when(pl.col("status") == "wrong").then(pl.lit("1 + " * 200)).otherwise("completion")
    )
    facts = run(long)
    assert (facts["examples"], facts["too_long"]) == (3, 9)
    with pytest.raises(StageError, match="all 12 answers are longer than max_length 16"):
        run(groups, max_length=16)


def test_no_groups_end_cleanly(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no groups to train on"):
        train.grpo(place(policy, tmp_path), some_groups(0), TrainSection(), GrpoSection(), 64)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_group_loss_is_not_continued() -> None:
    examples, keys = group_examples(some_groups(3), tiny_tokenizer(), SYSTEM, 256), set[str]()
    sections = [{}, {"epsilon": 0.1}, {"kl": 0.1}, {"loss": "bnpo"}, {"negative_weight": 0.5}]
    for given in sections:
        config = TrainSection(objective="grpo", batch_size=4, micro_batch=2)
        steps = plan([*examples], 1, 4, 2, 0, grouped=True)
        keys.add(Job(Path(), Path(), Path(), config, 0, [*examples], steps, [], None, print, group=GrpoSection(**given)).key)
    assert len(keys) == len(sections)


def test_a_training_that_was_cut_short_goes_on_from_its_checkpoint_to_the_same_weights(run: Train, tmp_path: Path) -> None:
    run(some_groups(4), into="whole", bf16=False)
    with pytest.raises(StageError, match="enough"):
        run(some_groups(4), bf16=False, until=2)
    assert run(some_groups(4), bf16=False)["resumed_from_step"] == 2
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "whole/out/model.safetensors").read_bytes()


@pytest.mark.timeout(900)  # three processes import torch on what may be two busy cores
def test_two_processes_train_what_one_does(policy: Path, run: Train, tmp_path: Path) -> None:
    groups, settings = some_groups(4, count=2), {"epochs": 1.5, "learning_rate": 1e-4}
    run(groups, bf16=False, **settings)
    here = place(policy, tmp_path / "two")
    config = TrainSection(objective="grpo", **SMALL | settings | {"processes": 2})
    more = {"grpo": GrpoSection().model_dump(mode="json"), "max_tokens": 64, "bf16": False}
    two = train._run(here, train._spec("grpo", here, config) | more, groups)
    assert two["reference_gap"] < 1e-3
    ours, theirs = records(tmp_path / "two"), records(tmp_path / "a")
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, 7))
    for name in theirs[0].keys() - {"seconds", "tokens_per_second"}:
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-4, abs=1e-5), name
    a, b, start = weights(tmp_path / "two/out"), weights(tmp_path / "a/out"), weights(policy)
    assert distance(a, b) < 0.02 * distance(start, b)
