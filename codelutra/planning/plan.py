"""`codelutra plan`: what a run will take, stage by stage, against what this machine has; before anything is spent.

    shape ─┐
    work ──┼─► memory ─► fits? ─► ways out
    speeds ┘─► minutes, disk, cost

Memory and disk are formulas (memory.py; below), minutes are work divided by speeds (speeds.py). All iterations are counted;
a run may end earlier (`select.patience`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from codelutra import models
from codelutra.config import RunConfig, TrainSection, WarmStartSection
from codelutra.config.idle import idle_lines
from codelutra.errors import UserError
from codelutra.hardware import number_format
from codelutra.planning import memory
from codelutra.planning.calibration import Calibration, Say, calibrate
from codelutra.planning.fit import TRAINED, Fit, fit_of, hopeless, needs
from codelutra.planning.history import History, Trained, read_history
from codelutra.planning.machine import GIB, Machine, free_disk, same_disk, this_machine
from codelutra.planning.memory import Need
from codelutra.planning.shape import Shape, shape_of
from codelutra.planning.speeds import EARLIER, GUESSED, MEASURED, Speeds, speeds
from codelutra.planning.work import Work, steps, work_of
from codelutra.store.paths import cache_dir
from codelutra.suites.base import open_suite
from codelutra.training.checkpoints import CHECKPOINT_SECONDS

CHECKPOINT = 12  # bytes a trained weight: the weights and two moments, float32
UNSOLVED = 0.5  # assumed share of the train problems that `sample.more` asks again
RIGHT = 0.5  # assumed share of answers that are right: those run on the databases' copies as well (`suite.copies`)
TEXT = 12  # bytes on disk a sampled token: its text in samples, outcomes and pairs, compressed


@dataclass(frozen=True)
class Stage:
    """A row of the plan. A stage that every iteration has is counted for all of them."""

    name: str
    kind: str
    """references | measure | sample | warm-start | train"""
    times: int
    tokens: float
    memory: float
    """Bytes, all parts expected."""
    disk: float
    """Bytes that stay."""
    seconds: float
    basis: str
    """What the time is based on."""
    programs: int = 0


@dataclass(frozen=True)
class Plan:
    run: str
    model: str
    shape: Shape
    machine: Machine
    work: Work
    stages: tuple[Stage, ...]
    needs: tuple[Need, ...]
    fit: Fit
    disk_peak: float
    """Bytes on the disk of the home while the run is at its largest; of the cache, too, if that is another disk."""
    disk_free: float
    programs: int
    steps: dict[str, int]
    """Optimizer steps of a training, by its name."""
    objective: str
    price: float | None = None
    peaks: dict[str, float] = field(default_factory=dict)
    """Bytes that a calibration or earlier trainings really took."""
    idle: tuple[str, ...] = ()
    """Settings that nothing in the run reads, in sentences."""

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages)

    @property
    def pairs(self) -> bool:
        """Whether it learns from pairs."""
        return "training" in self.steps and self.objective == "preference"

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.price * self.seconds / 3600

    @property
    def memory(self) -> float:
        """Of the machine, or of a GPU where there is one."""
        return max(n.expected for n in self.needs if not (self.machine.cuda and n.what.startswith("merging")))

    @property
    def basis(self) -> str:
        """Of the minutes: the weakest that the longer stages have."""
        kinds = {s.basis for s in self.stages if s.seconds >= 0.05 * self.seconds}
        return next((kind for kind in (GUESSED, MEASURED, EARLIER) if kind in kinds), EARLIER)

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        told["shape"]["folder"] = str(self.shape.folder) if self.shape.folder else None
        told["needs"] = [asdict(n) | {"expected": n.expected, "at_most": n.at_most} for n in self.needs]
        total = {"seconds": self.seconds, "cost": self.cost, "memory": self.memory, "basis": self.basis}
        return {**told, "total": total, "fits": not self.fit.refusals}


def plan_of(
    config: RunConfig,
    home: Path,
    *,
    measure: bool = False,
    fetch: bool = False,
    count: bool = True,
    price: float | None = None,
    machine: Machine | None = None,
    say: Say = lambda text: None,
) -> Plan:
    """machine: another than this one, of which only sizes are known. measure: calibrate where the store knows nothing of
    this model. count: use the model's tokenizer, a second; else characters. Raises UserError as the run would, and where
    nothing is known of the model."""
    shape, here = shape_of(config.model, home, fetch=fetch), machine is None
    machine = machine or this_machine()
    too_large = hopeless(config, shape, machine)
    history = History() if too_large or not here else _history(config, home, shape)  # which hashes the weights
    work = work_of(config, shape.folder if count else None, history)
    wanted = tuple(need for need, _ in needs(config, shape, work, machine))
    fit = fit_of(config, shape, work, machine)
    calibration = None
    if measure and here and not config.cluster and not fit.refusals and _unknown(config, history):
        calibration = _calibrated(config, home, shape, work, say)
        work = _with_answers(config, work, calibration)
    pace = speeds(config, shape, machine, work, history, calibration)
    fit = replace(fit, warnings=(*fit.warnings, *_elsewhere(config, pace)))
    stages = tuple(_stages(config, shape, work, pace, wanted))
    peak, free = _disk(config, home, shape, work, stages)
    fit = fit.with_disk(peak, free, config, home)
    return Plan(
        config.name,
        config.model,
        shape,
        machine,
        work,
        stages,
        wanted,
        fit,
        peak,
        free,
        sum(s.programs for s in stages),
        {
            TRAINED[name]: steps(work.examples(section, config.sample.samples_per_problem), section)
            for name, section in config.trainings.items()
        },
        config.train.objective,
        price,
        _peaks(history, calibration),
        tuple(idle_lines(config)),
    )


def _elsewhere(config: RunConfig, pace: Speeds) -> Iterator[str]:
    """What is not planned, because others do it."""
    if config.sample.endpoints and pace.basis["sampled"] == GUESSED:
        yield "sample.endpoints: how fast the servers are is not known yet; minutes are as if this machine sampled"
    if config.cluster:
        yield (
            "cluster: its nodes are not known here; memory and minutes are those of one machine such as this. Whether there "
            "is room is asked when the run connects"
        )


def _history(config: RunConfig, home: Path, shape: Shape) -> History:
    if shape.folder is None:
        return History()
    try:
        fingerprint = models.fingerprint(shape.folder, cache_dir() / "models")
    except (UserError, OSError, ValueError):
        return History()
    suite, dtype = open_suite(config.suite).version, number_format(config.engine.dtype)
    learns, thought = (config.train.objective, config.train.method), config.prompt.budget
    return read_history(home / "store", fingerprint, suite, dtype, *learns, thought)


def _unknown(config: RunConfig, history: History) -> bool:
    """Whether a stage of the run has no earlier work to go by."""
    sampled = history.sampled is not None or bool(config.sample.endpoints)
    warmed = history.warm_start is not None or config.warm_start is None
    trained = history.train is not None or not config.iterations
    return not (sampled and warmed and trained)


def _calibrated(config: RunConfig, home: Path, shape: Shape, work: Work, say: Say) -> Calibration:
    folder = shape.folder or shape_of(config.model, home, fetch=True).folder
    assert folder is not None
    suite = open_suite(config.suite)
    problems = suite.problems()
    train = problems.filter(pl.col("split") == "train")
    return calibrate(config, folder, suite.system, train if train.height else problems, work, say)


def _with_answers(config: RunConfig, work: Work, calibration: Calibration) -> Work:
    """Without a warm start the model's own answers tell how long answers will be."""
    if config.warm_start or not calibration.base_answer or work.basis.get("answer") == "earlier samples":
        return work
    return replace(work, answer=calibration.base_answer, basis=work.basis | {"answer": "calibration"})


