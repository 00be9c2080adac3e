"""DPO (TRL's `loss_type`, β) + λ·SFT(chosen), on pairs. The reference model is policy t-1 (reference.py)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import send_to_device
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from codelutra.config import TrainSection
from codelutra.training.checkpoints import Job
from codelutra.training.worker.reference import Referenced
from codelutra.training.worker.sft import collate_answers
from codelutra.training.worker.sft_term import imitated, pull, share
from codelutra.training.worker.trl_internals import PreparedDPOTrainer

DRIFT_WINDOW = 5  # steps the drift alarm averages over: the mean of one batch is noise


class Preference(Referenced, PreparedDPOTrainer):
    def __init__(self, job: Job, model: Any) -> None:
        assert isinstance(job.config, TrainSection)
        self.config: TrainSection = job.config
        self.on_chosen = self.config.sft_weight if self.config.sft_on == "chosen" else 0.0  # λ in the pairs' own loss
        self.by_token = self.config.sft_norm == "token"  # TRL has that term; the one summed over an answer is ours
        losses: dict[str, float] = {self.config.loss_type: self.config.dpo_weight}
        if self.by_token and self.on_chosen:
            losses["sft"] = self.on_chosen
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

    def largest(self) -> list[Any]:
        """Of pairs or, where there are none, of answers."""
        return super().largest() or [
            collate_answers(answers, self.job.tokenizer) for answers in imitated(self.job, 0)[0][:2]
        ]

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
        if self.config.sft_weight:
            more, self.imitation_weight = imitated(job, step)
            micros += [send_to_device(collate_answers(answers, job.tokenizer), self.accelerator.device) for answers in more]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        if "reference" not in inputs:
            return self._imitation_loss(model, inputs)
        reference, weights = inputs.pop("reference"), inputs.pop("weights")
        inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = reference.sum(1).chunk(2)
        seen: list[Any] = []

        def watched(**kwargs: Any) -> Any:
            seen.append(model(**kwargs))
            return seen[0]

        idle = not (self.config.dpo_weight or self.on_chosen)  # these pairs are only looked at
        with torch.no_grad() if idle else nullcontext():
            loss = super().compute_loss(watched, inputs)
        log_probs, mask = seen[0].log_probs, inputs["completion_mask"][:, 1:].bool()
        drift = log_probs.detach() - reference
        self.check_reference(drift)
        part, chosen = weights.numel() / self.pairs, log_probs.chunk(2)[0]
        if self.by_token:
            sft = -chosen[mask.chunk(2)[0]].mean()  # as in TRL's loss
            preference = loss - self.on_chosen * sft
        else:
            sft = -(weights * chosen.sum(1)).mean()
            preference, loss = loss, loss + self.on_chosen * sft
        measures = _measures(log_probs.detach(), drift, mask, self.config.beta)
        measures |= {"dpo": preference.item()} | ({"sft": sft.item()} if self.config.sft_on == "chosen" else {})
        measures |= {"dpo_pull": pull(preference, log_probs, mask), "sft_pull": pull(self.on_chosen * sft, log_probs, mask)}
        self.parts.append({name: value * part for name, value in measures.items()})
        loss = loss * part * self.job.processes
        return loss.requires_grad_() if idle else loss

    def _imitation_loss(self, model: Any, inputs: Any) -> Any:
        """λ·SFT on answers beside the pairs."""
        out = model(**inputs, use_cache=False, fused_lm_head=True)
        nll = -self.imitation_weight * out.log_probs.sum()
        loss = self.config.sft_weight * nll
        name = "replay" if self.config.sft_on == "chosen" else "sft"
        answered = inputs["labels"][:, 1:] != -100
        self.parts.append({name: nll.item(), "sft_pull": pull(loss, out.log_probs, answered)})
        return loss * self.job.processes

    def measured(self, logs: dict[str, float]) -> dict[str, float]:
        values = super().measured(logs)
        pulls = [values.pop(name, 0.0) for name in ("dpo_pull", "sft_pull")]
        return values | {"dpo_share": round(share(*pulls), 4)}

    def watch(self, row: dict[str, Any]) -> None:
        alarm = drift_alarm(self.job.rows, self.config)
        if alarm and alarm["step"] == row["step"]:
            self.job.emit({"event": "drift", "total": len(self.job.steps), **alarm})
        if alarm and self.config.stop_on_drift:
            self.control.should_training_stop = True
            self.control.should_save = False  # the policy itself is written next; from here a step more would be made


def drift_alarm(rows: list[dict[str, Any]], config: TrainSection) -> dict[str, Any] | None:
    """The first step at which the drift of chosen answers, averaged over the last steps, is below one of its two bounds, as
    `step`, `per` ("answer" or "token") and `drift` (nats); else None. Plain DPO is known to push it down (Pal et al.
    2402.13228)."""
    bounds = (
        ("answer", "chosen_drift", config.min_chosen_drift),
        ("token", "chosen_drift_per_token", config.min_chosen_drift_per_token),
    )
    paired = [row for row in rows if "chosen_drift" in row]
    for i, row in enumerate(paired):
        for per, name, bound in bounds:
            recent = [r[name] for r in paired[max(0, i + 1 - DRIFT_WINDOW) : i + 1] if name in r]
            if recent and (drift := sum(recent) / len(recent)) < bound:
                return {"step": int(row["step"]), "per": per, "drift": round(drift, 3)}
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
        "chosen_drift_per_token": drift.chunk(2)[0][mask.chunk(2)[0]].mean(),
        "margin": margin.mean(),
        "accuracy": (margin > 0).float().mean(),
        "kl": (token_drift.expm1() - token_drift).mean(),
    }
    return {name: value.item() for name, value in values.items()}
