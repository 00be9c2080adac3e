"""Checkpoints of a sharded training: what it trains and the optimizer's state, written by all processes at once.

torch's distributed checkpoint records where every part belongs. So another number of processes reads its own parts, and a
training that is not sharded reads all. The other way round, parts are cut out of what the Trainer writes of a whole model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
INDEX = ".metadata"  # dcp's
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # the Trainer's


def are_in(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def write(folder: Path, model: Any, optimizer: Any) -> None:
    """To be called in all processes."""
    folder.mkdir(parents=True, exist_ok=True)
    dcp.save({"model": _weights(model), "optimizer": _optimizer(model, optimizer)}, checkpoint_id=folder)


def read_weights(folder: Path, model: Any) -> None:
    state = {"model": _weights(model)}
    with _quiet():
        dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"], options=TRAINED)


def read_optimizer(folder: Path, model: Any, optimizer: Any) -> None:
    state = {"optimizer": _optimizer(model, optimizer)}
    with _quiet():
        dcp.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(model, _bare(optimizer), state["optimizer"], options=TRAINED)


def cut_weights(folder: Path, model: Any) -> None:
    """Take this process's parts of the whole weights that the Trainer, or PEFT, left as safetensors."""
    names = {_on_disk(name): p for name, p in model.named_parameters() if p.requires_grad}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors, torch.no_grad():
            for name in set(tensors.keys()) & set(names):
                parameter = names.pop(name)
                parameter.copy_(_cut(tensors.get_tensor(name), parameter))
    if names:
        raise ValueError(f"{folder} lacks {len(names)} trained weights ({min(names)})")


def cut_optimizer(folder: Path, optimizer: Any) -> None:
    """Take this process's parts of the whole optimizer state that the Trainer left."""
    state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, kept in state["state"].items():
        kept |= {name: _cut(value, parameters[i]) if value.dim() else value for name, value in kept.items()}
    optimizer.load_state_dict(state)


def _cut(whole: Any, parameter: Any) -> Any:
    assert isinstance(parameter, DTensor)
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _on_disk(name: str) -> str:
    """PEFT leaves the adapter's name out of the names of its weights."""
    return name.replace(".default.", ".")


def _weights(model: Any) -> dict[str, Any]:
    return get_model_state_dict(model, options=TRAINED)


def _optimizer(model: Any, optimizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = get_optimizer_state_dict(model, _bare(optimizer), options=TRAINED)
    return found


def _bare(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads all
        yield
