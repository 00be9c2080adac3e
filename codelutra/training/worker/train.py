"""One training from start to end, inside the training process.

examples ─► plan (optimizer batches ─► micro-batches) ─► reference log-probabilities ─► TRL ─► policy t
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import set_seed

from codelutra.config import GrpoSection, TrainSection, WarmStartSection
from codelutra.errors import StageError, UserError
from codelutra.hardware import cores, multiplies_bf16
from codelutra.policies import load_tokenizer, vocabulary
from codelutra.prompts import end_ids
from codelutra.store.files import locked, refuse_foreign
from codelutra.training.bases import Base
from codelutra.training.batches import (
    Example,
    answer_examples,
    batches_in_a_pass,
    group_examples,
    pair_examples,
    plan,
    spread,
)
from codelutra.training.checkpoints import Emit, Job, last_whole_checkpoint, resume
from codelutra.training.trackers import Report
from codelutra.training.worker.adapters import load, save
from codelutra.training.worker.dpo import Preference, drift_alarm
from codelutra.training.worker.grpo import Grpo
from codelutra.training.worker.precision import PolicyBefore
from codelutra.training.worker.sft import Supervised
from codelutra.training.worker.sharding import gathered, meet, reached_inside
from codelutra.training.worker.steps import require_finite

KEPT = ("tokenizer*", "chat_template*", "generation_config.json", "*tokens*.json", "vocab*", "merges.txt", "*.model")
WATCHED = (  # of a training's last step
    *("chosen_log_prob", "rejected_log_prob", "chosen_drift", "rejected_drift", "margin", "accuracy", "kl", "sft"),
    *("ratio", "clip_fraction", "entropy", "reward", "right_drift", "wrong_drift"),
)


def train(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train as `spec` says (see `launch.py`) and return the summary."""
    started = time.monotonic()
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, cores() // processes))
    set_seed(spec["seed"])
    job = _planned(spec, emit, rank, processes)
    approximate = _is_approximate(job) and (job.sharded or not rank)  # shards of one process alone compute nothing
    before = PolicyBefore.of(job) if approximate else None
    trainer = _sharded(spec, job) if job.sharded else _trainer(spec, job)
    trainer.prepare()
    with reached_inside(trainer.model):
        gap = before and before.gap(trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.autocast())
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(job.work, job.key)
        resumed = resume(job, checkpoint)
    emit({"event": "training", "done": resumed, "total": len(job.steps), "resumed_from_step": resumed or None})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    require_finite(trainer.model, job, trainer.state.global_step)
    whole = gathered(trainer.model) if job.sharded else None
    if not job.rank:
        _save(trainer, whole)
    trainer.accelerator.wait_for_everyone()
    seconds = {"seconds": round(time.monotonic() - started, 1), "reference_seconds": round(trainer.reference_seconds, 1)}
    return seconds | _summary(trainer, resumed) | ({"policy_gap": gap} if gap else {})


def _is_approximate(job: Job) -> bool:
    """Whether what is trained is policy t-1 but for rounding: its frozen weights are in fewer bits, or another model's."""
    return job.config.method != "full" and (job.bf16 or job.config.method == "qlora" or job.continued)


def _planned(spec: dict[str, Any], emit: Emit, rank: int, processes: int) -> Job:
    """The examples and the plan of optimizer steps. Raises StageError if every example is too long."""
    section = WarmStartSection if spec["kind"] == "supervised" else TrainSection
    config: Any = section.model_validate(spec["config"])
    tokenizer, frame = _tokenizer(Path(spec["policy"])), pl.read_parquet(spec["examples"], glob=False)
    drawn: list[list[int]] | None = None
    examples, replayed = _examples(spec, frame, tokenizer, config.max_length)
    try:
        if spec["kind"] == "grpo":
            sizes = (config.epochs, config.batch_size, config.micro_batch)
            steps = plan(examples, *sizes, spec["seed"], processes, grouped=True)
        else:
            steps, drawn = _steps(examples, replayed, config, spec["seed"], processes)
    except ValueError as e:
        raise UserError(
            f"processes {processes}, batch_size {config.batch_size}, {len(examples)} examples: {e}; every process needs an "
            "example of each batch: lower processes or raise batch_size"
        ) from e
    policy, out, work = (Path(spec[name]) for name in ("policy", "out", "work"))
    _kept(policy)  # told now, not after hours of training
    bf16 = multiplies_bf16() if spec.get("bf16") is None else spec["bf16"]
    long = frame.height - len(examples)
    named = spec.get("base") or {"path": policy}
    base = Base(Path(named["path"]), named.get("reference", ""), named.get("fingerprint", ""))
    made = (config, spec["seed"], examples, steps, replayed, tokenizer)
    job = Job(policy, out, work, *made, emit, bf16, rank, processes, long, drawn=drawn, base=base)
    job.report = Report(**spec["report"]) if spec.get("report") else None
    if spec["kind"] == "grpo":
        job.group, job.max_tokens = GrpoSection.model_validate(spec["grpo"]), spec["max_tokens"]
    return job


def _steps(
    examples: list[Example], answers: list[Example], config: Any, seed: int, processes: int
) -> tuple[list[list[list[int]]], list[list[int]] | None]:
    """The plan of the pairs or examples and, where the SFT term imitates answers of its own, which of them each step does.

    A pass over both has as many steps as the one that needs more of them, so no step is without either. Raises ValueError
    as `plan` does.
    """
    sizes = config.epochs, config.batch_size, config.micro_batch
    if not (answers and config.sft_on != "chosen"):
        return plan(examples, *sizes, seed, processes), None
    size = config.batch_size
    a_pass = max(batches_in_a_pass(len(examples), size, processes), math.ceil(len(answers) / size))
    steps = plan(examples, *sizes, seed, processes, at_least=a_pass)
    return steps, spread(answers, len(steps), a_pass, seed)


