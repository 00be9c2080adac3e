"""Any model on any suite, as a run without iterations; several models, problem by problem against the first."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import ApiSection, RunConfig, load_config
from codelutra.errors import UserError
from codelutra.experiments.plan import Arm, Experiment, Finished, Overrides, Result, finished_runs
from codelutra.experiments.retrain import Record, keeping_sides
from codelutra.results import text
from codelutra.results.load import chosen_weights, finished_summary, run_folder
from codelutra.results.summary import RunSummary, TestResult
from codelutra.results.table import Table
from codelutra.scoring.scores import mcnemar

_NAME = 64  # characters a run's name may have


def evaluation(
    source: str, overrides: Overrides, models: Sequence[str], home: Path, prices: Sequence[Overrides] = ()
) -> Experiment:
    """One run a model; `prices` are those of the `api:` models, as `priced` gives them.

    Raises ConfigError, and UserError for a run that has no policy to give: before any is begun."""
    for scheme, _, name in (model.partition(":") for model in models):
        if scheme == "run" and not finished_summary(run_folder(home / "runs", name)):
            chosen_weights(home / "runs", name)
    told = iter(prices)
    arms = [_arm(source, (*overrides, *(next(told, ()) if is_api(m) else ())), m, home) for m in models]
    return Experiment("evaluation", f"{load_config(source, overrides).name}-evaluate", arms, _result)


def best_answer(best_of: int | None, verifier: str | None) -> Overrides:
    """What `--best-of` and `--verifier` mean. Raises UserError for a verifier of one answer."""
    if verifier and not best_of:
        raise UserError(f"--verifier {verifier}: it chooses among several answers; say how many with --best-of 8")
    drawn = (f"select.samples={best_of}",) if best_of else ()
    return (*drawn, f"select.verifier={json.dumps(verifier)}") if verifier else drawn


def is_api(model: str) -> bool:
    return model.startswith("api:")


def priced(models: Sequence[str], price_in: Sequence[float], price_out: Sequence[float]) -> list[Overrides]:
    """What `--price-in` and `--price-out` mean for each `api:` model, in order: one price is for all of them. Raises
    UserError for another number of prices."""
    asked = [model for model in models if is_api(model)]
    overrides = [list[str]() for _ in asked]
    for name, prices in (("in", price_in), ("out", price_out)):
        if len(prices) not in (0, 1, len(asked)) or (prices and not asked):
            raise UserError(
                f"--price-{name} is given {len(prices)} times, and {len(asked)} of the models are api:URL#NAME; give it "
                "once for all of these, or once for each in their order"
            )
        for i, own in enumerate(overrides if prices else ()):
            own.append(f"api.price_{name}={prices[i % len(prices)]!r}")
    return [tuple(own) for own in overrides]


def tokens_of(summary: RunSummary) -> tuple[int, int]:
    """Of all prompts, and of all answers."""
    return sum(p.prompt_tokens for p in summary.policies), sum(p.tokens for p in summary.policies)


def cost(prompt_tokens: int, tokens: int, section: ApiSection) -> float | None:
    """What an API takes for the answers that were kept; None where the config has no price."""
    if not (section.price_in or section.price_out):
        return None
    return (prompt_tokens * section.price_in + tokens * section.price_out) / 1e6


def _asked(run: Finished, among: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """The cells, and the numbers, of what an API counted; empty cells for other models `among` such."""
    names = ("tokens in", "tokens out", "price")
    if not is_api(run.arm.config.model):
        return (dict.fromkeys(names, "") if among else {}), {}
    told, given = tokens_of(run.summary)
    price = cost(told, given, run.arm.config.api)
    shown = (f"{told:,}", f"{given:,}", "" if price is None else f"{price:,.4f}")
    return dict(zip(names, shown, strict=True)), {"api": {"tokens_in": told, "tokens_out": given, "price": price}}


def _arm(source: str, overrides: Overrides, model: str, home: Path) -> Arm:
    """The run that measures `model`.

    Where the config was retrained, its problems are on the sides they are held on there: else a promoted policy would be
    measured on what it was taught.
    """
    base = load_config(source, overrides)
    return Arm.of(model, source, (*overrides, *untrained(base, model, home, name_of(f"{base.name}-evaluate", model))))


def untrained(base: RunConfig, model: str, home: Path, name: str) -> Overrides:
    """What makes of a config the run `name`, which asks `model` and trains nothing."""
    more: Overrides = ("iterations=0", "warm_start=null", f"model={json.dumps(model)}", f"name={name}")
    if is_api(model):
        more += ("prompt.thinking=false",)  # such a model thinks as its server has it
    return (*more, *keeping_sides(base, Record(home, base.name).sides))


def name_of(purpose: str, model: str, more: str = "") -> str:
    """A run's name, another one for each model and for what `more` says."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")
    digest = hashlib.sha256((model + more).encode()).hexdigest()[:6]
    return f"{purpose}-{slug}"[: _NAME - 7] + f"-{digest}"


def _of_several(test: TestResult | None) -> dict[str, str]:
    """What came of several answers to each test problem, where they were drawn."""
    if not test or not test.vote:
        return {}
    found = {text.MEAN_OF_SAMPLES: text.rate(test.mean), text.MAJORITY_VOTE: text.rate(test.vote)}
    return found | ({"the verifier's": text.rate(test.ranked)} if test.ranked else {})


def _result(home: Path, arms: Sequence[Arm]) -> Result:
    """pass@1 of dev and test with intervals, and exact McNemar tests against the first model on the problems both were
    asked."""
    runs, missing = finished_runs(home, arms)
    data, cells = [], []
    first: dict[str, pl.DataFrame] = {}
    for run in runs:
        summary = run.summary
        scores = run.scores()
        against = {s: mcnemar(first[s], scores[s]) for s in scores if s in first}
        first = scores if run.arm is arms[0] else first
        tests = {s: asdict(t) for s, t in against.items()}
        about = {"model": run.arm.label, "suite": summary.suite, "mode": summary.mode}
        counted, numbers = _asked(run, any(is_api(r.arm.config.model) for r in runs))
        data.append({**about, **summary.brief(), **numbers, "against_first": tests})
        split = "test" if summary.test else "dev"
        cells.append(
            {
                "model": run.arm.label,
                "dev pass@1 [95 %]": text.dev_rate(summary.first),
                "test pass@1 [95 %]": text.rate(summary.test),
                "executable": f"{summary.first.executable:.0%}" if summary.first.dev.n else "",
                **_of_several(summary.test),
                **counted,
                f"against the first ({split})": text.paired(against.get(split)),
            }
        )
    return Result(f"{arms[0].source}: greedy pass@1", data, Table.of(cells), missing=missing)
