"""The record of a run: `RunSummary`, one `PolicyResult` a policy. It is kept in runs/NAME/summary.json.

`pipeline.recorder` writes it after every step; terminal, report, model card, figures, comparisons and the Prefect UI read
it. No other module knows the keys of the file. Records of version 0.1.0 are read too: they named policy 0 "warm start" and
policy 1 "iteration 1", and kept policy 1 in the folder iteration-02.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from codelutra.scoring.statistics import Estimate

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
    thinking: float | None = None
    """Mean tokens of the thought among them; None where the model was not to think."""
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
    """First step at which chosen answers fell below train.min_chosen_drift or train.min_chosen_drift_per_token."""
    drift_alarm_per: Literal["answer", "token"] | None = None
    """Which of the two."""
    stopped_early: str | None = None
    dpo_share: float | None = None
    """Of the gradient, mean over steps (training/worker/sft_term.py); None where there are no pairs."""

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, for people."""
        return {**(self.__pydantic_extra__ or {}), **self.model_dump(include=set(type(self).model_fields))}


class Funnel(_Part):
    """From problems and samples to what the next policy learns from: pairs, own right answers (`rft`), or groups
    (`grpo`)."""

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
    groups: int | None = None
    answers: int | None = None
    answers_from_references: int | None = None
    lucky_left_out: int | None = None
    """Samples right on the database alone, not on its copies (`suite.copies`): left out."""
    why: str = ""
    """Why there is nothing to learn from; "" where there is something."""

    @property
    def counts(self) -> dict[str, int]:
        """Every count it has, by its name in words."""
        return {k.replace("_", " "): v for k, v in self.model_dump().items() if isinstance(v, int)}


class HeldOut(_Part):
    """How likely a policy makes right (chosen) and wrong (rejected) answers to dev problems, drawn from the start policy and
    shown to no training. Means, in nats (natural logarithm)."""

    pairs: int
    chosen: float = 0.0
    """log π of an answer."""
    rejected: float = 0.0
    chosen_a_token: float = 0.0
    rejected_a_token: float = 0.0
    right_likelier: float = 0.0
    """Share of the pairs whose right answer is the likelier one."""


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
    dev_on_copies: Estimate | None = None
    """The same where an answer must be right on the copies of its database, too (`suite.copies`)."""
    executable: float = 0.0
    other_modes: dict[str, ModeRate] = {}
    statuses: dict[str, dict[str, int]] = {"dev": {}, "train": {}}
    """Split → status → answers: greedy ones of dev, sampled ones of train."""
    paired: PairedTests = PairedTests()
    pairs: int | None = None
    """Pairs it was trained on."""
    trained_answers: int | None = None
    """Distinct answers it was trained on: instead of pairs (`rft`, `grpo`), or beside them (`sft_on: right`)."""
    training: Training | None = None
    train: TrainSamples | None = None
    funnel: Funnel | None = None
    held_out: HeldOut | None = None
    answers: dict[str, Answers] = {}
    """Split → shape of its answers."""
    alarms: list[str] = []
    """What went wrong, a sentence each."""
    seconds: dict[str, float] = {}
    """Stage → seconds of work: train (making it), sample, execute, pairs."""
    tokens: int = 0
    """Sampled from it."""
    prompt_tokens: int = 0
    """Of the prompts it was asked, where a server counts them (`model: api:…`)."""

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
    samples: int = 0
    """Drawn at temperature besides (select.samples a problem)."""
    mean: Estimate | None = None
    """Mean share of those that are right; the interval is over problems."""
    vote: Estimate | None = None
    """pass@1 of the answer that most of those give (self-consistency)."""
    ranked: Estimate | None = None
    """pass@1 of the answer of those that `select.verifier` prefers."""
    on_copies: Estimate | None = None
    """pass@1 where an answer must be right on the copies of its database, too (`suite.copies`)."""


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
    """As the config names it."""
    model_source: str = ""
    """Where a model given by name was taken from: other sources have other weights. "" for other models."""
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

    @property
    def model_taken(self) -> str:
        """The model, by a reference that leads to the same weights again."""
        return self.model_source or self.model

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

    @property
    def work_minutes(self) -> float:
        """Minutes of the work itself, also where it was reused from another run's."""
        return sum(p.minutes for p in self.policies)

    @property
    def samples(self) -> int:
        """Drawn of the train problems."""
        return sum(p.train.samples for p in self.policies if p.train)

    def brief(self) -> dict[str, Any]:
        """What experiments keep of a finished run, as JSON."""
        chosen = self.chosen or self.first
        return {
            "run": self.run,
            "policy": chosen.name,
            "dev": asdict(chosen.dev) if chosen.dev.n else None,
            "test": self.test.model_dump() if self.test else None,
            "by_policy": [{"policy": p.name, "dev": p.dev.value, "executable": p.executable} for p in self.policies],
            "statuses": chosen.statuses["dev"],
            "samples": self.samples,
            "tokens": sum(p.tokens for p in self.policies),
            "pairs": [p.pairs for p in self.policies if p.pairs],
            "answers": [p.trained_answers for p in self.policies if p.trained_answers],
            "minutes": round(self.work_minutes, 1),
            "training_minutes": round(sum(p.seconds.get("train", 0.0) for p in self.policies) / 60, 1),
        }
