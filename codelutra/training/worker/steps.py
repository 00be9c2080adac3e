"""TRL's trainers, fed whole optimizer steps.

The losses, the optimizer and the loop are TRL's and transformers'. What is added:

    Stepping     a Trainer "batch" is a whole optimizer step of the plan, its micro-batches inside it; records, checkpoints
    Supervised   SFT: the token mean over the answers of a step
    Preference   DPO against policy t-1, whose log-probabilities are computed once, in the very micro-batches of training,
                 so that at step 0 they agree to the bit; the SFT term summed over an answer (`sft_norm: sequence`)

Classes are made in functions: their bases must not be imported before the training process runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import polars as pl

from codelutra.config import TrainSection
from codelutra.errors import StageError
from codelutra.training.batches import Example
from codelutra.training.checkpoints import Job, digest, mark_checkpoint, require_finite
from codelutra.training.worker.prefix_sharing import share_prefixes

STEP_0_TOLERANCE = 1e-3  # nats an answer. Expected: equal bits. The reference of another policy is off by tenths to tens
REFERENCE = pl.Schema({"example": pl.Int64(), "answer": pl.Int64(), "log_probs": pl.List(pl.Float32())})
DRIFT_WINDOW = 5  # steps the drift alarm averages over: the mean of one batch is noise


def _arguments(job: Job, config_class: Any, parameters: int, **more: Any) -> Any:
    """What both trainers share. One Trainer "batch" is a whole optimizer step; micro-batches are inside it."""
    import torch

    cuda = torch.cuda.is_available()
    config, steps = job.config, len(job.steps)
    return config_class(
        output_dir=str(job.work),
        seed=job.seed,
        use_cpu=not cuda,
        bf16=job.bf16,
        per_device_train_batch_size=1,
        num_train_epochs=1,
        gradient_accumulation_steps=1,
        max_length=None,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        lr_scheduler_type="cosine",
        weight_decay=config.weight_decay,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        gradient_checkpointing=cuda and parameters > 1_000_000_000,  # small models fit, and run a quarter faster without
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        ddp_backend=None if cuda or job.processes == 1 else "gloo",
        **more,
    )


def _stepping(base: Any, job: Job) -> Any:
    """`base` (a TRL trainer class) fed the plan of `job`, with its records and its whole checkpoints.

    Of several processes each computes its share of every step's micro-batches. DistributedDataParallel averages their
    gradients, so that a loss counts `job.processes` times; what is recorded is added up over all.
    """
    import torch
    from accelerate.data_loader import prepare_data_loader

    class Stepping(base):
        def share_prefixes(self) -> bool:
            model = self.accelerator.unwrap_model(self.model)
            rounded = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
            if rounded:
                raise StageError(f"{len(rounded)} trained weights are not float32 ({rounded[0]}): updates would round away")
            first = job.examples[0]
            base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
            return share_prefixes(base_model, first.prompt + first.answers[0], len(first.prompt))

        def get_train_dataloader(self) -> Any:
            def collate(steps: list[list[list[int]]]) -> dict[str, Any]:
                return {"micros": [self.collate(micro) for micro in steps[0]]}

            mine = [job.mine(step) for step in range(len(job.steps))]  # so accelerate has nothing to share out
            loader = torch.utils.data.DataLoader(mine, batch_size=1, collate_fn=collate)
            device = self.accelerator.device
            return prepare_data_loader(loader, device, num_processes=1, process_index=0, put_on_device=True)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """Warm-up, then cosine, like transformers', but without a first and a last step at learning rate 0: of a
            run of twenty steps that would waste two."""
            warmup = self.args.warmup_steps

            def scale(step: int) -> float:
                if step < warmup:
                    return (step + 1) / (warmup + 1)
                return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_training_steps - warmup)))

            if getattr(self, "lr_scheduler", None) is None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, scale)
            return self.lr_scheduler

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            step, micros = self.state.global_step, inputs["micros"]
            self.parts: list[dict[str, float]] = []  # what each micro-batch adds to this step's record
            self.started, total = time.monotonic(), 0.0
            self.before_step(step, micros)
            answer_tokens = self.answer_tokens(micros)
            for i, micro in enumerate(micros):
                more = i + 1 < len(micros)  # gradients meet once a step
                with self.accelerator.no_sync(model) if more else nullcontext(), self.no_gathering():
                    loss = super().training_step(model, micro, num_items_in_batch=answer_tokens)
                if not torch.isfinite(loss):
                    names = sorted({job.examples[k].problem_id for m in job.mine(step)[i : i + 1] for k in m})
                    raise self.broken(f"the loss is {loss.item()}", f", on {', '.join(names[:8])}")
                total = total + loss
            tokens = sum(job.examples[k].tokens for m in job.steps[step] for k in m)
            self.row = {"step": step + 1, **self.over_processes(_added(self.parts)), "tokens": tokens}
            return total

        @contextmanager
        def no_gathering(self) -> Iterator[None]:
            """TRL gathers metrics of its own from all processes, and their micro-batches differ in size."""
            ours: dict[str, Any] = self.accelerator.__dict__
            if job.processes > 1:
                ours.update(gather=lambda x: x, gather_for_metrics=lambda x, **_: x)
            try:
                yield
            finally:
                ours.pop("gather", None)
                ours.pop("gather_for_metrics", None)

        def over_processes(self, values: dict[str, float]) -> dict[str, float]:
            if job.processes == 1:
                return values
            local = torch.tensor(list(values.values()), dtype=torch.float32, device=self.accelerator.device)
            return dict(zip(values, self.accelerator.reduce(local).tolist(), strict=True))

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            if norm is not None and not math.isfinite(norm):
                raise self.broken(f"the norm of the gradient is {float(norm)}", "")
            return norm

        def broken(self, what: str, where: str) -> StageError:
            return StageError(
                f"{what} at step {self.state.global_step + 1} of {len(job.steps)}{where}; the last good checkpoint is "
                f"{job.last_good()}. Lower learning_rate ({job.config.learning_rate:g})"
            )

        def before_step(self, step: int, micros: list[Any]) -> None: ...

        def answer_tokens(self, micros: list[Any]) -> Any:
            return None

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "grad_norm" in logs:
                seconds = time.monotonic() - self.started  # clipping and the optimizer included
                row = self.row | {
                    "loss": logs["loss"],
                    "grad_norm": float(logs["grad_norm"]),
                    "learning_rate": logs["learning_rate"],
                    "seconds": round(seconds, 3),
                    "tokens_per_second": round(self.row["tokens"] / seconds, 1),
                }
                job.rows.append(row)
                if not job.rank:
                    with (job.work / "training.jsonl").open("a") as f:
                        f.write(json.dumps(row) + "\n")
                self.watch(row)
                job.emit({"event": "progress", "done": row["step"], "total": len(job.steps), **row})
            super().log(logs, start_time)

        def watch(self, row: dict[str, Any]) -> None: ...

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """A checkpoint counts once its mark is there; older ones go only then. TRL's model card is left out."""
            from transformers import Trainer

            if self.state.global_step >= len(job.steps):
                return  # the policy itself is written next
            require_finite(self.accelerator.unwrap_model(model), job, self.state.global_step)
            Trainer._save_checkpoint(self, model, trial)
            self.accelerator.wait_for_everyone()  # each leaves the state of its random numbers there
            if not job.rank:
                mark_checkpoint(job, self.state.global_step)

    return Stepping


