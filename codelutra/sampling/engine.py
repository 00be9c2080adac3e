"""The process that holds vLLM.

    parent: Engine  ──(stdin: one JSON line, then requests; its end means "die")──►  child: this module as __main__
                    ◄──(a pipe of its own: progress and finished shards, one JSON line each)──

A process exit is the only sure way to get accelerator memory back, so the child lives as long as the `Engine` and no
longer: it ends when the parent closes stdin, and when the parent dies, however it dies. vLLM runs inside the child, not
in a process below it. One engine or trainer a host: the child holds a file lock, and holds it exactly as long as it lives.

Reproducibility. On accelerators every sample has its own seed, made of the run's seed, the problem and the sample's
number: batching, order, K and resuming do not change what is drawn (up to the floating point of other batch sizes).
vLLM's CPU build has no per-request seeds; there the engine has one seed, and the same requests in the same order give the
same samples, while a resumed run draws the shards it still needs afresh.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from codelutra.config import EngineSection
from codelutra.errors import StageError, UserError
from codelutra.hardware import number_format
from codelutra.prompts import prompt_ids
from codelutra.store.child import our_modules

Progress = Callable[[int, int, int], None]
"""Called with completions done, completions in all, tokens generated."""

_LOG_LINES_SHOWN = 12


@dataclass(frozen=True)
class ShardRequest:
    """`samples` completions of each prompt; `ids` name the prompts in seeds. Temperature 0 is greedy."""

    key: str
    system: str
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    min_p: float = 0.0


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


@dataclass(frozen=True)
class ShardResult:
    """Completions in the order of prompts, then samples."""

    key: str
    completions: tuple[Completion, ...]


class Engine:
    """vLLM in a child process, from `__enter__` to `__exit__`.

    Entering does not wait for the model to load, nor for `lock`, the host's accelerator lock, which the child takes;
    `waiting` is told if another process holds it, `started` when the engine has it. vLLM's own output is appended to `log`.
    """

    def __init__(
        self,
        policy: Path,
        config: EngineSection,
        *,
        seed: int,
        log: Path,
        lock: Path,
        waiting: Callable[[str], None] | None = None,
        started: Callable[[], None] | None = None,
    ) -> None:
        section = config.model_dump(mode="json")
        self._spec = {"policy": str(policy), "config": section, "seed": seed, "lock": str(lock), "parent": os.getpid()}
        self._log, self._waiting, self._started = log, waiting, started
        self._child: subprocess.Popen[bytes] | None = None
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        _check_length(policy, config)

    def __enter__(self) -> Engine:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            read, write = os.pipe()
            # A session of its own: Ctrl-C reaches the parent, which ends the child; killpg reaches vLLM's workers too.
            self._child = subprocess.Popen(
                [sys.executable, "-m", "codelutra.sampling.engine", str(write)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                env=os.environ | environment(),
                start_new_session=True,
            )
            os.close(write)
        # The pipe has to be drained while the caller is busy with a shard, or the child would stop sampling.
        threading.Thread(target=self._drain, args=(os.fdopen(read, "rb"),), daemon=True).start()
        self._send(self._spec)
        return self

    def __exit__(self, *_: object) -> None:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.wait()

    @property
    def pid(self) -> int:
        assert self._child is not None, "the engine is not running; use it as a context manager"
        return self._child.pid

    def generate(self, shards: Iterable[ShardRequest], progress: Progress | None = None) -> Iterator[ShardResult]:
        """Sample every shard; yield each as soon as its last completion is there, about in order.

        The engine sees all shards as one stream of requests, so batches stay full across their borders. `progress` is
        called from the caller's own thread, about once a second while it waits for the next shard; what it raises ends the
        sampling. One `generate` at a time, to its end.
        Raises StageError with the end of the log when the child ends before its work does.
        """
        requests = [asdict(shard) for shard in shards]
        self._send({"shards": requests})
        missing, told = len(requests), (0, sum(len(r["prompts"]) * r["samples"] for r in requests), 0)
        while missing:
            try:
                event = self._events.get(timeout=1)
            except queue.Empty:
                event = {}
            if event is None:
                raise self._crash()
            if "completions" in event:
                missing -= 1
                yield ShardResult(event["key"], tuple(Completion(*fields) for fields in event["completions"]))
                continue
            if "waiting" in event and self._waiting:
                self._waiting(event["waiting"])
            if "started" in event and self._started:
                self._started()
            told = event.get("progress", told)
            if progress:
                progress(*told)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # a dead child is reported by the end of its events
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()

    def _drain(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                if line.endswith(b"\n"):  # else: cut off by the child's death
                    self._events.put(json.loads(line))
        self._events.put(None)

    def _crash(self) -> StageError:
        assert self._child is not None
        code = self._child.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        tail = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return StageError(
            f"the engine process ended early ({how}); finished shards are kept, the same command goes on from them.\n"
            f"The end of {self._log}:\n" + "\n".join(f"  {line}" for line in tail)
        )


def take_lock(path: Path, waiting: Callable[[str], None]) -> IO[str]:
    """Wait for the host's accelerator lock, held until the returned file is closed or its process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting(f"the engine or trainer of another run on this host ({path})")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def request_seed(seed: int, problem_id: str, greedy: bool, sample: int) -> int:
    """The seed of one sample: independent of batching, shards and K."""
    text = f"{seed}\0{problem_id}\0{greedy}\0{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def stop_ids(policy: Path, eos: int | None) -> list[int]:
    """Token ids that end an answer: the tokenizer's end token and those of the generation config."""
    file = policy / "generation_config.json"
    more = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    ids = {eos, *(more if isinstance(more, list) else [more])}
    return sorted(i for i in ids if i is not None)


