"""LoRA in every method: losses and gradients are those of PEFT and TRL as they come, what is merged is the sum in float32,
and one adapter goes on over its base through several trainings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from benchmarks.adapters import adapted as peft_model
from benchmarks.adapters import by_formula, by_trl, groups_of
from codelutra.config import TrainSection, WarmStartSection, in_key
from codelutra.errors import UserError
from codelutra.training import launch
from codelutra.training.bases import Base, refuse_quantised, require_means
from codelutra.training.batches import answer_examples, group_examples, plan
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import (
    SYSTEM,
    Train,
    answer_log_probs,
    answers_of,
    as_text,
    distance,
    encoded,
    place,
    some_pairs,
    some_problems,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


@pytest.fixture
def adapted(policy: Path, tmp_path: Path) -> Path:
    """The policy with an adapter beside it that does something already, and its record."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    there = shutil.copytree(policy, tmp_path / "adapted")
    set_seed(1)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(policy), config).save_pretrained(there / "adapter")
    (there / "adapter/codelutra-adapter.json").write_text('{"base": "here", "fingerprint": "f"}')
    return there


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ["preference", "supervised"])  # rft, sft and the warm start are all the latter
def test_losses_gradients_and_adapter_are_those_of_trl_and_peft(
    kind: str, adapted: Path, policy: Path, run: Train, tmp_path: Path
) -> None:
    base = {"path": str(policy), "reference": "here", "fingerprint": "f"}
    same = {"method": "lora", "bf16": False, "warmup": 0.0, "micro_batch": 4, "learning_rate": 0.02}
    same |= {"start": adapted, "base": base}
    if kind == "preference":
        asked, more = some_pairs(8), {"beta": 0.3, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}
        run(asked, sft_norm="token", sft_weight=0.7, beta=0.3, **same)
        examples, columns = encoded(asked), ("prompt", "chosen", "rejected")
    else:
        asked, more = answers_of(some_problems(8)), {}
        run(some_problems(8), epochs=1, **same)
        examples, columns = answer_examples(asked, tiny_tokenizer(), SYSTEM, 256), ("prompt", "completion")
    order = [i for step in plan(examples, 1, 4, 4, seed=0) for micro in step for i in micro]
    rows, more = as_text(asked).select(columns)[order].to_dicts(), more | {"per_device_train_batch_size": 4}
    more |= {"learning_rate": 0.02, "gradient_checkpointing": False}
    trainer, theirs = by_trl(kind, peft_model(adapted), rows, tiny_tokenizer(), tmp_path / "trl", **more)
    trainer.model.save_pretrained(tmp_path / "trl/adapter", selected_adapters=["default"])
    ours = pl.read_ndjson(tmp_path / "a/out/training.jsonl")
    assert ours.height == len(theirs) == 2
    assert ours["grad_norm"][0] == pytest.approx(theirs[0]["grad_norm"], rel=1e-3)
    assert ours["loss"].to_list() == pytest.approx([r["loss"] for r in theirs], abs=1e-3)  # the second is of trained weights
    start, a, b = (adapter_of(f / "adapter") for f in (adapted, tmp_path / "a/out", tmp_path / "trl"))
    assert a.keys() == b.keys() == start.keys()
    assert distance(a, b) < 0.02 * distance(start, b)


