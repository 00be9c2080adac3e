"""The sample stage as a stream: shards of one policy's samples land in the store while earlier ones are executed.

`Sampling` owns the thread that feeds the store. The engine starts only when a wanted shard is missing, serves all missing
shards with one load, and ends with the `with` block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.addresses import ApiModel
from codelutra.errors import StageError, UserError
from codelutra.hardware import number_format
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.start import base_policy
from codelutra.pipeline.usable import teachable
from codelutra.prompts import in_keys
from codelutra.sampling.api import Api
from codelutra.sampling.following import Follow
from codelutra.sampling.shards import Shard, plan_again, plan_more, plan_shards, sample_shards
from codelutra.schema import SAMPLES
from codelutra.store.artifacts import Artifact, Build, Recipe, Step, digest_of, write_frame
from codelutra.store.run_dir import SAMPLED_NOW
from codelutra.training.bases import record_of

VERSION = 2


class Sampling:
    """Samples of one policy, shard by shard, in the order of `shards`.

    Raises, from `shard`, whatever stopped the engine.
    """

    def __init__(self, run: Run, policy: Policy, shards: Sequence[Shard]) -> None:
        self.run, self.policy, self.shards = run, policy, shards
        self.steps = [Step(_recipe(run, policy, s), _not_alone, f"{policy.label}/{s.name}") for s in shards]
        self._made: dict[int, Artifact] = {}
        self._failure: BaseException | None = None
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._show = run.progress(f"sample {policy.label}", "completions")
        self._thread: threading.Thread | None = None

    def shard(self, i: int) -> Artifact:
        """The i-th shard's samples, as SAMPLES; waits for it, starting the engine if nobody has (or again after a fault)."""
        with self._change:
            if i not in self._made:
                if not self._thread and (found := self.run.store.find(self.steps[i].recipe)):
                    self._made[i] = found
                    self.run.store.reused(self.steps[i], found)
                elif not self._thread or not self._thread.is_alive():
                    self._failure = None
                    self._thread = threading.Thread(target=self._fill, name="sampling", daemon=True)
                    self._thread.start()
            self._change.wait_for(lambda: i in self._made or self._failure)
            if i not in self._made:
                assert self._failure is not None
                raise self._failure
            return self._made[i]

    def labels(self, *, greedy: bool) -> list[tuple[int, str]]:
        """(number, name) of the greedy, or of the other, shards."""
        return [(i, f"{self.policy.label}/{s.name}") for i, s in enumerate(self.shards) if s.greedy is greedy]

    def made(self, *, greedy: bool) -> list[Artifact]:
        """The greedy, or the other, shards that are in the store."""
        wanted = [i for i, _ in self.labels(greedy=greedy)]
        there = [self._made.get(i) or self.run.store.find(self.steps[i].recipe) for i in wanted]
        return [a for a in there if a]

    def __enter__(self) -> Sampling:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        with self._change:  # whoever still waits, in a flow that was told to end
            self._failure = self._failure or StageError("sampling was ended before this shard was drawn")
            self._change.notify_all()

    def _fill(self) -> None:
        try:
            self._sample_missing()
        except Exception as e:  # noqa: BLE001 - whoever waits for a shard gets it raised: a thread has no caller
            with self._change:
                self._failure = e
                self._change.notify_all()

    def _sample_missing(self) -> None:
        run, c = self.run, self.run.config
        # One sampler per policy and store, shared or not: a second process waits here and then finds the shards made.
        turn = f"sampling-{self.policy.digest[:32]}"
        with run.store.turn(turn, lambda: run.waiting(f"another process that samples {self.policy.label}")):
            missing = []
            for i, step in enumerate(self.steps):
                if i in self._made:
                    continue
                if found := run.store.find(step.recipe):
                    run.store.reused(step, found)
                    self._put(i, found)
                else:
                    missing.append(i)
            at = {self.shards[i].index: i for i in missing}
            api = ApiModel.of(self.policy.path)
            dtype = "" if c.sample.endpoints or api else number_format(c.engine.dtype)  # a server has its own
            began = time.monotonic()

            def started() -> None:  # what was waited for others' work is no work of these shards
                nonlocal began
                began = time.monotonic()

            stream = sample_shards(
                Path(self.policy.path),
                run.suite.system,
                [self.shards[i] for i in missing],
                sample=c.sample,
                engine=c.engine.model_copy(update={"dtype": number_format(c.engine.dtype)}),  # as the keys say, on any node
                seed=c.seed,
                log=run.dir.log,
                lock=run.accelerator_lock,
                thinking=c.prompt.budget,
                progress=self._progress,
                waiting=run.waiting,
                started=started,
                api=Api(api, c.api.connections, self._note, run.waiting) if api else None,
                elsewhere=run.engines(Path(self.policy.path)),
                follow=self._follow() if missing and c.sample.endpoints and c.sample.follow_minutes and not api else None,
            )
            # Closing ends the engine: a process exit is the only sure way to get its memory back.
            with closing(stream), suppress(_EnoughError):
                for shard, frame in stream:
                    i, now = at[shard.index], time.monotonic()
                    self._put(i, run.make(replace(self.steps[i], build=_writer(frame, now - began, dtype, api))))
                    began = now

    def _progress(self, done: int, total: int, tokens: int) -> None:
        if self._stop.is_set():
            raise _EnoughError
        self._show(done, total)

    def _follow(self) -> Follow:
        """Says in the run's folder which policy is wanted now, for `codelutra serve --follow` on other hosts."""
        run, policy = self.run, self.policy
        run.dir.write(SAMPLED_NOW, {"label": policy.label, "path": policy.path, "home": str(run.home)})
        start = base_policy(run)
        return Follow(
            seconds=60 * run.config.sample.follow_minutes,
            start=Path(start.path),
            adapter=record_of(Path(policy.path)).get("fingerprint") == start.digest,
            owner=f"codelutra-{digest_of(str(run.dir.path.resolve()))[:8]}",
            waiting=run.waiting,
            note=self._note,
        )

    def _note(self, text: str) -> None:
        self.run.dir.ledger({"event": "note", "label": self.policy.label, "text": text})

    def _put(self, i: int, artifact: Artifact) -> None:
        with self._change:
            self._made[i] = artifact
            self._change.notify_all()