def _check_length(policy: Path, config: EngineSection) -> None:
    file = policy / "config.json"
    if not file.is_file():
        raise UserError(f"policy {policy} is not there or holds no config.json; give a model directory")
    most = json.loads(file.read_text()).get("max_position_embeddings")
    if most and config.max_model_len > most:
        raise UserError(
            f"engine.max_model_len {config.max_model_len} is more than the {most} tokens this model can attend to"
        )


def environment() -> dict[str, str]:
    return our_modules() | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in the child itself: nothing can be left over
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # a policy is a local directory; nothing about it is asked of the hub
        "TOKENIZERS_PARALLELISM": "false",
        # OpenMP's threads wait for each other by spinning. Beside the sandbox's programs, on the same cores, that takes the
        # time slices the thread waited for would need: sampling was 6 times slower with the default of 300,000 spins.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
    }


# ---- the child -------------------------------------------------------------------------------------------------------


def _serve(events: IO[str]) -> None:
    import atexit
    import gc

    # Registered first, so run last: a reader thread that still waits for stdin would make an ordinary exit abort.
    atexit.register(_exit_now)
    spec = json.loads(sys.stdin.buffer.readline())
    messages = _watch(spec["parent"])

    def tell(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    lock = take_lock(Path(spec["lock"]), lambda text: tell({"waiting": text}))
    tell({"started": True})
    gc.disable()  # importing vLLM makes millions of objects and hardly any garbage: 2 of 15 seconds
    engine, tokenizer, per_request_seeds = _load(spec)
    gc.enable()
    gc.freeze()
    stops = stop_ids(Path(spec["policy"]), tokenizer.eos_token_id)
    while not lock.closed:  # and so keep it
        shards = [ShardRequest(**shard) for shard in messages.get()["shards"]]
        seed = spec["seed"] if per_request_seeds else None
        for event in _sample(engine, tokenizer, shards, spec["config"], stops, seed):
            tell(event)


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _watch(parent: int) -> queue.SimpleQueue[dict[str, Any]]:
    """Messages from stdin; the whole process group dies with the parent.

    End of file alone is not enough: a process the parent forked may keep the other end open after the parent's death.
    """
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            messages.put(json.loads(line))
        os.killpg(0, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    threading.Thread(target=look, daemon=True).start()
    return messages


def _load(spec: dict[str, Any]) -> tuple[Any, Any, bool]:
    """The engine, its tokenizer, and whether requests may carry seeds."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    config = EngineSection.model_validate(spec["config"])
    cpu = current_platform.is_cpu()
    # block_size and batched tokens: see benchmarks of the CPU build; a GPU's defaults are right.
    device: dict[str, Any] = (
        {"kv_cache_memory_bytes": int(config.cache_gib * 2**30), "block_size": 128}
        if cpu
        else {"gpu_memory_utilization": config.gpu_memory}
    )
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=spec["policy"],
            dtype=number_format(config.dtype),
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_batch,
            enforce_eager=cpu if config.eager is None else config.eager,
            tensor_parallel_size=config.tensor_parallel,
            seed=spec["seed"],
            enable_prefix_caching=True,  # K samples of one prompt, and problems over one database, share their prefix
            disable_log_stats=True,
            **device,
        )
    )
    return engine, engine.get_tokenizer(), not cpu


def _sample(
    engine: Any, tokenizer: Any, shards: list[ShardRequest], config: dict[str, Any], stops: list[int], seed: int | None
) -> Iterator[dict[str, Any]]:
    """Events of one `generate`: `{"progress": …}` about once a second, `{"key": …, "completions": …}` a finished shard."""
    from vllm.inputs import tokens_input

    done: list[dict[tuple[int, int], list[Any]]] = [{} for _ in shards]
    wanted = [len(shard.prompts) * shard.samples for shard in shards]
    finished, tokens, told, total = 0, 0, time.monotonic(), sum(wanted)
    lengths: dict[str, int] = {}

    def requests() -> Iterator[int | None]:
        """Queue requests one by one; yield the shard's number where a completion is settled without the engine."""
        for s, shard in enumerate(shards):
            for p, prompt in enumerate(shard.prompts):
                ids = prompt_ids(tokenizer, shard.system, prompt)
                for k in range(shard.samples):
                    if len(ids) > config["max_model_len"] - shard.max_tokens:
                        done[s][p, k] = [p, k, "", "dropped", len(ids), 0]
                        yield s
                        continue
                    lengths[f"{s} {p} {k}"] = len(ids)
                    engine.add_request(f"{s} {p} {k}", tokens_input(ids), _params(shard, p, k, stops, seed))
                    yield None

    yield {"progress": [0, total, 0]}
    source, more = requests(), True
    touched = {s for s, n in enumerate(wanted) if n == 0}
    ahead = 4 * config["max_batch"]  # enough that no batch is short; queueing everything first would delay the start
    while touched or more or engine.has_unfinished_requests():
        for s in sorted(touched):
            if len(done[s]) == wanted[s]:
                yield {"key": shards[s].key, "completions": [done[s][at] for at in sorted(done[s])]}
        touched = set()
        while more and engine.get_num_unfinished_requests() < ahead:
            settled = next(source, -1)
            more = settled != -1
            if settled is not None and more:
                finished += 1
                touched.add(settled)
        for output in engine.step() if engine.has_unfinished_requests() else ():
            s, p, k = map(int, output.request_id.split())
            answer = output.outputs[0]
            text = tokenizer.decode(answer.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            length = lengths.pop(output.request_id)
            done[s][p, k] = [p, k, text, answer.finish_reason, length, len(answer.token_ids)]
            finished, tokens = finished + 1, tokens + len(answer.token_ids)
            touched.add(s)
        if touched and (finished == total or time.monotonic() - told > 1):
            told = time.monotonic()
            yield {"progress": [finished, total, tokens]}


def _params(shard: ShardRequest, prompt: int, sample: int, stops: list[int], seed: int | None) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    greedy = shard.temperature == 0
    return SamplingParams(
        temperature=shard.temperature,
        top_p=1.0 if greedy else shard.top_p,
        min_p=0.0 if greedy else shard.min_p,
        max_tokens=shard.max_tokens,
        stop_token_ids=stops,
        seed=None if seed is None or greedy else request_seed(seed, shard.ids[prompt], greedy, sample),
        detokenize=False,  # once at the end is cheaper than a token at a time
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[1]), False)
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        _serve(pipe)
