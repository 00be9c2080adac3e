"""vLLM: from requests to completions. Runs in the engine's process alone (`python -m codelutra.sampling`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from vllm.config import ReasoningConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.llm_engine import LLMEngine

from codelutra.config import EngineSection
from codelutra.errors import UserError
from codelutra.hardware import number_format
from codelutra.policies import load_tokenizer
from codelutra.prompts import answer_text, end_ids, prompt_ids, thought
from codelutra.sampling.engine import Completion, ShardRequest, ShardResult, Tally, request_seed, stop_ids
from codelutra.sampling.thoughts import within_budget
from codelutra.store.child import Event, Parent


class Sampler:
    """A policy, loaded."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.config = config = EngineSection.model_validate(spec["config"])
        self.tokenizer = load_tokenizer(Path(spec["policy"]))
        self.stops = stop_ids(Path(spec["policy"]), *end_ids(self.tokenizer))  # before the model: it may be of no use
        self.thinking: int = spec.get("thinking", 0)
        self.most: dict[int, int] = {}  # max_tokens of each shard
        cpu = current_platform.is_cpu()
        # block_size and batched tokens: see benchmarks of the CPU build; a GPU's defaults are right.
        device: dict[str, Any] = (
            {"kv_cache_memory_bytes": int(config.cache_gib * 2**30), "block_size": 128}
            if cpu
            else {"gpu_memory_utilization": config.gpu_memory}
        )
        if self.thinking:
            marks = thought(self.tokenizer)
            device["reasoning_config"] = ReasoningConfig(reasoning_start_str=marks.opens, reasoning_end_str=marks.closes)
        self.engine = _loaded(
            EngineArgs(
                model=spec["policy"],
                # A policy is a Hugging Face layout, and training reads it as one. By itself vLLM prefers what Mistral's own
                # repositories hold beside it: another tokenizer, without the chat template, and other weights.
                tokenizer_mode="hf",
                config_format="hf",
                load_format="hf",
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
        self.seed: int | None = None if cpu else spec["seed"]  # of single requests, which vLLM's CPU build does not take

    def serve(self, parent: Parent) -> None:
        """Answer requests until the parent ends."""
        while True:
            shards, follow = _asked(parent.hear())
            for event in self.sample(shards, parent if follow else None):
                parent.tell(event)

    def sample(self, shards: list[ShardRequest], more_from: Parent | None = None) -> Iterator[Event]:
        """Events of one `generate`: "progress" about once a second, "shard" for each that is finished. `more_from` sends
        further shards meanwhile, and says which are the last."""
        tally, queue, told = Tally(shards), self._queue(shards), time.monotonic()
        ahead = 4 * self.config.max_batch  # enough that no batch is short; queueing everything first would delay the start
        yield _progress(tally)
        yield from map(_shard, tally.empty())
        more = True
        while more or more_from or self.engine.has_unfinished_requests():
            settled: list[tuple[int, Completion]] = []
            while more and self.engine.get_num_unfinished_requests() < ahead:
                try:
                    settled += next(queue)
                except StopIteration:
                    more = False
            idle = not settled and not self.engine.has_unfinished_requests()
            if more_from and not more and (message := more_from.hear() if idle else more_from.heard()):
                added, follow = _asked(message)
                queue, more, more_from = self._queue(added, len(tally.shards)), True, more_from if follow else None
                tally.add(added)
                yield from map(_shard, Tally(added).empty())
            if self.engine.has_unfinished_requests():
                settled += map(self._completion, self.engine.step())
            finished = [result for shard, completion in settled if (result := tally.settle(shard, completion))]
            if settled and (tally.count == tally.total or time.monotonic() - told > 1):
                told = time.monotonic()
                yield _progress(tally)
            yield from map(_shard, finished)

    def _queue(self, shards: list[ShardRequest], first: int = 0) -> Iterator[list[tuple[int, Completion]]]:
        """Give the engine one request after the other; yield what is settled by that: completions of prompts too long.
        `first`: the number of the first of these shards."""
        self.most |= {s: shard.max_tokens for s, shard in enumerate(shards, first)}
        for s, shard in enumerate(shards, first):
            for p, prompt in enumerate(shard.prompts):
                ids = prompt_ids(self.tokenizer, shard.system, prompt, thinking=self.thinking > 0)
                for k in range(shard.samples):
                    if len(ids) > self.config.max_model_len - shard.max_tokens - self.thinking:
                        yield [(s, Completion(p, k, "", "dropped", len(ids), 0))]
                    else:
                        self.engine.add_request(f"{s} {p} {k}", tokens_input(ids), self._params(shard, p, k))
                        yield []

    def _completion(self, output: Any) -> tuple[int, Completion]:
        s, p, k = map(int, output.request_id.split())
        answer, length = output.outputs[0], len(output.prompt_token_ids)
        ids = list(answer.token_ids)
        text = answer_text(self.tokenizer, ids, thinking=self.thinking > 0)
        if self.thinking:
            written = within_budget(self.tokenizer, text, ids, answer.finish_reason, self.thinking, self.most[s])
            return s, Completion(p, k, written.text, written.finish_reason, length, *written.counts)
        return s, Completion(p, k, text, answer.finish_reason, length, len(ids))

    def _params(self, shard: ShardRequest, prompt: int, sample: int) -> Any:
        greedy, number = shard.temperature == 0, shard.first + sample
        return SamplingParams(
            temperature=shard.temperature,
            top_p=1.0 if greedy else shard.top_p,
            min_p=0.0 if greedy else shard.min_p,
            max_tokens=shard.max_tokens + self.thinking,
            thinking_token_budget=self.thinking or None,
            stop_token_ids=self.stops,
            seed=None if greedy or self.seed is None else request_seed(self.seed, shard.ids[prompt], greedy, number),
            detokenize=False,  # once at the end is cheaper than a token at a time
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _loaded(arguments: EngineArgs) -> Any:
    """Raises UserError where vLLM refuses the model or a setting beforehand: an architecture that it does not know."""
    try:
        return LLMEngine.from_engine_args(arguments)
    except ValidationError as e:
        said = " ".join(str(e.errors(include_url=False, include_input=False)[0]["msg"]).split())[:500]
        raise UserError(f"vLLM does not take the model in {arguments.model}: {said}") from e


def _asked(message: Any) -> tuple[list[ShardRequest], bool]:
    """Shards to sample, and whether others follow."""
    return [ShardRequest(**shard) for shard in message["shards"]], message["more"]


def _progress(tally: Tally) -> Event:
    return {"event": "progress", "done": tally.count, "total": tally.total, "tokens": tally.tokens}


def _shard(result: ShardResult) -> Event:
    return {"event": "shard", "key": result.key, "completions": [astuple(c) for c in result.completions]}
