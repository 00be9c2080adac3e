"""Sends the loop's own numbers to the trackers in `report_to`: a run of the tracker for each run, a step for each policy.

The trackers live in a process of their own (`training/worker/loop_trackers.py`), so one that prints, raises or hangs does
not disturb the loop. The ledger notes what fails.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from codelutra.errors import CodelutraError
from codelutra.results.summary import PolicyResult, TestResult
from codelutra.store.child import Child, Event
from codelutra.training.trackers import Report, environment, tensorboard_folder

_PATIENCE = 60.0  # seconds, for what is still unsaid at the end


class Tracked:
    """Tells trackers of numbers. `note` hears of those that fail."""

    def __init__(self, names: Sequence[str], run: Path, note: Callable[[str], None], patience: float = _PATIENCE) -> None:
        self._names, self._run, self._note, self._patience = tuple(dict.fromkeys(names)), run, note, patience
        self._open = contextlib.ExitStack()
        self._child: Child | None = None
        self._lock = threading.Lock()

    def log(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """`step` never falls. Waits for no tracker."""
        with self._lock:
            if not self._names:
                return
            if self._child is None:
                report = Report(self._names, self._run.name, tensorboard_folder(self._run.absolute(), "loop"))
                module, more = "codelutra.training.worker.loop_trackers", environment(report)
                child = Child("trackers", module, *self._names, log=self._run / "log.txt", more=more)
                self._child = self._open.enter_context(child)
                self._child.send({"name": report.name, "folder": report.folder})
            self._child.send({"step": step, "numbers": {k: float(v) for k, v in numbers.items() if v is not None}})
            self._hear(until=0.0)

    def close(self) -> None:
        """Wait until all is told, but not for ever."""
        with self._lock, self._open:
            if self._child is None or not self._names:
                return
            self._child.send({"end": True})
            if not self._hear(until=time.monotonic() + self._patience):
                self._note(f"report_to: no answer from {', '.join(self._names)} within {self._patience:g} s")
            self._child = None

    def _hear(self, until: float) -> bool:
        """Take what the trackers' process says, until it is done (True) or the time has come."""
        assert self._child
        try:
            while event := self._next(until):
                if event["event"] == "done":
                    return True
                self._note(str(event.get("text")))
        except CodelutraError as e:
            self._names = ()  # it has ended: nobody is left to tell
            self._note(f"report_to: {e}")
            return True
        return False

    def _next(self, until: float) -> Event:
        assert self._child
        return self._child.hear(timeout=max(0.01, until - time.monotonic()))


def numbers_of(row: PolicyResult) -> dict[str, float | None]:
    """What a tracker hears of a policy: dev, what the next policy learns from it, what it took."""
    previous, funnel, training = row.paired.previous, row.funnel, row.training
    return {
        **({"dev/pass@1": row.dev.value, "dev/low": row.dev.low, "dev/high": row.dev.high} if row.dev.n else {}),
        **({"dev/executable": row.executable} if row.dev.n else {}),
        **({"dev/gained": previous.gained, "dev/lost": previous.lost} if previous else {}),
        **{f"{split}/tokens": shape.tokens for split, shape in row.answers.items()},
        **{f"{split}/ended": shape.ended for split, shape in row.answers.items()},
        **{f"train/pass@{k}": e.value for k, e in (row.train.pass_at_k if row.train else {}).items()},
        **(
            {"lesson/pairs": funnel.pairs, "lesson/answers": funnel.answers, "lesson/groups": funnel.groups}
            if funnel
            else {}
        ),
        **({"training/dpo_share": training.dpo_share} if training else {}),
        **{f"seconds/{stage}": seconds for stage, seconds in row.seconds.items()},
        "tokens_sampled": row.tokens,
    }


def numbers_of_test(test: TestResult) -> dict[str, float | None]:
    return {"test/pass@1": test.value, "test/low": test.low, "test/high": test.high}
