"""Training, on a tiny real model through the real TRL: what loss, reference, checkpoints and process promise.

Most tests run the trainer in this process (importing TRL takes longer than training the tiny model); those about the
process itself start it.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch

from codelutra.config import TrainSection, WarmStartSection
from codelutra.errors import StageError, UserError
from codelutra.schema import PAIRS, PROBLEMS
from codelutra.training import launch as train
from codelutra.training.batches import Example, pair_examples, plan
from codelutra.training.checkpoints import Job
from codelutra.training.worker import prefix_sharing as prefixes
from tests.helpers.tiny_model import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other
SYSTEM = "Write SQL."
TABLES = {"shop": "product(id, name, price)", "school": "pupil(id, name, age, town)"}
Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("policy"))


def some_pairs(count: int) -> pl.DataFrame:
    """Two problems' worth of schema, `count` pairs, answers that begin alike, one chosen answer used twice."""
    rows = []
    for i in range(count):
        table = list(TABLES)[i % 2]
        asked = 0 if i == 2 else i  # pairs 0 and 2 are of one problem and share their chosen answer
        rows.append(
            {
                "problem_id": f"p{asked}",
                "prompt": f"{TABLES[table]}\nhow many {table} things cost {asked}?",
                "chosen": f"SELECT count(*) FROM {table} WHERE price = {asked}",
                "rejected": f"SELECT {'id, ' * (i % 4)}name FROM {table}",
                "chosen_source": "sample",
                "rejected_status": "wrong",
                "chosen_sample": 0,
                "rejected_sample": i,
                "rejected_ended": True,
            }
        )
    return pl.DataFrame(rows, schema=PAIRS)


def some_problems(count: int) -> pl.DataFrame:
    same = {"split": "train", "language": "sql", "group": "shop", "difficulty": "", "judge": ""}
    rows = [
        {"problem_id": f"q{i}", "prompt": f"{TABLES['shop']}\nwhich cost {i}?", "reference": f"SELECT name WHERE price={i}"}
        for i in range(count)
    ]
    return pl.DataFrame([row | same for row in rows], schema=PROBLEMS)


