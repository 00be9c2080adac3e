"""The reference model of a training is policy t-1, as log-probabilities of the answers it learns from.

They are computed once, before the first update, in the same micro-batches as training. So at step 0 they equal the
policy's own to the bit, and the trainer checks that.
"""

from __future__ import annotations

import math
import time
from typing import Any

import polars as pl
import torch
from accelerate.utils import send_to_device

from codelutra.errors import StageError
from codelutra.training.checkpoints import digest
from codelutra.training.worker.fastest import STEP_0_TOLERANCE
from codelutra.training.worker.steps import Stepping

REFERENCE = pl.Schema({"example": pl.Int64(), "answer": pl.Int64(), "log_probs": pl.List(pl.Float32())})


class Referenced(Stepping):
    """A mixin for losses that compare the policy with policy t-1."""

    def owners(self, micro: list[int]) -> list[tuple[int, int]]:
        """(example, which of its answers) of each row that `scored` makes of a micro-batch."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Compute the log-probabilities of every answer's tokens under policy t-1, or read them from an earlier start."""
        super().prepare()
        assert self.way is not None
        began, job = time.monotonic(), self.job
        first_met = {id(b): step for step, b in reversed(list(enumerate(job.steps)))}
        batches = [job.mine(step) for step in sorted(first_met.values())]
        rounded = self.way.name, self.way.attention, job.bf16, self.accelerator.device.type
        file = job.work / f"reference-{digest(job.key, batches, rounded)[:16]}.parquet"  # each process has its own
        if not self.everywhere(file.exists()):
            pl.DataFrame(self._reference(batches), schema=REFERENCE, orient="row").write_parquet(file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        self.reference = {
            (i, answer): torch.tensor(values) for i, answer, values in pl.read_parquet(file, glob=False).rows()
        }
        self.reference_seconds = time.monotonic() - began

    def _reference(self, batches: list[list[list[int]]]) -> list[tuple[int, int, list[float]]]:
        """Rows of REFERENCE from the model as loaded, with its adapter: a new one adds nothing yet."""
        self.accelerator.unwrap_model(self.model).train()
        rows: list[tuple[int, int, list[float]]] = []
        with torch.no_grad(), self.accelerator.autocast():
            for done, batch in enumerate(batches):
                self.job.emit({"event": "reference", "done": done, "total": len(batches)})
                for micro in batch:
                    inputs = send_to_device(self.scored(micro), self.accelerator.device)
                    found, seen = self.model(**inputs, fused_lm_head=True).log_probs, inputs["labels"][:, 1:] != -100
                    rows += [
                        (*owner, values[mask].tolist())
                        for owner, values, mask in zip(self.owners(micro), found.float().cpu(), seen.cpu(), strict=True)
                    ]
        return rows

    def known(self, micro: list[int], mask: Any) -> Any:
        """The reference's log-probabilities where `mask` (rows, tokens that are predicted) is set, else 0."""
        values = torch.cat([self.reference[owner] for owner in self.owners(micro)])
        return torch.zeros(mask.shape).masked_scatter(mask, values)

    def check_reference(self, drift: Any) -> None:
        """Raise StageError if before the first update log-probabilities are not those of the reference. `drift`: their
        difference (rows, tokens), 0 outside the answers."""
        if self.state.global_step:
            return
        gap = drift.sum(1).abs().max().item()
        if not math.isfinite(gap):
            said = f"before the first update an answer's log-probability is {gap} nats from the reference model's"
            raise self.job.broken(said, 0)
        self.reference_gap = max(self.reference_gap or 0.0, gap)
        if not self.reference_gap < STEP_0_TOLERANCE:
            raise StageError(
                f"before the first update an answer's log-probability differs by {self.reference_gap:.3g} nats from the "
                f"reference model's (allowed: {STEP_0_TOLERANCE}), so the reference is not policy t-1 ({self.job.policy}); "
                f"remove {self.job.work} and run again"
            )
