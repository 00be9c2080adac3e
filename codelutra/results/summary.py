"""The record of a run: `RunSummary`, one `PolicyResult` a policy. It is kept in runs/NAME/summary.json.

`pipeline.recorder` writes it after every step; terminal, report, model card, figures, comparisons and the Prefect UI read
it. No other module knows the keys of the file. Records of version 0.1.0 are read too: they named policy 0 "warm start" and
policy 1 "iteration 1", and kept policy 1 in the folder iteration-02.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from codelutra.errors import UserError
from codelutra.scoring.statistics import Estimate
from codelutra.store.paths import go_on_command
from codelutra.store.run_dir import RunDir

State = Literal["running", "finished", "failed", "interrupted"]


def policy_name(label: str) -> str:
    """The label of a policy as people read it: "policy-1" → "policy 1", "base" stays."""
    return label.replace("-", " ")


def iteration_of(label: str) -> int:
    """The iteration that made a policy: 1 for "policy-1"; 0 for what the run started from."""
    made = re.fullmatch(r"policy-(\d+)", label)
    return int(made[1]) if made else 0


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, populate_by_name=True)


class Problems(_Part):
    """How many problems there are on each side."""

    train: int = 0
    dev: int = 0
    test: int = 0
    reference_errors: int = 0
    """References that fail themselves: in the denominator, never in pairs."""
    train_with_reference: int | None = None
    """Train problems whose usable reference is shown to the model; None where that is all of them."""


class PairedTest(_Part):
    """A policy against an earlier one on the same dev problems."""

    against: str = ""
    """Label of the earlier policy."""
    gained: int
    """Problems only the later policy solves."""
    lost: int
    """Problems only the earlier policy solves."""
    p: float
    """Exact two-sided McNemar test."""
    n: int
    """Problems both were asked."""


class PairedTests(_Part):
    previous: PairedTest | None = None
    start: PairedTest | None = None
    """Against policy 0."""


class Answers(_Part):
    """The shape of a policy's answers to one split."""

    n: int
    ended: float
    """Share that stopped at an end token, not at sample.max_tokens."""
    tokens: float
    """Mean length."""
    length_drift: float | None = None
    """How much longer than the policy before, as a share."""


class ModeRate(_Part):
    """pass@1 under a comparison mode that is reported and never trained on."""

    value: float
    n: int = 0
    correct: int = 0


class Training(_Part):
    """What the trainer said about making a policy (`training.worker`); further facts are kept as they came."""

    model_config = ConfigDict(extra="allow")
    drift_alarm_step: int | None = None
    """First step at which chosen answers fell below train.min_chosen_drift."""
    stopped_early: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, for people."""
        return {**(self.__pydantic_extra__ or {}), **self.model_dump(include=set(type(self).model_fields))}


class Funnel(_Part):
    """From problems and samples to what the next policy learns from: pairs, or own right answers (`rft`)."""

    problems: int = 0
    usable_reference: int = 0
    samples: int = 0
    executable: int = 0
    correct: int = 0
    correct_but_cut_off: int = 0
    all_right: int = 0
    all_wrong: int = 0
    right_and_wrong: int = 0
    paired_problems: int | None = None
    pairs: int | None = None
    pairs_from_references: int | None = None
    answers: int | None = None
    why: str = ""
    """Why there is nothing to learn from; "" where there is something."""

    @property
    def counts(self) -> dict[str, int]:
        """Every count it has, by its name in words."""
        return {k.replace("_", " "): v for k, v in self.model_dump().items() if isinstance(v, int)}


class TrainSamples(_Part):
    """What a policy's samples of the train problems showed."""

    model_config = ConfigDict(extra="allow")
    samples: int = 0
    pass_at_k: dict[int, Estimate] = Field({}, alias="pass@k")