SMALL = {"batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3, "checkpoint_steps": 1, "max_length": 256}


@pytest.fixture
def run(policy: Path, tmp_path: Path) -> Train:
    """Train in this process. `into` names the folders, so the same name continues."""
    from codelutra.training.worker.train import train as in_process

    def go(
        examples: pl.DataFrame,
        *,
        start: Path = policy,
        into: str = "a",
        references: pl.DataFrame | None = None,
        bf16: bool | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        kind, section = ("preference", TrainSection) if "chosen" in examples.columns else ("supervised", WarmStartSection)
        work = tmp_path / into / "work"
        work.mkdir(parents=True, exist_ok=True)
        (examples if kind == "preference" else answers_of(examples)).write_parquet(work / "examples.parquet")
        spec = {
            "kind": kind,
            "policy": str(start),
            "system": SYSTEM,
            "seed": 0,
            "bf16": bf16,
            "config": section(**(SMALL | settings)).model_dump(mode="json"),
            "out": str(tmp_path / into / "out"),
            "work": str(work),
            "examples": str(work / "examples.parquet"),
        }
        if references is not None:
            spec["references"] = str(work / "references.parquet")
            answers_of(references).write_parquet(work / "references.parquet")
        return in_process(spec, lambda event: None)

    return go


def answers_of(problems: pl.DataFrame) -> pl.DataFrame:
    return problems.select("problem_id", "prompt", completion="reference")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def answer_log_probs(folder: Path, example: Example) -> list[float]:
    """Sums over each answer's tokens under the policy in `folder`, by plain transformers in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums = []
    with torch.no_grad():
        for answer in example.answers:
            logits = model(torch.tensor([example.prompt + answer])).logits[0, len(example.prompt) - 1 : -1]
            sums.append(logits.log_softmax(-1)[range(len(answer)), answer].sum().item())
    return sums


def encoded(pairs: pl.DataFrame) -> list[Example]:
    return pair_examples(pairs, tiny_tokenizer(), SYSTEM, 256)


# shared prefixes


def random_sequences(seed: int) -> tuple[list[list[int]], list[int]]:
    """Sequences that share beginnings of all lengths, twins and prefixes of each other among them."""
    draw = random.Random(seed)
    sequences = [[draw.randrange(512) for _ in range(draw.randint(3, 40))] for _ in range(3)]
    while len(sequences) < 14:
        start = draw.choice(sequences)
        sequences.append(start[: draw.randint(2, len(start))] + [draw.randrange(512) for _ in range(draw.randint(0, 30))])
    sequences.append(list(sequences[0]))
    return sequences, [draw.randint(1, len(s) - 1) for s in sequences]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block_cost", [0, 500, 10**9])
def test_sharing_prefixes_changes_neither_log_probabilities_nor_gradients(
    policy: Path, seed: int, block_cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prefixes.BLOCK_COST, "cpu", block_cost)
    sequences, prompts = random_sequences(seed)
    model = prefixes.load_causal(str(policy), sharing=True)
    shared = prefixes.forest_log_probs(model, sequences, prompts)[0]
    each = [
        model(torch.tensor([s])).logits[0].log_softmax(-1)[range(p - 1, len(s) - 1), s[p:]]
        for s, p in zip(sequences, prompts, strict=True)
    ]
    plain = torch.cat(each)
    assert (shared - plain).abs().max() < 1e-4
    pull = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
    gradients = [torch.autograd.grad((values * pull).sum(), list(model.parameters())) for values in (shared, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-3 * max(1.0, theirs.abs().max().item())


def test_a_forest_holds_every_shared_token_once() -> None:
    forest = prefixes.grow([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [7], [1, 2]])
    assert sorted(forest.tokens) == [1, 2, 3, 4, 5, 7]
    for sequence, path in zip([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [7], [1, 2]], forest.paths, strict=True):
        assert [forest.tokens[slot] for slot in path] == sequence
        assert [forest.positions[slot] for slot in path] == list(range(len(sequence)))


def test_a_model_with_a_sliding_window_is_trained_without_sharing(tmp_path: Path, run: Train) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
        eos_token_id=2,
        pad_token_id=0,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    tiny_tokenizer().save_pretrained(tmp_path / "mistral")
    summary = run(some_pairs(4), start=tmp_path / "mistral")
    assert not summary["shared_prefixes"]
    assert summary["reference_gap"] < 1e-3


# batches


def test_every_example_is_met_once_an_epoch_in_even_batches() -> None:
    examples = [Example(str(i), [i % 3, i], ([1],)) for i in range(17)]
    steps = plan(examples, 2, batch_size=8, micro_batch=3, seed=1)
    first, second = steps[:3], steps[3:]
    assert sorted(i for step in first for micro in step for i in micro) == list(range(17))
    assert sorted(map(str, first)) == sorted(map(str, second))  # the same batches, so the same reference log-probabilities
    assert {sum(map(len, step)) for step in steps} == {5, 6}
    assert max(len(micro) for step in steps for micro in step) <= 3
    assert plan(examples, 2, 8, 3, seed=1) == steps != plan(examples, 2, 8, 3, seed=2)
    assert len(plan(examples, 0.5, 8, 3, seed=1)) == 2


@pytest.mark.parametrize(("micro_batch", "processes"), [(3, 2), (1, 2), (8, 3), (2, 5)])
def test_every_process_gets_as_many_micro_batches_of_a_step(micro_batch: int, processes: int) -> None:
    examples = [Example(str(i), [i % 3, i], ([1],)) for i in range(17)]
    for step in plan(examples, 2, batch_size=8, micro_batch=micro_batch, seed=1, processes=processes):
        assert len(step) % processes == 0
        assert all(step), "a process without work would wait for nothing, and the others for it"
    with pytest.raises(ValueError, match="a batch of 5 for 6 processes"):
        plan(examples, 1, 8, 3, seed=1, processes=6)


def test_examples_that_begin_alike_meet_in_a_micro_batch() -> None:
    examples = [Example(str(i), [i % 2] * 10, ([i],)) for i in range(16)]
    for micro in plan(examples, 1, batch_size=16, micro_batch=8, seed=0)[0]:
        assert len({tuple(examples[i].prompt) for i in micro}) == 1


def test_a_batch_mixes_schemas_of_which_a_micro_batch_has_one() -> None:
    schemas = [[schema] * 30 + [question, 99] for schema in range(8) for question in range(100, 108)]
    examples = [Example(str(i), prompt, ([i],)) for i, prompt in enumerate(schemas)]
    for step in plan(examples, 1, batch_size=16, micro_batch=4, seed=0):
        assert [len({examples[i].prompt[0] for i in micro}) for micro in step] == [1, 1, 1, 1]
        assert len({examples[i].prompt[0] for micro in step for i in micro}) > 1


def test_an_answer_that_was_cut_off_gets_no_end_token() -> None:
    pairs, end = some_pairs(4), tiny_tokenizer().eos_token_id
    cut = pl.int_range(pl.len()) == 1
    found = encoded(pairs.with_columns(rejected_ended=~cut))
    assert [e.answers[1].count(end) for e in found] == [1, 0, 1, 1]
    assert [e.answers[1][-1] == end for e in found] == [True, False, True, True]
    assert all(e.answers[0][-1] == end and e.answers[0].count(end) == 1 for e in found)


def test_an_answer_chosen_in_k_pairs_weighs_as_one() -> None:
    examples = encoded(some_pairs(6))
    by_answer: dict[tuple[str, str], float] = {}
    for e in examples:
        key = (e.problem_id, str(e.answers[0]))
        by_answer[key] = by_answer.get(key, 0) + e.weight
    assert len(by_answer) == 5
    assert set(by_answer.values()) == {6 / 5}
    assert sum(e.weight for e in examples) == pytest.approx(len(examples))


# the loss


def trl_as_it_comes(policy: Path, pairs: pl.DataFrame, order: list[int], out: Path, **more: Any) -> list[dict[str, float]]:
    """TRL's own DPOTrainer on the same pairs, as text, in the given order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    tokenizer = tiny_tokenizer()
    rows = pairs[order].to_dicts()
    for row in rows:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}]
        row["prompt"] = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    dataset = Dataset.from_list([{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in rows])
    args = DPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        learning_rate=1e-3,
        optim="adamw_torch_fused",
        **more,
    )
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    trainer = DPOTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return [row for row in trainer.state.log_history if "grad_norm" in row]


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
    run(pairs, bf16=False, sft_weight=0.5)
    first = pl.read_ndjson(tmp_path / "a/out/training.jsonl").row(0, named=True)
    examples = encoded(pairs)
    expected = -sum(e.weight * answer_log_probs(policy, e)[0] for e in examples) / 4
    assert first["sft"] == pytest.approx(expected, rel=1e-4)
    assert first["dpo"] == pytest.approx(0.6931, abs=1e-4)  # log 2: policy and reference are the same
    assert first["loss"] == pytest.approx(first["dpo"] + 0.5 * first["sft"], rel=1e-5)


