"""An object on every node that has Docker. A caller with work gets a free one, and another if the node is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from codelutra.cluster.connection import DOCKER, Cluster, Node, alive
from codelutra.cluster.places import RESTARTS, Place
from codelutra.errors import CodelutraError, LostError, NoSandboxError, OutageError, StageError

_HEARD_SECONDS = 1.0
_WAIT_SECONDS = 60.0  # for a node to come when there is none


class Crew:
    """`make(*given)` on every node that offers the resource `docker`, on `cluster.executors` of them at most.

    A node whose sandbox fails is left out from then on. The resource says who may be asked and is not used up: several runs
    share a node's cores as they do on one machine.
    """

    def __init__(self, cluster: Cluster, make: Callable[..., Any], *given: Any) -> None:
        self._cluster, self._made = cluster, (make, *given)
        self._change = threading.Condition()
        self._members: dict[str, tuple[Node, Place]] = {}
        self._free: list[str] = []
        self._left_out: dict[str, CodelutraError] = {}
        self._lost: dict[str, float] = {}  # when
        self._closed = False

    def do(self, function: Callable[..., Any], *given: Any, meanwhile: Callable[[Place], None]) -> Any:
        """`function(it, *given)` on a free node; waits for one. `meanwhile` is called here about once a second. Raises
        LostError when nodes are lost with it again and again, and what the last node said where none can execute."""
        lost = 0
        while True:
            name, place = self._take()
            try:
                asked = place.asked(function, *given)
                while not _is_done(asked):
                    meanwhile(place)
                found = place.answer(asked)
            except LostError as e:
                lost += 1
                self._drop(name, e, left_out=False)
                if lost > RESTARTS:
                    raise
            except NoSandboxError as e:
                self._drop(name, e, left_out=True)
            except BaseException:
                self._put_back(name)
                raise
            else:
                self._put_back(name)
                return found

    def close(self) -> None:
        """End them all. Who is at work with one, in another thread, is told that the run has ended."""
        with self._change:
            self._closed = True
            for _, place in self._members.values():
                place.end()
            self._members.clear()
            self._free.clear()
            self._change.notify_all()

    def _take(self) -> tuple[str, Place]:
        end = time.monotonic() + 2 * _WAIT_SECONDS
        with self._change:
            while True:
                if self._closed:
                    raise StageError("the run was ended before this was executed")
                if not self._free:
                    self._enlist()
                if self._free:
                    name = self._free.pop(0)
                    return name, self._members[name][1]
                if not self._members and self._left_out:
                    raise list(self._left_out.values())[-1]
                if not self._members and time.monotonic() > end:
                    raise OutageError(
                        f"no node of the cluster offers the resource {DOCKER} any more; start one, and give the same "
                        "command again, which goes on from here"
                    )
                self._change.wait(timeout=1.0)

    def _enlist(self) -> None:
        """Make members of nodes that are none yet."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        most = self._cluster.executors
        for node in alive():
            if not node.resources.get(DOCKER) or node.id in self._members or node.id in self._left_out:
                continue
            if time.monotonic() - self._lost.get(node.id, -_WAIT_SECONDS) < _WAIT_SECONDS:
                continue  # Ray may take it for alive a while longer
            if most and len(self._members) >= most:
                return
            there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False), "num_cpus": 0}
            place = Place("executor", there, *self._made)
            place.host = node.name
            self._members[node.id] = node, place
            self._free.append(node.id)

    def _put_back(self, name: str) -> None:
        with self._change:
            if name in self._members:
                self._free.append(name)
                self._change.notify_all()

    def _drop(self, name: str, error: CodelutraError, *, left_out: bool) -> None:
        with self._change:
            if name not in self._members:  # closed meanwhile
                return
            node, place = self._members.pop(name)
            place.end()
            if left_out:
                self._left_out[name] = error
                self._cluster.note(f"{node.name} executes nothing more of this run: {error}")
            else:
                self._lost[name] = time.monotonic()
                self._cluster.note(f"{node.name} was lost while executing; what it did is done again elsewhere")
            self._change.notify_all()


def _is_done(asked: Any) -> bool:
    import ray

    return bool(ray.wait([asked], timeout=_HEARD_SECONDS)[0])
