"""The loop: measure the policy, pair its right and wrong answers, train, repeat while it helps.

python -m flows.refine CONFIG [--set section.key=value …] [--home DIR]
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from codelutra.config import load_config
from codelutra.pipeline.recorder import Summary
from codelutra.pipeline.run import Policy, Run, open_run
from codelutra.pipeline.sampler import Sampling, measure_plan
from codelutra.store.artifacts import Artifact
from flows.naming import named
from tasks.execute import execute
from tasks.pairs import answers, pairs
from tasks.prepare import base_model, problems, references
from tasks.publish import live_progress, publish
from tasks.sample import sample
from tasks.score import score
from tasks.train import train, warm_start


@flow(name="refine", flow_run_name=named("refine"), task_runner=ThreadPoolTaskRunner())  # type: ignore[arg-type]
def refine(config: str = "demo", overrides: list[str] | None = None, home: str | None = None) -> dict[str, Any]:
    """Refine one model on one suite.

    Args:
        config: a preset's name or the path of a YAML file.
        overrides: `section.key=value` strings laid over it.
        home: folder of store/ and runs/; default $CODELUTRA_HOME, else the current folder.
    """
    with open_run(home, load_config(config, tuple(overrides or ()))) as run, run.refining(), live_progress(run):
        return refine_run(run)


def refine_run(run: Run) -> dict[str, Any]:
    """The pipeline of one opened run; returns its summary."""
    ref, iterations = run.ref, run.config.iterations
    asked = problems(ref)
    expected = references(ref, asked)
    summary = Summary(run)
    summary.prepared(asked, expected)

    policy, made = base_model(ref), None
    if not asked.facts["splits"].get("dev"):
        return only_test(run, summary, policy, asked, expected)
    if run.config.warm_start:
        with measure_plan(run, policy, asked, expected, "dev") as sampling:
            publish(run, measure(run, summary, sampling, asked, expected, "base", "base", None))
        made = warm_start(ref, policy, asked, expected)
        policy = Policy.of("policy-0", made)

    objective = run.config.train.objective
    draws = objective in ("preference", "rft")  # the others need no samples of the train problems
    earlier: list[Artifact] = []
    reason = ""  # of an early end
    for t in range(1, iterations + 2):
        with measure_plan(run, policy, asked, expected, "dev", train=draws and t <= iterations) as sampling:
            title = f"iteration {t - 1}" if t > 1 else "warm start" if made else "base"
            row = measure(run, summary, sampling, asked, expected, title, f"iteration-{t:02}", made)
            if not summary.decide().go_on:
                publish(run, row)
                break
            outcomes = shards(run, sampling, asked, expected, greedy=False)
        lesson, known = asked, [*earlier, *outcomes]
        if draws:
            summary.sampled(sampling.made(greedy=False), outcomes, score(ref, outcomes, asked, expected, "train"))
            lesson = (pairs if objective == "preference" else answers)(ref, known, asked, expected)
            summary.learned_from(lesson)
            earlier += outcomes if run.config.pairs.accumulate else []
        publish(run, row, lesson if objective == "preference" else None)
        if lesson.facts.get("why"):
            reason = f"nothing to learn from in iteration {t}: {lesson.facts['why']}"
            break
        made = train(ref, policy, lesson, asked, expected, f"iteration {t}")
        policy = Policy.of(f"policy-{t}", made)

    if run.config.select.test and asked.facts["splits"].get("test"):
        with measure_plan(run, summary.best(), asked, expected, "test") as sampling:
            outcomes = shards(run, sampling, asked, expected, greedy=True)
        summary.tested(score(ref, outcomes, asked, expected, "test"))
    return summary.finish("finished", reason)


def only_test(run: Run, summary: Summary, policy: Policy, asked: Artifact, expected: Artifact) -> dict[str, Any]:
    """The rest of a run without dev problems, so without iterations: the start, on test. Returns the run's summary."""
    title, made, reason = "base", None, "The suite has no dev problem: one policy was measured, on test."
    if run.config.warm_start and asked.facts["splits"].get("train"):
        title, made = "warm start", warm_start(run.ref, policy, asked, expected)
        policy = Policy.of("policy-0", made)
    elif run.config.warm_start:
        reason += " It has no train problem either: there was no warm start."
    with measure_plan(run, policy, asked, expected, "test") as sampling:
        outcomes = shards(run, sampling, asked, expected, greedy=True)
    summary.taken(policy, title, sampling.made(greedy=True), outcomes, made)
    summary.tested(score(run.ref, outcomes, asked, expected, "test"))
    return summary.finish("finished", reason)


def measure(
    run: Run,
    summary: Summary,
    sampling: Sampling,
    asked: Artifact,
    expected: Artifact,
    title: str,
    folder: str,
    made: Artifact | None,
) -> dict[str, Any]:
    """Sample and execute the dev problems of one policy, score them, add the row."""
    outcomes = shards(run, sampling, asked, expected, greedy=True)
    scores = score(run.ref, outcomes, asked, expected, "dev")
    return summary.measured(sampling.policy, title, folder, scores, sampling.made(greedy=True), outcomes, made)


def shards(run: Run, sampling: Sampling, asked: Artifact, expected: Artifact, *, greedy: bool) -> list[Artifact]:
    """Outcomes of all greedy, or all other, shards: each is executed while later ones are still being sampled."""
    drawn, outcomes = [], []
    for i, label in sampling.labels(greedy=greedy):
        samples = sample.submit(sampling, i, label)
        drawn.append(samples)
        outcomes.append(execute.submit(run.ref, samples, asked, expected, label))  # type: ignore[call-overload]
    for samples in drawn:
        samples.result()  # raises what stopped the engine; of the outcome that waited for it Prefect only says "pending"
    return [o.result() for o in outcomes]


if __name__ == "__main__":
    from flows.command import main

    main(refine)
