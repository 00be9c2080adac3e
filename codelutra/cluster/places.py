"""Places on the cluster: an object on a node, a child process on a node, and processes that train together.

An object lives in a Ray actor. Ray chooses the node that has room, and waits for one while others use what there is.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from codelutra.cluster import node
from codelutra.cluster.connection import Cluster
from codelutra.errors import CodelutraError, LostError
from codelutra.store.child import EndedEarlyError, Event

_POLL_SECONDS = 5.0
_CLOSE_SECONDS = 10.0
_PATIENCE_SECONDS = 15.0  # before people are told that there is no room yet
_LOST_SECONDS = 45.0  # in which Ray notices that a node is gone, by its own settings
RESTARTS = 3  # in a row, without any progress between


def _holder() -> Any:
    class Held:
        """An object on a node. It travels by its code: its class is in no module."""

        def __init__(self, make: Callable[..., Any], *given: Any) -> None:
            self.it = make(*given)

        def call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
            return function(self.it, *given, **named)

    return Held


class Place:
    """`make(*given)`, on a node: `call(f, …)` is `f(it, …)` there. What was raised there on purpose is raised here.

    Raises LostError where the node, or the process on it, is gone.
    """

    def __init__(self, what: str, options: dict[str, Any], make: Callable[..., Any], *given: Any) -> None:
        import ray

        self.what = what
        self._actor = ray.remote(_holder()).options(max_concurrency=4, **options).remote(make, *given)
        self.host = ""  # not known before it answers

    def asked(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Begin a call: a reference for `answer`."""
        return self._actor.call.remote(function, *given, **named)

    def answer(self, asked: Any) -> Any:
        """Wait for the end of a call."""
        import ray

        try:
            return ray.get(asked)
        except ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, CodelutraError):
                raise e.cause from None
            raise
        except ray.exceptions.RayError as e:
            where = f" on {self.host}" if self.host else ""
            raise LostError(f"the {self.what}{where} is lost: {' '.join(str(e).split())[:200]}") from None

    def call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return self.answer(self.asked(function, *given, **named))

    def is_there(self, seconds: float) -> bool:
        """Whether it answers for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.call(node.host)
            except LostError:
                return False
            time.sleep(0.5)
        return True

    def end(self) -> None:
        """End it: in order, where it is known to run, else at once."""
        import ray

        if self.host:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.wait([self.asked(node.close)], timeout=_CLOSE_SECONDS)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


class FarChild:
    """As `Child`, on a node that has room. `needs`: folders that it reads. Raises LostError where the node is gone."""

    def __init__(self, cluster: Cluster, what: str, options: dict[str, Any], needs: Sequence[Path] = ()) -> None:
        self._cluster, self._what, self._needs = cluster, what, [str(folder) for folder in needs]
        self._place = Place(f"{what} process", options, node.Process, node.versions())
        self._events: deque[Event | CodelutraError] = deque()
        self._asked: Any = self._place.asked(node.host)
        self._since, self.told = time.monotonic(), False

    @classmethod
    def engine(
        cls, cluster: Cluster, gpus: int, policy: Path, what: str, module: str, *, log: Path, more: dict[str, str]
    ) -> FarChild:
        """An engine of `policy`, spread over so many GPUs, begun."""
        return cls(cluster, what, cluster.takes(gpus), [policy]).start(module, log=log, more=more)

    def start(self, module: str, *arguments: str, log: Path, more: dict[str, str] | None = None) -> Self:
        """Have the process begin once the place is there."""
        own = {name: value for name, value in (more or {}).items() if name != "CUDA_VISIBLE_DEVICES"}  # Ray's there
        self._place.asked(node.start, self._what, module, arguments, str(log), own, self._needs)
        return self

    def address(self) -> tuple[str, int]:
        """Of its node; waits for the place."""
        import ray

        asked = self._place.asked(node.address)
        while not ray.wait([asked], timeout=_POLL_SECONDS)[0]:
            self._tell_of_waiting()
        host, port = self._place.answer(asked)
        return str(host), int(port)

    def send(self, message: Any) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # one that is gone is told by `hear`, not here
            ray.wait([self._place.asked(node.send, message)], timeout=None if self._place.host else 0)

    def hear(self, timeout: float | None = None) -> Event:
        import ray

        end = None if timeout is None else time.monotonic() + timeout
        while not self._events:
            left = _POLL_SECONDS if end is None else max(0.0, end - time.monotonic())
            ready, _ = ray.wait([self._asked], timeout=left)
            self._tell_of_waiting()
            if ready:
                said = self._place.answer(self._asked)
                if not self._place.host:
                    self._place.host = said
                else:
                    self._events.extend(said)
                self._asked = self._place.asked(node.heard, _POLL_SECONDS)
            elif end is not None:
                return {}
        event = self._events.popleft()
        if isinstance(event, EndedEarlyError) and not self._place.is_there(2.0):  # its node's end is why it ended
            raise LostError(str(event))
        if isinstance(event, CodelutraError):
            raise event
        return event

    def _tell_of_waiting(self) -> None:
        if not self._place.host and not self.told and time.monotonic() - self._since > _PATIENCE_SECONDS:
            self.told = True
            self._cluster.note(
                f"waiting for room on the cluster for the {self._what} process (`ray status` shows who uses what)"
            )

    def is_there(self, seconds: float) -> bool:
        return self._place.is_there(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._place.end()


class Together:
    """As one `Child`: so many processes on places of their own that train together. When one is lost, all begin again, and
    the training goes on from its checkpoint in the store."""

    def __init__(
        self,
        cluster: Cluster,
        what: str,
        module: str,
        *arguments: str,
        log: Path,
        more: dict[str, str],
        processes: int,
        needs: Sequence[Path] = (),
    ) -> None:
        self._cluster, self._what, self._count = cluster, what, processes
        self._given: tuple[Any, ...] = (module, arguments, log, more)
        self._needs = needs
        self._restarts = 0
        self._open = contextlib.ExitStack()
        try:
            self._begin()
        except LostError as e:
            self._begin_again(e)

    def _begin(self) -> None:
        module, arguments, log, more = self._given
        self._open = contextlib.ExitStack()
        self._events: queue.SimpleQueue[tuple[int, Event | CodelutraError]] = queue.SimpleQueue()
        self._members = [
            self._open.enter_context(FarChild(self._cluster, self._what, o, self._needs)) for o in self._places()
        ]
        if self._count == 1:
            self._members[0].start(module, *arguments, log=log, more=more)
        else:
            host, port = self._members[0].address()
            for rank, member in enumerate(self._members):
                world: dict[str, Any] = {"RANK": rank, "WORLD_SIZE": self._count, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
                world |= {"MASTER_ADDR": host, "MASTER_PORT": port}
                own = more | {name: str(value) for name, value in world.items()}
                member.start(module, *arguments, "shared", log=log, more=own)
        for member in self._members[1:]:
            member.told = True  # the first one speaks for all
        for rank, member in enumerate(self._members):
            threading.Thread(target=_listen, args=(rank, member, self._events), daemon=True).start()

    def _places(self) -> list[dict[str, Any]]:
        """Ray's options for each; several get their places at once, or two trainings could wait for each other's."""
        if self._count == 1:
            return [self._cluster.takes(1)]
        from ray.util import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([self._cluster.bundle()] * self._count, strategy="PACK")
        self._open.callback(remove_placement_group, group)
        return [
            self._cluster.takes(1) | {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank)}
            for rank in range(self._count)
        ]

    def send(self, message: Any) -> None:
        raise NotImplementedError("what trains is told everything in its file")

    def hear(self, timeout: float | None = None) -> Event:
        """Events of the first process. Raises what any of them raises."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                rank, event = self._events.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                return {}
            if rank and isinstance(event, EndedEarlyError) and not event.code:
                continue  # the first one is still writing
            if isinstance(event, CodelutraError):
                self._begin_again(event)
                continue
            self._restarts = 0 if event.get("event") == "progress" else self._restarts
            return event

    def _begin_again(self, error: CodelutraError) -> None:
        """Raises the error where no lost node is behind it, or too often."""
        lost = isinstance(error, LostError)
        if not lost and isinstance(error, EndedEarlyError) and self._count > 1:  # of a process whose peer was lost
            lost = any(not member.is_there(_LOST_SECONDS / self._count) for member in self._members)
        while lost and self._restarts < RESTARTS:
            self._restarts += 1
            self._cluster.note(f"{self._what} begins again elsewhere, from its checkpoint: {error}")
            self._open.close()
            try:
                self._begin()
            except LostError as e:
                error = e
            else:
                return
        raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _listen(rank: int, member: FarChild, events: queue.SimpleQueue[tuple[int, Event | CodelutraError]]) -> None:
    try:
        while True:
            events.put((rank, member.hear()))
    except CodelutraError as e:  # its end, too
        events.put((rank, e))
