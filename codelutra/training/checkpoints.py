"""One training job, and what it leaves on disk while it runs: records of steps, and checkpoints that count only if whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from codelutra.config import GrpoSection, TrainSection, WarmStartSection, in_key
from codelutra.errors import StageError
from codelutra.store.files import UNREADABLE, sha256_file, write_atomic
from codelutra.training.bases import Base
from codelutra.training.batches import Example, batches_in_a_pass
from codelutra.training.trackers import Report

CHECKPOINT_MARK = "whole.json"
CHECKPOINT_SECONDS = 180.0  # a kill of a training by one process loses no more work than this, and what is being written
Emit = Callable[[dict[str, Any]], None]


@dataclass
class Job:
    """One training, as its process sees it."""

    policy: Path
    out: Path
    work: Path
    config: TrainSection | WarmStartSection
    seed: int
    examples: list[Example]
    steps: list[list[list[int]]]
    replayed: list[Example]  # answers that the SFT term imitates beside the pairs
    tokenizer: Any
    emit: Emit
    bf16: bool = True  # autocast; weights are float32 either way
    rank: int = 0  # of this process among the `processes` that share every step; rank 0 writes for all
    processes: int = 1
    too_long: int = 0  # examples that were left out
    group: GrpoSection | None = None  # of GRPO
    max_tokens: int = 0  # of GRPO: sample.max_tokens
    drawn: list[list[int]] | None = None  # which of `replayed` each step imitates; None: a slice of them, in their order
    rows: list[dict[str, Any]] = field(default_factory=list)  # training.jsonl
    base: Base | None = None  # what an adapter belongs to
    report: Report | None = None  # trackers that hear of every step

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of every weight."""
        return self.config.sharding == "full" and self.processes > 1

    @property
    def continued(self) -> bool:
        """Whether the adapter beside policy t-1 is trained on. Else a new one is put over policy t-1."""
        return self.base is not None and self.base.path != self.policy

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the weights. A checkpoint with another key is not continued.

        The number of processes changes only memory and time. So does the micro-batch, unless the loss has a mean over the
        tokens of one: then its members decide too. Where policy and answers come from (`start`, `sft_earlier`) is seen in
        the weights and the answers.
        """
        files = sorted(f for kind in ("*.safetensors", "*.bin") for f in self.policy.glob(kind))
        weights = [(f.name, sha256_file(f)) for f in files]
        config = {name: value for name, value in in_key(self.config).items() if name not in ("start", "sft_earlier")}
        whole = config.get("sft_norm") != "token" or "sft_on" in config  # no mean over the tokens of a micro-batch
        if self.group:
            whole = self.group.loss != "bnpo"
        batches: list[Any] = self.steps
        if whole:
            del config["micro_batch"]
            batches = [sorted(i for m in step for i in m) for step in self.steps]
        if self.group:
            config |= {"grpo": self.group.training}
            config |= {"max_tokens": self.max_tokens} if self.group.loss == "dr_grpo" else {}
        content = [tuple(vars(e).values()) for e in (*self.examples, *self.replayed)]
        drawn = [] if self.drawn is None else [self.drawn]
        adapter = [self.base.fingerprint] if self.base and self.continued else []
        return digest(weights, config, self.seed, batches, content, *drawn, *adapter)

    def mine(self, step: int) -> list[list[int]]:
        """The micro-batches of a step that this process computes."""
        return self.steps[step][self.rank :: self.processes]

    def replayed_at(self, step: int) -> list[Example]:
        """The answers that a step imitates beside its pairs: all of them once in a whole pass over the pairs."""
        if self.drawn is not None:
            return [self.replayed[i] for i in self.drawn[step]]
        batches = batches_in_a_pass(len(self.examples), self.config.batch_size, self.processes)
        at = step % batches
        return self.replayed[at * len(self.replayed) // batches : (at + 1) * len(self.replayed) // batches]

    def record(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if not self.rank:
            with (self.work / "training.jsonl").open("a") as f:
                f.write(json.dumps(row) + "\n")

    def broken(self, what: str, updates: int, but: str = "") -> StageError:
        """`what` is not finite, after so many `updates`. `but`: what else may be the cause than the learning rate."""
        good = last_whole_checkpoint(self.work, self.key) or f"the policy it started from ({self.policy})"
        lower = f"Lower learning_rate ({self.config.learning_rate:g})"
        if not updates:
            but = but or f"look for weights in {self.policy} that are not finite or very large"
            lower = "No update was made before, so learning_rate is not the cause"
        return StageError(f"{what}; the last good checkpoint is {good}. {lower}{'; ' if but else ''}{but}")


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def mark_checkpoint(job: Job, step: int) -> None:
    folder = job.work / f"checkpoint-{step}"
    sizes = {f.name: f.stat().st_size for f in folder.iterdir() if f.is_file()}
    write_atomic(folder / CHECKPOINT_MARK, json.dumps({"step": step, "key": job.key, "files": sizes}))
    for other in job.work.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other)


def last_whole_checkpoint(work: Path, key: str) -> Path | None:
    """The newest checkpoint in `work` that was written to its end, by a training with this key."""
    whole: list[tuple[int, Path]] = []
    for mark in work.glob(f"checkpoint-*/{CHECKPOINT_MARK}"):
        with contextlib.suppress(*UNREADABLE):  # a damaged mark: training goes on from an earlier step
            content = json.loads(mark.read_bytes())
            files = {f.name: f.stat().st_size for f in mark.parent.iterdir() if f.is_file()}
            if content["key"] == key and all(files.get(n) == size for n, size in content["files"].items()):
                whole.append((int(content["step"]), mark.parent))
    return max(whole)[1] if whole else None


def resume(job: Job, checkpoint: Path | None) -> int:
    """Remove other checkpoints and the records of steps that will be made again. Returns the step to go on from.

    Call it in rank 0 first: it alone writes, and the other processes then find what is kept.
    """
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    for folder in job.work.glob("checkpoint-*"):
        if folder != checkpoint and not job.rank:
            shutil.rmtree(folder)
    records = job.work / "training.jsonl"
    kept = [line for line in records.read_text().splitlines(True) if line.endswith("\n")] if records.exists() else []
    job.rows += [row for line in kept if (row := json.loads(line))["step"] <= step]
    if not job.rank:
        records.write_text("".join(json.dumps(row) + "\n" for row in job.rows))
    return step
