"""What a run finds, written into its record (`results.summary`) as it comes.

Each call says what one step found about one policy, in any order; what follows from several (paired tests, drifts, the
pairs a policy was trained on) is worked out anew each time. Nothing else computes numbers for people.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from codelutra.errors import UserError
from codelutra.pipeline.fetched import source_of
from codelutra.pipeline.run import BOUNDS, Policy, Run
from codelutra.pipeline.tracked import numbers_of, numbers_of_test
from codelutra.results import text
from codelutra.results.load import NEXT_RECORD, RECORD, load_summary
from codelutra.results.summary import (
    Answers,
    Funnel,
    HeldOut,
    ModeRate,
    PairedTest,
    PolicyResult,
    Problems,
    RunSummary,
    TestResult,
    Training,
    TrainSamples,
    iteration_of,
    policy_name,
)
from codelutra.schema import usable
from codelutra.scoring.scores import mcnemar, pass_at_1
from codelutra.scoring.selection import Decision, PolicyScore, decide
from codelutra.scoring.statistics import Estimate
from codelutra.store.artifacts import Artifact
from codelutra.suites.splits import shown

ENDED_FALL = 0.1  # a fall of the share of answers that end by themselves that is worth an alarm


class Recorder:
    """The record of one run. Each method adds what a step found, links its artifacts and writes the file.

    A record from an earlier start, and what it links, stays until this one is as whole: until then it is written beside.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._policies: dict[str, Policy] = {}
        self._scores: dict[str, pl.DataFrame] = {}  # label → SCORES of dev
        self._told: set[str] = set()  # alarms
        self._began = time.time()
        self._before: RunSummary | None = None  # until this record takes its place
        minutes = [0.0]
        for name in (RECORD, NEXT_RECORD):
            with contextlib.suppress(UserError):  # a damaged record: it is written anew
                if found := load_summary(run.dir.path, name):
                    self._before = self._before or found
                    minutes.append(found.minutes)
        self._minutes_before = max(minutes)
        self._links: dict[str, Artifact] = {}  # of a record that is written beside
        self.summary = RunSummary(
            run=run.config.name,
            suite=run.suite.name,
            suite_version=run.suite.version,
            mode=run.suite.mode,
            model=run.config.model,
            model_source=source_of(run.dir, run.config.model),
            state="running",
            started=self._began,
        )
        self._write()

    def prepared(self, problems: Artifact, expected: Artifact) -> None:
        """Add how many problems there are, and of how many the model is shown the reference."""
        counts = Problems(**problems.facts["splits"], reference_errors=expected.facts["reference_errors"])
        seen = shown(problems.frame("problems"), self._run.config.suite)
        told = seen.filter(pl.col("split") == "train", pl.col("reference") != "")
        if told.height < counts.train:
            counts.train_with_reference = usable(told, expected.frame("expected")).height
        self.summary.problems = counts
        self.summary.split_digests = problems.facts["digests"]
        self._link("problems.parquet", problems)
        self._link("expected.parquet", expected)
        self._write()

    def measured(
        self,
        policy: Policy,
        scores: Artifact,
        samples: Sequence[Artifact],
        outcomes: Sequence[Artifact],
        made: Artifact | None,
        on_copies: Artifact | None = None,
    ) -> PolicyResult:
        """Add a policy's dev numbers and what making it took. on_copies: its scores where copies of databases count too."""
        row = self._row(policy, made)
        frame = self._scores[policy.label] = scores.frame("scores")
        row.dev, row.executable = pass_at_1(frame), scores.facts["executable"]
        row.other_modes = {m: ModeRate(**r) for m, r in scores.facts.get("other_modes", {}).items()}
        row.statuses["dev"] = scores.facts["statuses"]["greedy"]
        self._drawn(row, "dev", samples, outcomes)
        for i, (drawn, judged) in enumerate(zip(samples, outcomes, strict=True)):
            self._link(f"{row.folder}/dev-samples-{i:03}", drawn)
            self._link(f"{row.folder}/dev-outcomes-{i:03}", judged)
        self._link(f"{row.folder}/dev-scores", scores)
        if on_copies:
            self._link(f"{row.folder}/dev-scores-on-copies", on_copies)
            row.dev_on_copies = pass_at_1(on_copies.frame("scores"))
        self._write()
        self._tell(row)
        self._track(row)
        return row

    def sampled(self, policy: Policy, scores: Artifact, samples: Sequence[Artifact], outcomes: Sequence[Artifact]) -> None:
        """Add what a policy's samples of the train problems showed."""
        row = self._row(policy)
        row.statuses["train"] = scores.facts["statuses"]["sampled"]
        row.train = TrainSamples(**{k: v for k, v in scores.facts.items() if k != "statuses"})
        self._drawn(row, "train", samples, outcomes)
        self._write()

    def folded(self, policy: Policy, warm_starts: Sequence[Artifact]) -> None:
        """Add the time of the warm starts that sampled in its place (`sample.folds`)."""
        row = self._row(policy)
        row.seconds["train"] = row.seconds.get("train", 0.0) + sum(made.seconds for made in warm_starts)
        self._write()

    def learned_from(self, policy: Policy, lesson: Artifact, imitated: Artifact | None = None) -> str:
        """Add the lesson (pairs, right answers or groups) that came from this policy and that the next one learns from, and
        the answers that are imitated beside pairs. Returns why there is nothing to learn from, "" where there is some."""
        row = self._row(policy)
        for artifact in filter(None, (lesson, imitated)):
            self._link(f"{row.folder}/{artifact.stage}.parquet", artifact)
            row.seconds[artifact.stage] = artifact.seconds
        row.funnel = Funnel(**((imitated.facts if imitated else {}) | lesson.facts))
        if row.funnel.why and imitated and row.funnel.answers:
            alone = f"the next policy imitates {row.funnel.answers} answers and no more"
            text = f"no pairs from {row.name} ({row.funnel.why}): {alone}"
            self._run.dir.ledger({"event": "note", "label": row.label, "text": text})
            row.funnel.why = ""
        self._write()
        self._track(row)
        return row.funnel.why

    def only_tested(
        self, policy: Policy, samples: Sequence[Artifact], outcomes: Sequence[Artifact], made: Artifact | None
    ) -> None:
        """Add and choose the one policy of a run without dev problems, given its test samples."""
        row = self._row(policy, made)
        self._drawn(row, "test", samples, outcomes)
        self.summary.best = policy.label
        self._write()

    def weighed(self, policy: Policy, found: Artifact) -> None:
        """Add how likely held-out answers are under a policy."""
        row = self._row(policy)
        self._link(f"{row.folder}/likelihoods.parquet", found)
        row.held_out = HeldOut(**found.facts)
        self._write()

    def tested(
        self,
        scores: Artifact,
        votes: Artifact | None = None,
        ranked: Artifact | None = None,
        on_copies: Artifact | None = None,
    ) -> None:
        """Add the test numbers of the chosen policy and, where several samples were drawn, of their vote and of what the
        verifier chose of them; on_copies: where copies of databases count too."""
        assert self.summary.best is not None
        self._link("test-scores", scores)
        for name, artifact in (("test-votes", votes), ("test-ranked", ranked), ("test-scores-on-copies", on_copies)):
            if artifact:
                self._link(name, artifact)
        self.summary.test = TestResult(
            policy=self.summary.best,
            **asdict(pass_at_1(scores.frame("scores"))),
            statuses=scores.facts["statuses"],
            other_modes=scores.facts.get("other_modes", {}),
            mean=Estimate(**scores.facts["pass@k"]["1"]) if votes else None,
            samples=scores.facts["samples"] if votes else 0,
            vote=pass_at_1(votes.frame("scores")) if votes else None,
            ranked=pass_at_1(ranked.frame("scores")) if ranked else None,
            on_copies=pass_at_1(on_copies.frame("scores")) if on_copies else None,
        )
        self._write()
        self._run.tracked.log(len(self.summary.policies) - 1, numbers_of_test(self.summary.test))

    def decide(self) -> Decision:
        """Which policy is best by dev, and whether to go on."""
        history = [PolicyScore(p.label, i, p.dev) for i, p in enumerate(self.summary.policies)]
        decision = decide(history, self._run.config.select, self._run.config.iterations)
        self.summary.best = self.summary.policies[decision.best_index].label
        self.summary.reason = decision.reason
        self._write()
        return decision

    def chosen(self) -> Policy:
        assert self.summary.best is not None
        return self._policies[self.summary.best]

    def finish(self, reason: str = "") -> RunSummary:
        """The run is at its end; `reason` where it ended early."""
        self.summary.state = "finished"
        self.summary.reason = reason or self.summary.reason
        self._write()
        return self.summary

    def _row(self, policy: Policy, made: Artifact | None = None) -> PolicyResult:
        """The policy's row, made where there is none yet; rows stand in the order the policies are made."""
        row = self.summary.policy(policy.label)
        if not row:
            row = PolicyResult(label=policy.label, folder=policy.label, path=policy.path)
            self.summary.policies.append(row)
            self.summary.policies.sort(key=lambda p: (p.label != "base", iteration_of(p.label)))
            self._policies[policy.label] = policy
        if made:
            row.training, row.seconds["train"] = Training(**made.facts), made.seconds
        return row

    def _drawn(self, row: PolicyResult, split: str, samples: Sequence[Artifact], outcomes: Sequence[Artifact]) -> None:
        """Add what sampling and executing a split took, and the shape of the answers."""
        shape = answers_shape([s.frame("samples") for s in samples])
        thought = [s.facts["thinking_tokens"] for s in samples if "thinking_tokens" in s.facts]
        row.answers[split] = shape.model_copy(update={"thinking": sum(thought) / max(1, shape.n)} if thought else {})
        row.tokens += sum(s.facts["tokens"] for s in samples)
        row.prompt_tokens += sum(s.facts.get("prompt_tokens", 0) for s in samples)
        row.seconds["sample"] = round(row.seconds.get("sample", 0.0) + sum(s.facts["seconds"] for s in samples), 2)
        row.seconds["execute"] = row.seconds.get("execute", 0.0) + sum(o.seconds for o in outcomes)

    def _compare(self) -> None:
        """What follows from several rows: paired tests, what each learned from, how answers changed, alarms."""
        rows = self.summary.policies
        for i, row in enumerate(rows):
            before = rows[i - 1] if i else None
            row.pairs = before.funnel.pairs if before and before.funnel else None
            row.trained_answers = before.funnel.answers if before and before.funnel else None
            row.paired.previous = self._paired(before, row)
            start = self.summary.start
            row.paired.start = self._paired(start if start and rows.index(start) < i else None, row)
            row.alarms = self._alarms(i)

    def _paired(self, before: PolicyResult | None, row: PolicyResult) -> PairedTest | None:
        if not before or not {before.label, row.label} <= self._scores.keys():
            return None
        return PairedTest(against=before.label, **asdict(mcnemar(self._scores[before.label], self._scores[row.label])))

    def _alarms(self, i: int) -> list[str]:
        """Of row `i`: chosen answers that became unlikely, answers that no longer end by themselves."""
        rows, row, found = self.summary.policies, self.summary.policies[i], []
        if row.training and (step := row.training.drift_alarm_step):
            per = row.training.drift_alarm_per or "answer"
            bound = -float(getattr(self._run.config.train, BOUNDS[per]))
            ended = "; training stopped there" if row.training.stopped_early else ""
            found.append(
                f"Training of {row.name}: from step {step} on the chosen answers were more than {bound:g} nats "
                f"{'a token ' if per == 'token' else ''}less likely than under the policy before{ended}."
            )
        for split, now in sorted(row.answers.items()):
            before = next((r for r in reversed(rows[:i]) if split in r.answers), None)
            if not before:
                continue
            was = before.answers[split]
            now.length_drift = now.tokens / was.tokens - 1 if was.tokens else None
            if was.ended - now.ended > ENDED_FALL:
                found.append(
                    f"{row.name}: {now.ended:.0%} of the {split} answers end by themselves, {was.ended:.0%} of those of "
                    f"{before.name} did; the rest ran into sample.max_tokens. Raise it if right answers are that long; "
                    "if not, training makes the model forget its end token: lower train.learning_rate"
                )
        return found

    def _tell(self, row: PolicyResult) -> None:
        said = f"{row.name}: dev pass@1 {text.rate(row.dev)}, n = {row.dev.n}"
        tests = {t.against: t for t in (row.paired.previous, row.paired.start) if t}
        said += "".join(f"; against {policy_name(a)} {text.paired(t)}" for a, t in tests.items())
        self._run.dir.ledger({"event": "measured", "label": row.label, "text": said})

    def _track(self, row: PolicyResult) -> None:
        self._run.tracked.log(self.summary.policies.index(row), numbers_of(row))

    def _link(self, name: str, artifact: Artifact) -> None:
        if self._before:
            self._links[name] = artifact
        else:
            self._run.dir.link(name, artifact)

    def _take_its_place(self) -> None:
        """Of the record from an earlier start; with its links."""
        self._before = None
        while self._links:
            self._run.dir.link(*self._links.popitem())
        (self._run.dir.path / NEXT_RECORD).unlink(missing_ok=True)
        for folder in self._run.dir.path.glob("iteration-[0-9][0-9]"):  # links, under the names that version 0.1.0 gave them
            shutil.rmtree(folder)

    def _write(self) -> None:
        self._compare()
        self.summary.minutes = round(self._minutes_before + (time.time() - self._began) / 60, 2)
        if self._before and not _as_whole(self.summary, self._before):
            self._run.dir.write(NEXT_RECORD, self.summary.as_json())
        else:
            self._take_its_place()
            self._run.dir.write(RECORD, self.summary.as_json())
        for row in self.summary.policies:
            for alarm in row.alarms:
                if alarm not in self._told:
                    self._told.add(alarm)
                    self._run.dir.ledger({"event": "note", "label": row.label, "text": alarm})


def _as_whole(now: RunSummary, before: RunSummary) -> bool:
    """Whether a record has all that an earlier one of the same run had."""
    measured, had = ({p.label for p in s.policies if p.dev.n} for s in (now, before))
    return now.finished or (not before.finished and measured >= had)


def answers_shape(samples: Sequence[pl.DataFrame]) -> Answers:
    """How long answers are and whether they end, of SAMPLES. Prompts that were too long to be asked are no answers."""
    asked = pl.concat([s.select("finish_reason", "completion_tokens") for s in samples]).filter(
        pl.col("finish_reason") != "dropped"
    )
    ended = int((asked["finish_reason"] == "stop").sum())
    tokens = asked.select(pl.col("completion_tokens").mean().fill_null(0.0)).item()
    return Answers(n=asked.height, ended=ended / max(1, asked.height), tokens=tokens)
