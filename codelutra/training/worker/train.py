"""One training from start to end, inside the training process.

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
import torch
from transformers import AutoTokenizer, set_seed

from codelutra.config import TrainSection, WarmStartSection
from codelutra.errors import StageError, UserError
from codelutra.hardware import multiplies_bf16
from codelutra.prompts import end_ids
from codelutra.store.files import refuse_foreign
from codelutra.training.bases import Base
from codelutra.training.batches import Example, answer_examples, pair_examples, plan, whole_batches
from codelutra.training.checkpoints import Emit, Job, Judge, last_whole_checkpoint, resume
from codelutra.training.worker.adapters import load, save
from codelutra.training.worker.dpo import Preference, drift_alarm
from codelutra.training.worker.precision import PolicyBefore
from codelutra.training.worker.sft import Supervised
from codelutra.training.worker.steps import require_finite

KEPT = ("tokenizer*", "chat_template*", "generation_config.json", "*tokens*.json", "vocab*", "merges.txt", "*.model")


def train(spec: dict[str, Any], emit: Emit, judge: Judge | None = None) -> dict[str, Any]:
    """Train as `spec` says (see `launch.py`) and return the summary. `judge` is only asked by GRPO."""
    started = time.monotonic()
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    set_seed(spec["seed"])
    job = _planned(spec, emit, rank, processes)
    before = PolicyBefore.of(job) if _is_approximate(job) and not rank else None
    trainer = _trainer(spec, job, judge)
    trainer.prepare()
    gap = before and before.gap(trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.autocast())
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(job.work, job.key)
        resumed = resume(job, checkpoint)
    emit({"event": "training", "done": resumed, "total": len(job.steps), "resumed_from_step": resumed or None})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not job.rank:
        _save(trainer)
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
    examples, replayed = _examples(spec, frame, tokenizer, config.max_length)
    try:
        if spec["kind"] == "grpo":
            steps = [[batch] for batch in whole_batches(len(examples), config.batch_size, config.epochs, spec["seed"])]
        else:
            steps = plan(examples, config.epochs, config.batch_size, config.micro_batch, spec["seed"], processes)
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
    return Job(policy, out, work, *made, emit, bf16, rank, processes, long, base=base)


def _tokenizer(policy: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    *_, end = end_ids(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)  # only ever behind a mask
    return tokenizer


def _examples(
    spec: dict[str, Any], frame: pl.DataFrame, tokenizer: Any, max_length: int
) -> tuple[list[Example], list[Example]]:
    """The examples that fit, and the references that are replayed beside them."""
    system, thinking, replayed = spec["system"], spec.get("thinking", False), list[Example]()
    match spec["kind"]:
        case "preference":
            if spec.get("references"):
                known = pl.read_parquet(spec["references"], glob=False)
                replayed = answer_examples(known, tokenizer, system, max_length, thinking=thinking, written=False)
            examples = pair_examples(frame, tokenizer, system, max_length, len(replayed), thinking=thinking)
            what = "pairs"
        case "supervised":
            written, what = spec.get("written", True), "examples"
            examples = answer_examples(frame, tokenizer, system, max_length, thinking=thinking, written=written)
        case "grpo":  # no answer is known yet: the policy writes them while it is trained
            answer = spec["sample"]["max_tokens"]
            unanswered = frame.with_columns(completion=pl.lit(""))
            examples = answer_examples(unanswered, tokenizer, system, max_length - answer + 1)  # + the end token
            if not examples:
                raise StageError(
                    f"all {frame.height} prompts are longer than max_length {max_length} less sample.max_tokens {answer}; "
                    "raise the one or lower the other"
                )
    if not examples:
        raise StageError(
            f"all {frame.height} {what} are longer than max_length {max_length} tokens (prompt + answer); raise max_length "
            "or shorten the prompts"
        )
    return examples, replayed


def _trainer(spec: dict[str, Any], job: Job, judge: Judge | None) -> Any:
    model = load(job)
    match spec["kind"]:
        case "preference":
            return Preference(job, model)
        case "supervised":
            return Supervised(job, model)
    from codelutra.training.worker.grpo import Grpo  # imports vLLM, which takes seconds

    assert judge is not None
    return Grpo(job, model, spec["sample"], judge)


def _save(trainer: Any) -> None:
    """Policy t: float32 weights, and all else (tokenizer, template, generation config) as policy t-1 had it."""
    job, model = trainer.job, trainer.accelerator.unwrap_model(trainer.model)
    require_finite(model, job, trainer.state.global_step)
    job.out.mkdir(parents=True, exist_ok=True)
    save(job, model)
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
    alarm = drift_alarm(job.rows, job.config.min_chosen_drift) if "chosen_drift" in last else None
    watched = ("chosen_log_prob", "rejected_log_prob", "chosen_drift", "rejected_drift", "margin", "accuracy", "kl", "sft")
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
        "log_probs": trainer.way and f"{trainer.way.name}, {trainer.way.attention}",
        "not_shared": trainer.way and trainer.way.not_shared,
        "micro_batch": job.config.micro_batch,
        "gradient_checkpointing": trainer.args.gradient_checkpointing,
        "learning_rate": job.config.learning_rate,
        "first_loss": first["loss"],
        "last_loss": last["loss"],
        "last": {n: last[n] for n in watched if n in last},
        "reference_gap": trainer.reference_gap,
        "drift_alarm_step": alarm,
        "stopped_early": "drift" if alarm and trainer.state.global_step < len(job.steps) else None,
    }
