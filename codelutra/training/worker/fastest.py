"""Of ways that give equal log-probabilities the fastest, on the job at hand.

On a CPU that is sharing prefixes: what is not computed again is saved. A GPU has padded batches done in the time that many
small attention blocks take to launch, so which is faster depends on the card, the model and how much the prompts share.
There both are timed, forward and backward, on the largest micro-batches.

The choice is kept in the work folder. In bf16 the two round differently, by up to a tenth of a nat an answer, so a training
that goes on takes the way it began with; and so do all processes. Only if its gradients are not finite, the training goes on
in the other way.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, send_to_device

from codelutra.errors import StageError
from codelutra.store.files import UNREADABLE, write_atomic
from codelutra.training.checkpoints import Job, digest
from codelutra.training.worker.log_probs import Way

TIMED = {"cuda"}  # where sharing prefixes may be slower
ROUNDS = 2  # that count, after one that warms up
SAVED = 0.9  # the second way is taken if it saves a tenth: else chance would choose, anew in every run
STEP_0_TOLERANCE = 1e-3  # nats an answer. Expected: equal bits. The reference of another policy is off by tenths to tens


def fastest(trainer: Any, ways: list[Way], micros: Callable[[], list[Any]]) -> Way:
    """One of `ways`, which the model is then set up for. `micros`: what the model is called with to time them."""
    chosen: list[Any] = [{"way": ways[0].name, "seconds": {}}]
    if len(ways) > 1:
        job = trainer.job
        if not job.rank:
            chosen = [choose(_kept(job), ways, lambda way: seconds(trainer, way, micros()))]
        if job.processes > 1:
            broadcast_object_list(chosen)
    way = next(w for w in ways if w.name == chosen[0]["way"])
    way.take()
    if not (took := chosen[0]["seconds"]):
        return way
    why = f"slower here: the largest micro-batches take {' and '.join(f'{n} {s:.3g} s' for n, s in took.items())}"
    if ways[0].name not in took:
        why = "here memory does not suffice for it, or its gradients are not finite"
    return replace(way, seconds=took, not_shared="" if way is ways[0] else why)


def give_up(job: Job, way: Way | None) -> bool:
    """Have the next start of this training take the other of two usable ways; False where there is no other."""
    others = {name: took for name, took in way.seconds.items() if name != way.name} if way else {}
    if others and not job.rank:
        write_atomic(_kept(job), json.dumps({"way": min(others, key=others.__getitem__), "seconds": others}))
    return bool(others)


def _kept(job: Job) -> Path:
    """The file of the choice. A smaller micro-batch is timed again."""
    return job.work / f"way-{digest(job.key, job.steps)[:16]}.json"


def choose(file: Path, ways: list[Way], measure: Callable[[Way], float]) -> dict[str, Any]:
    """`way` (a name) and the `seconds` of each, as an earlier start of this training left them in `file`, or measured."""
    with contextlib.suppress(*UNREADABLE):
        known: dict[str, Any] = json.loads(file.read_bytes())
        if known["way"] in [way.name for way in ways]:
            return {"way": known["way"], "seconds": known["seconds"]}
    took, full = dict[str, float](), ""
    for way in ways:
        try:
            took[way.name] = measure(way)
        except torch.OutOfMemoryError as e:
            full = str(e)  # the error itself would keep what is in memory
    usable = {name: round(s, 4) for name, s in took.items() if math.isfinite(s)}
    if full and not usable:
        raise torch.OutOfMemoryError(full)
    if not usable:
        raise StageError(
            f"no way of computing log-probabilities ({', '.join(took)}) gives finite gradients on this device, and the same "
            "numbers without gradients; take another version of torch, or train on a CPU (an empty CUDA_VISIBLE_DEVICES)"
        )
    first = ways[0].name
    said = {"way": min(usable, key=lambda name: usable[name] * (SAVED if name == first else 1)), "seconds": usable}
    write_atomic(file, json.dumps(said))
    return said


def seconds(trainer: Any, way: Way, micros: list[Any]) -> float:
    """What forward and backward of `micros` take. Infinite for a way that may not be taken: its gradients are not finite, or
    without gradients, as the reference is computed, its log-probabilities are others."""
    model, device, took = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.device, 0.0
    way.take()
    training, checkpointed = model.training, trainer.args.gradient_checkpointing
    if checkpointed:  # as the trainer does when it starts
        model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)

    def log_probs(inputs: Any) -> Any:
        with trainer.accelerator.autocast():
            return model.train()(**send_to_device(inputs, device), fused_lm_head=True).log_probs

    try:
        for i in range(1 + ROUNDS):
            began = _now(device)
            for inputs in micros:
                found = log_probs(inputs)
                found.sum().backward()
                if not i:  # the warm-up
                    with torch.no_grad():
                        apart = (log_probs(inputs) - found).sum(1).abs().max().item()
                    if not apart < STEP_0_TOLERANCE:
                        return math.inf
            took += _now(device) - began if i else 0.0
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return took / ROUNDS if all(bool(torch.isfinite(g).all()) for g in grads) else math.inf
    finally:
        if checkpointed:
            model.gradient_checkpointing_disable()
        model.train(training).zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _now(device: Any) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
