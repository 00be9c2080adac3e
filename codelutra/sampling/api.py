"""Sampling through chat completions: `model: api:URL#NAME`, a model of which there are no weights here.

The server applies a template of its own, so such samples measure a model and are never trained on as a policy's. Requests go
out with back-off and honour Retry-After. A prompt that is too long for the model, or that the server's filter refuses, is
data; any other refusal is one message. Some models take no temperature, or count the answer's tokens under another name:
both are learned from what the server says.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codelutra.addresses import API_KEY, ApiModel
from codelutra.errors import StageError, UserError
from codelutra.sampling.answers import ChatCompletions, FaultError, RefusedError, ask, asking
from codelutra.sampling.endpoints import Filing, Out, stream
from codelutra.sampling.engine import Completion, Progress, ShardRequest, ShardResult, Tally

if TYPE_CHECKING:
    import httpx

_TIMEOUT_SECONDS = 600.0  # for a whole answer
_PATIENCE_SECONDS = 300.0  # with a server that gives nothing but faults, or asks to be left alone
_SILENT_SHARE = 1 / 30  # of the patience, after which whoever watches hears why
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "prompt is too long")
_FILTERED = ("content_filter", "content management policy", "content_policy")


@dataclass(frozen=True)
class Api:
    model: ApiModel
    connections: int
    """Requests at once."""
    note: Callable[[str], None] = lambda _: None
    """Hears what a reader of the numbers should know."""
    waiting: Callable[[str], None] = lambda _: None
    """Hears why nothing moves."""


@dataclass
class _Work(Filing):
    api: Api
    client: httpx.AsyncClient
    tally: Tally
    patience: float
    out: Out
    asks: asyncio.Queue[tuple[int, int, int]] = field(default_factory=asyncio.Queue)
    """Shard, prompt and sample that are still wanted."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    length: str = "max_tokens"
    """What the server calls it."""
    tempered: bool = True
    """Whether it takes a temperature."""
    answered: float = field(default_factory=time.monotonic)
    """When it last gave a good answer."""
    quiet_until: float = 0.0
    told: bool = False
    """Whether somebody heard of the faults since then."""


