"""DPO (TRL's `loss_type`, β) + λ·SFT(chosen), on pairs. The reference model is policy t-1 (reference.py)."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import send_to_device
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from codelutra.config import TrainSection
from codelutra.training.checkpoints import Job
from codelutra.training.worker.reference import Referenced
from codelutra.training.worker.sft import collate_answers
from codelutra.training.worker.trl_internals import PreparedDPOTrainer

DRIFT_WINDOW = 5  # steps the drift alarm averages over: the mean of one batch is noise


class Preference(Referenced, PreparedDPOTrainer):
    def __init__(self, job: Job, model: Any) -> None:
        assert isinstance(job.config, TrainSection)
        self.config: TrainSection = job.config
        self.by_token = self.config.sft_norm == "token"  # TRL has that term; the one summed over an answer is ours
        losses: dict[str, float] = {self.config.loss_type: 1.0}
        if self.by_token and self.config.sft_weight:
            losses["sft"] = self.config.sft_weight
        settings = {
            "beta": self.config.beta,
            "loss_type": list(losses),
            "loss_weights": list(losses.values()),
            "precompute_ref_log_probs": True,
            "disable_dropout": True,
        }
        sample = {"prompt_ids": [0], "chosen_ids": [0], "rejected_ids": [0]}
        collator = DataCollatorForPreference(pad_token_id=job.tokenizer.pad_token_id)
        super().__init__(job, model, DPOConfig, sample, settings, data_collator=collator)

    def owners(self, micro: list[int]) -> list[tuple[int, int]]:
        return [(i, answer) for answer in (0, 1) for i in micro]

    def scored(self, micro: list[int]) -> Any:
        inputs = self._collate_pairs(micro)
        mask = inputs.pop("completion_mask")
        return {**inputs, "labels": inputs["input_ids"].masked_fill(mask == 0, -100)}

    def _collate_pairs(self, micro: list[int]) -> Any:
        examples = [self.job.examples[i] for i in micro]
        return self.data_collator(
            [{"prompt_ids": e.prompt, "chosen_ids": e.answers[0], "rejected_ids": e.answers[1]} for e in examples]
        )

    def collate(self, micro: list[int]) -> Any:
        inputs = self._collate_pairs(micro)
        inputs["reference"] = self.known(micro, inputs["completion_mask"][:, 1:].bool())
        inputs["weights"] = torch.tensor([self.job.examples[i].weight for i in micro])
        return inputs

    def before_step(self, step: int, micros: list[Any]) -> None:
        job = self.job
        self.pairs = sum(map(len, job.steps[step]))
        if self.config.sft_weight and (drawn := job.replayed_at(step)):
            self.replayed_tokens = sum(len(e.answers[0]) for e in drawn)
            shared = len(drawn) >= job.processes  # else every process computes all of them and counts its share
            self.replay_part = 1.0 if shared else 1.0 / job.processes
            if mine := drawn[job.rank :: job.processes] if shared else drawn:
                micros.append(send_to_device(collate_answers(job, mine), self.accelerator.device))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        if "reference" not in inputs:
            return self._replay_loss(model, inputs)
        reference, weights = inputs.pop("reference"), inputs.pop("weights")
        inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = reference.sum(1).chunk(2)
        seen: list[Any] = []

        def watched(**kwargs: Any) -> Any:
            seen.append(model(**kwargs))
            return seen[0]

        loss = super().compute_loss(watched, inputs)
        log_probs, mask = seen[0].log_probs, inputs["completion_mask"][:, 1:].bool()
        drift = log_probs.detach() - reference
        self.check_reference(drift)
        weight, share = self.config.sft_weight, weights.numel() / self.pairs
        chosen = log_probs.chunk(2)[0]
        if self.by_token:
            sft = -chosen[mask.chunk(2)[0]].mean()  # as in TRL's loss
            preference = loss - weight * sft
        else:
            sft = -(weights * chosen.sum(1)).mean()
            preference, loss = loss, loss + weight * sft
        measures = _measures(log_probs.detach(), drift, mask, self.config.beta)
        measures |= {"dpo": preference.item(), "sft": sft.item()}
        self.parts.append({name: value * share for name, value in measures.items()})
        return loss * share * self.job.processes

    def _replay_loss(self, model: Any, inputs: Any) -> Any:
        """λ·SFT on references: each weighs as much as a chosen answer (`sequence`), or their token mean (`token`)."""
        job, out = self.job, model(**inputs, use_cache=False, fused_lm_head=True)
        if self.by_token:
            nll = -out.log_probs.sum() / self.replayed_tokens
        else:
            distinct_chosen = len({(e.problem_id, tuple(e.answers[0])) for e in job.examples})
            each = len(job.examples) / (distinct_chosen + len(job.replayed))
            nll = -each * out.log_probs.sum() / self.pairs
        nll = nll * self.replay_part
        self.parts.append({"replay": nll.item()})
        return self.config.sft_weight * nll * job.processes

    def watch(self, row: dict[str, Any]) -> None:
        alarm = drift_alarm(self.job.rows, self.config.min_chosen_drift)
        if alarm == row["step"]:
            steps = len(self.job.steps)
            self.job.emit({"event": "drift", "step": alarm, "total": steps, "chosen_drift": row["chosen_drift"]})
        if alarm and self.config.stop_on_drift:
            self.control.should_training_stop = True


def drift_alarm(rows: list[dict[str, Any]], bound: float) -> int | None:
    """The first step at which `chosen_drift`, averaged over the last steps, is below `bound` (nats per answer), else None.
    Plain DPO is known to push it down (Pal et al. 2402.13228)."""
    for i, row in enumerate(rows):
        recent = [r["chosen_drift"] for r in rows[max(0, i + 1 - DRIFT_WINDOW) : i + 1]]
        if sum(recent) / len(recent) < bound:
            return int(row["step"])
    return None


def _measures(log_probs: Any, drift: Any, mask: Any, beta: float) -> dict[str, float]:
    """Tells whether DPO goes well: means over the pairs, in nats per answer.

    `kl` is KL(reference ‖ policy) in nats per token, estimated on these answers as mean(r - 1 - log r), r = policy/reference
    (Schulman's k3; the answers are samples of the reference, but selected by outcome).
    """
    chosen, rejected = log_probs.sum(1).chunk(2)
    chosen_drift, rejected_drift = drift.sum(1).chunk(2)
    margin = beta * (chosen_drift - rejected_drift)
    token_drift = drift[mask].clamp(max=20)
    values = {
        "chosen_log_prob": chosen.mean(),
        "rejected_log_prob": rejected.mean(),
        "chosen_drift": chosen_drift.mean(),
        "rejected_drift": rejected_drift.mean(),
        "margin": margin.mean(),
        "accuracy": (margin > 0).float().mean(),
        "kl": (token_drift.expm1() - token_drift).mean(),
    }
    return {name: value.item() for name, value in values.items()}
