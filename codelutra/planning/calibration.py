"""A minute of real work on the real model and prompts: how fast this machine samples and trains.

The engine answers a few prompts with one token (what a prompt costs), then others with several answers as long as the
references (what a token costs), then a few to their end (how long the model's answers are). A trainer of each kind that the
run has does two optimizer steps. All are the run's own processes, under the accelerator's lock; nothing is kept.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig, TrainSection, WarmStartSection
from codelutra.planning.history import Sampled, Trained
from codelutra.planning.work import Work
from codelutra.sampling.engine import Engine, ShardRequest
from codelutra.schema import PAIRS
from codelutra.store.paths import accelerator_lock
from codelutra.training import launch
from codelutra.training.rates import settled

ALONE, DRAWN, WHOLE = 24, 128, 12  # prompts answered by one token; sequences drawn; prompts answered to the end
LONG = 20.0  # seconds that a part of it is to take at most
SMALLEST = 32  # sequences: with fewer at once a token costs more than in the run
Say = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """What was measured; None where the run has no such stage."""

    sampled: Sampled | None = None
    base_answer: float | None = None
    warm_start: Trained | None = None
    train: Trained | None = None
    sampler_peak: float = 0.0
    """Bytes that the engine's process took at most; so are the peaks of the trainers."""


class _EnoughError(Exception):
    """All that was wanted is known."""


def calibrate(config: RunConfig, model: Path, system: str, problems: pl.DataFrame, work: Work, say: Say) -> Calibration:
    """problems: PROBLEMS of the train split (or those there are). Raises what the engine or the trainer raises."""
    asked = problems.sort("group", "problem_id")
    found = Calibration()
    with tempfile.TemporaryDirectory(prefix="codelutra-plan-") as scratch:
        at = Path(scratch)
        if not config.sample.endpoints:
            say("measuring the sampler")
            found = _sampler(config, model, system, asked, work, at, say)
        solved = asked.filter(pl.col("reference") != "")
        if solved.height < 2:
            return found
        answers = solved.select("problem_id", "prompt", completion="reference")
        if config.warm_start and work.shown:
            say("measuring the warm start")
            section = _short(config.warm_start)
            lesson = _repeated(answers, 2 * section.batch_size)
            found = replace(found, warm_start=_trainer(at, model, system, lesson, section, say))
        if config.iterations:
            say("measuring the training")
            train = _short(config.train)
            if train.objective in ("sft", "rft"):
                train = train.supervised
                lesson = _repeated(answers, 2 * train.batch_size)
            else:  # others learn from pairs, or from answers that share prompts as pairs do
                lesson = _pairs(solved, work.per_problem, 2 * train.batch_size)
            found = replace(found, train=_trainer(at, model, system, lesson, train, say))
    return found


