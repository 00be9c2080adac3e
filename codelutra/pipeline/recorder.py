"""What a run has found so far: one row a policy, kept in runs/<name>/summary.json after every step.

This is what `codelutra status`, the report and the Prefect artifacts read; nothing else computes numbers for people.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from codelutra.cli.tables import paired_text
from codelutra.pipeline.run import Policy, Run
from codelutra.schema import SCORES
from codelutra.scoring.scores import mcnemar, pass_at_1
from codelutra.scoring.selection import Decision, PolicyScore, decide
from codelutra.store.artifacts import Artifact
from codelutra.suites.splits import shown

ENDED_FALL = 0.1  # a fall of the share of answers that end by themselves that is worth an alarm


class Summary:
    """The run's rows and verdict. Each method adds what a step found and writes the file."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._scores: list[Artifact] = []
        self._measured: list[Policy] = []
        self._began = time.time()
        self._before: float = (run.dir.read("summary.json") or {}).get("minutes", 0.0)
        c = run.config
        self.facts: dict[str, Any] = {
            "run": c.name,
            "suite": run.suite.name,
            "suite_version": run.suite.version,
            "mode": run.suite.mode,
            "model": c.model,
            "state": "running",
            "reason": "",
            "best": None,
            "started": self._began,
            "minutes": 0.0,
            "problems": {},
            "policies": [],
            "test": None,
        }
        self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.facts["policies"]
        return rows

    def prepared(self, problems: Artifact, expected: Artifact) -> None:
        counts = {**problems.facts["splits"], "reference_errors": expected.facts["reference_errors"]}
        seen = shown(problems.frame("problems"), self._run.config.suite)
        usable = expected.frame("expected").filter(pl.col("status") == "correct")
        told = seen.filter(pl.col("split") == "train", pl.col("reference") != "")
        with_reference = told.join(usable, on="problem_id", how="semi").height
        if told.height < counts.get("train", 0):
            counts["train_with_reference"] = with_reference
        self.facts["problems"] = counts
        self.facts["split_digests"] = problems.facts["digests"]
        self._run.dir.link("problems.parquet", problems)
        self._run.dir.link("expected.parquet", expected)
        self._write()

    def measured(
        self,
        policy: Policy,
        title: str,
        folder: str,
        scores: Artifact,
        samples: Sequence[Artifact],
        outcomes: Sequence[Artifact],
        made: Artifact | None,
    ) -> dict[str, Any]:
        """Add the row of a policy: its dev numbers, paired tests and what making it took. Returns the row."""
        frame = scores.frame("scores")
        row = _row(policy, title, folder, frame, made)
        row["executable"], row["other_modes"] = scores.facts["executable"], scores.facts.get("other_modes", {})
        row["statuses"]["dev"] = scores.facts["statuses"]["greedy"]
        if self._scores:
            row["pairs"] = self.rows[-1].get("funnel", {}).get("pairs")
            row["paired"]["previous"] = self._paired(-1, frame)
        start = self._start_index()
        if start is not None and start < len(self._scores):
            row["paired"]["start"] = self._paired(start, frame)
        self.rows.append(row)
        self._scores.append(scores)
        self._measured.append(policy)
        self._drifted(row)
        self._sampled(row, "dev", samples)
        row["seconds"] |= _seconds(outcomes, made)
        for i, (drawn, judged) in enumerate(zip(samples, outcomes, strict=True)):
            self._run.dir.link(f"{folder}/dev-samples-{i:03}", drawn)
            self._run.dir.link(f"{folder}/dev-outcomes-{i:03}", judged)
        self._run.dir.link(f"{folder}/dev-scores", scores)
        self._tell(row)
        self._write()
        return row

    def taken(
        self, policy: Policy, title: str, samples: Sequence[Artifact], outcomes: Sequence[Artifact], made: Artifact | None
    ) -> None:
        """Add and choose the one policy of a run without dev problems, given its test samples; its `dev` has n = 0."""
        row = _row(policy, title, "base", pl.DataFrame(schema=SCORES), made)
        self.rows.append(row)
        self._measured.append(policy)
        self._sampled(row, "test", samples)
        row["seconds"] |= _seconds(outcomes, made)
        self.facts["best"] = policy.label
        self._write()

    def decide(self) -> Decision:
        """Which policy is best by dev, and whether to go on."""
        history = [
            PolicyScore(r["label"], i, pass_at_1(s.frame("scores")))
            for i, (r, s) in enumerate(zip(self.rows, self._scores, strict=True))
        ]
        decision = decide(history, self._run.config.select, self._run.config.iterations)
        self.facts["best"] = self.rows[decision.best_index]["label"]
        self.facts["reason"] = decision.reason
        self._write()
        return decision

    def best(self) -> Policy:
        return next(p for p in self._measured if p.label == self.facts["best"])

    def sampled(self, samples: Sequence[Artifact], outcomes: Sequence[Artifact], train_scores: Artifact) -> None:
        """Add what the last policy's train samples showed."""
        row = self.rows[-1]
        self._sampled(row, "train", samples)
        row["seconds"]["execute"] = row["seconds"].get("execute", 0.0) + sum(o.seconds for o in outcomes)
        row["statuses"]["train"] = train_scores.facts["statuses"]["sampled"]
        row["train"] = {k: v for k, v in train_scores.facts.items() if k != "statuses"}
        self._write()

    def learned_from(self, lesson: Artifact) -> None:
        """Add the lesson (pairs or right answers) that the next policy learns from."""
        row, kind = self.rows[-1], lesson.stage
        self._run.dir.link(f"{row['folder']}/{kind}.parquet", lesson)
        row["funnel"] = lesson.facts
        row["seconds"][kind] = lesson.seconds
        self._write()

    def tested(self, scores: Artifact) -> None:
        frame = scores.frame("scores")
        self._run.dir.link("test-scores", scores)
        self.facts["test"] = {
            "policy": self.facts["best"],
            **asdict(pass_at_1(frame)),
            "statuses": scores.facts["statuses"],
            "other_modes": scores.facts.get("other_modes", {}),
        }
        self._write()

    def finish(self, state: str, reason: str = "") -> dict[str, Any]:
        self.facts["state"] = state
        self.facts["reason"] = reason or self.facts["reason"]
        self._write()
        return self.facts

    def _tell(self, row: dict[str, Any]) -> None:
        dev = row["dev"]
        text = f"{row['title']}: dev pass@1 {dev['value']:.1%} [{dev['low']:.1%} – {dev['high']:.1%}], n = {dev['n']}"
        for against in row["paired"].values():
            if against and against["against"] not in text:
                text += f"; against {against['against']} {paired_text(against)}"
        self._run.dir.ledger({"event": "measured", "label": row["label"], "text": text})

    def _start_index(self) -> int | None:
        return next((i for i, p in enumerate(self._measured) if p.label == "policy-0"), None)

    def _paired(self, against: int, frame: Any) -> dict[str, Any]:
        return {"against": self.rows[against]["title"], **asdict(mcnemar(self._scores[against].frame("scores"), frame))}

    def _sampled(self, row: dict[str, Any], split: str, samples: Sequence[Artifact]) -> None:
        row["seconds"]["sample"] = round(row["seconds"].get("sample", 0.0) + sum(s.facts["seconds"] for s in samples), 2)
        row["tokens"] += sum(s.facts["tokens"] for s in samples)
        row["answers"][split] = now = shape([s.frame("samples") for s in samples])
        before = next((r for r in reversed(self.rows) if r is not row and split in r["answers"]), None)
        if not before:
            return
        was = before["answers"][split]
        now["length_drift"] = now["tokens"] / was["tokens"] - 1 if was["tokens"] else None
        if was["ended"] - now["ended"] > ENDED_FALL:
            self._alarm(
                row,
                f"{row['title']}: {now['ended']:.0%} of the {split} answers end by themselves, {was['ended']:.0%} did "
                f"before ({before['title']}); the rest ran into sample.max_tokens. Training makes the model forget its end "
                "token: a lower train.learning_rate or a higher train.sft_weight helps",
            )

    def _drifted(self, row: dict[str, Any]) -> None:
        training, bound = row["training"] or {}, self._run.config.train.min_chosen_drift
        if step := training.get("drift_alarm_step"):
            ended = "; it was stopped there" if training.get("stopped_early") else ""
            self._alarm(
                row,
                f"Training of {row['title']}: from step {step} on the chosen answers were more than {-bound:g} "
                f"nats less likely than under the policy before{ended}.",
            )

    def _alarm(self, row: dict[str, Any], text: str) -> None:
        """Tell now, and keep it beside the numbers it casts doubt on."""
        row["alarms"].append(text)
        self._run.dir.ledger({"event": "note", "label": row["label"], "text": text})

    def _write(self) -> None:
        self.facts["minutes"] = round(self._before + (time.time() - self._began) / 60, 2)  # of all starts together
        self._run.dir.write("summary.json", self.facts)