def _added(parts: list[dict[str, float]]) -> dict[str, float]:
    """Micro-batches' contributions (already weighted by their share of the step) as the step's values."""
    return {name: sum(p.get(name, 0.0) for p in parts) for name in {n: None for p in parts for n in p}}


def supervised_trainer(job: Job, model: Any) -> Any:
    """SFT: the token mean over the answers of a whole step."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.utils import disable_dropout_in_model

    disable_dropout_in_model(model)

    class Supervised(_stepping(SFTTrainer, job)):  # type: ignore[misc]
        def collate(self, micro: list[int]) -> Any:
            return _collate_answers(job, [job.examples[i] for i in micro])

        def answer_tokens(self, micros: list[Any]) -> Any:
            return self.accelerator.reduce(sum((m["labels"] != -100).sum() for m in micros))

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self.parts.append({"sft": loss.item() / job.processes})
            return loss

    dataset = Dataset.from_list([{"input_ids": [0], "labels": [0]}])  # looked at by the constructor, never trained on
    args = _arguments(job, SFTConfig, model.num_parameters(), dataset_kwargs={"skip_prepare_dataset": True})
    return Supervised(model=model, args=args, train_dataset=dataset, processing_class=job.tokenizer)


def preference_trainer(job: Job, model: Any) -> Any:
    """TRL's DPO (`loss_type`, β) + λ·SFT(chosen); the reference model is policy t-1, as log-probabilities."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    assert isinstance(job.config, TrainSection)
    config: TrainSection = job.config
    weight, by_token = config.sft_weight, config.sft_norm == "token"
    collator = DataCollatorForPreference(pad_token_id=job.tokenizer.pad_token_id)

    class Preference(_stepping(DPOTrainer, job)):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # token ids already, by `prompts.py`: what is trained on is what was sampled from

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset  # `compute_reference`, in the micro-batches of training

        def compute_reference(self) -> None:
            """Log-probabilities of every answer's tokens under policy t-1: the model as loaded, adapters off."""
            first_met = {id(b): step for step, b in reversed(list(enumerate(job.steps)))}
            batches = [job.mine(step) for step in sorted(first_met.values())]
            file = job.work / f"reference-{digest(job.key, batches)[:16]}.parquet"  # each process has its own
            if not file.exists():
                model = self.accelerator.unwrap_model(self.model).train()
                adapters_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
                rows: list[tuple[int, int, list[float]]] = []
                with torch.no_grad(), adapters_off, self.accelerator.autocast():
                    for done, batch in enumerate(batches):
                        job.emit({"event": "reference", "done": done, "total": len(batches)})
                        for micro in batch:
                            inputs = self._prepare_inputs(_collate_pairs(collator, [job.examples[i] for i in micro]))
                            mask = inputs.pop("completion_mask")
                            labels = inputs["input_ids"].masked_fill(mask == 0, -100)
                            found = self.model(**inputs, labels=labels, fused_lm_head=True).log_probs
                            owners = [(i, answer) for answer in (0, 1) for i in micro]
                            rows += [
                                (*owner, values[seen.bool()].tolist())
                                for owner, values, seen in zip(owners, found.float().cpu(), mask[:, 1:].cpu(), strict=True)
                            ]
                pl.DataFrame(rows, schema=REFERENCE, orient="row").write_parquet(file.with_suffix(".part"))
                file.with_suffix(".part").rename(file)
            job.reference = {(i, a): torch.tensor(values) for i, a, values in pl.read_parquet(file).rows()}

        def collate(self, micro: list[int]) -> Any:
            examples = [job.examples[i] for i in micro]
            inputs = _collate_pairs(collator, examples)
            mask = inputs["completion_mask"][:, 1:].bool()
            known = torch.cat([job.reference[i, answer] for answer in (0, 1) for i in micro])
            inputs["reference"] = torch.zeros(mask.shape).masked_scatter(mask, known)
            inputs["weights"] = torch.tensor([e.weight for e in examples])
            return inputs

        def before_step(self, step: int, micros: list[Any]) -> None:
            self.pairs = sum(map(len, job.steps[step]))
            if job.replayed and weight:
                drawn = [job.replayed[i] for i in _replayed(job, step)]
                self.replayed_tokens = sum(len(e.answers[0]) for e in drawn)
                shared = len(drawn) >= job.processes  # else every process computes all of them, for its part
                self.replay_part = 1.0 if shared else 1.0 / job.processes
                if mine := drawn[job.rank :: job.processes] if shared else drawn:
                    micros.append(self._prepare_inputs(_collate_answers(job, mine)))

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if "reference" not in inputs:
                return self.replay_loss(model, inputs)
            reference, weights = inputs.pop("reference"), inputs.pop("weights")
            reference_sums = reference.sum(1)
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = reference_sums.chunk(2)
            seen: list[Any] = []

            def watched(**kwargs: Any) -> Any:
                seen.append(model(**kwargs))
                return seen[0]

            loss = super().compute_loss(watched, inputs)
            log_probs, mask = seen[0].log_probs, inputs["completion_mask"][:, 1:].bool()
            drift = log_probs.detach() - reference
            self.check_reference(drift)
            share = weights.numel() / self.pairs
            chosen = log_probs.chunk(2)[0]
            if by_token:
                sft = -chosen[mask.chunk(2)[0]].mean()  # as in TRL's loss
                preference = loss - weight * sft
            else:
                sft = -(weights * chosen.sum(1)).mean()
                preference, loss = loss, loss + weight * sft
            self.parts.append(
                _measures(log_probs.detach(), drift, mask, config.beta, share)
                | {"dpo": preference.item() * share, "sft": sft.item() * share}
            )
            return loss * share * job.processes

        def replay_loss(self, model: Any, inputs: Any) -> Any:
            """λ·SFT on references: each weighs as much as a chosen answer (`sequence`), or their token mean (`token`)."""
            out = model(**inputs, use_cache=False, fused_lm_head=True)
            if by_token:
                nll = -out.log_probs.sum() / self.replayed_tokens
            else:
                each = len(job.examples) / (_distinct_chosen(job) + len(job.replayed))
                nll = -each * out.log_probs.sum() / self.pairs
            nll = nll * self.replay_part
            self.parts.append({"replay": nll.item()})
            return weight * nll * job.processes

        def check_reference(self, drift: Any) -> None:
            if self.state.global_step:
                return
            job.reference_gap = max(job.reference_gap or 0.0, drift.sum(1).abs().max().item())
            if not job.reference_gap < STEP_0_TOLERANCE:
                raise StageError(
                    f"before the first update an answer's log-probability differs by {job.reference_gap:.3g} nats from the "
                    f"reference model's (allowed: {STEP_0_TOLERANCE}), so the reference is not policy t-1 ({job.policy}); "
                    f"remove {job.work} and run again"
                )

        def watch(self, row: dict[str, Any]) -> None:
            alarm = drift_alarm(job.rows, config.min_chosen_drift)
            if alarm == row["step"]:
                job.emit({"event": "drift", "step": alarm, "total": len(job.steps), "chosen_drift": row["chosen_drift"]})
            if alarm and config.stop_on_drift:
                self.control.should_training_stop = True

    losses = {config.loss_type: 1.0} | ({"sft": weight} if by_token and weight else {})
    args = _arguments(
        job,
        DPOConfig,
        model.num_parameters(),
        beta=config.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        precompute_ref_log_probs=True,
        disable_dropout=True,
    )
    sample = {"prompt_ids": [0], "chosen_ids": [0], "rejected_ids": [0]}
    return Preference(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([sample]),
        processing_class=job.tokenizer,
        peft_config=_lora(config),
    )


