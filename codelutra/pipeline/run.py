"""An opened run: its config, suite, store and directory, and the things with a lifetime it shares between stages.

Stages take a `Run` and small references (`Artifact`, `Policy`) and return small references.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.cluster.connection import Cluster, connect
from codelutra.cluster.places import FarChild, Together
from codelutra.config import RunConfig
from codelutra.errors import CodelutraError, NoSandboxError, StageError, UserError, of_the_system, redacted
from codelutra.execution.cache import OutcomeCache
from codelutra.pipeline.judges import Judges, start_pool
from codelutra.pipeline.remade import Remade
from codelutra.pipeline.startable import require_gpus, require_named, require_training
from codelutra.pipeline.tracked import Tracked
from codelutra.sampling.fleet import Elsewhere
from codelutra.store.artifacts import Artifact, Event, Step
from codelutra.store.child import Start
from codelutra.store.paths import accelerator_lock
from codelutra.store.paths import cache_dir as cache_dir
from codelutra.store.paths import home_dir as home_dir
from codelutra.store.run_dir import RunDir
from codelutra.store.shared import open_store
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.examples import with_examples
from codelutra.suites.splits import shown
from codelutra.training.trackers import Report, tensorboard_folder
from sandbox import SandboxError
from sandbox.image import recipe as image_recipe
from sandbox.pool import Pool

BOUNDS = {"answer": "min_chosen_drift", "token": "min_chosen_drift_per_token"}  # of the drift alarm
Measures = dict[str, float]  # what a step of training was like: a line of training.jsonl
Progress = Callable[[str, int, int, str, Measures], None]


@dataclass(frozen=True)
class Policy:
    """A model on disk: `base`, or what a training stage left in the store."""

    label: str  # "base", "policy-0", …
    path: str
    digest: str

    @staticmethod
    def of(label: str, trained: Artifact) -> Policy:
        return Policy(label, trained.path, trained.digest)


class Run:
    """One run, opened. Close it (or use `with`) so that its containers go."""

    def __init__(self, home: Path, config: RunConfig, runs: Path | None = None) -> None:
        """`runs`: where its directory goes, if not beside the other runs."""
        self.home = home
        self.config = config
        require_named(config)  # before problems are loaded and references judged
        require_gpus(config)
        self.suite: Suite = open_suite(config.suite)
        self.cluster: Cluster | None = connect(config, home / "store", self._note) if config.cluster else None
        self.judges = Judges(self.cluster, config) if self.cluster else None
        self.store = open_store(home / "store", config.store or "", self._heard, self._moved)
        self._open = contextlib.ExitStack()
        self._open.enter_context(self.store.in_use(waiting=lambda: print("waiting for `codelutra prune`", file=sys.stderr)))
        try:
            self.dir = RunDir.create(runs or home / "runs", config)
        except BaseException:
            self._open.close()
            raise
        self._remade = Remade(self.dir, self.store.root)
        self.on_progress: Progress | None = None  # someone else who wants to hear: the Prefect UI
        self._pool: Pool | None = None
        self._copies: dict[str, Path] = {}  # databases the pool holds beside the suite's
        self._pool_lock = threading.RLock()
        self._closed = False

    @property
    def accelerator_lock(self) -> Path:
        """One engine or trainer at a time on this host, whatever run it belongs to."""
        return accelerator_lock()

    @cached_property
    def all_problems(self) -> pl.DataFrame:
        problems, section = self.suite.problems(), self.config.suite
        return with_examples(problems, section.shots, section.seed, shown(problems, section))

    @cached_property
    def image(self) -> str:
        """Tag of the sandbox image: the hash of what goes into it. Whether it is built shows when the pool starts."""
        return image_recipe(self.suite.image).tag

    @property
    def machine(self) -> str:
        """What of the sandbox a verdict may depend on; part of the outcome cache's key."""
        return f"{self.image} {self.config.execute.memory_mb} MB {self.config.execute.runtime or ''}"

    def judging(self) -> dict[str, Any]:
        """All that decides what a program gives and whether that is right; part of the store's keys."""
        suite, limits = self.suite, self.config.execute
        return {
            "suite": suite.name,
            "suite_version": suite.version,
            "mode": suite.mode,
            "image": self.image,
            "timeout": limits.timeout_seconds,
            "memory_mb": limits.memory_mb,
            "runtime": limits.runtime,
        }

    @cached_property
    def outcome_cache(self) -> OutcomeCache:
        return OutcomeCache(self.store.root / "outcomes.sqlite3")

    @cached_property
    def tracked(self) -> Tracked:
        """The trackers of `report_to`, for the loop's own numbers."""
        return Tracked(self.config.report_to, self.dir.path, self._of_a_tracker)

    def report(self, label: str) -> Report | None:
        """What a training is to report to."""
        if not (names := tuple(dict.fromkeys(self.config.report_to))):
            return None
        return Report(names, f"{self.config.name}, {label}", tensorboard_folder(self.dir.path.absolute(), label))

    def _of_a_tracker(self, text: str) -> None:
        self._note(redacted(text))

    def _note(self, text: str) -> None:
        self.dir.ledger({"event": "note", "text": text})

    def _heard(self, event: Event) -> None:
        """What the store does, for the ledger."""
        if text := self._remade.heard(event):
            self.dir.ledger({"event": "note", "text": text})
        self.dir.ledger(event)

    def _moved(self, what: str, done: int, total: int) -> None:
        """What goes to the shared store or comes from it, for whoever waits."""
        self.progress(what, "MB")(done // 10**6, total // 10**6)

    def progress(self, stage: str, unit: str) -> Callable[..., None]:
        """A callback (done, total) that shows how far `stage` is; training says how it goes as well (`measures`)."""

        def show(done: int, total: int, *more: Any, measures: Measures | None = None) -> None:
            self.dir.progress(stage, done, total, unit, measures=measures or {})
            if self.on_progress:
                self.on_progress(stage, done, total, unit, measures or {})

        return show

    def training_progress(self, stage: str, label: str) -> Callable[[int, int, dict[str, Any]], None]:
        """A callback for `train.refine` and `train.warm_start`: steps as progress, what else happens into the ledger."""
        steps, reference = self.progress(label, "steps"), self.progress(f"{label}: reference log-probabilities", "batches")

        def hear(done: int, total: int, event: dict[str, Any]) -> None:
            match event["doing"]:
                case "training":
                    if step := event.get("resumed_from_step"):
                        text = f"{label} goes on from its checkpoint at step {step}"
                        self.dir.ledger({"event": "resumed", "stage": stage, "label": label, "step": step, "text": text})
                    steps(done, total)
                case "progress":
                    steps(done, total, measures={k: v for k, v in event.items() if k != "doing"})
                case "reference":
                    reference(done, total)
                case "waiting":
                    self.waiting(f"the engine or trainer of another run on this host ({event.get('for', '')})")
                case "tracker":
                    self._of_a_tracker(str(event["text"]))
                case "other way":
                    self._note(f"{label}: {event['text']}")
                case "drift":
                    text = (
                        f"{label}: at step {event['step']} the chosen answers' log-probability stands "
                        f"{event['drift']:.2g} nats {'a token ' if event['per'] == 'token' else ''}from the reference "
                        f"model's (train.{BOUNDS[event['per']]})"
                    )
                    self.dir.ledger({"event": "note", "text": text})

        return hear

    def waiting(self, what: str) -> None:
        """Tell whoever watches why nothing moves."""
        self.dir.ledger({"event": "waiting", "what": what})

    def make(self, step: Step) -> Artifact:
        """The step's artifact, from the store or made now."""
        return self.store.make(step)

    @contextlib.contextmanager
    def use_pool(self) -> Iterator[Pool]:
        """The run's sandbox pool, for one caller at a time; started on first use.

        Raises NoSandboxError when there is no sandbox to be had: what a program does is data, what Docker does not is this.
        """
        with self._pool_lock:
            if self._closed:  # a thread of a flow that failed: nobody would end a pool that it starts
                raise StageError("the run was ended before this was executed")
            try:
                if self._pool is None:
                    self._pool = self._start_pool()
                yield self._pool
            except SandboxError as e:
                self._close_pool()  # of several containers others may live
                raise NoSandboxError(
                    f"{e}\n(`codelutra doctor` shows what is missing; then give the same command again)"
                ) from e

    def judged(
        self,
        function: Callable[..., Any],
        *frames: Any,
        heard: Callable[..., None] | None = None,
        databases: Mapping[str, Path] | None = None,
        **named: Any,
    ) -> tuple[Any, float]:
        """What `function(*frames, suite, pool, …)` returns, and the seconds it took: with the run's pool or, on a cluster,
        on a node that has one. `databases`: beside the suite's. Raises NoSandboxError as `use_pool`."""
        named["timeout_seconds"] = self.config.execute.timeout_seconds
        if self.judges:
            return self.judges.judged(function, *frames, heard=heard, databases=dict(databases or {}), **named)
        if databases:
            self.add_databases(databases)
        with self.use_pool() as pool:
            began = time.monotonic()  # who waited for the pool did no work
            return function(*frames, self.suite, pool, progress=heard, **named), time.monotonic() - began

    @property
    def trainer(self) -> Start | None:
        """Starts what trains, on the cluster; None where that is this machine."""
        return partial(Together, self.cluster) if self.cluster else None

    def engines(self, policy: Path) -> Elsewhere | None:
        """Where a policy's engines run; None where that is this machine."""
        if not self.cluster or not self.config.cluster:
            return None
        room = self.cluster.room(each := self.config.engine.tensor_parallel)
        start = partial(FarChild.engine, self.cluster, each, policy)
        return Elsewhere(max(1, min(room, self.config.cluster.engines or room)), start, self._note)

    def add_databases(self, files: Mapping[str, Path]) -> None:
        """Have the pool hold these SQLite files, by digest, as well. One that runs without them is started anew."""
        with self._pool_lock:
            if not files.keys() <= self._copies.keys():
                self._copies |= files
                self._close_pool()

    def _close_pool(self) -> None:
        with self._pool_lock:
            if self._pool:
                self._pool.close()
                self._pool = None

    def _start_pool(self) -> Pool:
        return start_pool(self.config, self.suite, self._copies, self._note)

    @contextlib.contextmanager
    def refining(self) -> Iterator[None]:
        """Be the one process that refines this run; whatever ends it early is told in the ledger."""
        event = "refused"  # no error of the run: another process is at it
        try:
            with self.dir.hold():
                event = "error"
                require_training(self.config)
                self.dir.settle(self.config)
                yield
        except CodelutraError as e:
            with contextlib.suppress(OSError, UserError):  # of a full disk
                self.dir.ledger({"event": event, "text": str(e), "exit_code": e.exit_code})
            raise
        except Exception as e:
            known = of_the_system(e)
            text = str(known) if known else redacted(f"{type(e).__name__}: {e}")
            code = known.exit_code if known else 1
            with contextlib.suppress(OSError, UserError):  # of a full disk
                self.dir.ledger({"event": event, "text": f"{text}; the traceback is in {self.dir.log}", "exit_code": code})
            raise

    def close(self, *, wait: bool = True) -> None:
        """`wait` for what is to be published still."""
        self._closed = True
        if self.judges:
            self.judges.close()
        self._close_pool()
        if tracked := self.__dict__.pop("tracked", None):
            tracked.close()
        if "outcome_cache" in self.__dict__:
            self.outcome_cache.close()
            del self.__dict__["outcome_cache"]
        try:
            self.store.close(wait=wait)
        finally:
            self._open.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(wait=exc[0] is None)


def open_run(home: str | Path | None, config: RunConfig) -> Run:
    """The run of this config under `home`, or under what `home_dir` says."""
    return Run(home_dir(home), config)
