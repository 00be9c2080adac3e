"""Engines elsewhere: what one that is lost was asked for is asked of another, what was told is not."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import pytest

from codelutra.config import EngineSection
from codelutra.errors import CodelutraError, LostError, StageError
from codelutra.sampling.engine import ShardRequest
from codelutra.sampling.fleet import TRIES, Fleet
from codelutra.store.child import Event

SHARD = ShardRequest("dev-000", "", ("a", "b", "c"), ("A", "B", "C"), 1, 0.0, 0.95, 12)
SHARDS = [replace(SHARD, key=f"dev-{i:03}") for i in range(12)]


class Far:
    """An engine that ends with `error` at its shard number `lost_at`; one that is `late` gets its place when told."""

    def __init__(self, number: int, lost_at: int = 99, error: CodelutraError | None = None, late: bool = False) -> None:
        self.number, self.asked, self.ended = number, list[str](), False
        self._lost_at, self._error, self._done = lost_at, error, 0
        self._events: queue.SimpleQueue[Event | CodelutraError] = queue.SimpleQueue()
        if lost_at == 0:
            self._events.put(error or LostError("gone"))
        elif not late:
            self._events.put({"event": "started"})

    def ask(self, shards: Sequence[ShardRequest], *, more: bool) -> None:
        for shard in shards:
            self.asked.append(shard.key)
            if len(self.asked) == self._lost_at:
                self._events.put(self._error or LostError("gone"))
            elif len(self.asked) < self._lost_at:
                self._done += len(shard.prompts)
                found = [(p, 0, "", "stop", 1, 1) for p in range(len(shard.prompts))]
                self._events.put({"event": "progress", "done": self._done, "tokens": self._done})
                self._events.put({"event": "shard", "key": shard.key, "completions": found})

    def hear(self) -> Event:
        time.sleep(0.01)
        event = self._events.get()
        if isinstance(event, CodelutraError):
            raise event
        return event

    def told(self, event: Event) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True


def fleet(make: Callable[[int], Far], count: int) -> tuple[Fleet, list[Far], list[str]]:
    started, notes = list[Far](), list[str]()

    def start() -> Any:
        started.append(make(len(started)))
        return started[-1]

    return Fleet(start, EngineSection(max_batch=1), count, notes.append), started, notes


def test_the_shards_of_one_that_is_lost_go_to_others_and_no_shard_is_told_twice() -> None:
    running, started, notes = fleet(lambda number: Far(number, lost_at=3 if number == 0 else 99), 2)
    told = list[tuple[int, int, int]]()
    with running:
        found = [r.key for r in running.generate(SHARDS, lambda *a: told.append(a))]
    assert sorted(found) == [s.key for s in SHARDS]
    assert len(started) == 3, "another takes its place"
    lost = started[0]
    assert lost.ended
    assert set(lost.asked[2:]) <= set(started[1].asked + started[2].asked)
    assert not set(lost.asked[:2]) & set(started[1].asked + started[2].asked)
    assert told[-1] == (36, 36, 36)
    assert [n.split(" (")[0] for n in notes] == [f"an engine was lost, and shards to draw again: {len(lost.asked) - 2}"]


def test_one_without_its_place_gets_no_shard_and_holds_nothing_up() -> None:
    running, started, _ = fleet(lambda number: Far(number, late=number == 1), 2)
    with running:
        assert len(list(running.generate(SHARDS))) == len(SHARDS)
    assert started[1].asked == []


def test_what_an_engine_raises_on_purpose_is_raised() -> None:
    running, _, _ = fleet(lambda number: Far(number, lost_at=2, error=StageError("out of memory")), 2)
    with running, pytest.raises(StageError, match="out of memory"):
        list(running.generate(SHARDS))


def test_one_that_never_finishes_a_shard_is_started_a_few_times_and_the_last_loss_is_raised() -> None:
    running, started, notes = fleet(lambda number: Far(number, lost_at=0), 2)
    with running, pytest.raises(LostError, match="gone"):
        list(running.generate(SHARDS))
    assert len(started) == 2 * TRIES
    assert len(notes) == 2 * TRIES - 1


def test_one_machine_that_always_fails_does_not_end_what_others_finish() -> None:
    running, started, _ = fleet(lambda number: Far(number, lost_at=99 if number == 1 else 0), 2)
    with running:
        assert len(list(running.generate(SHARDS))) == len(SHARDS)
    assert len(started) <= 1 + TRIES
