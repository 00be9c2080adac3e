"""Several engines that share the shards of one policy, each on GPUs of its own: data parallel on one host.

The first holds the host's accelerator lock for all; the others start once it has it. An engine gets the next shard when it
has fewer requests left than fill its batches, so the faster one samples more. Which engine samples what changes no greedy
answer, and on GPUs, where every sample has a seed of its own, no other (see `engine.py`).
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from codelutra.config import EngineSection
from codelutra.errors import CodelutraError, UserError
from codelutra.hardware import too_few_gpus, visible_gpus
from codelutra.sampling.engine import Engine, Progress, ShardRequest, ShardResult, completions, result_of
from codelutra.store.child import Event


def replicas(config: EngineSection) -> int:
    """How many engines sample here. Raises UserError where they would take more GPUs than this process may use."""
    each = config.tensor_parallel
    count = config.replicas or max(1, len(visible_gpus()) // each)
    if wrong := too_few_gpus(count * each):
        what = f"engine.tensor_parallel {each}"
        if config.replicas:
            what = f"engine.replicas {count}" + (f" with {what}" if each > 1 else "")
        raise UserError(f"{what} {wrong}")
    return count


class Replicas:
    """As one `Engine`, of `count` that share its shards, to the end of the `with` block."""

    def __init__(self, start: Callable[..., Engine], lock: Path, config: EngineSection, count: int) -> None:
        """`start` makes an engine, given its `lock` and `gpus`."""
        gpus, each = visible_gpus(), config.tensor_parallel
        self._gpus = [gpus[i * each : (i + 1) * each] for i in range(count)]
        self._start, self._ahead, self._open = start, 4 * config.max_batch, ExitStack()
        self._events: queue.SimpleQueue[tuple[int, Event | CodelutraError]] = queue.SimpleQueue()
        self.engines: list[Engine] = []
        self._add(lock)

    def _add(self, lock: Path | None = None) -> None:
        number = len(self.engines)
        engine = self._open.enter_context(self._start(lock=lock, gpus=self._gpus[number]))
        self.engines.append(engine)
        threading.Thread(target=self._listen, args=(number, engine), daemon=True).start()

    def _listen(self, number: int, engine: Engine) -> None:
        try:
            while True:
                self._events.put((number, engine.hear()))
        except CodelutraError as e:  # its end, too: when this block ends, if nothing else
            self._events.put((number, e))

    def generate(self, shards: Iterable[ShardRequest], progress: Progress | None = None) -> Iterator[ShardResult]:
        """As `Engine.generate`; raises what any of the engines raises. Once: no second call."""
        waiting = deque(shards)
        missing, total = len(waiting), sum(map(completions, waiting))
        asked, done, tokens = ([0] * len(self._gpus) for _ in range(3))
        while missing:
            try:
                number, event = self._events.get(timeout=1)
            except queue.Empty:
                number, event = 0, {}
            if isinstance(event, CodelutraError):
                raise event
            match event.get("event"):
                case "started" if len(self.engines) == 1:
                    self.engines[0].told(event)
                    for _ in self._gpus[1:]:
                        self._add()
                case "shard":
                    missing -= 1
                    yield result_of(event)
                case "progress":
                    done[number], tokens[number] = event["done"], event["tokens"]
                case "waiting":
                    self.engines[number].told(event)
            while waiting and len(self.engines) > 1:
                left = [a - d for a, d in zip(asked, done, strict=True)]
                if (least := min(left)) >= self._ahead:
                    break
                shard = waiting.popleft()
                asked[left.index(least)] += completions(shard)
                self.engines[left.index(least)].ask([shard], more=True)
            if progress:
                progress(sum(done), total, sum(tokens))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
