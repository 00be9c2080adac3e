"""Transformers' reporting callbacks, as TrainingArguments.report_to starts them, where their failures stop no training."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from codelutra.training.checkpoints import Job
from codelutra.training.trackers import PROJECT


class Guarded(TrainerCallback):
    """Passes every event on to a tracker's callback. One that fails is told of, once, and hears nothing more."""

    def __init__(self, name: str, tell: Callable[[str], None], make: Callable[[], TrainerCallback]) -> None:
        self._name, self._tell = name, tell
        self._inner: TrainerCallback | None = None
        try:
            self._inner = make()
        except Exception as e:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self._failed(e)

    def _failed(self, error: Exception) -> None:
        self._inner = None
        self._tell(f"{self._name}: {type(error).__name__}: {str(error).strip()[:300]}; it hears no more of this training")

    def pass_on(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self._inner is None:
            return
        try:
            getattr(self._inner, event)(*args, **kwargs)
        except Exception as e:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self._failed(e)


def _passing_on(event: str) -> Callable[..., None]:
    def heard(self: Guarded, *args: Any, **kwargs: Any) -> None:
        self.pass_on(event, *args, **kwargs)

    return heard


for _event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
    setattr(Guarded, _event, _passing_on(_event))


def report(trainer: Trainer, job: Job) -> None:
    """Have a trainer report to the job's trackers; of several processes the first alone."""
    if job.report is None or job.rank:
        return
    names = list(job.report.to)
    trainer.args.report_to, trainer.args.run_name = names, job.report.name
    trainer.args.project = os.environ.get("TRACKIO_PROJECT", PROJECT)

    def tell(text: str) -> None:
        job.emit({"event": "tracker", "text": text})

    for name in names:
        guarded = Guarded(name, tell, lambda name=name: get_reporting_integration_callbacks([name])[0]())  # type: ignore[misc]
        guarded.pass_on("on_init_end", trainer.args, trainer.state, trainer.control)
        trainer.add_callback(guarded)