def _peaks(history: History, calibration: Calibration | None) -> dict[str, float]:
    c, found = calibration or Calibration(), dict[str, float]()
    for name, earlier, now in (("warm start", history.warm_start, c.warm_start), ("training", history.train, c.train)):
        if peak := (earlier or now or Trained(0, 0, 0)).peak:
            found[name] = peak
    return found | ({"sampler": c.sampler_peak} if c.sampler_peak else {})


def _stages(config: RunConfig, shape: Shape, work: Work, pace: Speeds, needs: tuple[Need, ...]) -> list[Stage]:
    k, iterations = config.sample.samples_per_problem, config.iterations
    again = UNSOLVED * config.sample.more  # a train problem, on average
    need = {n.what: n.expected for n in needs}
    policy = 4.0 * shape.parameters
    copies, folds = config.suite.copies, config.folds
    found = [_references("references", _problems(work), 0.0, pace)]
    if copies:
        found.append(_references("references on copies", copies * _problems(work), 3.0 * copies * work.databases, pace))

    def asking(name: str, times: int, greedy: int, drawn: int, answer: float, engines: int = 0) -> Stage:
        answers = greedy + round(drawn * (k + again))
        tokens, starts = answer * answers, (2 if drawn and again else 1) * (1 + engines / times)
        programs = round(answers * (1 + RIGHT * copies))
        seconds = starts * pace.sampled.start + (greedy + drawn) * pace.sampled.prompt + tokens * pace.sampled.token
        seconds = max(seconds, programs / pace.programs)  # programs run while later ones are written
        known = tokens * TEXT
        kind, basis = "sample" if drawn else "measure", pace.basis["sampled"]
        size, spent = need["sampler"], times * seconds
        return Stage(name, kind, times, times * tokens, size, times * known, spent, basis, times * programs)

    def training(
        name: str, times: int, section: TrainSection | WarmStartSection, what: str, t: Trained, share: float = 1.0
    ) -> Stage:
        one = work.tokens(section, k) * share
        tokens, again = one * section.epochs, one if what == "training" and t.reference_rate else 0.0
        seconds = t.start + tokens / max(1e-9, t.rate) + (again / t.reference_rate if again else 0.0)
        kind = "warm-start" if what == "warm start" else "train"
        return Stage(
            name,
            kind,
            times,
            times * tokens,
            need[what],
            times * policy,
            times * seconds,
            pace.basis[kind.replace("-", "_")],
        )

    if config.warm_start:
        found.append(asking("base, on dev", 1, work.dev, 0, pace.base_answer))
        found.append(training("warm start", 1, config.warm_start, "warm start", pace.warm_start))
    if folds and config.warm_start:
        kept = (folds - 1) / folds
        found.append(
            training(f"warm starts of {folds} folds", folds, config.warm_start, "warm start", pace.warm_start, kept)
        )
    if iterations:
        drawing = config.train.objective != "sft"
        many = "" if iterations == 1 else f", {iterations} times"
        found.append(asking(f"sampling{many}", iterations, work.dev, work.train if drawing else 0, work.answer, folds))
        found.append(training(f"training{many}", iterations, config.train, "training", pace.train))
    if work.dev:
        found.append(asking("last policy, on dev", 1, work.dev, 0, work.answer))
    if work.test:
        found.append(asking("test", 1, work.test, 0, work.answer))
    return found


