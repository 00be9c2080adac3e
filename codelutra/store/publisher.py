"""Publishes finished artifacts to a shared store, one after the other, on a thread of its own. Only the end of the run waits
for uploads, or for a place that is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from codelutra.store.artifacts import Artifact, Event, read_manifest
from codelutra.store.files import UNREADABLE, cause
from codelutra.store.leases import Lease
from codelutra.store.place import Moved, Place, PlaceError
from codelutra.store.reach import Reach

MOST_MANIFEST = 64 << 20  # bytes
Shown = Callable[[str, int, int], None]  # what goes over, bytes done, of all
_LAST_REQUEST = 5.0  # seconds that one under way is waited for at the end
_NAMED = 3  # of the artifacts that are not published


@dataclass(frozen=True)
class Job:
    artifact: Artifact
    lease: Lease | None = None
    instead_of: bytes | None = None
    """A manifest there that is damaged, or whose files are."""

    @property
    def name(self) -> str:
        return f"{self.artifact.stage}/{self.artifact.key}"


def at(stage: str, key: str) -> str:
    """The name of an artifact's folder in a place."""
    return f"artifacts/{stage}/{key}"


def publish(place: Place, job: Job, moved: Moved) -> bool:
    """Copy an artifact to `place`: its files, then its manifest, unless there is one; whether it is ours that is there now.

    Killed anywhere in this, there is no artifact, and what is there of its files serves the next try. Raises PlaceError, and
    any of UNREADABLE where the artifact here is not as it was made.
    """
    folder, there = Path(job.artifact.path), at(job.artifact.stage, job.artifact.key)
    found = place.read(f"{there}/manifest.json", MOST_MANIFEST)
    if found is not None and found != job.instead_of:
        return False
    content = (folder / "manifest.json").read_bytes()
    for name, want in read_manifest(folder)["files"].items():
        target = f"{there}/{want['sha256']}"
        if found is not None or place.size(target) != want["size"]:
            place.put(target, folder / name, moved)
        else:
            moved(want["size"])
    if found is not None:
        place.remove(f"{there}/manifest.json")
    return place.create(f"{there}/manifest.json", content)


class Publisher:
    """The queue of what is to be published. Close it."""

    def __init__(self, place: Place, reach: Reach, on_event: Callable[[Event], None], shown: Shown, patience: float) -> None:
        """`patience`: seconds without any news from the place that the end of a run waits."""
        self._place, self._reach, self._on_event, self._shown, self._patience = place, reach, on_event, shown, patience
        self._change = threading.Condition()
        self._due: deque[Job] = deque()
        self._refused: list[Job] = []
        self._moved = time.monotonic()
        self._stopped = self._awaited = False
        self._bytes = 0
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        with self._change:
            if self._stopped:
                return
            self._due.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def settle(self, *, patience: float = 0.0) -> None:
        """Wait until nothing is due; or until the place has been away, without news, for `patience` seconds, or refuses.
        What goes over meanwhile is shown."""
        with self._change:
            self._moved = time.monotonic()
            self._awaited = True
            while self._due and not self._stopped and self._thread and self._thread.is_alive():
                silent = time.monotonic() - self._moved
                if self._reach.refused or (self._reach.away and silent >= patience):
                    break
                self._change.wait(0.5)
            self._awaited = False

    def close(self, *, wait: bool = True) -> None:
        """Publish what is due, if `wait`, and tell what is not published then."""
        try:
            if wait and self._due:
                self.settle(patience=self._patience)
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()
            if self._thread:
                self._thread.join(_LAST_REQUEST)
            left = [*self._refused, *self._due]
            for job in left:
                if job.lease:
                    job.lease.release(tell=not self._reach.away)
        if left:
            named = ", ".join(job.name for job in left[:_NAMED]) + ", …" * (len(left) > _NAMED)
            text = (
                f"{len(left)} finished artifacts are not in the shared store {self._place.address} yet ({named}). They are "
                "whole here, and the same command publishes them"
            )
            self._on_event({"event": "unpublished", "text": text})

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._stopped or self._due)
                self._change.wait_for(lambda: self._stopped, self._reach.wait)
                if self._stopped:
                    return
                job = self._due[0]
            refused = False
            try:
                self._bytes = 0
                self._reach.ask(partial(publish, self._place, job, self._counted))
            except _StoppedError:
                return
            except PlaceError as e:
                if not e.lasting:
                    continue
                refused = True
            except UNREADABLE as e:
                text = f"{job.artifact.path} is not published, because it is damaged ({cause(e)})"
                self._on_event({"event": "note", "text": text})
            if job.lease:
                job.lease.release()
            with self._change:
                self._due.popleft()
                if refused:
                    self._refused.append(job)
                else:
                    self._moved = time.monotonic()
                self._change.notify_all()

    def _counted(self, count: int) -> None:
        """Hear of bytes that went over."""
        self._bytes += count
        with self._change:
            if self._stopped:
                raise _StoppedError
            self._moved = time.monotonic()
            self._change.notify_all()
        if self._awaited:
            job = self._due[0]
            self._shown(f"publish {job.name}", self._bytes, _size(job.artifact))


class _StoppedError(Exception):
    """Nobody waits for the upload any more."""


def _size(artifact: Artifact) -> int:
    return sum(f["size"] for f in read_manifest(Path(artifact.path))["files"].values())
