"""The one place that overrides what TRL keeps to itself. Written for TRL 1.16 (pyproject.toml admits no other minor
version). All else in this package uses what TRL, transformers and accelerate document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl import DPOTrainer


class PreparedDPOTrainer(DPOTrainer):
    """TRL's DPO on token ids that are ready, with reference log-probabilities that are computed elsewhere.

    SFTTrainer has an option for the first (`skip_prepare_dataset`); DPOTrainer has none for either.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL would tokenise it; `prompts.py` has, so what is trained on is what was sampled from

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL would pad other batches than those of training, and the check at step 0 would need slack


class _OneProcess:
    """An accelerator as it is, but gathering gives each process back its own."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: Any) -> Any:
        return tensor

    def gather_for_metrics(self, tensor: Any, **_: Any) -> Any:
        return tensor


@contextmanager
def metrics_of_one_process(trainer: Any) -> Iterator[None]:
    """Inside, TRL's `compute_loss` does not gather its metrics over the processes.

    It would need tensors of one size from each of them, and our micro-batches differ in size. We don't use these metrics.
    """
    accelerator = trainer.accelerator
    trainer.accelerator = _OneProcess(accelerator)
    try:
        yield
    finally:
        trainer.accelerator = accelerator