def test_the_micro_batch_changes_memory_not_the_result(run: Train, tmp_path: Path) -> None:
    for micro_batch in (1, 4):
        run(some_pairs(8), into=f"m{micro_batch}", micro_batch=micro_batch, bf16=False)
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


def test_a_checkpoint_of_another_loss_is_not_continued() -> None:
    """With the token mean a micro-batch of another size is another loss; else it is memory alone."""
    examples, keys = encoded(some_pairs(8)), dict[tuple[str, int], str]()
    for norm in ("sequence", "token"):
        for micro_batch in (1, 4):
            config = TrainSection(batch_size=4, micro_batch=micro_batch, sft_norm=norm)
            steps = plan(examples, 1, 4, micro_batch, 0)
            keys[norm, micro_batch] = Job(Path(), Path(), Path(), config, 0, examples, steps, [], None, print).key
    assert keys["sequence", 1] == keys["sequence", 4]
    assert keys["token", 1] != keys["token", 4]


LOSSES = get_args(TrainSection.model_fields["loss_type"].annotation)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_that_a_config_may_name_trains(loss_type: str, run: Train, tmp_path: Path) -> None:
    run(some_pairs(4), loss_type=loss_type)
    losses = pl.read_ndjson(tmp_path / "a/out/training.jsonl")["loss"]
    assert len(losses) == 1
    assert losses.is_finite().all()


def test_the_same_seed_gives_the_same_bytes(run: Train, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(some_pairs(8), into=name)
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "b/out/model.safetensors").read_bytes()


# the reference model


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


