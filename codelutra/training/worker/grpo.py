"""GRPO (Shao et al. 2402.03300), for comparison: TRL's trainer as it is, its reward the sandbox's verdict.

transformers draws the answers while it trains; K answers to each of `batch_size` problems make one optimizer step.
"""

from __future__ import annotations

import time
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from codelutra.prompts import end_ids
from codelutra.sampling.engine import stop_ids
from codelutra.training.checkpoints import Job, Judge
from codelutra.training.worker.steps import Recorded, arguments

_LOGGED = {
    "reward": "reward",
    "reward_std": "reward_std",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "cut_at_max_tokens",
    "frac_reward_zero_std": "groups_without_signal",
}


class Grpo(Recorded, GRPOTrainer):
    def __init__(self, job: Job, model: Any, sample: dict[str, Any], judge: Judge) -> None:
        """The steps of `job` hold indices into its examples. `sample` is the config's section of that name."""
        self.judge = judge
        self.prompt_of = {e.problem_id: e.prompt for e in job.examples}
        self.began, self.tokens = time.monotonic(), 0.0  # when the last row was written, and all tokens until then
        k = sample["samples_per_problem"]
        answers = len(job.steps[0][0]) * k  # of one optimizer step
        at_once = next(n for n in range(min(2 * job.config.micro_batch, answers), 0, -1) if answers % n == 0)
        args = GRPOConfig(
            **arguments(job),
            max_steps=len(job.steps),
            shuffle_dataset=False,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=answers // at_once,
            num_generations=k,
            max_completion_length=sample["max_tokens"],
            temperature=sample["temperature"],
            top_p=sample["top_p"],
            min_p=sample["min_p"] or None,
            beta=0.0,
        )
        model.generation_config.eos_token_id = stop_ids(job.policy, *end_ids(job.tokenizer))  # as when it is sampled from
        asked = [job.examples[i].problem_id for step in job.steps for i in step[0]]
        # TRL takes prompts as text; `_tokenize_prompts` makes the tokens of a problem's name.
        dataset = Dataset.from_list([{"problem_id": name, "prompt": name} for name in asked])
        super().__init__(job, model=model, reward_funcs=self.reward, args=args, train_dataset=dataset)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompt_of[name]) for name in prompts], None, {}  # what is trained on is what is sampled from

    def reward(self, completion_ids: list[list[int]], problem_id: list[str], **_: Any) -> list[float]:
        return self.judge(problem_id, self.job.tokenizer.batch_decode(completion_ids, skip_special_tokens=True))

    def measured(self, logs: dict[str, float]) -> dict[str, float]:
        now, before = time.monotonic(), self.tokens or sum(r["tokens"] for r in self.job.rows)  # resumed steps' too
        values = {"tokens": int(logs["num_tokens"] - before), "seconds": round(now - self.began, 3)}
        self.began, self.tokens = now, logs["num_tokens"]
        return values | {name: logs[theirs] for theirs, name in _LOGGED.items() if theirs in logs}
