"""Training whose weights, gradients and optimizer state are spread over the processes (`sharding: full`).

torch's FSDP2 (`fully_shard`; Zhao et al. 2304.11277) keeps a part of every weight in each process. A decoder layer's weights
are gathered while it computes, forward and backward, and its gradients are averaged into the parts. transformers' Trainer
shards through accelerate, which does so on GPUs alone, or while the model is loaded, and then cannot resume. So it is done
here, once TRL's trainer has set the model up, and the Trainer finds a model that is prepared.

Every process has to take part in every forward pass: their numbers of micro-batches are equal (batches.py, sft_term.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import AutocastKwargs
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer

from codelutra.errors import UserError
from codelutra.training.checkpoints import Job
from codelutra.training.worker import shard_files
from codelutra.training.worker.precision import decoder_layers


def meet(job: Job) -> Any:
    """The mesh of the job's processes. Later no process waits for another until all have loaded the model."""
    cuda = torch.cuda.is_available()
    device = PartialState(cpu=not cuda, backend=None if cuda else "gloo").device
    return init_device_mesh(device.type, (job.processes,))


def shard(model: Any, mesh: Any) -> None:
    """Leave a part of every weight of `model` in this process, on its device. Raises UserError for a model without layers.

    Needs no other process: each cuts its part out of the whole model, a layer at a time.
    """
    if not (layers := decoder_layers(model)):
        raise UserError(
            f"sharding full: {type(model).__name__} does not name its decoder layers (_no_split_modules), by which it would "
            "be sharded; set sharding none, or take a model of another architecture"
        )
    for module in (*reversed(layers), model):  # what is inside another comes first
        fully_shard(module, mesh=mesh)
        if mesh.device_type == "cpu":
            module.set_force_sum_reduction_for_comms(True)  # gloo has no mean


@contextmanager
def reached_inside(model: Any) -> Iterator[None]:
    """Inside, `forward` of a sharded model, or of the one below an adapter, may be called without what hangs on calling it.

    The weights outside of layers are whole meanwhile. Not for gradients.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))  # makes it the root
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def here(tensor: Any) -> Any:
    """The part of a weight that this process has: all of it, where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(model: Any) -> dict[str, Any]:
    """What is saved of a model, of one with an adapter only that: whole weights by name, on the CPU of the first process and
    nowhere else. One at a time is gathered; a name that is tied to another gives the same tensor. To be called in all
    processes."""
    first, whole, made = torch.distributed.get_rank() == 0, dict[str, Any](), dict[int, Any]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(model, PeftModel) and not tensor.requires_grad:
            continue
        if id(tensor) not in made:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            made[id(tensor)] = full.detach().cpu() if first else None
        if first:
            whole[name] = made[id(tensor)]
    return whole


class Sharded(Trainer):
    """A mixin that stands before a TRL trainer: what the Trainer has to do otherwise where the model is sharded."""

    job: Job

    @property
    def sharded(self) -> bool:
        return self.job.sharded

    def cut(self, mesh: Any) -> None:
        """Keep a part of the model. Called once, before `prepare`."""
        shard(self.model, mesh)
        self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)  # it would keep a copy of what is let go

    def counts(self) -> dict[str, int]:
        """Weights in all, and of them in this process."""
        every = list(self.model.parameters())
        return {"weights": sum(p.numel() for p in every), "weights_here": sum(here(p).numel() for p in every)}

    def everywhere(self, done: bool) -> bool:
        """Whether `done` in all processes: where the model is sharded none goes through it alone."""
        if not self.sharded:
            return done
        said = torch.tensor(int(done), device=self.accelerator.device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MIN)
        return bool(said.item())

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not self.sharded:  # `shard` does, a layer at a time
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if not self.sharded:
            return super()._wrap_model(model, training, dataloader)
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)  # autocast, and no DistributedDataParallel
        prepared._is_accelerate_prepared = True  # accelerate's own mark of what it leaves as it is
        return prepared

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.sharded:
            super().save_model(output_dir, _internal_call)  # else they are saved with the optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        shard_files.write(Path(output_dir), self.model, self.optimizer)
        if not self.job.rank:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / shard_files.SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if shard_files.are_in(folder):
            shard_files.read_weights(folder, self.model)
        elif self.sharded:
            shard_files.cut_weights(folder, self.model)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        folder = Path(checkpoint or "")
        if not checkpoint or not (self.sharded or shard_files.are_in(folder)):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if shard_files.are_in(folder):
            shard_files.read_optimizer(folder, self.model, self.optimizer)
        else:
            shard_files.cut_optimizer(folder, self.optimizer)
        self.lr_scheduler.load_state_dict(torch.load(folder / shard_files.SCHEDULER, weights_only=True))
