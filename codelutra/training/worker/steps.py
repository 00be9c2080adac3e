"""What our trainers add to TRL's. The losses, the optimizer and the loop are TRL's and transformers'.

Recorded            records of steps, whole checkpoints (of shards: sharding.py)
└── Stepping        and batches that are our plan's whole steps     sft.py
    └── Referenced  and log-probabilities of policy t-1             reference.py: dpo.py, grpo.py
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from transformers import TrainerCallback

from codelutra.errors import StageError
from codelutra.training.checkpoints import CHECKPOINT_SECONDS, Job, mark_checkpoint
from codelutra.training.worker.adapters import settle
from codelutra.training.worker.fastest import TIMED, fastest, give_up
from codelutra.training.worker.log_probs import Way, exact_ways
from codelutra.training.worker.precision import checkpointed, in_float32
from codelutra.training.worker.sharding import Sharded, here, reached_inside
from codelutra.training.worker.tracking import report
from codelutra.training.worker.trl_internals import metrics_of_one_process

_SHARE = 20  # of the time, one part goes into checkpoints by the clock at most
KERNELS = (
    "a gradient that is not finite beside a loss that is may also come from torch's kernels on this device ({way}): take "
    "another version of torch, or train on a CPU to tell"
)


def arguments(job: Job) -> dict[str, Any]:
    """What all our trainers tell TRL."""
    cuda, config = torch.cuda.is_available(), job.config
    return {
        "output_dir": str(job.work),
        "seed": job.seed,
        "use_cpu": not cuda,
        "bf16": job.bf16,
        "learning_rate": config.learning_rate,
        "warmup_steps": int(config.warmup * len(job.steps)),
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_steps,
        "logging_steps": 1,
        "dataloader_pin_memory": cuda,
        "report_to": "none",  # `report` adds the job's
        "disable_tqdm": True,
    }


class Checkpoints(TrainerCallback):
    """Marks a checkpoint once it is whole. Only a marked one counts, and older ones are removed only then.

    Where steps are slow, one is also written by the clock. Several processes save together and have clocks of their own, so
    they save by their steps alone.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._saved = self._stepped = time.monotonic()
        self._took = 0.0  # seconds, to write the last one

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stepped = time.monotonic()
        if state.global_step >= len(self.job.steps):
            control.should_save = False  # the policy itself is written next
        elif self.job.processes == 1 and self._stepped - self._saved > max(CHECKPOINT_SECONDS, _SHARE * self._took):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        require_finite(model, self.job, state.global_step)
        PartialState().wait_for_everyone()  # each process leaves the state of its random numbers there
        if not self.job.rank:
            mark_checkpoint(self.job, state.global_step)
        self._saved = time.monotonic()
        self._took = self._saved - self._stepped


class Recorded(Sharded):
    """A mixin that stands before a TRL trainer. It records every step of a job and leaves whole checkpoints."""

    way: Way | None = None  # how log-probabilities are computed
    reference_seconds = 0.0
    reference_gap: float | None = None  # the largest |log-probability - reference| seen at step 0, nats an answer

    def __init__(self, job: Job, **more: Any) -> None:
        self.job = job
        super().__init__(processing_class=job.tokenizer, **more)
        settle(self.model)
        self.add_callback(Checkpoints(job))
        report(self, job)

    def prepare(self) -> None:
        """Called once, before the first step."""

    def measured(self, logs: dict[str, float]) -> dict[str, float]:
        """The fields of a step's record beside loss, gradient norm and learning rate."""
        return {}

    def watch(self, row: dict[str, Any]) -> None:
        """Called with each step's record. May end the training."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)  # TRL adds its metrics to `logs`
        if "grad_norm" not in logs:
            return  # transformers' summary at the end of training
        job, step = self.job, self.state.global_step
        if not math.isfinite(norm := logs["grad_norm"]):
            what = f"the norm of the gradient is {norm} at step {step} of {len(job.steps)} (loss {logs['loss']:.4g})"
            if math.isfinite(logs["loss"]) and give_up(job, self.way):
                job.emit({"event": "other way", "text": f"{what}, by {self.way}; it goes on in another way"})
            raise job.broken(what, step - 1, KERNELS.format(way=self.way))
        row = {"step": step} | {name: float(logs[name]) for name in ("loss", "grad_norm", "learning_rate")}
        row |= self.measured(logs)
        job.record(row)
        self.watch(row)
        job.emit({"event": "progress", "done": step, "total": len(job.steps), **row})

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes a model card beside every checkpoint. We write one when a policy is exported."""


