"""vLLM in a process of its own, as its parent sees it; `__main__` and `engine_worker` are what runs inside.

vLLM runs in the child itself, not in a process below it. The child lives as long as the `Engine`, and holds a file lock as
long as it lives: one engine or trainer a host.

Reproducibility. On accelerators every sample has its own seed, made of the run's seed, the problem and the sample's
number: batching, order, K and resuming do not change what is drawn (up to the floating point of other batch sizes).
vLLM's CPU build has no per-request seeds; there the engine has one seed, and the same requests in the same order give the
same samples, while a resumed run draws the shards it still needs afresh.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from codelutra.config import EngineSection
from codelutra.errors import UserError
from codelutra.policies import config_of, generation_ends
from codelutra.reading.policy import context
from codelutra.store.child import Child, Event, Start

Progress = Callable[[int, int, int], None]
"""Called with completions done, completions in all, tokens generated."""


@dataclass(frozen=True)
class ShardRequest:
    """`samples` completions of each prompt; `ids` name the prompts in seeds, numbers from `first` on the samples.
    Temperature 0 is greedy."""

    key: str
    system: str
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    min_p: float = 0.0
    first: int = 0


@dataclass(frozen=True)
class Completion:
    prompt: int
    """Index into the request's prompts."""
    sample: int
    text: str
    finish_reason: str
    """ "stop", "length", or "dropped": the prompt leaves no room for `max_tokens` and was not sent."""
    prompt_tokens: int
    completion_tokens: int
    """Those of the thought among them."""
    thinking_tokens: int = 0
    answer_at: int = 0
    """Where the answer begins in `text`, behind the thought; the end of `text` where the thought never ends."""


@dataclass(frozen=True)
class ShardResult:
    """Completions in the order of prompts, then samples."""

    key: str
    completions: tuple[Completion, ...]


def completions(shard: ShardRequest) -> int:
    """The number of completions it asks for."""
    return len(shard.prompts) * shard.samples


class Tally:
    """Completions of some shards, as they come in."""

    def __init__(self, shards: Sequence[ShardRequest]) -> None:
        self.shards: list[ShardRequest] = []
        self.count, self.tokens, self.total = 0, 0, 0
        self._found: list[dict[tuple[int, int], Completion]] = []
        self.add(shards)

    def add(self, shards: Sequence[ShardRequest]) -> None:
        """Expect the completions of these, too."""
        self.shards += shards
        self.total += sum(map(completions, shards))
        self._found += [{} for _ in shards]

    def empty(self) -> list[ShardResult]:
        """The results of shards that ask for nothing."""
        return [ShardResult(shard.key, ()) for shard in self.shards if not shard.prompts]

    def missing(self, number: int) -> int:
        """Completions of the shard with this number that are still to come."""
        return completions(self.shards[number]) - len(self._found[number])

    def settle(self, number: int, completion: Completion) -> ShardResult | None:
        """File a completion of the shard with this number; its result when that was the last one."""
        shard, found = self.shards[number], self._found[number]
        found[completion.prompt, completion.sample] = completion
        self.count, self.tokens = self.count + 1, self.tokens + completion.completion_tokens
        whole = len(found) == completions(shard)
        return ShardResult(shard.key, tuple(found[at] for at in sorted(found))) if whole else None


class Engine:
    """vLLM in a child process, to the end of the `with` block.

    This waits neither for the model to load nor for `lock`, the host's accelerator lock, which the child takes. `waiting` is
    told when another process holds it, `started` when the engine has it. Without `lock` another process of the caller's
    holds it. `gpus` are those the engine may use, named as CUDA_VISIBLE_DEVICES names them; none: what vLLM chooses. vLLM's
    own output is appended to `log`.
    """

    def __init__(
        self,
        policy: Path,
        config: EngineSection,
        *,
        seed: int,
        log: Path,
        lock: Path | None,
        gpus: Sequence[str] = (),
        thinking: int = 0,
        waiting: Callable[[str], None] | None = None,
        started: Callable[[], None] | None = None,
        start: Start = Child,
    ) -> None:
        """`thinking`: tokens that a thought may have, beside a request's `max_tokens`; 0 turns thinking off. `start`: starts
        the process, here or elsewhere."""
        _check_length(policy, config)
        self._waiting, self._started = waiting, started
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        self.child = start("engine", "codelutra.sampling", log=log, more=environment() | own)
        spec = {"policy": str(policy), "config": config.model_dump(mode="json"), "seed": seed, "thinking": thinking}
        self.child.send(spec | {"lock": str(lock) if lock else ""})

    @property
    def pid(self) -> int:
        """Of its process, where that is one of this machine."""
        assert isinstance(self.child, Child)
        return self.child.pid

    def hear(self, timeout: float | None = None) -> Event:
        """As `Child.hear`."""
        return self.child.hear(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.child.__exit__(*exc)

    def ask(self, shards: Iterable[ShardRequest], *, more: bool = False) -> None:
        """Send shards to be sampled. `more`: others follow, and the engine takes them while it samples these."""
        self.child.send({"shards": [asdict(shard) for shard in shards], "more": more})

    def told(self, event: Event) -> None:
        """Pass on what is not about samples: that the engine waits for the accelerator, or has it."""
        match event.get("event"):
            case "waiting" if self._waiting:
                self._waiting(f"the engine or trainer of another run on this host ({event['for']})")
            case "started" if self._started:
                self._started()

    def generate(self, shards: Iterable[ShardRequest], progress: Progress | None = None) -> Iterator[ShardResult]:
        """Sample every shard; yield each as soon as its last completion is there, about in order.

        The engine sees all shards as one stream of requests, so batches stay full across their borders. `progress` is
        called from the caller's own thread, about once a second while it waits for the next shard; what it raises ends the
        sampling. One `generate` at a time, to its end.
        Raises UserError or StageError as the child does, EndedEarlyError when it ends before its work does.
        """
        requests = list(shards)
        self.ask(requests)
        missing, told = len(requests), (0, Tally(requests).total, 0)
        while missing:
            event = self.hear(timeout=1)
            match event.get("event"):
                case "shard":
                    missing -= 1
                    yield result_of(event)
                    continue
                case "progress":
                    told = event["done"], event["total"], event["tokens"]
                case _:
                    self.told(event)
            if progress:
                progress(*told)


def result_of(event: Event) -> ShardResult:
    """What a "shard" event of an engine says."""
    return ShardResult(event["key"], tuple(Completion(*fields) for fields in event["completions"]))


def request_seed(seed: int, problem_id: str, greedy: bool, sample: int) -> int:
    """The seed of one sample: independent of batching, shards and K."""
    text = f"{seed}\0{problem_id}\0{greedy}\0{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def stop_ids(policy: Path, *ends: int | None) -> list[int]:
    """Token ids that end an answer: those given (`prompts.end_ids`) and those of the generation config."""
    return sorted({i for i in (*ends, *generation_ends(policy)) if i is not None})


def _check_length(policy: Path, config: EngineSection) -> None:
    most = context(config_of(policy))
    if most and config.max_model_len > most and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        raise UserError(
            f"engine.max_model_len {config.max_model_len} is more than the {most} tokens this model can attend to"
        )


def environment() -> dict[str, str]:
    """What vLLM reads."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in the child itself: nothing can be left over
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # a policy is a local directory; nothing about it is asked of the hub
        "TOKENIZERS_PARALLELISM": "false",
        # OpenMP's threads wait for each other by spinning. Beside the sandbox's programs, on the same cores, that takes the
        # time slices the thread waited for would need: sampling was 6 times slower with the default of 300,000 spins.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
    }
