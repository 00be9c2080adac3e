"""Experiment trackers that a run reports to (`report_to`): which there are, whether they are here, and where they write.

They are named as transformers' TrainingArguments.report_to names them. What they do never decides an artifact, and what they
fail at never stops a run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codelutra.errors import UserError

PROJECT = "codelutra"
_PACKAGES = {  # tracker → packages of which one is needed, the first the one to install
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
}


@dataclass(frozen=True)
class Report:
    """To whom a training reports, and as what."""

    to: tuple[str, ...]
    name: str
    """The run's name there: "demo, train policy 1"."""
    folder: str
    """For TensorBoard's events."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed."""
    for name in names:
        packages = _PACKAGES[name]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise UserError(
                f"report_to: {name} needs the package {' or '.join(packages)}, which is not installed here; "
                f"`pip install {packages[0]}`, or take {name} out of report_to"
            )


def environment(report: Report | None) -> dict[str, str]:
    """What trackers in a training process read; what the user has set stays."""
    if report is None:
        return {}
    ours = {
        "WANDB_PROJECT": PROJECT,
        "WANDB_CONSOLE": "off",  # our log has it
        "TRACKIO_PROJECT": PROJECT,
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a server that is away is told of soon, not after minutes
        "TENSORBOARD_LOGGING_DIR": report.folder,
    }
    online = {"HF_HUB_OFFLINE": "0"} if "trackio" in report.to and "TRACKIO_SPACE_ID" in os.environ else {}
    return {name: os.environ.get(name, value) for name, value in ours.items()} | online


def tensorboard_folder(run: Path, name: str) -> str:
    return str(run / "tensorboard" / name.replace(" ", "-"))