def sample_api(
    api: Api,
    shards: Sequence[ShardRequest],
    *,
    patience_seconds: float = _PATIENCE_SECONDS,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> Iterator[ShardResult]:
    """As `Engine.generate`. Raises UserError where the server refuses a request, and StageError where it gives nothing but
    faults for `patience_seconds`, asks for a longer pause, or fails one request again and again."""
    client = asking(timeout_seconds, api.model.key(os.environ), API_KEY)
    yield from stream(lambda out, stop: _sample(api, shards, patience_seconds, client, out, stop), shards, progress)


async def _sample(
    api: Api, shards: Sequence[ShardRequest], patience: float, client: httpx.AsyncClient, out: Out, stop: threading.Event
) -> None:
    work = _Work(api, client, Tally(shards), patience, out)
    for result in work.tally.empty():
        out.put(result)
    for s, shard in enumerate(shards):
        for p in range(len(shard.prompts)):
            for k in range(shard.samples):
                work.asks.put_nowait((s, p, k))
    async with client:
        alive = {asyncio.create_task(_connection(work)) for _ in range(api.connections)}
        finished = asyncio.create_task(work.finished.wait())
        while not finished.done() and not stop.is_set() and work.tally.total:
            ended, _ = await asyncio.wait({*alive, finished}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        for task in alive:
            task.cancel()
        await asyncio.gather(*alive, return_exceptions=True)  # before the client they use is closed


async def _connection(work: _Work) -> None:
    while True:
        shard, prompt, sample = await work.asks.get()
        work.settle(shard, await _completion(work, work.tally.shards[shard], prompt, sample))


async def _completion(work: _Work, shard: ShardRequest, prompt: int, sample: int) -> Completion:
    """One answer, however often it takes to get it."""
    url, failing, began = work.api.model.url, 0, time.monotonic()
    while True:
        await asyncio.sleep(max(0.0, work.quiet_until - time.monotonic()))
        body = _body(work, shard, prompt)
        try:
            answer = await ask(work.client, url, "/chat/completions", ChatCompletions, body)
        except RefusedError as e:
            said = str(e).lower()
            if e.status in (400, 413, 422) and any(why in said for why in _TOO_LONG):
                return Completion(prompt, sample, "", "dropped", 0, 0)
            if e.status in (400, 422) and any(why in said for why in _FILTERED):
                return Completion(prompt, sample, "", "length", 0, 0)
            if e.status not in (400, 422) or not _learned(work, body, said):
                raise UserError(_refusal(work, str(e), e.status)) from e
        except FaultError as e:
            if "insufficient_quota" in str(e):
                raise UserError(f"{url} refused with {e}; what was answered is kept, the same command goes on") from e
            failing += 1
            await _back_off(work, e, failing, time.monotonic() - began, shard.ids[prompt])
        else:
            work.answered, work.told = time.monotonic(), False
            choice, used = answer.choices[0], answer.usage
            counted = used.prompt_tokens, used.completion_tokens
            return Completion(prompt, sample, choice.message.content or "", choice.finish_reason, *counted)


def _body(work: _Work, shard: ShardRequest, prompt: int) -> dict[str, Any]:
    system = [{"role": "system", "content": shard.system}] if shard.system else []
    messages = [*system, {"role": "user", "content": shard.prompts[prompt]}]
    body = {"model": work.api.model.name, "messages": messages, work.length: shard.max_tokens}
    if work.tempered:
        body["temperature"] = shard.temperature
        body |= {"top_p": shard.top_p} if shard.temperature and shard.top_p < 1 else {}
    return body


def _learned(work: _Work, body: dict[str, Any], said: str) -> bool:
    """Whether the server refused a parameter of `body` that can be named otherwise, or left out."""
    if "max_tokens" in body and "max_completion_tokens" in said:
        work.length = "max_completion_tokens"
        return True
    if "temperature" not in body or not ("temperature" in said or "top_p" in said):
        return False
    if work.tempered:
        work.api.note(
            f"{work.api.model.name} takes no temperature: its answers are drawn as the server draws them, not greedy"
        )
    work.tempered = False
    return True


def _refusal(work: _Work, said: str, status: int) -> str:
    keyed = work.api.model.key(os.environ)
    way = "the server says why; the same command goes on from here"
    if status in (401, 403):
        way = f"check the key in {API_KEY}" if keyed else f"set {API_KEY} to the server's key"
    elif status == 404:
        way = "check the address and the model's name: api:https://host/v1#name"
    return f"{work.api.model.url} refused to answer with {work.api.model.name}: {said}\n{way}"


async def _back_off(work: _Work, fault: FaultError, failing: int, seconds: float, problem: str) -> None:
    """Wait before the next try, all connections together where the server asks for it; or raise StageError."""
    url, now = work.api.model.url, time.monotonic()
    kept = "what was answered is kept; give the same command again to go on"
    if fault.wait > work.patience:
        raise StageError(f"{url} asks for a pause of {fault.wait:.0f} s ({fault}); {kept} then")
    if now - work.answered > work.patience:
        raise StageError(f"{url} gave nothing but faults for {work.patience:g} s (the last: {fault}); {kept}")
    if failing >= 8 and seconds > 2 * work.patience:
        raise StageError(f"asking {url} for problem {problem!r} failed {failing} times (the last: {fault}); {kept}")
    if max(now - work.answered, fault.wait) > work.patience * _SILENT_SHARE and not work.told:
        work.told = True
        work.api.waiting(f"a good answer of {url}, for {work.patience:g} s at most; now it gave: {fault}")
    if fault.wait:
        work.quiet_until = max(work.quiet_until, now + fault.wait)
    else:
        await asyncio.sleep(min(0.25 * 2 ** min(failing, 8), 30.0) * (0.5 + random.random()))
