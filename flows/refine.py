"""The loop: measure the policy, pair its right and wrong answers, train, repeat while it helps.

python -m flows.refine CONFIG [--set section.key=value …] [--home DIR]
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from codelutra.config import load_config
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import Policy, Run, open_run
from codelutra.pipeline.sampler import Sampling, held_out_plan, measure_plan, more_plan
from codelutra.planning.refusal import require_room
from codelutra.results.summary import PolicyResult, RunSummary
from codelutra.store.artifacts import Artifact
from flows.naming import named
from tasks.publish import live_progress, publish
from tasks.server import claim
from tasks.stages import (
    answers,
    base_model,
    confirmed,
    copies,
    execute,
    groups,
    held_out_pairs,
    likelihoods,
    pairs,
    problems,
    ranked,
    references,
    references_on_copies,
    sample,
    score,
    train,
    vote,
    warm_start,
)

# Threads that hand shards over; without a bound each of 10,000 shards that wait would hold two (docs/scaling/measured.md).
THREADS = 64


@flow(
    name="refine",
    flow_run_name=named("refine"),
    on_running=[claim],
    task_runner=ThreadPoolTaskRunner(max_workers=THREADS),  # type: ignore[arg-type]
)
def refine(config: str = "demo", overrides: list[str] | None = None, home: str | None = None) -> RunSummary:
    """Refine one model on one suite.

    Args:
        config: a preset's name or the path of a YAML file.
        overrides: `section.key=value` strings laid over it.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    with open_run(home, load_config(config, tuple(overrides or ()))) as run, run.refining(), live_progress(run):
        return refine_run(run)


def refine_run(run: Run) -> RunSummary:
    """The pipeline of one opened run."""
    require_room(run.config, run.home)  # a model that surely does not fit is refused before anything is spent
    asked = problems(run)
    policy = base_model(run)  # before the references: without a model nothing else is worth its time
    require_room(run.config, run.home, Path(policy.path))
    expected = references(run, asked)
    record, made, folds = Recorder(run), None, list[Artifact]()
    record.prepared(asked, expected)
    if not asked.facts["splits"].get("dev"):
        return only_test(run, record, policy, asked, expected)
    if run.config.warm_start:
        with measure_plan(run, policy, asked, expected, "dev") as sampling:
            publish(run, record.summary, measure(run, record, sampling, asked, expected, None))
        made = warm_start(run, policy, asked, expected)
        folds = [warm_start(run, policy, asked, expected, 1 + number) for number in range(run.config.folds)]
        policy = Policy.of("policy-0", made)

    iterations, objective, start = run.config.iterations, run.config.train.objective, policy
    draws = objective != "sft"  # which needs no samples of the train problems
    earlier: list[Artifact] = []  # outcomes of the iterations before
    samplers = [Policy.of(policy.label, fold) for fold in folds]  # of the first iteration, beside policy 0
    reason = ""  # of an early end
    for t in range(1, iterations + 2):  # measure policy t-1, then make policy t
        drawing = draws and t <= iterations
        with measure_plan(run, policy, asked, expected, "dev", train=drawing, folds=samplers) as sampling:
            row = measure(run, record, sampling, asked, expected, made)
            weigh(run, record, start, policy, asked, expected)
            if not record.decide().go_on:
                publish(run, record.summary, row)
                break
            outcomes = shards(run, sampling, asked, expected, greedy=False)
        lesson, imitated, why = asked, None, ""
        if draws:
            outcomes = drawn(run, record, sampling, outcomes, asked, expected, samplers)
            record.folded(policy, folds)
            samplers, folds = [], []
            lesson, imitated = learn(run, outcomes, earlier, asked, expected)
            why = record.learned_from(policy, lesson, imitated)
            earlier += outcomes
        publish(run, record.summary, row, lesson if objective == "preference" else None)
        if why:
            reason = f"nothing to learn from in iteration {t}: {why}"
            break
        trained = start if run.config.train.restarts else policy
        made = train(run, trained, lesson, asked, expected, f"policy {t}", imitated)
        policy = Policy.of(f"policy-{t}", made)

    if run.config.select.test and asked.facts["splits"].get("test"):
        record.tested(
            *test_scores(run, record.chosen(), answers_to_test(run, record.chosen(), asked, expected), asked, expected)
        )
    return record.finish(reason)


class Answered(NamedTuple):
    """The test split: outcomes of the greedy answers, and of those drawn besides (`select.samples`)."""

    sampling: Sampling
    greedy: list[Artifact]
    again: list[Artifact]


def answers_to_test(run: Run, policy: Policy, asked: Artifact, expected: Artifact) -> Answered:
    with measure_plan(run, policy, asked, expected, "test", samples=run.config.select.samples) as sampling:
        return Answered(sampling, *(shards(run, sampling, asked, expected, greedy=g) for g in (True, False)))


def test_scores(
    run: Run, policy: Policy, answered: Answered, asked: Artifact, expected: Artifact
) -> tuple[Artifact, Artifact | None, Artifact | None, Artifact | None]:
    """Scores of a policy's answers to the test split; where several were drawn, of their vote and of the verifier's choice;
    and of the greedy ones with copies of the databases."""
    sampling, outcomes, again = answered
    strict = score_on_copies(run, sampling, outcomes, asked, expected, "test")
    scores = score(run, [*outcomes, *again], asked, expected, "test")
    votes = vote(run, again, asked, expected, "test") if again else None
    chosen = ranked(run, policy, again, asked, expected, "test") if again and run.config.select.verifier else None
    return scores, votes, chosen, strict