def _row(policy: Policy, title: str, folder: str, dev_scores: pl.DataFrame, made: Artifact | None) -> dict[str, Any]:
    return {
        "label": policy.label,
        "title": title,
        "folder": folder,
        "path": policy.path,
        "dev": asdict(pass_at_1(dev_scores)),
        "executable": 0.0,
        "other_modes": {},
        "statuses": {"dev": {}, "train": {}},
        "paired": {"previous": None, "start": None},
        "pairs": None,
        "training": made.facts if made else None,
        "answers": {},
        "alarms": [],
        "seconds": {},
        "tokens": 0,
    }


def _seconds(outcomes: Sequence[Artifact], made: Artifact | None) -> dict[str, float]:
    return {"execute": sum(o.seconds for o in outcomes)} | ({"train": made.seconds} if made else {})


def shape(samples: Sequence[pl.DataFrame]) -> dict[str, Any]:
    """How long answers are and whether they end: SAMPLES → n, `ended` (share that stopped by an end token, not by
    max_tokens), mean `tokens`. Prompts that were too long to be asked are no answers."""
    asked = pl.concat([s.select("finish_reason", "completion_tokens") for s in samples]).filter(
        pl.col("finish_reason") != "dropped"
    )
    ended = int((asked["finish_reason"] == "stop").sum())
    return {"n": asked.height, "ended": ended / max(1, asked.height), "tokens": asked["completion_tokens"].mean() or 0.0}