def measure_plan(
    run: Run, policy: Policy, problems: Artifact, expected: Artifact, split: str, *, train: bool = False, samples: int = 0
) -> Sampling:
    """The shards that measure a policy on `split` (greedy), first, and then sample the train problems if `train`, or
    those of `split` again, `samples` times at temperature.

    Train problems whose reference cannot judge anybody are left out; those of `split` stay in the denominator. Raises
    UserError where none is left.
    """
    frame = problems.frame("problems")
    train_rows = teachable(frame, expected.frame("expected"))
    if train and train_rows.is_empty():
        there = frame.filter(pl.col("split") == "train").height
        raise UserError(
            f"no reference of the {there} train problems is usable, so nothing the model writes can be judged; "
            "`codelutra check` on the same config says what is wrong with them"
        )
    asked = pl.concat([frame.filter(pl.col("split") == split), train_rows])
    shards = plan_shards(asked, run.config.sample, (split, "train") if train else (split,))
    if samples:
        shards += plan_again(asked, run.config.sample, split, samples, len(shards))
    return Sampling(run, policy, shards)


def held_out_plan(run: Run, start: Policy, problems: Artifact) -> Sampling:
    """The shards that draw answers to the dev problems from the start policy, `select.held_out` times."""
    return Sampling(
        run, start, plan_again(problems.frame("problems"), run.config.sample, "dev", run.config.select.held_out, 0)
    )


def more_plan(run: Run, policy: Policy, problems: Artifact, expected: Artifact, scores: Artifact) -> Sampling:
    """The shards that draw again, as `sample.more` says, the train problems that `scores` (SCORES) show as all wrong; none
    where every problem was solved."""
    unsolved = scores.frame("scores").filter(
        (pl.col("split") == "train") & (pl.col("correct") == 0) & (pl.col("samples") > 0)
    )
    asked = teachable(problems.frame("problems"), expected.frame("expected")).join(unsolved, on="problem_id", how="semi")
    return Sampling(run, policy, plan_more(asked, run.config.sample))


class _EnoughError(Exception):
    """Nobody waits for further shards."""


def _not_alone(out: Path, work: Path) -> dict[str, Any]:
    raise RuntimeError("a shard of samples is made by Sampling.shard, which shares one engine between all shards")


def _writer(frame: pl.DataFrame, seconds: float, dtype: str, api: ApiModel | None) -> Build:
    def build(out: Path, work: Path) -> dict[str, Any]:
        write_frame(frame.select(list(SAMPLES)), out / "samples.parquet")
        thought = {"thinking_tokens": int(frame["thinking_tokens"].sum())} if "thinking_tokens" in frame.columns else {}
        counted = {"prompt_tokens": int(frame["prompt_tokens"].cast(pl.Int64).sum())} if api else {}
        return (
            thought
            | counted
            | {
                "rows": frame.height,
                "seconds": round(seconds, 2),
                "tokens": int(frame["completion_tokens"].cast(pl.Int64).sum()),
                "dtype": dtype,
                "cut_at_max_tokens": int((frame["finish_reason"] == "length").sum()),
                "prompts_too_long": int((frame["finish_reason"] == "dropped").sum()),
            }
        )

    return build


def _recipe(run: Run, policy: Policy, shard: Shard) -> Recipe:
    s, e = run.config.sample, run.config.engine
    # A server has a format of its own; the name for it is the one that 0.1.0 had in the keys of such shards.
    dtype = "bfloat16" if s.endpoints and e.dtype == "auto" else number_format(e.dtype)
    config = {"max_tokens": s.max_tokens, "dtype": dtype, "max_model_len": e.max_model_len, "greedy": shard.greedy}
    if not shard.greedy:
        config |= {
            "k": shard.samples or s.samples_per_problem,
            "temperature": shard.temperature or s.temperature,
            "top_p": s.top_p,
            "seed": run.config.seed,
        }
        config |= {"min_p": s.min_p} if s.min_p else {}
        config |= {"first": shard.first} if shard.first else {}
    if ApiModel.of(policy.path):  # of an answer there is no seed and no number format; another `seed` asks anew
        config = {name: value for name, value in config.items() if name not in ("dtype", "max_model_len", "min_p")}
        config |= {"api": 1, "seed": run.config.seed}
    else:
        config |= in_keys(Path(policy.path), thinking=run.config.prompt.thinking)
    config |= {"thinking_tokens": run.config.prompt.budget} if run.config.prompt.thinking else {}
    asked = digest_of([run.suite.system, *shard.problems.select("problem_id", "prompt").rows()])
    return Recipe("sample", VERSION, config, {"policy": policy.digest, "problems": asked})