def _problems(work: Work) -> int:
    return work.train + work.dev + work.test


def _references(name: str, programs: int, disk: float, pace: Speeds) -> Stage:
    return Stage(name, "references", 1, 0, 0, disk, programs / pace.programs, pace.basis["programs"], programs)


def _disk(config: RunConfig, home: Path, shape: Shape, work: Work, stages: tuple[Stage, ...]) -> tuple[float, float]:
    """(bytes at the largest, bytes free) on the disk of the home."""
    kept = sum(s.disk for s in stages)
    largest = 0.0
    for name, section in config.trainings.items():
        trained = shape.parameters if section.method == "full" else memory.adapter(shape, section)
        written = steps(work.examples(section, config.sample.samples_per_problem), section) / section.checkpoint_steps
        if section.processes == 1:  # by the clock as well
            longest = max(s.seconds / s.times for s in stages if s.kind == name.replace("_", "-"))
            written = max(written, longest / CHECKPOINT_SECONDS)
        # The newest goes only once the next one is whole.
        largest = max(largest, CHECKPOINT * trained * min(2, int(written)))
    store = home / "store"
    fetched = shape.fetched + shape.made if same_disk(store, cache_dir()) else 0
    return kept + largest + fetched, float(free_disk(store))


def summary(plan: Plan) -> str:
    """The plan in a line."""
    have = plan.fit.memory
    minutes = plan.seconds / 60
    cost = f", cost {plan.cost:.2f}" if plan.cost is not None else ""
    return (
        f"{told_size(plan.shape.parameters)} weights; memory {plan.memory / GIB:.1f} of {have / GIB:.1f} GiB; disk "
        f"{plan.disk_peak / GIB:.1f} of {plan.disk_free / GIB:.1f} GiB; {told_time(minutes)} ({plan.basis}){cost}"
    )


def told_size(parameters: int) -> str:
    return f"{parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def told_time(minutes: float) -> str:
    return f"about {minutes:.0f} minutes" if minutes < 120 else f"about {minutes / 60:.1f} hours"
