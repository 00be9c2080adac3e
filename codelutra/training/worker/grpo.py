"""GRPO (Shao et al. 2402.03300), for comparison: TRL's trainer as it is, its reward the sandbox's verdict.

Answers are drawn by transformers while it trains; K to each of `batch_size` problems make one optimizer step.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

from codelutra.training.checkpoints import Job, mark_checkpoint, require_finite

Judge = Callable[[list[str], list[str]], list[float]]  # (problem ids, completions) → rewards
_LOGGED = {
    "reward": "reward",
    "reward_std": "reward_std",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "cut_at_max_tokens",
    "frac_reward_zero_std": "groups_without_signal",
}


def batches(problems: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Optimizer steps as lists of problems: seeded shuffles, all batches whole (TRL drops what does not fill one)."""
    draw, size = random.Random(seed), min(batch_size, problems)
    wanted, made = max(1, round(epochs * (problems // size))), list[list[int]]()
    while len(made) < wanted:
        order = draw.sample(range(problems), problems)
        made += [order[i : i + size] for i in range(0, problems - size + 1, size)]
    return made[:wanted]


def grpo_trainer(job: Job, model: Any, rows: list[dict[str, Any]], sample: dict[str, Any], judge: Judge) -> Any:
    """`rows` are the problems (problem_id, prompt as TRL takes it) that the steps of `job` count."""
    from datasets import Dataset
    from transformers import Trainer
    from trl import GRPOConfig, GRPOTrainer

    config, k = job.config, sample["samples_per_problem"]
    answers = len(job.steps[0][0]) * k  # of one optimizer step
    at_once = next(n for n in range(min(2 * config.micro_batch, answers), 0, -1) if answers % n == 0)

    def reward(completion_ids: list[list[int]], problem_id: list[str], **_: Any) -> list[float]:
        texts = job.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return judge(problem_id, texts)

    class Grpo(GRPOTrainer):  # its measures are in `_metrics` until its own `log` has taken them
        began, tokens = time.monotonic(), 0.0  # when the last row was written, and all tokens until then

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "grad_norm" in logs:
                measured = logs | {n: sum(v) / len(v) for n, v in self._metrics["train"].items() if v}
                now, all_tokens = time.monotonic(), measured["num_tokens"]
                before = self.tokens or sum(r["tokens"] for r in job.rows)  # those of a training that is gone on with, too
                row = {
                    "step": self.state.global_step,
                    "loss": logs["loss"],
                    "grad_norm": float(logs["grad_norm"]),
                    "learning_rate": logs["learning_rate"],
                    "tokens": int(all_tokens - before),
                    "seconds": round(now - self.began, 3),
                    **{v: measured[n] for n, v in _LOGGED.items() if n in measured},
                }
                self.began, self.tokens = now, all_tokens
                job.rows.append(row)
                with (job.work / "training.jsonl").open("a") as f:
                    f.write(json.dumps(row) + "\n")
                job.emit({"event": "progress", "done": row["step"], "total": len(job.steps), **row})
            super().log(logs, start_time)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if self.state.global_step >= len(job.steps):
                return  # the policy itself is written next
            require_finite(self.accelerator.unwrap_model(model), job, self.state.global_step)
            Trainer._save_checkpoint(self, model, trial)
            mark_checkpoint(job, self.state.global_step)

    steps = len(job.steps)
    args = GRPOConfig(
        output_dir=str(job.work),
        seed=job.seed,
        use_cpu=not _cuda(),
        bf16=job.bf16,
        max_steps=steps,
        shuffle_dataset=False,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=answers // at_once,
        num_generations=k,
        max_completion_length=sample["max_tokens"],
        temperature=sample["temperature"],
        top_p=sample["top_p"],
        min_p=sample["min_p"] or None,
        beta=0.0,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=_cuda(),
    )
    dataset = Dataset.from_list([rows[i] for step in job.steps for i in step[0]])
    return Grpo(model=model, reward_funcs=reward, args=args, train_dataset=dataset, processing_class=job.tokenizer)


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