# supervised


def test_a_warm_start_learns_the_references(policy: Path, run: Train, tmp_path: Path) -> None:
    problems = some_problems(8)
    summary = run(problems, epochs=8, learning_rate=1e-2)
    assert summary["last_loss"] < 0.5 * summary["first_loss"]
    for kept in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "a/out" / kept).read_bytes() == (policy / kept).read_bytes()


# what can go wrong


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


def test_training_stops_where_chosen_answers_drift_when_asked_to(run: Train) -> None:
    summary = run(some_pairs(12), min_chosen_drift=1000.0, stop_on_drift=True)
    assert (summary["drift_alarm_step"], summary["steps"], summary["stopped_early"]) == (1, 1, "drift")
    assert run(some_pairs(12), into="b", min_chosen_drift=-1000.0, stop_on_drift=True)["drift_alarm_step"] is None


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


def test_no_pairs_end_cleanly(policy: Path, tmp_path: Path) -> None:
    folders = {"out": tmp_path / "out", "work": tmp_path / "work", "log": tmp_path / "log", "lock": tmp_path / "lock"}
    with pytest.raises(StageError, match="no pairs to train on"):
        train.refine(policy, some_pairs(0), system=SYSTEM, config=TrainSection(), seed=0, **folders)
    assert not (tmp_path / "out").exists()


# the process

PARENT = """
import json, sys
from pathlib import Path
import polars as pl
from codelutra.training import launch as train
from codelutra.config import TrainSection

at = Path(sys.argv[1])
summary = train.refine(Path(sys.argv[2]), pl.read_parquet(at / "pairs.parquet"), system="Write SQL.", seed=0, out=at / "out",
    config=TrainSection(**json.loads(sys.argv[3])), work=at / "work", log=at / "log", lock=at / "lock",
    progress=lambda done, total, more: print(json.dumps([done, total, more]), flush=True))
print(json.dumps(summary), flush=True)
"""


def parent(at: Path, policy: Path, **settings: Any) -> subprocess.Popen[str]:
    at.mkdir(exist_ok=True)
    some_pairs(12).write_parquet(at / "pairs.parquet")
    command = [sys.executable, "-c", PARENT, str(at), str(policy), json.dumps(SMALL | settings)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def until_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        done, _, more = json.loads(line)
        if more["doing"] == "progress" and done >= step:
            return
    raise AssertionError(f"ended before step {step}")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_training_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(
    method: str, policy: Path, run: Train, tmp_path: Path
) -> None:
    interrupted = parent(tmp_path / "k", policy, epochs=3, method=method)
    until_step(interrupted, 4)
    child = child_of(interrupted.pid)
    interrupted.send_signal(signal.SIGKILL)
    interrupted.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)  # and with it went the lock and the memory

    half = tmp_path / "k/work/checkpoint-99"  # a kill in the middle of writing one leaves something like this
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")

    again = parent(tmp_path / "k", policy, epochs=3, method=method)
    lines = [json.loads(line) for line in again.communicate()[0].splitlines()]
    summary = lines[-1]
    assert summary["resumed_from_step"] in (3, 4, 5)
    assert [m[0] for m in lines[:-1] if m[2]["doing"] == "progress"] == list(range(summary["resumed_from_step"] + 1, 10))
    run(some_pairs(12), epochs=3, method=method)  # without interruption
    ours, theirs = weights(tmp_path / "k/out"), weights(tmp_path / "a/out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert pl.read_ndjson(tmp_path / "k/out/training.jsonl")["step"].to_list() == list(range(1, 10))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_killed_for_memory_is_tried_again_at_half_the_micro_batch(
    processes: int, policy: Path, tmp_path: Path
) -> None:
    """The kernel's answer to too little memory is SIGKILL to the process that asks."""
    process = parent(tmp_path / "o", policy, epochs=2, processes=processes)
    until_step(process, 2)
    asks = child_of(process.pid)
    os.kill(asks if processes == 1 else child_of(asks), signal.SIGKILL)
    summary = json.loads(process.communicate()[0].splitlines()[-1])
    assert summary["micro_batch"] == SMALL["micro_batch"] // 2
    assert summary["resumed_from_step"] in (1, 2, 3)
    assert summary["steps"] == 6


