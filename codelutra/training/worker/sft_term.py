"""The SFT term on answers that stand beside the pairs, and the weight of each term in the gradient.

    sft_on chosen, replay_references   references join the chosen answers, whose term is in the pairs' micro-batches
    sft_on right, right+references     all of the term is here: the answers of a step, each once

By `sft_norm`, of the m answers y with T tokens in all that a step imitates, the second is

    token      -(1/T) Σ_y log π(y)    the loss of plain SFT on these answers
    sequence   -(1/m) Σ_y log π(y)
"""

from __future__ import annotations

from typing import Any

import torch

from codelutra.config import TrainSection
from codelutra.training.batches import Example, evenly
from codelutra.training.checkpoints import Job


def imitated(job: Job, step: int) -> tuple[list[list[Example]], float]:
    """The answers of a step that this process computes, as micro-batches, and what a log-probability weighs, without λ.

    A micro-batch has at most as many sequences as one of pairs. Where there are fewer answers than processes, each process
    computes all of them and counts its share.
    """
    drawn = job.replayed_at(step)
    if not drawn:
        return [], 0.0
    shared = len(drawn) >= job.processes
    mine = sorted(drawn[job.rank :: job.processes] if shared else drawn, key=lambda e: (e.prompt, e.answers))
    largest = -(-len(drawn) // job.processes) if shared else len(drawn)  # so that all have as many micro-batches
    parts = -(-largest // (2 * job.config.micro_batch))
    return evenly(mine, parts), _weight(job, step, drawn) / (1 if shared else job.processes)


def _weight(job: Job, step: int, drawn: list[Example]) -> float:
    assert isinstance(job.config, TrainSection)
    if job.config.sft_norm == "token":
        return 1 / sum(len(e.answers[0]) for e in drawn)
    if job.config.sft_on != "chosen":
        return 1 / len(drawn)
    # Each weighs as much as a chosen answer, of which every pair of the step has its share.
    distinct_chosen = len({(e.problem_id, tuple(e.answers[0])) for e in job.examples})
    return len(job.examples) / (distinct_chosen + len(job.replayed)) / sum(map(len, job.steps[step]))


def pull(loss: Any, log_probs: Any, mask: Any) -> float:
    """Σ |∂loss/∂log π(token)| over the answers' tokens (`mask`): how hard a term of the loss pulls. 0 where it does not
    depend on them. The graph between the two is a few operations on one number a token, so this costs next to nothing.
    """
    if not (isinstance(loss, torch.Tensor) and loss.requires_grad):
        return 0.0
    (found,) = torch.autograd.grad(loss, log_probs, retain_graph=True, allow_unused=True)
    return 0.0 if found is None else float(found[mask].abs().sum())


def share(dpo_pull: float, sft_pull: float) -> float:
    """The preference loss's part of both pulls; 0 where neither pulls."""
    return dpo_pull / (dpo_pull + sft_pull) if dpo_pull + sft_pull else 0.0
