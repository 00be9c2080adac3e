"""GRPO (Shao et al. 2402.03300) on answers that are there: the clipped surrogate over groups, in TRL's variants.

The answers are policy t-1's own samples, so its log-probabilities are the old ones of the importance ratio, and those of the
reference model in the KL term. Without drawing new answers while it trains, the policy moves away from the one that drew
them; the ratio's clipping bounds how far that is followed.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from codelutra.config import GrpoSection
from codelutra.training.batches import Graded
from codelutra.training.checkpoints import Job
from codelutra.training.worker.reference import Referenced
from codelutra.training.worker.sft import collate_answers


def surrogate(drift: Any, advantages: Any, mask: Any, config: GrpoSection) -> tuple[Any, Any]:
    """The loss of each token, and where it is clipped: both (answers, tokens).

    -min(ρ·A, clip(ρ, 1 - ε, 1 + ε_high)·A) + kl · ρ·(1/ρ_t - 1 + log ρ_t). `drift` (answers, tokens) is log ρ_t: the
    policy's log-probability minus the old one, 0 outside `mask`. ρ is ρ_t, or its geometric mean over an answer.
    `advantages`: (answers,). The KL term is the policy's divergence from the old one, of which the answers are samples:
    hence the factor ρ (2512.02556; TRL's `use_bias_correction_kl`).
    """
    log_ratio, advantages = drift, advantages[:, None]
    if config.importance_sampling_level == "sequence":
        log_ratio = (drift.sum(-1) / mask.sum(-1))[:, None].expand_as(drift)
    ratio, high = log_ratio.exp(), config.epsilon if config.epsilon_high is None else config.epsilon_high
    clipped = ratio.clamp(1 - config.epsilon, 1 + high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if config.kl:
        loss = loss + config.kl * ratio * ((-drift).exp() - 1 + drift)
    return loss, mask & (clipped * advantages < ratio * advantages)


class Grpo(Referenced, SFTTrainer):
    def __init__(self, job: Job, model: Any) -> None:
        assert job.group is not None
        self.config = job.group
        disable_dropout_in_model(model)
        ready = {"dataset_kwargs": {"skip_prepare_dataset": True}}
        super().__init__(job, model, SFTConfig, {"input_ids": [0], "labels": [0]}, ready)

    def owners(self, micro: list[int]) -> list[tuple[int, int]]:
        return [(i, 0) for i in micro]

    def scored(self, micro: list[int]) -> Any:
        return collate_answers([self.job.examples[i] for i in micro], self.job.tokenizer)

    def collate(self, micro: list[int]) -> Any:
        inputs, members = self.scored(micro), self._graded(micro)
        inputs["reference"] = self.known(micro, inputs["labels"][:, 1:] != -100)
        inputs["counts"] = torch.tensor([e.weight for e in members])
        inputs["rewards"] = torch.tensor([e.reward for e in members], dtype=torch.float32)
        inputs["advantages"] = torch.tensor([self._weighed(e) for e in members], dtype=torch.float32)
        return inputs

    def _graded(self, indices: list[int]) -> list[Graded]:
        return [e for i in indices if isinstance(e := self.job.examples[i], Graded)]

    def _weighed(self, e: Graded) -> float:
        return e.advantage if e.advantage > 0 else e.advantage * self.config.negative_weight

    def before_step(self, step: int, micros: list[Any]) -> None:
        """What the sums over a step's micro-batches, and over the processes, are divided by."""
        job = self.job
        members = [e for micro in job.steps[step] for e in self._graded(micro)]
        self.micros = len(job.steps[step])
        self.samples = sum(e.weight for e in members)
        self.tokens = sum(e.weight * len(e.answers[0]) for e in members)
        self.sides = {side: sum(e.weight for e in members if (e.reward > 0) is side) for side in (True, False)}

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        reference, counts, rewards, advantages = (
            inputs.pop(name) for name in ("reference", "counts", "rewards", "advantages")
        )
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        out, mask = model(**inputs, **router, use_cache=False, fused_lm_head=True), inputs["labels"][:, 1:] != -100
        drift = (out.log_probs - reference).masked_fill(~mask, 0.0)
        self.check_reference(drift.detach())
        tokens, clipped = surrogate(drift, advantages, mask, self.config)
        loss = self._mean(tokens * mask, mask, counts)
        now = {"loss": loss, "clipped": clipped, "drift": drift, "entropy": out.entropy}
        with torch.no_grad():
            self.parts.append(self._measures(now, mask, counts, rewards, advantages))
        if self.aux_loss_enabled:  # a mean, not a sum over the step
            loss = loss + self.router_aux_loss_coef * out.aux_loss / self.micros
        return loss * self.job.processes

    def _mean(self, losses: Any, mask: Any, counts: Any) -> Any:
        """This micro-batch's part of the step's loss. An answer that `count` samples gave is that many answers."""
        by_answer, lengths = losses.sum(-1), mask.sum(-1)
        match self.config.loss:
            case "grpo":
                return (counts * by_answer / lengths).sum() / self.samples
            case "dapo":
                return (counts * by_answer).sum() / self.tokens
            case "dr_grpo":
                return (counts * by_answer).sum() / (self.samples * self.job.max_tokens)
            case "bnpo":
                return (counts * by_answer).sum() / (counts * lengths).sum() / self.micros

    def _measures(self, now: dict[str, Any], mask: Any, counts: Any, rewards: Any, advantages: Any) -> dict[str, float]:
        """This micro-batch's part of the step's means, over tokens or answers of samples.

        `kl` is KL(reference ‖ policy) as in dpo.py: mean(ρ - 1 - log ρ). `…_drift`: nats an answer, of right and of wrong
        ones.
        """
        by_token = counts[:, None] * mask / self.tokens
        drift = now["drift"].clamp(max=20)
        sums, right = counts * now["drift"].sum(-1), rewards > 0
        values = {
            "ratio": (by_token * drift.exp()).sum(),
            "clip_fraction": (by_token * now["clipped"]).sum(),
            "kl": (by_token * (drift.expm1() - drift)).sum(),
            "entropy": (by_token * now["entropy"]).sum(),
            "reward": (counts * rewards).sum() / self.samples,
            "positive_advantage": (counts * advantages.clamp(min=0)).sum() / self.samples,
            "negative_advantage": (counts * advantages.clamp(max=0)).sum() / self.samples,
            "right_drift": sums[right].sum() / max(1.0, self.sides[True]),
            "wrong_drift": sums[~right].sum() / max(1.0, self.sides[False]),
        }
        return {name: value.item() for name, value in values.items()}