class PolicyResult(_Part):
    """What a run found about one policy."""

    label: str
    """"base": the model before a warm start. "policy-0": the start. "policy-1" …: made by iteration 1 …"""
    folder: str
    """In the run's folder: what was measured of this policy, and what the next one learned from."""
    path: str
    """Its weights."""
    dev: Estimate = Estimate(0.0, 0.0, 1.0, 0, 0)
    """Greedy pass@1; n = 0 where nothing was measured on dev."""
    executable: float = 0.0
    other_modes: dict[str, ModeRate] = {}
    statuses: dict[str, dict[str, int]] = {"dev": {}, "train": {}}
    """Split → status → answers: greedy ones of dev, sampled ones of train."""
    paired: PairedTests = PairedTests()
    pairs: int | None = None
    """Pairs it was trained on."""
    training: Training | None = None
    train: TrainSamples | None = None
    funnel: Funnel | None = None
    answers: dict[str, Answers] = {}
    """Split → shape of its answers."""
    alarms: list[str] = []
    """What went wrong, a sentence each."""
    seconds: dict[str, float] = {}
    """Stage → seconds of work: train (making it), sample, execute, pairs."""
    tokens: int = 0
    """Sampled from it."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name(self) -> str:
        """As people read it."""
        return policy_name(self.label)

    @property
    def minutes(self) -> float:
        return sum(self.seconds.values()) / 60


class TestResult(_Part):
    """The chosen policy on the test split: scored once, after it was chosen."""

    policy: str
    """Label of the policy."""
    value: float
    low: float
    high: float
    n: int
    correct: int
    left_out: int = 0
    statuses: dict[str, dict[str, int]] = {}
    other_modes: dict[str, ModeRate] = {}


class Progress(_Part):
    """What a run is doing now (progress.json)."""

    stage: str
    done: int
    total: int
    unit: str
    at: float = 0.0
    """Seconds since 1970."""
    measures: dict[str, float] = {}
    """Of the newest step of a training."""


class RunSummary(_Part):
    """What a run has found so far."""

    run: str
    suite: str
    suite_version: str
    mode: str
    """The comparison mode that labels are made by."""
    model: str
    state: State
    reason: str = ""
    best: str | None = None
    """Label of the chosen policy."""
    started: float = 0.0
    minutes: float = 0.0
    """Of all starts together."""
    problems: Problems = Problems()
    split_digests: dict[str, str] = {}
    policies: list[PolicyResult] = []
    test: TestResult | None = None
    now: Progress | None = None
    """Only while a process is at it."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1_0(cls, raw: Any) -> Any:
        """Paired tests name the other policy by its label, where 0.1.0 named it by a title."""
        rows = raw.get("policies", []) if isinstance(raw, dict) else []
        labels = {row["title"]: row["label"] for row in rows if isinstance(row, dict) and "title" in row}
        for row in rows if labels else ():
            for test in filter(None, row["paired"].values()):
                test["against"] = labels.get(test["against"], test["against"])
        return raw

    def policy(self, label: str | None) -> PolicyResult | None:
        return next((p for p in self.policies if p.label == label), None)

    @property
    def chosen(self) -> PolicyResult | None:
        """The policy the run ships; None before anything was chosen."""
        return self.policy(self.best)

    @property
    def start(self) -> PolicyResult | None:
        """Policy 0: what the iterations set out from."""
        return self.policy("policy-0")

    @property
    def first(self) -> PolicyResult:
        """What was measured first: base where there is a warm start, else policy 0."""
        return self.policies[0]

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def alarms(self) -> list[str]:
        return [text for p in self.policies for text in p.alarms]

    def as_json(self) -> dict[str, Any]:
        """As it is written; `now` where there is one."""
        return self.model_dump(mode="json", by_alias=True, exclude=None if self.now else {"now"})

    def before(self, policy: PolicyResult) -> PolicyResult | None:
        """The policy measured before this one."""
        at = self.policies.index(policy)
        return self.policies[at - 1] if at else None


def load_summary(run: Path) -> RunSummary | None:
    """The record in a run's folder as it was written, None where there is none.

    Raises UserError where the file cannot be read as one.
    """
    file = run / "summary.json"
    try:
        return RunSummary.model_validate(json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as e:  # ValidationError is a ValueError
        why = " ".join(str(e).split())[:200]
        raise UserError(f"{file} is damaged ({why}); `{go_on_command(run)}` writes it anew from the store") from e


def finished_summary(run: Path) -> RunSummary | None:
    """The record of a finished run; None where the run is missing or has not finished."""
    summary = load_summary(run)
    return summary if summary and summary.finished else None


def read_summary(runs: Path, name: str) -> RunSummary:
    """The record of a run with its live state. Raises UserError naming the runs there are."""
    run = RunDir(runs / name)
    summary = load_summary(run.path)
    if summary is None:
        there = sorted(p.parent.name for p in runs.glob("*/run.yaml"))
        raise UserError(f"no run {name!r} with results under {runs}; there: {', '.join(there) or 'none'}")
    if summary.state == "running" and not run.held:
        last = next((e for e in reversed(run.events()) if e["event"] != "refused"), {"event": ""})
        again = f"`{go_on_command(run.path)}` goes on where it was"
        failed = last["event"] == "error"
        summary.state = "failed" if failed else "interrupted"
        summary.reason = f"{last['text']}\n{again}" if failed else f"its process is gone; {again}"
    if summary.state == "running" and (now := run.read("progress.json")):
        summary.now = Progress.model_validate(now)
    return summary


def list_runs(runs: Path) -> tuple[list[RunSummary], list[UserError]]:
    """Every run with results, by name; and what is wrong with those whose record cannot be read."""
    found, damaged = [], []
    for path in sorted(runs.glob("*/summary.json")):
        try:
            found.append(read_summary(runs, path.parent.name))
        except UserError as e:
            damaged.append(e)
    return found, damaged


def chosen_weights(runs: Path, name: str) -> Path:
    """The weights that the finished run `name` chose (`model: run:NAME`).

    Raises UserError where there is no such run, it has not finished, or the weights are gone.
    """
    summary = load_summary(runs / name)
    if not summary:
        there = sorted(f.parent.name for f in runs.glob("*/summary.json"))
        raise UserError(f"model run:{name}: no such run in {runs}; there: {', '.join(there) or 'none'}")
    if not summary.finished or not summary.chosen:
        raise UserError(
            f"model run:{name} has not chosen a policy yet, it is {summary.state}; "
            f"`{go_on_command(runs / name)}` goes on to its end"
        )
    directory = Path(summary.chosen.path)
    if not (directory / "config.json").is_file():
        raise UserError(
            f"model run:{name}: the weights of its {summary.chosen.name} are not at {directory} any more; "
            f"`{go_on_command(runs / name)}` makes them anew"
        )
    return directory