def test_grpo_of_an_adapter_is_its_formula_over_peft(adapted: Path, policy: Path, run: Train, tmp_path: Path) -> None:
    """Loss and gradient of the first step, where the ratio is 1, and the loss of the second, where it is not."""
    base = {"path": str(policy), "reference": "here", "fingerprint": "f"}
    same = {"method": "lora", "bf16": False, "warmup": 0.0, "batch_size": 8, "learning_rate": 2e-3, "epochs": 1}
    groups = groups_of(some_pairs(8).with_columns(problem_id=pl.format("p{}", pl.int_range(pl.len()))))
    run(groups, start=adapted, base=base, **same)
    graded = group_examples(groups, tiny_tokenizer(), SYSTEM, 256)
    steps = plan(graded, 1, 8, 2, seed=0, grouped=True)
    batches = [[graded[i] for micro in step for i in micro] for step in steps]
    theirs = by_formula(adapted, batches, 2e-3, tmp_path / "theirs")
    ours = pl.read_ndjson(tmp_path / "a/out/training.jsonl")
    assert ours.height == len(theirs) == 2
    assert ours["grad_norm"][0] == pytest.approx(theirs[0]["grad_norm"], rel=1e-3)
    assert ours["loss"].to_list() == pytest.approx([r["loss"] for r in theirs], abs=1e-3)
    assert ours["ratio"][0] == pytest.approx(1, abs=1e-4) != pytest.approx(ours["ratio"][1], abs=1e-3)
    start, a, b = (adapter_of(f) for f in (adapted / "adapter", tmp_path / "a/out/adapter", tmp_path / "theirs"))
    assert distance(a, b) < 0.02 * distance(start, b)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_policy_is_the_adapter_s_product_added_to_the_float32_base(
    bf16: bool, policy: Path, run: Train, tmp_path: Path
) -> None:
    summary = run(some_problems(4), epochs=1, method="lora", learning_rate=0.02, lora_rank=4, lora_alpha=12, bf16=bf16)
    before, after, adapter = weights(policy), weights(tmp_path / "a/out"), adapter_of(tmp_path / "a/out/adapter")
    changed = 0
    for name, old in before.items():
        a = adapter.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if a is None:
            assert torch.equal(after[name], old), name
            continue
        b = adapter[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(after[name], old + 3.0 * (b @ a), rtol=1e-5, atol=1e-6)
        changed += 1
    assert changed == 2 * 7
    assert summary.get("policy_gap", {"mean": 0.0})["mean"] < 0.05
    assert ("policy_gap" in summary) is bf16  # in float32 it is policy t-1 itself


def test_what_is_trained_and_saved_is_the_adapter_alone(run: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        run(some_problems(8), epochs=4, method="lora", stop_at=3)
    (left,) = (tmp_path / "a/work").glob("checkpoint-*")
    assert (left / "adapter_model.safetensors").is_file()
    assert not (left / "model.safetensors").exists()
    resumed = run(some_problems(8), epochs=4, method="lora")
    assert resumed["resumed_from_step"] == int(left.name.removeprefix("checkpoint-")) > 0
    run(some_problems(8), epochs=4, method="lora", into="b")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes(), name


def test_a_continued_adapter_stays_one_over_the_base_and_its_policy_is_the_reference(
    policy: Path, run: Train, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = {"path": str(policy), "reference": "hf:org/name@main", "fingerprint": "f" * 64}
    same: dict[str, Any] = {"method": "lora", "learning_rate": 0.02, "bf16": False, "base": base}
    run(some_problems(6), into="0", epochs=2, **same)  # the warm start
    start, pairs = tmp_path / "0/out", some_pairs(6)
    summary = run(pairs, into="1", start=start, epochs=2, **same)
    assert summary["reference_gap"] < 1e-3
    assert summary["policy_gap"]["largest"] < 1e-3  # base + adapter is the merged policy before
    used = pl.read_parquet(next((tmp_path / "1/work").glob("reference-*.parquet"))).sort("example", "answer")
    for sums, example in zip(used["log_probs"].list.sum().to_list()[::2], encoded(pairs), strict=True):
        assert sums == pytest.approx(answer_log_probs(start, example)[0], abs=0.01)
    moved = [abs(answer_log_probs(policy, e)[0] - answer_log_probs(start, e)[0]) for e in encoded(pairs)]
    assert max(moved) > 1  # else the adapter might as well have been left out
    out = tmp_path / "1/out"
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy), out / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.tensor([encoded(pairs)[0].prompt])
    with torch.no_grad():
        assert (adapted(ids).logits - merged(ids).logits).abs().max() < 1e-3
    said = json.loads((out / "adapter/codelutra-adapter.json").read_text())
    assert said == {"base": "hf:org/name@main", "fingerprint": "f" * 64, "method": "lora"}
    assert json.loads((out / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "org/name"


def test_gradient_checkpointing_changes_memory_not_the_weights(run: Train, tmp_path: Path) -> None:
    for name, asked in (("a", None), ("b", True)):
        made = run(some_pairs(4), into=name, method="lora", bf16=False, gradient_checkpointing=asked)
        assert made["gradient_checkpointing"] is bool(asked)
    ours, theirs = weights(tmp_path / "a/out"), weights(tmp_path / "b/out")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_the_float32_check_sees_the_values_of_a_rounded_model(policy: Path) -> None:
    from codelutra.training.worker.log_probs import load_causal
    from codelutra.training.worker.precision import in_float32

    rounded, ids = load_causal(str(policy), torch.bfloat16), torch.tensor([[17, 40, 99, 200]])
    same = load_causal(str(policy), torch.bfloat16).float()
    before = {name: p.clone() for name, p in rounded.named_parameters()}
    with torch.no_grad():
        expected, low = same(ids).logits, rounded(ids).logits
        with in_float32(rounded):
            assert torch.equal(rounded(ids).logits, expected)
            assert rounded.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16  # it was in float32 in its turn only
    assert (low - expected).abs().max() > 1e-3
    assert all(torch.equal(p, before[name]) and p.dtype == torch.bfloat16 for name, p in rounded.named_parameters())


def test_an_adapter_that_trl_rounds_is_in_float32_again_and_has_no_copy(policy: Path) -> None:
    from peft import get_peft_model

    from codelutra.training.worker.adapters import load_policy, lora, settle

    model = get_peft_model(load_policy(policy, dtype=torch.bfloat16), lora(4, 8))
    model.add_adapter("ref", lora(4, 8))
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.bfloat16()
    settle(model)
    assert {p.dtype for p in trained} == {torch.float32}
    assert list(model.peft_config) == ["default"]
    assert [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n] == []


@pytest.fixture
def continued(policy: Path, tmp_path: Path) -> Path:
    """A policy directory with an adapter that says what it belongs to."""
    there = shutil.copytree(policy, tmp_path / "continued")
    (there / "adapter").mkdir()
    (there / "adapter/adapter_config.json").write_text("{}")
    (there / "adapter/codelutra-adapter.json").write_text('{"base": "hf:a/b@c", "fingerprint": "1234567890abcdef"}')
    return there


def refused(training: launch.Training, match: str, method: Any = "lora") -> None:
    with pytest.raises(UserError, match=match):
        launch.warm_start(training, some_problems(4), WarmStartSection(method=method))
    assert not training.work.exists()  # refused before anything is written


def test_an_adapter_of_another_base_is_refused(continued: Path, policy: Path, tmp_path: Path) -> None:
    base = Base(policy, "hf:x/y@z", "fedcba")
    here = place(continued, tmp_path)
    training = launch.Training(**(vars(here) | {"base": base}))
    refused(training, r"belongs to 'hf:a/b@c' \(fingerprint '1234567890ab'\), not to hf:x/y@z \(fingerprint fedcba\)")
    (continued / "adapter/codelutra-adapter.json").write_text('["no record"]')
    refused(training, "belongs to nobody knows what, not to hf:x/y@z")
    shutil.rmtree(continued / "adapter")
    refused(training, "has no adapter to go on with")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_quantised_weights_are_not_trained(method: str, policy: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(policy, tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (odd / "config.json").write_text(json.dumps(config))
    refused(place(odd, tmp_path), r"are quantised \(quantization_config: 'awq'\)", method)
    refuse_quantised(policy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_qlora_needs_a_gpu(policy: Path, tmp_path: Path) -> None:
    refused(place(policy, tmp_path), "method qlora: bitsandbytes quantises on an NVIDIA GPU, and none", "qlora")
    require_means("lora")


def test_a_default_of_these_fields_is_in_no_key() -> None:
    """So what was trained before there was a choice is found again."""
    assert {"method", "lora_rank", "lora_alpha"} & set(in_key(WarmStartSection())) == set()
    assert "adapter" not in in_key(TrainSection())
    assert in_key(WarmStartSection(method="lora", lora_rank=8))["lora_rank"] == 8
    assert in_key(TrainSection(method="lora", adapter="continued"))["adapter"] == "continued"


@pytest.mark.parametrize(
    ("config", "ways"),
    [
        ({"method": "full", "gradient_checkpointing": None}, ["gradient_checkpointing", "lora", "qlora"]),
        ({"method": "lora", "gradient_checkpointing": True}, ["qlora"]),
        ({"method": "qlora", "gradient_checkpointing": False}, ["gradient_checkpointing"]),
        ({"method": "lora", "gradient_checkpointing": True, "processes": 2}, ["sharding", "qlora"]),
        ({"method": "full", "gradient_checkpointing": True, "processes": 2, "sharding": "full"}, ["lora", "qlora"]),
    ],
)
def test_out_of_memory_names_what_is_left_to_try(config: dict[str, Any], ways: list[str]) -> None:
    said = " ".join(launch._less_memory(TrainSection(**config).model_dump()))
    assert [w for w in ("gradient_checkpointing", "sharding", " lora", "qlora") if w in said] == [
        w if w != "lora" else " lora" for w in ways
    ]


def test_activations_are_counted_of_the_largest_micro_batch(policy: Path) -> None:
    from transformers import AutoConfig

    from codelutra.training.checkpoints import Job
    from codelutra.training.worker.precision import activation_bytes

    examples, config = encoded(some_pairs(8)), AutoConfig.from_pretrained(policy)
    sizes = []
    for micro in (1, 4):
        section = TrainSection(batch_size=4, micro_batch=micro)
        job = Job(policy, policy, policy, section, 0, examples, plan(examples, 1, 4, micro, 0), [], None, print, bf16=False)
        sizes.append(activation_bytes(job, config))
    assert 2 < sizes[1] / sizes[0] <= 4
    longest = max(examples, key=lambda e: e.tokens)
    wide, deep = config.hidden_size, config.intermediate_size
    a_token = config.num_hidden_layers * (4 * (4 * wide + 4 * deep) + 16 * wide)
    assert sizes[0] == pytest.approx(a_token * longest.tokens + 12 * 512 * sum(map(len, longest.answers)), rel=0.1)
