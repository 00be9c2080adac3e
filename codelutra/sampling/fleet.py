"""Several engines on other machines that share the shards of one policy: data parallel on a cluster.

As with `Replicas`, an engine gets the next shard when it has fewer requests left than fill its batches. It gets none before
it has its place: engines that wait for room hold nothing up. One that is lost is started again where there is room, and its
shards go to whoever is next. A shard that was told is never drawn again.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from codelutra.config import EngineSection
from codelutra.errors import CodelutraError, LostError
from codelutra.sampling.engine import Engine, Progress, ShardRequest, ShardResult, completions, result_of
from codelutra.store.child import EndedEarlyError, Event, Start

TRIES = 3  # starts of an engine in a row without a finished shard


@dataclass(frozen=True)
class Elsewhere:
    """Where engines run that do not run here."""

    engines: int
    """As many as there is room for."""
    start: Start
    note: Callable[[str], None] = lambda text: None
    """Told of engines that were lost."""


@dataclass(eq=False)
class _Member:
    engine: Engine
    tries: int = 1
    ready: bool = False
    asked: dict[str, ShardRequest] = field(default_factory=dict)
    """Shards it has not told yet."""
    wanted: int = 0
    """Completions asked of it in all."""
    done: int = 0
    tokens: int = 0

    def settled(self) -> int:
        """Completions of the shards it told."""
        return self.wanted - sum(map(completions, self.asked.values()))


class Fleet:
    """As one `Engine`, of `count` that share its shards, to the end of the `with` block."""

    def __init__(self, start: Callable[[], Engine], config: EngineSection, count: int, note: Callable[[str], None]) -> None:
        self._start, self._ahead, self._note, self._open = start, 4 * config.max_batch, note, ExitStack()
        self._events: queue.SimpleQueue[tuple[_Member, Event | CodelutraError]] = queue.SimpleQueue()
        self._members = list[_Member]()
        self._gone = [0, 0]  # completions and tokens of engines that are no more
        for _ in range(count):
            self._add(1)

    def _add(self, tries: int) -> None:
        member = _Member(self._open.enter_context(self._start()), tries)
        self._members.append(member)
        threading.Thread(target=self._listen, args=(member,), daemon=True).start()

    def _listen(self, member: _Member) -> None:
        try:
            while True:
                self._events.put((member, member.engine.hear()))
        except CodelutraError as e:  # its end, too
            self._events.put((member, e))

    def generate(self, shards: Iterable[ShardRequest], progress: Progress | None = None) -> Iterator[ShardResult]:
        """As `Engine.generate`; raises what an engine raises on purpose, and LostError or EndedEarlyError when none is left.
        Once: no second call."""
        waiting = deque(shards)
        missing, total = len(waiting), sum(map(completions, waiting))
        while missing:
            try:
                member, event = self._events.get(timeout=1)
            except queue.Empty:
                pass
            else:
                if member not in self._members:
                    continue  # the end of one that was replaced
                if isinstance(event, CodelutraError):
                    waiting.extendleft(reversed(self._replace(member, event)))
                elif event.get("event") == "shard":
                    missing -= 1
                    member.tries = 0
                    del member.asked[event["key"]]
                    yield result_of(event)
                else:
                    self._told(member, event)
            self._deal(waiting)
            if progress:
                done, tokens = (sum(getattr(m, name) for m in self._members) for name in ("done", "tokens"))
                progress(self._gone[0] + done, total, self._gone[1] + tokens)

    def _told(self, member: _Member, event: Event) -> None:
        match event.get("event"):
            case "started":
                member.ready = True
                if sum(m.ready for m in self._members) == 1:
                    member.engine.told(event)
            case "progress":
                member.done, member.tokens = event["done"], event["tokens"]
            case _:
                member.engine.told(event)

    def _deal(self, waiting: deque[ShardRequest]) -> None:
        """Ask shards of those who have the fewest completions to make."""
        while waiting and (ready := [m for m in self._members if m.ready]):
            member = min(ready, key=lambda m: m.wanted - m.done)
            if member.wanted - member.done >= self._ahead:
                return
            shard = waiting.popleft()
            member.asked[shard.key] = shard
            member.wanted += completions(shard)
            member.engine.ask([shard], more=True)

    def _replace(self, member: _Member, error: CodelutraError) -> list[ShardRequest]:
        """Start another in its place, unless it was lost too often; its shards. Raises the error where no other is left."""
        if not isinstance(error, LostError | EndedEarlyError):
            raise error
        self._members.remove(member)
        self._gone[0] += member.settled()
        self._gone[1] += member.tokens
        member.engine.__exit__()
        if member.tries < TRIES:
            self._add(member.tries + 1)
        elif not self._members:
            raise error
        shards = list(member.asked.values())
        self._note(f"an engine was lost, and shards to draw again: {len(shards)} ({error})")
        return shards

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