class Stepping(Recorded):
    """A mixin that feeds a TRL trainer the plan of a job. A "batch" of the Trainer is a whole optimizer step with its
    micro-batches.

    Each of several processes computes its share of every step's micro-batches. DistributedDataParallel averages their
    gradients, so each loss is multiplied by `job.processes`. Records are sums over the processes.
    """

    aux_loss_enabled: bool  # TRL's: whether a router's own loss is added

    def __init__(self, job: Job, model: Any, args_class: Any, sample: dict[str, Any], settings: dict[str, Any], **more: Any):
        """`sample` is a row that TRL's constructor accepts as data; it is never trained on."""
        cuda = torch.cuda.is_available()
        experts = getattr(model.config.get_text_config(), "num_experts", None)
        args = args_class(
            **arguments(job),
            **settings,
            per_device_train_batch_size=1,
            num_train_epochs=1,
            gradient_accumulation_steps=1,
            max_length=None,
            weight_decay=job.config.weight_decay,
            gradient_checkpointing=checkpointed(job, model),
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            router_aux_loss_coef=None if experts else 0.0,  # TRL wants it of every hybrid that could have experts
            ddp_find_unused_parameters=False,
            ddp_backend=None if cuda or job.processes == 1 else "gloo",
        )
        super().__init__(job, model=model, args=args, train_dataset=Dataset.from_list([sample]), **more)

    def collate(self, micro: list[int]) -> Any:
        """The tensors of a micro-batch (indices of examples)."""

    def scored(self, micro: list[int]) -> Any:
        """What the model is called with: padded rows, and `labels` that are -100 but for the answers' tokens."""
        return self.collate(micro)

    def largest(self) -> list[Any]:
        """The two largest micro-batches of the job, as `scored` makes them."""
        micros = {tuple(m) for step in self.job.steps for m in step}
        by_size = sorted(micros, key=lambda m: (sum(self.job.examples[i].tokens for i in m), m))
        return [self.scored([*micro]) for micro in by_size[-2:]]

    def before_step(self, step: int, micros: list[Any]) -> None:
        """May append micro-batches."""

    def answer_tokens(self, micros: list[Any]) -> Any:
        """What the loss of each micro-batch is divided by. None: its own number of tokens."""
        return None

    def prepare(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        rounded = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
        if rounded:
            raise StageError(f"{len(rounded)} trained weights are not float32 ({rounded[0]}): updates would round away")
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        every, several = [*self.job.examples, *self.job.replayed], self.accelerator.device.type in TIMED
        with reached_inside(model), in_float32(base):
            ways = exact_ways(base, every, router_loss=self.aux_loss_enabled, several=several)
        self.way = fastest(self, ways[-1:] if self.sharded else ways, self.largest)  # of two, padding needs less memory
        if self.way.name == "one by one":
            self.aux_loss_enabled = False  # it would come with TRL's way
        if not self.job.rank:
            why = f" (prefixes are not shared: {self.way.not_shared})" if self.way.not_shared else ""
            print(f"log-probabilities: {self.way} attention{why}", flush=True)

    def get_train_dataloader(self) -> Any:
        mine = [self.job.mine(step) for step in range(len(self.job.steps))]  # so accelerate has nothing to share out
        loader = torch.utils.data.DataLoader(mine, batch_size=1, collate_fn=self._collate_step)
        device = self.accelerator.device
        return prepare_data_loader(loader, device, num_processes=1, process_index=0, put_on_device=True)

    def _collate_step(self, steps: list[list[list[int]]]) -> dict[str, Any]:
        return {"micros": [self.collate(micro) for micro in steps[0]]}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Warm-up, then cosine. transformers' first and last step have learning rate 0, which wastes two of twenty steps;
        ours have not."""
        warmup = self.args.warmup_steps

        def scale(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_training_steps - warmup)))

        if getattr(self, "lr_scheduler", None) is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, scale)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        job, step, micros = self.job, self.state.global_step, inputs["micros"]
        self.parts: list[dict[str, float]] = []  # what each micro-batch adds to this step's record
        self.started, total = time.monotonic(), 0.0
        self.before_step(step, micros)
        answer_tokens = self.answer_tokens(micros)
        for i, micro in enumerate(micros):
            more = i + 1 < len(micros)  # gradients meet once a step
            with self.accelerator.no_sync(model) if more else nullcontext():
                loss = super().training_step(model, micro, num_items_in_batch=answer_tokens)
            if not torch.isfinite(loss):
                on = sorted({job.examples[k].problem_id for m in job.mine(step)[i : i + 1] for k in m})
                what = f"the loss is {loss.item()} at step {step + 1} of {len(job.steps)}, on {', '.join(on[:8])}"
                raise job.broken(what, step)
            total = total + loss
        return total

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        with metrics_of_one_process(self):
            return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)

    def measured(self, logs: dict[str, float]) -> dict[str, float]:
        tokens = sum(self.job.examples[k].tokens for m in self.job.steps[self.state.global_step - 1] for k in m)
        names = {name: None for part in self.parts for name in part}
        values = self.over_processes({name: sum(part.get(name, 0.0) for part in self.parts) for name in names})
        seconds = time.monotonic() - self.started  # clipping and the optimizer included
        return values | {"tokens": tokens, "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds, 1)}

    def over_processes(self, values: dict[str, float]) -> dict[str, float]:
        if self.job.processes == 1:
            return values
        local = torch.tensor(list(values.values()), dtype=torch.float32, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(local).tolist(), strict=True))


def require_finite(model: Any, job: Job, step: int) -> None:
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(here(p)).all()]
    if broken:
        raise job.broken(f"after step {step} of {len(job.steps)} {len(broken)} weights are not finite ({broken[0]})", step)
