"""Does a run fit this machine, and what would make it fit? Every setting that is suggested was tried on the same formulas.

A *refusal* is what is expected not to fit. It is *sure* where the weights, and what Adam keeps of them, are more than the
machine has: `codelutra run` refuses that too. What may or may not fit is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codelutra.config import RunConfig
from codelutra.planning import memory
from codelutra.planning.machine import GIB, Machine
from codelutra.planning.memory import Need
from codelutra.planning.misfits import misfits
from codelutra.planning.shape import Shape
from codelutra.planning.work import NOTHING, Work
from codelutra.training.launch import half_micro_batch

DOUBTFUL = 0.05  # share of the memory within which an estimate is no reason to refuse
TRAINED = {"warm_start": "warm start", "train": "training"}
Changes = dict[str, Any]  # "train.micro_batch" → value


@dataclass(frozen=True)
class Fit:
    memory: float
    """Bytes a stage may take: of this machine, or of its smallest GPU."""
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sure: bool = False
    """Whether a refusal is sure."""

    def with_disk(self, needed: float, free: float, config: RunConfig, home: Path) -> Fit:
        """The same with what is to be said of the disk, bytes."""
        if needed <= free:
            return self
        text = (
            f"disk: the run writes {needed / GIB:.1f} GiB at its largest and {free / GIB:.1f} GiB are free at {home}; free "
            "some (`codelutra prune` shows what no run uses), give a --home on a larger disk, or fewer iterations "
            f"(--set iterations={max(1, config.iterations // 2)}): each keeps a policy in float32"
        )
        return replace(self, refusals=(*self.refusals, text))


def fit_of(config: RunConfig, shape: Shape, work: Work, machine: Machine) -> Fit:
    """With `cluster:` nothing is said of memory: what its nodes have is not what this machine has."""
    have, refusals, warnings, sure = room(machine, config, "training"), list[str](), list[str](), False
    for need, section in () if config.cluster else needs(config, shape, work, machine):
        most = room(machine, config, need.what)
        surely = need.surely > most
        if surely or need.expected > most * (1 + DOUBTFUL):
            ways = ways_out(config, shape, work, machine, need.what.removeprefix("merging after "))
            refusals.append(_refusal(need, most, ways, machine.name if in_ram(machine, config, need.what) else "its GPU"))
            sure = sure or surely
            continue
        now = _free(machine, config, need.what)
        if need.expected > now:
            warnings.append(
                f"{need.what}: needs about {need.expected / GIB:.1f} GiB, of {most / GIB:.1f} GiB {now / GIB:.1f} are free "
                "now; end what else runs here, or it may run out of memory"
            )
        elif need.at_most > most:
            why = (
                f"if examples are as long as they may be and share no beginning; lower {section}.micro_batch"
                if section
                else "if programs use all of execute.memory_mb"
            )
            expected, all_in_all = need.expected / GIB, need.at_most / GIB
            warnings.append(f"{need.what}: about {expected:.1f} GiB, but up to {all_in_all:.1f} of {most / GIB:.1f} {why}")
    wrong = [*misfits(config, shape), *_lacking(config, machine)]
    return Fit(have, (*refusals, *wrong), tuple(warnings), sure or bool(wrong))


def _lacking(config: RunConfig, machine: Machine) -> Iterator[str]:
    """What the config asks for and the machine has none of: of this machine a run is refused it beforehand."""
    cards = len(machine.gpus)
    for name, section in config.trainings.items():
        if section.method == "qlora" and not cards:
            yield f"{name}.method qlora needs a GPU, and {machine.name} has none; --set {name}.method=lora"
        if cards and section.processes > cards:
            yield (
                f"{name}.processes {section.processes} is more than the GPUs of {machine.name} ({cards}); "
                f"--set {name}.processes={cards}"
            )
    if cards and not config.sample.endpoints and config.engine.tensor_parallel > cards:
        yield (
            f"engine.tensor_parallel {config.engine.tensor_parallel} is more than the GPUs of {machine.name} ({cards}); "
            f"--set engine.tensor_parallel={cards}"
        )


def needs(config: RunConfig, shape: Shape, work: Work, machine: Machine) -> Iterator[tuple[Need, str]]:
    """What each stage needs, and the config's section of a training ("" for the sampler)."""
    yield memory.sampler(shape, config, machine), ""
    for name, section in config.trainings.items():
        yield memory.trainer(shape, section, work, machine, TRAINED[name]), name
        if section.method != "full":
            yield memory.merging(shape, section, TRAINED[name]), name


def hopeless(config: RunConfig, shape: Shape, machine: Machine) -> bool:
    """Whether a stage does not fit under any settings of batches; nothing about the data needs to be known."""
    return any(need.surely > room(machine, config, need.what) for need, _ in needs(config, shape, NOTHING, machine))