def drift_alarm(rows: list[dict[str, Any]], bound: float) -> int | None:
    """The first step at which the chosen answers' log-probability, averaged over the steps before, is `bound` nats from
    the reference model's; plain DPO is known to push it down (Pal et al. 2402.13228)."""
    for i, row in enumerate(rows):
        recent = [r["chosen_drift"] for r in rows[max(0, i + 1 - DRIFT_WINDOW) : i + 1]]
        if sum(recent) / len(recent) < bound:
            return int(row["step"])
    return None


def _lora(config: TrainSection) -> Any:
    if config.method == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _collate_pairs(collator: Any, examples: list[Example]) -> Any:
    return collator([{"prompt_ids": e.prompt, "chosen_ids": e.answers[0], "rejected_ids": e.answers[1]} for e in examples])


def _collate_answers(job: Job, examples: list[Example]) -> Any:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(pad_token_id=job.tokenizer.pad_token_id)
    unseen = [[-100] * len(e.prompt) for e in examples]
    return collator(
        [{"input_ids": e.prompt + e.answers[0], "labels": u + e.answers[0]} for e, u in zip(examples, unseen, strict=True)]
    )


def _replayed(job: Job, step: int) -> range:
    """Which references step `step` replays: all of them once in a whole pass over the pairs."""
    batches = math.ceil(len(job.examples) / job.config.batch_size)
    at = step % batches
    return range(at * len(job.replayed) // batches, (at + 1) * len(job.replayed) // batches)


def _distinct_chosen(job: Job) -> int:
    return len({(e.problem_id, tuple(e.answers[0])) for e in job.examples})


def _measures(log_probs: Any, drift: Any, mask: Any, beta: float, share: float) -> dict[str, float]:
    """What tells whether DPO goes well. Nats an answer, but `kl`: KL(reference ‖ policy) in nats a token, estimated on
    these answers as mean(r - 1 - log r), r = policy/reference (Schulman's k3; they are samples of the reference, though
    chosen by outcome)."""
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
    return {name: value.item() * share for name, value in values.items()}
