"""Where programs are judged: with a sandbox pool on this host, or on the nodes of a cluster. What is called there are
functions of (frames, suite, pool).

A node opens the suite and starts a pool of its own at the first call, and keeps both to the end of the run. What a program
gives stays there: verdicts travel, rows of queries do not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.cluster.connection import Cluster
from codelutra.cluster.crew import Crew
from codelutra.cluster.node import require_alike, versions
from codelutra.cluster.places import Place
from codelutra.config import RunConfig, parse_config
from codelutra.errors import NoSandboxError, UserError
from codelutra.execution import outcomes as execution
from codelutra.execution.cache import OutcomeCache
from codelutra.suites.base import Suite, open_suite
from sandbox import SandboxError, reap_orphans
from sandbox.image import ensure_image
from sandbox.pool import Pool

Verdicts = dict[bytes, dict[str, Any]]
_FOLDERS = ("CODELUTRA_DATA",)  # variables that a config's paths may name


def start_pool(config: RunConfig, suite: Suite, databases: Mapping[str, Path], note: Callable[[str], None]) -> Pool:
    """A sandbox pool with the suite's databases and others besides. Raises SandboxError."""
    reap_orphans()
    c = config.execute
    return Pool(
        image=ensure_image(suite.image, progress=note),
        workers=c.workers,
        databases={**suite.databases(), **databases},
        run=config.name,
        memory_mb=c.memory_mb,
        runtime=c.runtime,
    )


class Judge:
    """On a node: a suite and a pool, for one function after the other."""

    def __init__(self, config: dict[str, Any], folders: dict[str, str], flow: dict[str, str]) -> None:
        """`flow`: the versions where the flow runs."""
        self._flow = flow
        for name, folder in folders.items():
            os.environ.setdefault(name, folder)
        self._config = parse_config(config)
        self._suite: Suite | None = None
        self._pool: Pool | None = None
        self._databases: dict[str, Path] = {}
        self.so_far = 0, 0
        self.notes = list[str]()

    def judge(
        self, function: Callable[..., Any], frames: tuple[Any, ...], databases: dict[str, Path], named: dict[str, Any]
    ) -> tuple[Any, float]:
        """What the function returns, and the seconds it took. Raises NoSandboxError where this node has no sandbox."""
        self.so_far = 0, 0
        self._require_alike()
        try:
            self._suite = self._suite or open_suite(self._config.suite)
            if self._pool and not databases.keys() <= self._databases.keys():
                self.close()
            self._databases |= databases
            self._pool = self._pool or start_pool(self._config, self._suite, self._databases, self.notes.append)
            began = time.monotonic()
            found = function(*frames, self._suite, self._pool, progress=self._heard, **named)
            return found, time.monotonic() - began
        except SandboxError as e:
            self.close()
            raise NoSandboxError(f"{socket.gethostname()}: {e}") from e
        except NoSandboxError:
            raise
        except UserError as e:
            raise UserError(f"{socket.gethostname()}, a node of the cluster: {e}") from e

    def _require_alike(self) -> None:
        """Once. Raises NoSandboxError where this node would judge by another code: others do without it."""
        if not self._suite:
            try:
                require_alike(self._flow, computes=False)
            except UserError as e:
                raise NoSandboxError(str(e)) from e

    def _heard(self, done: int, total: int) -> None:
        self.so_far = done, total

    def close(self) -> None:
        if self._pool:
            self._pool.close()
        self._pool = None


class Known:
    """Verdicts that go along with a shard, and those that come back."""

    def __init__(self, known: Verdicts) -> None:
        self.get = known.get
        self.fresh: Verdicts = {}

    def put(self, found: Mapping[bytes, dict[str, Any]]) -> None:
        self.fresh |= found


def execute_knowing(*given: Any, known: Verdicts, **named: Any) -> tuple[tuple[pl.DataFrame, dict[str, Any]], Verdicts]:
    """`execution.execute`, and the verdicts that were not known."""
    cache = Known(known)
    return execution.execute(*given, cache=cache, **named), cache.fresh


def judged(it: Judge, *given: Any) -> tuple[Any, float]:
    return it.judge(*given)


def told(it: Judge) -> tuple[tuple[int, int], list[str]]:
    """How far it is, and what it says since the last time."""
    notes, it.notes = it.notes, []
    return it.so_far, notes


class Judges:
    """The nodes of a cluster that execute, for this run."""

    def __init__(self, cluster: Cluster, config: RunConfig) -> None:
        folders = {name: value for name in _FOLDERS if (value := os.environ.get(name))}
        self._cluster, self._cached = cluster, threading.Lock()
        self._crew = Crew(cluster, Judge, config.model_dump(mode="json"), folders, versions())

    def judged(
        self,
        function: Callable[..., Any],
        *frames: Any,
        heard: Callable[..., None] | None,
        databases: dict[str, Path],
        **named: Any,
    ) -> tuple[Any, float]:
        """As `Judge.judge`, on a free node; waits for one."""
        meanwhile = partial(self._meanwhile, heard)
        found: tuple[Any, float] = self._crew.do(judged, function, frames, databases, named, meanwhile=meanwhile)
        return found

    def execute(
        self,
        samples: pl.DataFrame,
        problems: pl.DataFrame,
        expected: pl.DataFrame,
        suite: Suite,
        cache: OutcomeCache,
        *,
        heard: Callable[..., None] | None,
        machine: str,
        timeout_seconds: float,
    ) -> tuple[tuple[pl.DataFrame, dict[str, Any]], float]:
        """As `execution.execute`, on a free node, and the seconds it took. `cache` stays here: what it knows goes along."""
        keys = execution.keys(samples, problems, suite, machine, timeout_seconds)
        with self._cached:
            known = {key: found for key in dict.fromkeys(keys) if (found := cache.get(key))}
        frames, named = (samples, problems, expected), {"machine": machine, "timeout_seconds": timeout_seconds}
        (made, fresh), seconds = self.judged(execute_knowing, *frames, heard=heard, databases={}, known=known, **named)
        with self._cached:
            cache.put(fresh)
        return made, seconds

    def _meanwhile(self, heard: Callable[..., None] | None, place: Place) -> None:
        (done, total), notes = place.call(told)
        for note in notes:
            self._cluster.note(f"{place.host}: {note}")
        if heard and total:
            heard(done, total)

    def close(self) -> None:
        self._crew.close()