def _tokenizer(policy: Path) -> Any:
    tokenizer = load_tokenizer(policy)
    *_, end = end_ids(tokenizer)
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= vocabulary(policy):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)  # only ever behind a mask
    return tokenizer


def _examples(
    spec: dict[str, Any], frame: pl.DataFrame, tokenizer: Any, max_length: int
) -> tuple[list[Example], list[Example]]:
    """The examples that fit, and the references that are replayed beside them."""
    system, thinking, replayed = spec["system"], spec.get("thinking", False), list[Example]()
    match spec["kind"]:
        case "preference":
            if spec.get("references") and spec["config"]["sft_weight"]:  # else nothing is imitated, and makes no steps
                known = pl.read_parquet(spec["references"], glob=False)
                written = spec["config"]["sft_on"] != "chosen"  # the policy's own answers
                replayed = answer_examples(known, tokenizer, system, max_length, thinking=thinking, written=written)
            examples = pair_examples(frame, tokenizer, system, max_length, len(replayed), thinking=thinking)
            what = "pairs"
            if replayed and spec["config"]["sft_on"] != "chosen":
                return examples, replayed  # without a pair it is SFT
        case "supervised":
            written, what = spec.get("written", True), "examples"
            examples = answer_examples(frame, tokenizer, system, max_length, thinking=thinking, written=written)
        case "grpo":
            examples, what = [*group_examples(frame, tokenizer, system, max_length)], "answers"
    if not examples:
        raise StageError(
            f"all {frame.height} {what} are longer than max_length {max_length} tokens (prompt + answer); raise max_length "
            "or shorten the prompts"
        )
    return examples, replayed


def _trainer(spec: dict[str, Any], job: Job) -> Any:
    model = load(job)
    match spec["kind"]:
        case "preference":
            return Preference(job, model)
        case "supervised":
            return Supervised(job, model)
        case "grpo":
            return Grpo(job, model)


def _sharded(spec: dict[str, Any], job: Job) -> Any:
    """As `_trainer`, the model in parts. The processes take turns: only one of them has a whole model at a time."""
    mesh = meet(job)
    with locked(job.work / "loading"):
        trainer = _trainer(spec, job)
        trainer.cut(mesh)
    return trainer


def _save(trainer: Any, whole: dict[str, Any] | None) -> None:
    """Policy t: float32 weights, and all else (tokenizer, template, generation config) as policy t-1 had it. `whole`: the
    trained weights, where the model has only parts of them."""
    job, model = trainer.job, trainer.accelerator.unwrap_model(trainer.model)
    job.out.mkdir(parents=True, exist_ok=True)
    save(job, model, whole)
    config = json.loads((job.policy / "config.json").read_text())
    config.pop("torch_dtype", None)
    (job.out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    (job.out / "generation_config.json").unlink(missing_ok=True)  # transformers', with the tokenizer's end token alone
    for file in _kept(job.policy):
        shutil.copyfile(file, job.out / file.name)
    shutil.copyfile(job.work / "training.jsonl", job.out / "training.jsonl")


def _kept(policy: Path) -> list[Path]:
    """What is copied beside new weights. Raises UserError where one of them is a link to somewhere else."""
    files = [f for kind in KEPT for f in policy.glob(kind) if f.is_file()]
    for file in files:
        refuse_foreign(file, policy)
    return files


def _summary(trainer: Any, resumed: int) -> dict[str, Any]:
    job, cuda = trainer.job, torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    made = job.rows[resumed:]
    first, last = job.rows[0], job.rows[-1]
    told = next((row for row in reversed(job.rows) if "chosen_drift" in row), last)  # some steps may have no pairs
    alarm = drift_alarm(job.rows, job.config) if isinstance(job.config, TrainSection) else None
    shares = [row["dpo_share"] for row in job.rows if "dpo_share" in row]
    return {
        "steps": trainer.state.global_step,
        "planned_steps": len(job.steps),
        "resumed_from_step": resumed or None,
        "examples": len(job.examples),
        "too_long": job.too_long,
        "replayed": len(job.replayed),
        "tokens": sum(r["tokens"] for r in job.rows),
        "tokens_per_second": round(sum(r["tokens"] for r in made) / max(1e-9, sum(r["seconds"] for r in made)), 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "shared_prefixes": bool(trainer.way and trainer.way.name == "shared prefixes"),
        "log_probs": trainer.way and str(trainer.way),
        "not_shared": trainer.way and trainer.way.not_shared,
        **({"log_probs_seconds": trainer.way.seconds} if trainer.way and trainer.way.seconds else {}),
        "micro_batch": job.config.micro_batch,
        "gradient_checkpointing": trainer.args.gradient_checkpointing,
        **(trainer.counts() if trainer.sharded else {}),
        "learning_rate": job.config.learning_rate,
        "first_loss": first["loss"],
        "last_loss": last["loss"],
        "last": {n: told[n] for n in WATCHED if n in told},
        "dpo_share": round(sum(shares) / len(shares), 4) if shares else None,
        "reference_gap": trainer.reference_gap,
        "drift_alarm_step": alarm and alarm["step"],
        "drift_alarm_per": alarm and alarm["per"],
        "stopped_early": "drift" if alarm and trainer.state.global_step < len(job.steps) else None,
    }