def launched(at: Path, policy: Path, pairs: pl.DataFrame, references: pl.DataFrame, **settings: Any) -> dict[str, Any]:
    """As `run`, in processes of their own."""
    at.mkdir(exist_ok=True)
    config = TrainSection(**(SMALL | settings))
    spec = train._spec("preference", policy, SYSTEM, config, 0, at / "out") | {"bf16": False, "lock": str(at / "lock")}
    return train._run(spec, pairs, answers_of(references), at / "work", at / "log", at / "lock", None)


@pytest.mark.timeout(900)  # three processes import torch on what may be two busy cores
@pytest.mark.parametrize(
    "settings", [{}, {"method": "lora", "learning_rate": 0.02, "sft_norm": "token"}], ids=["full", "lora"]
)
def test_two_processes_train_what_one_does(policy: Path, run: Train, tmp_path: Path, settings: dict[str, Any]) -> None:
    problems, same = some_problems(7), {"epochs": 1.5, "replay_references": True, "learning_rate": 1e-4} | settings
    one = run(some_pairs(13), references=problems, bf16=False, **same)
    two = launched(tmp_path / "two", policy, some_pairs(13), problems, processes=2, **same)
    assert two["steps"] == one["steps"] == 6
    assert two["reference_gap"] < 1e-3
    ours, theirs = (pl.read_ndjson(tmp_path / into / "out/training.jsonl") for into in ("two", "a"))
    assert ours["step"].to_list() == list(range(1, 7)), "one record a step, by one of them"
    first = [c for c in theirs.columns if c not in ("seconds", "tokens_per_second")]
    assert ours.row(0, named=True).keys() == theirs.row(0, named=True).keys()
    for name in first:
        assert ours[name][0] == pytest.approx(theirs[name][0], rel=1e-4, abs=1e-5), name
    for name in ("loss", "grad_norm", "chosen_drift", "replay"):
        assert ours[name].to_list() == pytest.approx(theirs[name].to_list(), rel=0.01, abs=1e-3), name
    a, b, start = weights(tmp_path / "two/out"), weights(tmp_path / "a/out"), weights(policy)
    apart = sum((a[n] - b[n]).square().sum().item() for n in b) ** 0.5
    moved = sum((b[n] - start[n]).square().sum().item() for n in b) ** 0.5
    assert apart < 0.02 * moved


def test_training_waits_for_the_accelerator_and_says_so(policy: Path, tmp_path: Path) -> None:
    events: list[str] = []
    waiting = threading.Event()

    def progress(done: int, total: int, more: dict[str, Any]) -> None:
        events.append(more["doing"])
        if more["doing"] == "waiting":
            waiting.set()

    folders = {"out": tmp_path / "out", "work": tmp_path / "work", "log": tmp_path / "log", "lock": tmp_path / "lock"}
    with (tmp_path / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        settings = {"system": SYSTEM, "config": WarmStartSection(epochs=1), "seed": 0, "progress": progress}
        thread = threading.Thread(target=train.warm_start, args=(policy, some_problems(4)), kwargs=settings | folders)
        thread.start()
        assert waiting.wait(60)
        assert events == ["waiting"]
    thread.join(120)
    assert events[-1] == "progress"
    assert (tmp_path / "out/model.safetensors").exists()
    assert textwrap.shorten((tmp_path / "log").read_text(), 20)  # the libraries' noise went there


@pytest.mark.parametrize(
    ("micro", "batch", "half"), [(16, 16, 8), (9, 18, 3), (5, 15, 1), (7, 7, 1), (40, 16, 8), (2, 16, 1)]
)
def test_what_is_tried_after_running_out_of_memory_divides_the_batch_and_is_half_at_most(
    micro: int, batch: int, half: int
) -> None:
    assert train.half_micro_batch(micro, batch) == half
    assert TrainSection(micro_batch=half, batch_size=batch)


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2"), ("", ""), ("GPU-1a,GPU-2b", "GPU-1a")])
def test_one_process_sees_one_gpu(visible: str | None, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two in sight transformers' Trainer makes replicas of a model whose forward is bound to one of them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert train.environment(processes=1)["CUDA_VISIBLE_DEVICES"] == seen
    assert "CUDA_VISIBLE_DEVICES" not in train.environment(processes=2)
