"""The trackers that hear the loop's own numbers: `python -m codelutra.training.worker.loop_trackers NAME …`.

Hears {"name", "folder"}, then {"step", "numbers"} as they come, then {"end"}. Tells of each tracker that fails, once, and
when all is told.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, Protocol

from codelutra.store.child import Parent, serve

Numbers = dict[str, float]


class Tracker(Protocol):
    def log(self, step: int, numbers: Numbers) -> None: ...
    def close(self) -> None: ...


class _Trackio:
    def __init__(self, name: str, folder: str) -> None:
        import trackio

        project = os.environ["TRACKIO_PROJECT"]
        self._run: Any = trackio.init(project=project, name=name, resume="allow", embed=False)

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb(_Trackio):
    """Its runs have the interface that trackio copies."""

    def __init__(self, name: str, folder: str) -> None:
        import wandb

        project = os.environ["WANDB_PROJECT"]
        self._run = wandb.init(project=project, name=name, job_type="loop", settings=wandb.Settings(console="off"))


class _Tensorboard:
    def __init__(self, name: str, folder: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # a run that is started again tells all from the first policy on
        try:
            from tensorboard.summary import Writer  # torch's would load torch

            self._writer: Any = Writer(folder)
        except ImportError:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(folder)

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    def __init__(self, name: str, folder: str) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        kept = os.environ["MLFLOW_EXPERIMENT_NAME"]
        known = self._client.get_experiment_by_name(kept)
        experiment = known.experiment_id if known else self._client.create_experiment(kept)
        self._id = self._client.create_run(experiment, run_name=name).info.run_id

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._id, name.replace("@", "_at_"), value, step=step)  # it takes no "@"

    def close(self) -> None:
        self._client.set_terminated(self._id)


OPEN: dict[str, Callable[[str, str], Tracker]] = {
    "trackio": _Trackio,
    "wandb": _Wandb,
    "tensorboard": _Tensorboard,
    "mlflow": _Mlflow,
}


def track(parent: Parent, names: list[str]) -> None:
    run = parent.hear()
    there = dict[str, Tracker]()

    def guarded(name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as e:  # noqa: BLE001 - whatever a tracker raises, the run goes on
            there.pop(name, None)
            told = f"{name}: {type(e).__name__}: {str(e).strip()[:300]}; it hears no more of this run's numbers"
            parent.tell({"event": "tracker", "text": told})

    for name in names:
        if opened := guarded(name, lambda name=name: OPEN[name](run["name"], run["folder"])):  # type: ignore[misc]
            there[name] = opened
    while "end" not in (said := parent.hear()):
        for name, tracker in [*there.items()]:
            guarded(name, lambda tracker=tracker, said=said: tracker.log(said["step"], said["numbers"]))  # type: ignore[misc]
    for name, tracker in [*there.items()]:
        guarded(name, tracker.close)
    parent.tell({"event": "done"})


if __name__ == "__main__":
    serve(lambda parent: track(parent, sys.argv[1:]))