def room(machine: Machine, config: RunConfig, what: str) -> float:
    """Bytes that a stage may take: RAM, or of a GPU."""
    if in_ram(machine, config, what):
        return float(machine.memory)
    smallest = float(min(gpu.memory for gpu in machine.gpus))
    return smallest * config.engine.gpu_memory if what == "sampler" else smallest


def in_ram(machine: Machine, config: RunConfig, what: str) -> bool:
    return not machine.cuda or what.startswith("merging") or (what == "sampler" and bool(config.sample.endpoints))


def _free(machine: Machine, config: RunConfig, what: str) -> float:
    if in_ram(machine, config, what):
        return float(machine.free)
    return float(min(gpu.free for gpu in machine.gpus))


def _refusal(need: Need, have: float, ways: str, where: str) -> str:
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in need.parts.items() if size >= 0.05 * GIB)
    return f"{need.what}: needs about {need.expected / GIB:.1f} GiB ({parts}), {where} has {have / GIB:.1f} GiB. {ways}"


def ways_out(config: RunConfig, shape: Shape, work: Work, machine: Machine, what: str) -> str:
    """The mildest change of the config under which `what` fits, as a sentence; else how large a model may be."""
    for changes in _candidates(config, machine, what):
        changed = _with(config, changes)
        if changed and _fits(changed, shape, work, machine, what):
            return f"It fits with {' '.join(f'--set {name}={_written(value)}' for name, value in changes.items())}"
    largest = _largest(config, shape, work, machine, what)
    said = f"a model of at most about {largest / 1e9:.2g}B weights" if largest else "a smaller model"
    return f"No setting makes it fit: take {said}, or a machine with more memory"


def _fits(config: RunConfig, shape: Shape, work: Work, machine: Machine, what: str) -> bool:
    """With nothing doubtful, its merging included."""
    asked = [need for need, _ in needs(config, shape, work, machine) if need.what.endswith(what)]
    return all(need.expected <= room(machine, config, need.what) for need in asked)


def _candidates(config: RunConfig, machine: Machine, what: str) -> Iterator[Changes]:
    """Mildest first. What a config has no field for is refused by it, and so left out."""
    if what == "sampler":
        engine = config.engine
        batches = [engine.max_batch, *(n for n in (128, 64, 32, 16, 8) if n < engine.max_batch)]
        if machine.cuda:
            spread = [n for n in (1, 2, 4, 8) if engine.tensor_parallel <= n <= len(machine.gpus)]
            shares, axes = [engine.gpu_memory, *(s for s in (0.9, 0.95) if s > engine.gpu_memory)], "gpu_memory"
        else:
            spread = [engine.tensor_parallel]
            shares, axes = [engine.cache_gib, *(g for g in (2.0, 1.0, 0.5, 0.25) if g < engine.cache_gib)], "cache_gib"
        formats = [engine.dtype, *(["bfloat16"] if engine.dtype != "bfloat16" else [])]
        for dtype, parallel, share, batch in product(formats, spread, shares, batches):
            values = {"max_batch": batch, axes: share, "tensor_parallel": parallel, "dtype": dtype}
            yield {f"engine.{k}": v for k, v in values.items() if v != getattr(engine, k)}
        return
    name = next(field for field, stage in TRAINED.items() if what.endswith(stage))
    section = getattr(config, name)
    micros = [section.micro_batch]
    while micros[-1] > 1:
        micros.append(half_micro_batch(micros[-1], section.batch_size))
    methods = [None, "lora", *(["qlora"] if machine.cuda else [])]
    cards = len(machine.gpus)  # on a CPU the parts of all processes are in the same memory
    for method, sharing, again, micro in product(methods, (None, cards) if cards > 1 else (None,), (None, True), micros):
        values = {"micro_batch": micro, "gradient_checkpointing": again, "method": method, "processes": sharing}
        values |= {"sharding": "full"} if sharing else {}
        yield {f"{name}.{k}": v for k, v in values.items() if v is not None and v != getattr(section, k)}


def _with(config: RunConfig, changes: Changes) -> RunConfig | None:
    """The config with these values; None where that is no config."""
    values = config.model_dump()
    for name, value in changes.items():
        section, _, key = name.partition(".")
        values[section][key] = value
    try:
        return RunConfig.model_validate(values) if changes else None
    except ValidationError:
        return None


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _largest(config: RunConfig, shape: Shape, work: Work, machine: Machine, what: str) -> int:
    """Weights of the largest model of these proportions that fits."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        thinner = middle ** (1 / 3)
        smaller = replace(
            shape,
            parameters=int(shape.parameters * middle),
            layers=max(1, round(shape.layers * thinner)),
            hidden=max(1, round(shape.hidden * thinner)),
            feed_forward=max(1, round(shape.feed_forward * thinner)),
        )
        low, high = (middle, high) if _fits(config, smaller, work, machine, what) else (low, middle)
    return int(shape.parameters * low)
