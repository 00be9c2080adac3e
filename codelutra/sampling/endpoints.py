"""Sampling through OpenAI-compatible servers instead of an engine of our own.

Prompts go to `/v1/completions` as token ids (vLLM and SGLang take them), made by the policy's own tokenizer, so what is
sampled from is what training will see, whatever chat template a server was started with. A server must serve the
*current* policy's weights, and is asked whether it does, before it is asked anything and again before a shard counts. With
`sample.follow_minutes` a new policy is sent to it or waited for (`following`); without, the run ends here with the directory
to start it on, and the same command goes on. They draw with their own seeds: finished shards are kept, but a run is not
repeatable.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codelutra.errors import OutageError, StageError, UserError
from codelutra.policies import load_tokenizer
from codelutra.prompts import answer_ids, end_ids, prompt_ids, thought
from codelutra.sampling.answers import Completions, FaultError, RefusedError, ask, asking
from codelutra.sampling.arrival import SAMPLE_HERE, Endpoint, changed, require_unchanged, serving
from codelutra.sampling.engine import Completion, Progress, ShardRequest, ShardResult, Tally, stop_ids
from codelutra.sampling.following import Follow, root_of
from codelutra.sampling.thoughts import within_budget

if TYPE_CHECKING:
    import httpx

_TIMEOUT_SECONDS = 600.0  # for a whole answer: a busy server queues; waiting is right, waiting for ever is not
# A server's own generation config (top_k 20, a repetition penalty …) would make other samples than the engine here does.
_PLAIN_SAMPLING = {"n": 1, "top_k": -1, "repetition_penalty": 1.0}


@dataclass
class _Ask:
    """One completion that is still wanted."""

    shard: int
    prompt: int
    sample: int
    ids: list[int]
    attempts: int = 0
    failing_since: float = 0.0


class Filing:
    """Answers on their way to whoever waits for shards."""

    tally: Tally
    out: Out
    finished: asyncio.Event

    def settle(self, shard: int, completion: Completion) -> None:
        """File a completion; hand the shard over when it was the last one."""
        result = self.tally.settle(shard, completion)
        self.out.put((self.tally.count, self.tally.total, self.tally.tokens))
        if result:
            self.out.put(result)
        if self.tally.count == self.tally.total:
            self.finished.set()


@dataclass
class _Work(Filing):
    tally: Tally
    policy: Path
    endpoints: list[Endpoint]
    patience: float
    follow: Follow | None
    out: queue.SimpleQueue[Any]
    tokenizer: Any
    thinking: int
    stops: list[int] = field(default_factory=list)
    asks: asyncio.Queue[_Ask] = field(default_factory=asyncio.Queue)
    finished: asyncio.Event = field(default_factory=asyncio.Event)


def sample_endpoints(
    urls: Sequence[str],
    policy: Path,
    shards: Sequence[ShardRequest],
    *,
    max_model_len: int,
    connections: int,
    thinking: int = 0,
    patience_seconds: float = 60.0,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    progress: Progress | None = None,
    follow: Follow | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[ShardResult]:
    """As `Engine.generate`, with `connections` requests in flight to each server.

    Faults, and answers that are none, are retried with backoff on whichever server is free; a server that gave nothing but
    faults for `patience_seconds` is left out. `timeout_seconds` is for one answer. With `follow` a server of another model
    is brought to the policy or waited for, and left out where it does not come. `waiting` hears of servers that are not
    there yet. Raises UserError when one serves another model, or is given another meanwhile, StageError when none is left,
    when one refuses a request, or when a request fails everywhere.
    """
    endpoints, client = [Endpoint(url, waiting=waiting or (lambda _: None)) for url in urls], asking(timeout_seconds)
    given = endpoints, policy, shards, max_model_len, connections, thinking, patience_seconds, client, follow
    yield from stream(lambda out, stop: _sample(*given, out, stop), shards, progress)


Out = queue.SimpleQueue[Any]
"""(completions done, in all, tokens), and results of shards."""


def stream(
    work: Callable[[Out, threading.Event], Coroutine[Any, Any, None]],
    shards: Sequence[ShardRequest],
    progress: Progress | None,
) -> Iterator[ShardResult]:
    """The results of `shards` that a coroutine puts out, in a thread of its own, until they are all there or `stop` is set.
    Raises what ends it before."""
    out: Out = queue.SimpleQueue()
    stop = threading.Event()
    missing, told = len(shards), (0, Tally(shards).total, 0)
    with ThreadPoolExecutor(1, "asking") as thread:
        try:
            thread.submit(asyncio.run, work(out, stop)).add_done_callback(out.put)
            while missing:
                try:
                    event = out.get(timeout=1)
                except queue.Empty:
                    event = told
                if isinstance(event, Future):
                    event.result()  # raises what ended it; work that is done has put its shards before
                elif isinstance(event, ShardResult):
                    missing -= 1
                    yield event
                else:
                    told = event
                    if progress:
                        progress(*told)
        finally:
            stop.set()


async def _sample(
    endpoints: list[Endpoint],
    policy: Path,
    shards: Sequence[ShardRequest],
    max_model_len: int,
    connections: int,
    thinking: int,
    patience: float,
    connected: httpx.AsyncClient,
    follow: Follow | None,
    out: queue.SimpleQueue[Any],
    stop: threading.Event,
) -> None:
    tokenizer = load_tokenizer(policy)
    if thinking and (marks := thought(tokenizer)).closes in _special(tokenizer):
        raise UserError(
            f"prompt.thinking is on, and servers leave {marks.closes} out of their text: for {policy.name} it is a special "
            f"token; {SAMPLE_HERE}"
        )
    patience = max(patience, follow.seconds if follow else 0.0)
    work = _Work(Tally(shards), policy, endpoints, patience, follow, out, tokenizer, thinking)
    work.stops = stop_ids(policy, *end_ids(tokenizer))
    _enqueue(work, max_model_len)
    async with connected as client:
        using = [asyncio.create_task(_use(client, e, work, connections)) for e in endpoints]
        try:
            await _until_finished(using, work, stop)
        finally:
            for task in using:  # some wait for servers that say nothing
                task.cancel()
            await asyncio.gather(*using, return_exceptions=True)
            await changed(endpoints)


async def _until_finished(using: Sequence[asyncio.Task[None]], work: _Work, stop: threading.Event) -> None:
    alive, finished = set(using), asyncio.create_task(work.finished.wait())
    while not finished.done() and not stop.is_set():
        ended, _ = await asyncio.wait({*alive, finished}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        alive -= ended
        if not alive and not finished.done():
            raise (UserError if all(e.other for e in work.endpoints) else OutageError)(
                "no sampling endpoint is left:\n"
                + "\n".join(f"  {e.url}: {e.error}" for e in work.endpoints)
                + f"\nStart the servers on the current policy's weights, or {SAMPLE_HERE}"
            )


def _special(tokenizer: Any) -> set[str]:
    return {*tokenizer.all_special_tokens, *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)}


def _enqueue(work: _Work, max_model_len: int) -> None:
    for result in work.tally.empty():
        work.out.put(result)
    for s, shard in enumerate(work.tally.shards):
        for p, prompt in enumerate(shard.prompts):
            ids = prompt_ids(work.tokenizer, shard.system, prompt, thinking=work.thinking > 0)
            for k in range(shard.samples):
                if len(ids) <= max_model_len - shard.max_tokens - work.thinking:
                    work.asks.put_nowait(_Ask(s, p, k, ids))
                else:
                    work.settle(s, Completion(p, k, "", "dropped", len(ids), 0))


async def _use(client: httpx.AsyncClient, endpoint: Endpoint, work: _Work, connections: int) -> None:
    """Send requests to one server until it counts as dead."""
    await asyncio.gather(*(_connection(client, endpoint, work) for _ in range(connections)))


async def _connection(client: httpx.AsyncClient, endpoint: Endpoint, work: _Work) -> None:
    while not endpoint.dead(work.patience) and await serving(client, endpoint, work.policy, work.patience, work.follow):
        wanted = await work.asks.get()
        if not endpoint.model:  # meanwhile it gave a fault; vLLM takes an empty name for its base model's
            work.asks.put_nowait(wanted)
            continue
        shard = work.tally.shards[wanted.shard]
        nucleus = {"top_p": shard.top_p, "min_p": shard.min_p} if shard.temperature else {"top_p": 1.0, "min_p": 0.0}
        sampling = {"temperature": shard.temperature, **nucleus}
        ends = {"max_tokens": shard.max_tokens + work.thinking, "stop_token_ids": work.stops}
        ends |= {"thinking_token_budget": work.thinking} if work.thinking else {}
        body = {"model": endpoint.model, "prompt": wanted.ids, **ends, **sampling, **_PLAIN_SAMPLING}
        answer = await _call(client, endpoint, body)
        if answer is None:
            _return(wanted, endpoint, work)
            endpoint.model = ""  # it may come back with another
            await endpoint.back_off()
            continue
        if work.tally.missing(wanted.shard) == 1:
            await require_unchanged(client, work.endpoints, work.policy, work.follow)
        work.settle(wanted.shard, _completion(wanted, answer, work))


def _completion(ask: _Ask, answer: Completions, work: _Work) -> Completion:
    choice, tokens = answer.choices[0], answer.usage.completion_tokens
    at, length, most = (ask.prompt, ask.sample), len(ask.ids), work.tally.shards[ask.shard].max_tokens
    if not work.thinking:
        return Completion(*at, choice.text, choice.finish_reason, length, tokens)
    ids = answer_ids(work.tokenizer, choice.text, ended=False, thinking=True)
    written = within_budget(work.tokenizer, choice.text, ids, choice.finish_reason, work.thinking, most)
    counted = tokens if written.text == choice.text else written.tokens
    return Completion(
        *at, written.text, written.finish_reason, length, counted, min(counted, written.thinking_tokens), written.answer_at
    )


def _return(ask: _Ask, endpoint: Endpoint, work: _Work) -> None:
    """Put a failed request back, unless it looks as if it will fail everywhere."""
    now = time.monotonic()
    ask.attempts += 1
    ask.failing_since = ask.failing_since or now
    if ask.attempts >= 8 and now - ask.failing_since > 2 * work.patience:
        problem = work.tally.shards[ask.shard].ids[ask.prompt]
        raise OutageError(
            f"sampling problem {problem!r} failed {ask.attempts} times; last on {endpoint.url}: {endpoint.error}"
        )
    work.asks.put_nowait(ask)


async def _call(client: httpx.AsyncClient, endpoint: Endpoint, body: Any) -> Completions | None:
    """The server's completion, checked; None on a fault, which is noted on the endpoint.

    Raises StageError when the server refuses the request.
    """
    try:
        answer = await ask(client, f"{root_of(endpoint.url)}/v1", "/completions", Completions, body)
    except RefusedError as e:
        raise StageError(f"{endpoint.url} refused /completions with {e}") from e
    except FaultError as e:
        endpoint.fails(str(e))
        return None
    endpoint.failing_since = 0.0
    return answer
