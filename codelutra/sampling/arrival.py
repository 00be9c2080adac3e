"""Waits until a server serves the policy that is to be sampled, and checks that it still does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codelutra.errors import StageError, UserError
from codelutra.sampling.answers import FaultError, RefusedError
from codelutra.sampling.following import CannotError, Follow, Seen, bring, look

if TYPE_CHECKING:
    import httpx

SAMPLE_HERE = "sample here: empty sample.endpoints (`codelutra ask`: leave --server out)"


@dataclass
class Endpoint:
    url: str
    failing_since: float = 0.0
    """0 while the last answer was a good one."""
    error: str = ""
    model: str = ""
    """Its name for the policy; "" where it is not known to serve it."""
    seen: Seen | None = None
    """What it said when it was found to serve the policy."""
    other: bool = False
    """Whether it was left out because it serves another policy."""
    waiting: Callable[[str], None] = lambda what: None
    """Hears what keeps it from answering."""
    at_it: asyncio.Lock = field(default_factory=asyncio.Lock)
    change: asyncio.Task[str] | None = None
    """It is being brought to the policy: broken off halfway, it would answer nobody."""

    def fails(self, error: str) -> None:
        self.error = error
        self.failing_since = self.failing_since or time.monotonic()

    def dead(self, patience: float) -> bool:
        return self.failing_since > 0 and time.monotonic() - self.failing_since > patience

    async def back_off(self) -> None:
        failing = time.monotonic() - self.failing_since if self.failing_since else 0.0
        await asyncio.sleep(min(0.2 + failing / 2, 10.0) * (0.5 + random.random()))


async def serving(
    client: httpx.AsyncClient, endpoint: Endpoint, policy: Path, patience: float, follow: Follow | None
) -> bool:
    """Whether the server serves the policy, once that is known. With `follow` it is brought to it, or waited for.

    Raises UserError where it serves another one, without `follow`, and StageError where it refuses to say.
    """
    async with endpoint.at_it:
        arrival = _Arrival(client, endpoint, policy, follow)
        while not endpoint.model and not endpoint.other and not endpoint.dead(patience):
            await arrival.step()
        return bool(endpoint.model)


async def changed(endpoints: Sequence[Endpoint]) -> None:
    """Wait for changes that are under way, however they end."""
    await asyncio.gather(*(e.change for e in endpoints if e.change), return_exceptions=True)


async def require_unchanged(
    client: httpx.AsyncClient, endpoints: Sequence[Endpoint], policy: Path, follow: Follow | None
) -> None:
    """Raise UserError where a server was given other weights since it was found to serve the policy: what it answered
    meanwhile is of nobody knows what. One that is away is asked again when it is back."""
    known = [(e, e.seen) for e in endpoints if e.model and e.seen]
    asked = [look(client, endpoint.url) for endpoint, _ in known]
    for (endpoint, before), seen in zip(known, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        if isinstance(seen, FaultError | RefusedError):
            endpoint.model = ""
            continue
        if isinstance(seen, BaseException):
            raise seen
        if not endpoint.model or endpoint.seen is not before:
            continue  # it gave a fault meanwhile, and is or was asked again
        if seen.version != before.version or seen.name_of(policy, _belongs_to(follow)) != endpoint.model:
            raise UserError(
                f"{endpoint.url} was given other weights while {policy.name} was sampled; it serves {_shown(seen)} now. If "
                "another run uses it, give each run servers of its own. The same command goes on from the finished shards"
            )


class _Arrival:
    def __init__(self, client: httpx.AsyncClient, endpoint: Endpoint, policy: Path, follow: Follow | None) -> None:
        self.client, self.endpoint, self.policy, self.follow = client, endpoint, policy, follow
        self.until = time.monotonic() + (follow.seconds if follow else 0.0)
        self.refused: str | None = None  # what it served when it did not take the policy
        self.why = ""
        self.away = self.told = False

    async def step(self) -> None:
        endpoint = self.endpoint
        try:
            seen = await look(self.client, endpoint.url)
            if self.away:
                endpoint.failing_since, self.away = 0.0, False
            if model := seen.name_of(self.policy, _belongs_to(self.follow)):
                endpoint.model, endpoint.seen = model, seen
            elif self.follow is None:
                raise UserError(
                    f"{endpoint.url} serves {_shown(seen)}, and it is {self.policy} that is to be sampled: samples of "
                    "another model would pass for this policy's. Start the server on that directory and give the same "
                    "command again, which goes on from here; set sample.follow_minutes, and new policies are sent to it; "
                    f"or {SAMPLE_HERE}"
                )
            else:
                await self._follow(self.follow, seen)
        except RefusedError as e:
            raise StageError(f"{endpoint.url} refused /models with {e}") from e
        except FaultError as e:
            self.away, self.refused = True, None  # it may come back with other flags
            endpoint.fails(str(e))
            self._tell(f"{endpoint.url}, which does not answer ({e})")
            await endpoint.back_off()

    async def _follow(self, follow: Follow, seen: Seen) -> None:
        endpoint, name, began = self.endpoint, self.policy.name, time.monotonic()
        self._tell(f"{endpoint.url} to serve {name}; it serves {_shown(seen)}")
        if seen.weights != self.refused:
            try:
                endpoint.change = asyncio.create_task(bring(self.client, endpoint.url, self.policy, follow, seen))
                how = await asyncio.shield(endpoint.change)
            except CannotError as e:
                self.refused, self.why = seen.weights, f"; {e}"
                follow.note(f"{endpoint.url} cannot be sent {name} ({e}); it is waited for")
            else:
                follow.note(f"{endpoint.url} was sent {name}: {how} in {time.monotonic() - began:.1f} s")
                self.refused, self.why = seen.weights, "; it took the policy and serves another one all the same"
                return  # it is asked what it serves now
        if time.monotonic() > self.until:
            endpoint.error, endpoint.other = f"it serves {_shown(seen)}{self.why}", True
            follow.note(f"{endpoint.url} is left out: {endpoint.error}")
            return
        await asyncio.sleep(min(2.0, max(0.05, follow.seconds / 20)))

    def _tell(self, what: str) -> None:
        """Once, for whoever watches: why nothing moves."""
        if not self.told:
            self.told = True
            self.endpoint.waiting(what)


def _belongs_to(follow: Follow | None) -> Path | None:
    return follow.start if follow and follow.adapter else None


def _shown(seen: Seen) -> str:
    return seen.weights[:300] or "weights that were being changed when that was broken off"
