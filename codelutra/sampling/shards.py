"""A policy and problems → samples, shard by shard.

A shard is a portion of problems. A kill loses at most the shards in work, and execution starts with the first finished one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.completions import extract_code
from codelutra.completions.thoughts import Thought
from codelutra.config import EngineSection, SampleSection
from codelutra.sampling.api import Api, sample_api
from codelutra.sampling.endpoints import sample_endpoints
from codelutra.sampling.engine import Engine, Progress, ShardRequest, ShardResult
from codelutra.sampling.fleet import Elsewhere, Fleet
from codelutra.sampling.following import Follow
from codelutra.sampling.replicas import Replicas, replicas
from codelutra.schema import SAMPLES, check


@dataclass(frozen=True)
class Shard:
    index: int
    """Over all shards of a plan."""
    name: str
    """Split and number within it: "dev-000", "train-003"."""
    problems: pl.DataFrame
    """Rows of PROBLEMS."""
    greedy: bool
    samples: int = 0
    """Drawn of each problem at temperature; 0 takes what the config says."""
    temperature: float = 0.0
    """Of a shard that is not greedy; 0 takes what the config says."""
    first: int = 0
    """Number of the first sample: above 0 where a problem had others before."""


def plan_shards(problems: pl.DataFrame, config: SampleSection, splits: Sequence[str] = ("dev", "train")) -> list[Shard]:
    """Cut the problems of `splits` into shards: train is sampled K times at temperature, dev and test greedily.

    The plan depends on which problems there are, not on their order. Problems of one group stand together: they share
    the beginning of their prompts, which the engine then computes once.
    """
    shards: list[Shard] = []
    for split in splits:
        rows = problems.filter(pl.col("split") == split).sort("group", "problem_id")
        for number, part in enumerate(rows.iter_slices(config.shard_problems)):
            shards.append(Shard(len(shards), f"{split}-{number:03}", part, greedy=split != "train"))
    return shards


def plan_again(problems: pl.DataFrame, config: SampleSection, split: str, samples: int, first: int) -> list[Shard]:
    """Shards, numbered from `first`, that draw the problems of a split `samples` times at temperature."""
    greedy = plan_shards(problems, config, (split,))
    return [
        Shard(first + s.index, s.name.replace(split, f"{split}-samples"), s.problems, greedy=False, samples=samples)
        for s in greedy
    ]


def plan_more(problems: pl.DataFrame, config: SampleSection) -> list[Shard]:
    """Shards that draw these train problems `config.more` times besides the first K samples, hotter."""
    return [
        Shard(
            s.index,
            f"more-{s.index:03}",
            s.problems,
            False,
            config.more,
            config.more_temperature,
            config.samples_per_problem,
        )
        for s in plan_shards(problems, config, ("train",))
    ]


def sample_shards(
    policy: Path,
    system: str,
    shards: Sequence[Shard],
    *,
    sample: SampleSection,
    engine: EngineSection,
    seed: int,
    log: Path,
    lock: Path,
    thinking: int = 0,
    progress: Progress | None = None,
    waiting: Callable[[str], None] | None = None,
    started: Callable[[], None] | None = None,
    api: Api | None = None,
    elsewhere: Elsewhere | None = None,
    follow: Follow | None = None,
) -> Generator[tuple[Shard, pl.DataFrame], None, None]:
    """Yield each shard with its SAMPLES as soon as it is finished, about in order.

    The engine is started at the first shard asked for and ends with the last, or when the caller stops; for no shards
    nothing is started. With `sample.endpoints` those servers are asked instead, brought to the policy as `follow` says, and
    with `api` that model, wherever it is; the engines run `elsewhere` where that is given. `thinking` is a thought's budget
    in tokens; where there is one the frames have the column `thinking_tokens` beside. Raises StageError when sampling breaks
    off; what was yielded before is whole.
    """
    if not shards:
        return
    by_name = {shard.name: shard for shard in shards}
    requests = [_request(shard, system, sample) for shard in shards]
    start: Any = partial(Engine, policy, engine, seed=seed, log=log, thinking=thinking, waiting=waiting, started=started)
    with ExitStack() as running:
        if api:
            results = sample_api(api, requests, progress=progress)
        elif sample.endpoints:
            results = sample_endpoints(
                sample.endpoints,
                policy,
                requests,
                max_model_len=engine.max_model_len,
                connections=engine.max_batch,
                thinking=thinking,
                progress=progress,
                follow=follow,
                waiting=waiting,
            )
        elif elsewhere:
            far = partial(start, lock=None, start=elsewhere.start)
            fleet = Fleet(far, engine, min(elsewhere.engines, len(shards)), elsewhere.note)
            results = running.enter_context(fleet).generate(requests, progress)
        else:
            count = min(replicas(engine), len(shards))
            engines: Any = start(lock=lock) if count == 1 else Replicas(start, lock, engine, count)
            results = running.enter_context(engines).generate(requests, progress)
        for result in results:
            yield by_name[result.key], _frame(by_name[result.key], result, thinking)


def as_read_now(samples: pl.DataFrame, problems: pl.DataFrame, thought: Thought | None = None) -> pl.DataFrame:
    """SAMPLES with the programs that extraction finds in their completions now: those that were drawn earlier have the ones
    it found then. `thought`: how the model marks what it thinks, where it does."""
    languages = dict(problems.select("problem_id", "language").rows())
    said = samples.select("problem_id", "completion").rows()
    answers = [text[thought.answer_at(text) :] if thought else text for _, text in said]
    found = [extract_code(text, languages[problem]) for (problem, _), text in zip(said, answers, strict=True)]
    return samples.with_columns(code=pl.Series(found, dtype=pl.String))


def _request(shard: Shard, system: str, config: SampleSection) -> ShardRequest:
    return ShardRequest(
        key=shard.name,
        system=system,
        ids=tuple(shard.problems["problem_id"]),
        prompts=tuple(shard.problems["prompt"]),
        samples=1 if shard.greedy else shard.samples or config.samples_per_problem,
        temperature=0.0 if shard.greedy else shard.temperature or config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        min_p=config.min_p,
        first=shard.first,
    )


def _frame(shard: Shard, result: ShardResult, thinking: int) -> pl.DataFrame:
    ids, languages = shard.problems["problem_id"].to_list(), shard.problems["language"].to_list()
    rows = {
        "problem_id": [ids[c.prompt] for c in result.completions],
        "sample": [shard.first + c.sample for c in result.completions],
        "greedy": [shard.greedy] * len(result.completions),
        "completion": [c.text for c in result.completions],
        "code": [extract_code(c.text[c.answer_at :], languages[c.prompt]) for c in result.completions],
        "finish_reason": [c.finish_reason for c in result.completions],
        "prompt_tokens": [c.prompt_tokens for c in result.completions],
        "completion_tokens": [c.completion_tokens for c in result.completions],
    }
    frame = check(pl.DataFrame(rows, schema=SAMPLES), SAMPLES)
    return (
        frame.with_columns(thinking_tokens=pl.Series([c.thinking_tokens for c in result.completions])) if thinking else frame
    )
