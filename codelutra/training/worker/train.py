"""What runs inside the training process.

examples ─► plan (optimizer batches ─► micro-batches) ─► reference log-probabilities ─► TRL ─► policy t
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import TrainSection, WarmStartSection
from codelutra.errors import StageError, UserError
from codelutra.hardware import multiplies_bf16
from codelutra.prompts import as_messages
from codelutra.training.batches import answer_examples, pair_examples, plan
from codelutra.training.checkpoints import Emit, Job, job_key, last_whole_checkpoint, require_finite, resume
from codelutra.training.worker.grpo import Judge, batches, grpo_trainer
from codelutra.training.worker.prefix_sharing import load_causal
from codelutra.training.worker.steps import drift_alarm, preference_trainer, supervised_trainer

KEPT = (
    "tokenizer*",
    "chat_template*",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)


def train(spec: dict[str, Any], emit: Emit, judge: Judge | None = None) -> dict[str, Any]:
    """Train as `spec` says (see `train.py`) and return the summary. Everything heavy is imported from here on.

    `judge` is only asked by GRPO.
    """
    started = time.monotonic()
    import torch
    from transformers import AutoTokenizer, set_seed

    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    set_seed(spec["seed"])
    policy, preference = Path(spec["policy"]), spec["kind"] == "preference"
    section = WarmStartSection if spec["kind"] == "supervised" else TrainSection
    config = section.model_validate(spec["config"])
    frame = pl.read_parquet(spec["examples"])
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer in {policy} names no end token, so no answer could end; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # only ever behind a mask
    if spec["kind"] == "grpo":
        assert judge is not None
        return _grpo(spec, frame, tokenizer, config, emit, judge, started)
    replayed = []
    if spec.get("references"):
        replayed = answer_examples(pl.read_parquet(spec["references"]), tokenizer, spec["system"], config.max_length)
    if preference:
        examples = pair_examples(frame, tokenizer, spec["system"], config.max_length, len(replayed))
    else:
        examples = answer_examples(frame, tokenizer, spec["system"], config.max_length)
    if not examples:
        what = "pairs" if preference else "examples"
        raise StageError(
            f"all {frame.height} {what} are longer than max_length {config.max_length} tokens (prompt + answer); "
            "raise max_length or shorten the prompts"
        )
    try:
        steps = plan(examples, config.epochs, config.batch_size, config.micro_batch, spec["seed"], processes)
    except ValueError as e:
        raise UserError(
            f"processes {processes}, batch_size {config.batch_size}, {len(examples)} examples: {e}; every process needs an "
            "example of each batch: lower processes or raise batch_size"
        ) from e
    out, work = Path(spec["out"]), Path(spec["work"])
    job = Job(policy, out, work, config, spec["seed"], examples, steps, replayed, tokenizer, emit)
    job.rank, job.processes = rank, processes
    job.bf16 = multiplies_bf16() if spec.get("bf16") is None else spec["bf16"]
    job.key = job_key(job)
    model = load_policy(policy, spec["kind"])
    trainer = preference_trainer(job, model) if preference else supervised_trainer(job, model)
    shared = trainer.share_prefixes()
    began = time.monotonic()
    if preference:
        trainer.compute_reference()
    reference_seconds = time.monotonic() - began
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(job.work, job.key)
        resumed = resume(job, checkpoint)
    emit({"event": "training", "done": resumed, "total": len(steps), "resumed_from_step": resumed or None})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not rank:
        _save(trainer, job)
    trainer.accelerator.wait_for_everyone()
    seconds = {"seconds": round(time.monotonic() - started, 1), "reference_seconds": round(reference_seconds, 1)}
    return seconds | _summary(job, trainer, frame.height, resumed, shared)


def _grpo(
    spec: dict[str, Any], frame: pl.DataFrame, tokenizer: Any, config: Any, emit: Emit, judge: Judge, started: float
) -> dict[str, Any]:
    """The same around another trainer: no answers are known yet, and the policy writes them while it is trained."""
    system, policy, out, work = spec["system"], Path(spec["policy"]), Path(spec["out"]), Path(spec["work"])
    unanswered, room = frame.with_columns(completion=pl.lit("")), config.max_length - spec["sample"]["max_tokens"]
    examples = answer_examples(unanswered, tokenizer, system, room + 1)  # + the end token
    if not examples:
        raise StageError(
            f"all {frame.height} prompts are longer than max_length {config.max_length} less sample.max_tokens "
            f"{spec['sample']['max_tokens']}; raise the one or lower the other"
        )
    steps = [[step] for step in batches(len(examples), config.batch_size, config.epochs, spec["seed"])]
    job = Job(policy, out, work, config, spec["seed"], examples, steps, [], tokenizer, emit)
    job.bf16 = multiplies_bf16() if spec.get("bf16") is None else spec["bf16"]
    job.key = job_key(job)
    prompts = dict(frame.select("problem_id", "prompt").rows())
    rows = [{"problem_id": e.problem_id, "prompt": as_messages(tokenizer, system, prompts[e.problem_id])} for e in examples]
    checkpoint = last_whole_checkpoint(work, job.key)
    resumed = resume(job, checkpoint)
    trainer = grpo_trainer(job, load_policy(policy, spec["kind"]), rows, spec["sample"], judge)
    emit({"event": "training", "done": resumed, "total": len(steps), "resumed_from_step": resumed or None})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _save(trainer, job)
    return {"seconds": round(time.monotonic() - started, 1)} | _summary(job, trainer, frame.height, resumed, False)


def load_policy(policy: Path, kind: str) -> Any:
    """The model to train, in float32. Raises UserError for what transformers cannot load."""
    try:
        return load_causal(str(policy), sharing=kind != "grpo")  # GRPO generates, in padded batches
    except (ValueError, OSError, KeyError) as e:
        raise UserError(
            f"{policy} does not load as a causal language model: {e}. It takes config.json of an architecture transformers "
            "knows, and safetensors weights"
        ) from e


def _save(trainer: Any, job: Job) -> None:
    """Policy t: float32 weights, and all else (tokenizer, template, generation config) as policy t-1 had it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    require_finite(model, job, trainer.state.global_step)
    job.out.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(job.out / "adapter")
        model = model.merge_and_unload()
    model.save_pretrained(job.out)
    config = json.loads((job.policy / "config.json").read_text())
    config.pop("torch_dtype", None)
    (job.out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    for file in (f for kind in KEPT for f in job.policy.glob(kind)):
        shutil.copyfile(file, job.out / file.name)
    shutil.copyfile(job.work / "training.jsonl", job.out / "training.jsonl")


def _summary(job: Job, trainer: Any, given: int, resumed: int, shared: bool) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    made = job.rows[resumed:]
    first, last = job.rows[0], job.rows[-1]
    alarm = None
    if isinstance(job.config, TrainSection) and "chosen_drift" in last:
        alarm = drift_alarm(job.rows, job.config.min_chosen_drift)
    watched = ("chosen_log_prob", "rejected_log_prob", "chosen_drift", "rejected_drift", "margin", "accuracy", "kl", "sft")
    return {
        "steps": trainer.state.global_step,
        "planned_steps": len(job.steps),
        "resumed_from_step": resumed or None,
        "examples": len(job.examples),
        "too_long": given - len(job.examples),
        "replayed": len(job.replayed),
        "tokens": sum(r["tokens"] for r in job.rows),
        "tokens_per_second": round(sum(r["tokens"] for r in made) / max(1e-9, sum(r["seconds"] for r in made)), 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "shared_prefixes": shared,
        "micro_batch": job.config.micro_batch,
        "first_loss": first["loss"],
        "last_loss": last["loss"],
        "last": {n: last[n] for n in watched if n in last},
        "reference_gap": job.reference_gap,
        "drift_alarm_step": alarm,
        "stopped_early": "drift" if alarm and trainer.state.global_step < len(job.steps) else None,
    }


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