def only_test(run: Run, record: Recorder, policy: Policy, asked: Artifact, expected: Artifact) -> RunSummary:
    """The rest of a run without dev problems, so without iterations: the start, on test."""
    made, reason = None, "The suite has no dev problem: one policy was measured, on test."
    if run.config.warm_start and asked.facts["splits"].get("train"):
        made = warm_start(run, policy, asked, expected)
        policy = Policy.of("policy-0", made)
    elif run.config.warm_start:
        reason += " It has no train problem either: there was no warm start."
    answered = answers_to_test(run, policy, asked, expected)
    record.only_tested(policy, answered.sampling.made(greedy=True), answered.greedy, made)
    record.tested(*test_scores(run, policy, answered, asked, expected))
    return record.finish(reason)


def drawn(
    run: Run,
    record: Recorder,
    sampling: Sampling,
    outcomes: list[Artifact],
    asked: Artifact,
    expected: Artifact,
    folds: list[Policy],
) -> list[Artifact]:
    """Score and record what a policy wrote for the train problems, or `folds` for it; where none of it was right, draw more
    (`sample.more`). Returns the outcomes to learn from."""
    scores = score(run, outcomes, asked, expected, "train")  # of the first answers alone: of all problems equally many
    samples, ran, learnt = sampling.made(greedy=False), outcomes, by_no_luck(run, sampling, outcomes, asked, expected)
    if run.config.sample.more:
        with more_plan(run, sampling.policy, asked, expected, scores, folds) as again:
            more = shards(run, again, asked, expected, greedy=False)
        samples, ran = [*samples, *again.made(greedy=False)], [*ran, *more]
        learnt = [*learnt, *by_no_luck(run, again, more, asked, expected)]
    record.sampled(sampling.policy, scores, samples, list(dict.fromkeys([*ran, *learnt])))
    return learnt


def learn(
    run: Run, outcomes: list[Artifact], earlier: list[Artifact], asked: Artifact, expected: Artifact
) -> tuple[Artifact, Artifact | None]:
    """What the next policy learns from: pairs, and the right answers beside them; or right answers (`rft`), or groups."""
    config, every = run.config, [*earlier, *outcomes]
    if config.train.objective == "grpo":  # its ratio is to the policy that drew the answers: the newest alone
        return groups(run, outcomes, asked, expected), None
    right = None
    if config.train.imitates_samples:
        all_of_them = config.pairs.accumulate or config.train.sft_earlier
        right = answers(run, every if all_of_them else outcomes, asked, expected)
        if config.train.objective == "rft":
            return right, None
    return pairs(run, every if config.pairs.accumulate else outcomes, asked, expected), right


def measure(
    run: Run, record: Recorder, sampling: Sampling, asked: Artifact, expected: Artifact, made: Artifact | None
) -> PolicyResult:
    """Sample and execute the dev problems of one policy, score them, record what was found."""
    outcomes = shards(run, sampling, asked, expected, greedy=True)
    scores = score(run, outcomes, asked, expected, "dev")
    strict = score_on_copies(run, sampling, outcomes, asked, expected, "dev")
    return record.measured(sampling.policy, scores, sampling.made(greedy=True), outcomes, made, strict)


def weigh(run: Run, record: Recorder, start: Policy, policy: Policy, asked: Artifact, expected: Artifact) -> None:
    """With `select.held_out`: how likely this policy makes right and wrong answers of the start policy to dev problems."""
    if not run.config.select.held_out:
        return
    with held_out_plan(run, start, asked) as sampling:
        outcomes = shards(run, sampling, asked, expected, greedy=False)
    record.weighed(policy, likelihoods(run, policy, held_out_pairs(run, outcomes, asked, expected)))


def shards(run: Run, sampling: Sampling, asked: Artifact, expected: Artifact, *, greedy: bool) -> list[Artifact]:
    """Outcomes of all greedy, or all other, shards: each is executed while later ones are still being sampled."""
    drawn, outcomes = [], []
    for i, label in sampling.labels(greedy=greedy):
        samples = sample.submit(sampling, i, label)
        drawn.append(samples)
        outcomes.append(execute.submit(run, samples, asked, expected, label))  # type: ignore[call-overload]
    for samples in drawn:
        samples.result()  # raises what stopped the engine; of the outcome that waited for it Prefect only says "pending"
    return [o.result() for o in outcomes]


def by_no_luck(
    run: Run, sampling: Sampling, outcomes: list[Artifact], asked: Artifact, expected: Artifact, split: str = "train"
) -> list[Artifact]:
    """The outcomes with those answers `undecided` that are right on the database and not on its copies (`suite.copies`): the
    sampled ones of train, to learn from; the greedy ones of another split, for a second number beside the score."""
    if not run.config.suite.copies:
        return outcomes
    made = copies(run, asked, split)
    there = references_on_copies(run, made, asked, expected, split)
    labels = [label for _, label in sampling.labels(greedy=split != "train")]
    return [confirmed(run, o, made, asked, there, label, split) for o, label in zip(outcomes, labels, strict=True)]


def score_on_copies(
    run: Run, sampling: Sampling, outcomes: list[Artifact], asked: Artifact, expected: Artifact, split: str
) -> Artifact | None:
    """Scores of the greedy answers that are right on the copies as well; None without `suite.copies`."""
    if not run.config.suite.copies:
        return None
    return score(run, by_no_luck(run, sampling, outcomes, asked, expected, split), asked, expected, split)


if __name__ == "__main__":
    from flows.command import main

    main(refine)