def _sampler(
    config: RunConfig, model: Path, system: str, asked: pl.DataFrame, work: Work, at: Path, say: Say
) -> Calibration:
    began, s = time.monotonic(), config.sample
    started = [began]
    lock = accelerator_lock()
    with (
        _peak() as peak,
        Engine(
            model,
            config.engine,
            seed=config.seed,
            log=at / "log",
            lock=lock,
            waiting=lambda what: say(f"waiting for {what}"),
            started=lambda: started.append(time.monotonic()),
        ) as engine,
    ):
        rows = asked.select("problem_id", "prompt").rows()

        def ask(some: list[tuple[str, str]], samples: int, most: int, temperature: float) -> tuple[float, int, int, int]:
            """Seconds, tokens, answers, of those cut off."""
            ids, prompts = (tuple(column) for column in zip(*some, strict=True))
            request = ShardRequest("", system, ids, prompts, samples, temperature, s.top_p, most, s.min_p)
            began, tokens, answers, cut = time.monotonic(), 0, 0, 0
            for result in engine.generate([request]):
                asked = [c for c in result.completions if c.finish_reason != "dropped"]
                tokens, answers = tokens + sum(c.completion_tokens for c in asked), answers + len(asked)
                cut += sum(c.finish_reason == "length" for c in asked)
            return time.monotonic() - began, tokens, answers, cut

        alone = rows[:ALONE]
        ask(alone[:1], 1, 1, 0.0)  # waits for the engine to load, and loads what is loaded at first use
        start = time.monotonic() - started[-1]
        seconds, *_ = ask(alone, 1, 1, 0.0)
        prompt = seconds / len(alone)
        drawn_token = max(1e-6, prompt / max(1.0, work.prompt) * 4)  # a drawn token costs some 4 of a prompt: measured
        length = max(4, min(round(work.answer), s.max_tokens, 48, int(LONG / drawn_token / SMALLEST)))
        k, affordable = s.samples_per_problem, int(LONG / drawn_token / length)
        wanted = min(max(SMALLEST, affordable), DRAWN, config.engine.max_batch, k * len(rows))
        some = [*rows[ALONE:], *rows[:ALONE]][: max(1, wanted // k)]
        seconds, tokens, *_ = ask(some, k, length, s.temperature)
        token = max(seconds - len(some) * prompt, 0.2 * seconds) / max(1, tokens)
        step = max(seconds / length / 2, 1e-3)  # of a small batch
        most = min(s.max_tokens, max(length, int(LONG / step)))
        _, whole, answers, cut = ask(alone[:WHOLE], 1, most, 0.0)
    answer = (whole + cut * (s.max_tokens - most)) / answers if answers else None  # those cut off would have gone on
    if config.prompt.thinking:
        answer = None  # the engine was asked for answers without thoughts: they tell how fast it is, not how long they are
    return Calibration(Sampled(start, prompt, token), answer, sampler_peak=peak[0])


def _short(section: Any) -> Any:
    """Two optimizer steps of at most two micro-batches each, without a checkpoint."""
    micro = min(section.micro_batch, section.batch_size)
    batch = micro * min(2, max(1, section.batch_size // micro))
    changes = {"micro_batch": micro, "batch_size": batch, "epochs": 1.0, "checkpoint_steps": 10**6, "stop_on_drift": False}
    return section.model_copy(update={k: v for k, v in changes.items() if k in type(section).model_fields})


def _repeated(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """So many rows, from the beginning again where there are fewer."""
    return pl.concat([frame] * -(-rows // frame.height)).head(rows)


def _pairs(solved: pl.DataFrame, per_problem: int, count: int) -> pl.DataFrame:
    """PAIRS of the shape a run's have: a reference against those of other problems, several a problem."""
    texts, made = solved["reference"].to_list(), []
    for i, (problem, prompt) in enumerate(solved.select("problem_id", "prompt").rows()):
        for j in range(min(per_problem, len(texts) - 1)):
            made.append((problem, prompt, texts[i], texts[(i + 1 + j) % len(texts)], "reference", "wrong", -1, j, True))
    return _repeated(pl.DataFrame(made, schema=PAIRS, orient="row"), count)


def _trainer(
    at: Path, model: Path, system: str, lesson: pl.DataFrame, section: TrainSection | WarmStartSection, say: Say
) -> Trained | None:
    """The facts of a training that is ended after its second step. `lesson`: PAIRS, or answers for plain SFT."""
    began, heard = time.monotonic(), list[tuple[float, dict[str, Any]]]()

    def hear(done: int, total: int, event: dict[str, Any]) -> None:
        heard.append((time.monotonic(), event))
        if event["doing"] == "waiting":
            say(f"waiting for another run on this host ({event.get('for', '')})")
        if event["doing"] == "progress" and (done >= min(2, total) or time.monotonic() - began > 3 * LONG):
            raise _EnoughError

    with tempfile.TemporaryDirectory(dir=at) as folder, _peak() as peak, suppress(_EnoughError):
        where = Path(folder)
        place = launch.Training(model, system, 0, where / "out", where / "work", where / "log", accelerator_lock(), hear)
        config = settled(section, model)
        if isinstance(config, WarmStartSection):
            launch.supervise(place, lesson, config)
        else:
            launch.refine(place, lesson, config.model_copy(update={"objective": "preference"}))
    rows = [event for _, event in heard if event["doing"] == "progress"]
    if not rows:
        return None
    at_steps = next(when for when, event in heard if event["doing"] == "training")
    passes = [when for when, event in heard if event["doing"] == "reference"]
    reference = at_steps - passes[0] if passes else 0.0
    waited = max((when for when, event in heard if event["doing"] == "waiting"), default=began)
    rate = max(row["tokens"] / max(1e-3, row["seconds"]) for row in rows)  # the first step is the slower one
    one_pass = sum(row["tokens"] for row in rows) / len(rows) * 2
    start = max(0.0, (passes[0] if passes else at_steps) - waited)
    most = peak[0] if len(rows) > 1 else 0.0  # Adam has no moments before the end of the first step
    return Trained(start, rate, one_pass / reference if reference else 0.0, most)


@contextmanager
def _peak() -> Iterator[list[float]]:
    """The most bytes that a child of this process held meanwhile, asked of the kernel four times a second."""
    found, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            found[0] = max(found[0], *map(_resident, _children()), 0.0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _children() -> list[str]:
    pids = list[str]()
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with suppress(OSError):
            pids += task.read_text().split()
    return pids


def _resident(pid: str) -> float:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    return 0.0
