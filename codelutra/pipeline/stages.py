"""The spine: each stage as (run, inputs) → `Step`, and `Run.make(step)` → artifact. What a stage does lives in its own
module; here it gets its key.

    problems ─► references                      what is asked, what a right answer gives
    Sampling ─► execute ─► score                measure a policy
                       └─► pairs ─► train       improve it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from codelutra import models
from codelutra.completions import extract_code
from codelutra.config import SAME_RESULT, TrainSection, WarmStartSection, settings
from codelutra.errors import StageError
from codelutra.execution import outcomes as execution
from codelutra.execution import testgen
from codelutra.execution.references import judge_references
from codelutra.hardware import number_format
from codelutra.pipeline.fetched import fetched
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.start import adapter_base
from codelutra.pipeline.start import base_policy as base_policy
from codelutra.pipeline.usable import require_enough, teachable, to_imitate
from codelutra.prompts import in_keys
from codelutra.results.lineage import refuse_taught
from codelutra.schema import SAMPLES
from codelutra.scoring.scores import score_problems
from codelutra.store.artifacts import Artifact, Recipe, Step, digest_of, write_frame
from codelutra.suites.python import PythonSuite
from codelutra.suites.splits import digests, shown
from codelutra.training import launch as training
from codelutra.training.bases import Base
from codelutra.training.pairs import make_pairs, right_answers
from codelutra.training.rates import settled

Made = tuple[pl.DataFrame, dict[str, Any]]  # a frame of the schema, and facts about it
VERSIONS = {"problems": 2, "references": 1, "execute": 2, "score": 2, "pairs": 2, "answers": 2, "warm-start": 1, "train": 1}


def problems(run: Run) -> Step:
    """The suite's problems, as PROBLEMS; refuses splits too small to learn from or to measure on."""
    frame, s, config = run.all_problems, run.suite, run.config
    require_enough(frame, config, s.name)
    refuse_taught(frame, config.model, run.home / "runs")
    read: dict[str, Any] = {"suite": s.name, "suite_version": s.version}
    inputs = {"content": digest_of([frame.write_ndjson(), sorted(s.databases())])}
    if config.suite.generated_cases:
        read |= {"testgen": testgen.VERSION, "seed": config.suite.seed, **_judging(run)}
    proposer = fetched(run, config.suite.proposals) if config.suite.proposals else None
    if proposer:
        read |= {"dtype": number_format(config.engine.dtype), "max_model_len": config.engine.max_model_len}
        inputs |= {"proposer": proposer.fingerprint}

    def made() -> Made:
        extended = _with_cases(run, frame, proposer)
        facts = {
            "suite": s.name,
            "suite_version": s.version,
            "licence": s.licence,
            "splits": dict(extended.group_by("split").len().rows()),
            "digests": digests(extended),
            "with_generated_cases": int((extended["judge"] != frame["judge"]).sum()),
        }
        return extended, facts

    return _frame_step("problems", read, inputs, "problems", made)


def references(run: Run, problems: Artifact) -> Step:
    """What every reference gives, as EXPECTED: the reference check."""

    def made() -> Made:
        shown_as, seconds = run.progress("reference check", "problems"), run.config.execute.timeout_seconds
        with run.use_pool() as pool:
            asked = problems.frame("problems")
            return judge_references(asked, run.suite, pool, timeout_seconds=seconds, progress=shown_as)

    return _frame_step("references", _judging(run), {"problems": problems.digest}, "expected", made)


def execute(run: Run, samples: Artifact, problems: Artifact, expected: Artifact, label: str = "") -> Step:
    """Outcomes of one shard of samples, as OUTCOMES. Raises StageError on too many outages, and keeps nothing then."""
    inputs = {"samples": samples.digest, "problems": problems.digest, "expected": expected.digest}
    most = run.config.execute.max_infra_error

    def made() -> Made:
        heard = run.progress(f"execute {label}".strip(), "programs")
        frame, facts = _judged(run, samples.frame("samples"), problems, expected, heard)
        share = execution.infra_share(frame)
        if share > most:
            error = frame.filter(pl.col("status") == "infra_error")["error"][0]
            raise StageError(
                f"{share:.1%} of {frame.height} outcomes are infrastructure failures (infra_error), more than "
                f"execute.max_infra_error {most:.1%} (the first: {error}). None were kept; see `codelutra doctor`, then "
                "give the same command again"
            )
        return frame, facts

    return _frame_step("execute", _judging(run), inputs, "outcomes", made, label)


def score(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact, split: str) -> Step:
    """One row a problem of `split`, as SCORES, and their summary in the facts."""

    def made() -> Made:
        counted = [o.facts.get("other_modes", {}) for o in outcomes]
        return score_problems(_concat(outcomes), problems.frame("problems"), expected.frame("expected"), split, counted)

    return _frame_step("score", {"split": split}, _judged_inputs(outcomes, problems, expected), "scores", made)


def pairs(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """Right and wrong answers side by side, as PAIRS. An empty artifact is a result: its facts tell why."""
    config, seed = run.config.pairs, run.config.seed
    read = {**settings(config, SAME_RESULT), "seed": seed, "suite": run.suite.version, **_references_shown(run)}

    def made() -> Made:
        asked = shown(problems.frame("problems"), run.config.suite).filter(pl.col("split") == "train")
        frame = _concat(outcomes)
        normalised = _normalised(run, frame, asked)
        return make_pairs(frame, asked, expected.frame("expected"), config, seed=seed, normalised=normalised)

    return _frame_step("pairs", read, _judged_inputs(outcomes, problems, expected), "pairs", made)


def answers(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """The policy's own right answers, for SFT (`train.objective: rft`). An empty artifact is a result, as with pairs."""

    def made() -> Made:
        asked = problems.frame("problems").filter(pl.col("split") == "train")
        frame = _concat(outcomes)
        return right_answers(frame, asked, expected.frame("expected"), normalised=_normalised(run, frame, asked))

    read = {"suite": run.suite.version}
    return _frame_step("answers", read, _judged_inputs(outcomes, problems, expected), "answers", made)


def warm_start(run: Run, policy: Policy, problems: Artifact, expected: Artifact) -> Step:
    """SFT on the usable references of the train split that are shown: policy 0."""
    assert run.config.warm_start is not None
    config = settled(run.config.warm_start, Path(policy.path))
    inputs = {"policy": policy.digest, "problems": problems.digest, "expected": expected.digest}
    read = {**settings(config, SAME_RESULT), "seed": run.config.seed, "system": run.suite.system} | in_keys(
        Path(policy.path), thinking=run.config.prompt.thinking
    )
    recipe = _recipe("warm-start", read | _references_shown(run), inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        asked = problems.frame("problems"), expected.frame("expected")
        base = adapter_base(run, policy, config)
        here = _training(run, policy, out, work, "warm-start", "warm start", base)
        return training.warm_start(here, to_imitate(*asked, run.config.suite), config)

    return Step(recipe, build)


def train(run: Run, policy: Policy, lesson: Artifact, problems: Artifact, expected: Artifact, label: str = "") -> Step:
    """Policy t from policy t-1 and its lesson: pairs, or by `train.objective` its right answers, or the problems."""
    config = settled(run.config.train, Path(policy.path))
    inputs = {"policy": policy.digest, "lesson": lesson.digest}
    if config.replay_references or config.objective in ("sft", "grpo"):
        inputs |= {"problems": problems.digest, "expected": expected.digest}
    if config.adapter == "continued":
        inputs |= {"base": base_policy(run).digest}
    read = {**settings(config, SAME_RESULT), "seed": run.config.seed, "system": run.suite.system} | in_keys(
        Path(policy.path), thinking=run.config.prompt.thinking
    )
    if config.replay_references or config.objective == "sft":
        read |= _references_shown(run)
    if config.objective == "grpo":
        drawn = settings(run.config.sample, SAME_RESULT)
        del drawn["shard_problems"]  # GRPO draws its own batches
        read |= {"sample": drawn, **_judging(run)}
    recipe = _recipe("train", read, inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        base = adapter_base(run, policy, config)
        here = _training(run, policy, out, work, "train", f"train {label}".strip(), base)
        asked = problems.frame("problems"), expected.frame("expected")
        match config.objective:
            case "preference":
                known = to_imitate(*asked, run.config.suite) if config.replay_references else None
                return training.refine(here, lesson.frame("pairs"), config, known)
            case "rft":
                return training.supervise(here, lesson.frame("answers"), _supervised(config))
            case "sft":
                return training.warm_start(here, to_imitate(*asked, run.config.suite), _supervised(config))
            case "grpo":
                judge = rewards(run, problems, expected)
                return training.grpo(here, teachable(*asked), config, run.config.sample, judge)

    return Step(recipe, build, label)


def rewards(run: Run, problems: Artifact, expected: Artifact) -> Callable[[list[str], list[str]], list[float]]:
    """1 for a correct answer, else 0, by the same path as all outcomes. Raises StageError on any outage of ours."""
    languages = dict(problems.frame("problems").select("problem_id", "language").rows())

    def judge(problem_ids: list[str], completions: list[str]) -> list[float]:
        answers = {
            "problem_id": problem_ids,
            "sample": range(len(completions)),
            "completion": completions,
            "code": [extract_code(c, languages[p]) for p, c in zip(problem_ids, completions, strict=True)],
        }
        unknown = {"greedy": False, "finish_reason": "", "prompt_tokens": 0, "completion_tokens": 0}
        frame, _ = _judged(run, pl.DataFrame(answers | unknown, schema=SAMPLES), problems, expected)
        outages = frame.filter(pl.col("status") == "infra_error")
        if outages.height:
            raise StageError(
                f"{outages.height} of {frame.height} rewards are infrastructure failures ({outages['error'][0]}); training "
                "stopped at its last checkpoint; see `codelutra doctor`, then give the same command again"
            )
        return [float(s == "correct") for s in frame["status"]]

    return judge


def _frame_step(
    stage: str, read: dict[str, Any], inputs: dict[str, str], name: str, made: Callable[[], Made], label: str = ""
) -> Step:
    """The step whose artifact is one frame, NAME.parquet, with facts: `read` and `inputs` are its key."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        frame, facts = made()
        write_frame(frame, out / f"{name}.parquet")
        return facts

    return Step(_recipe(stage, read, inputs), build, label)


def _with_cases(run: Run, frame: pl.DataFrame, proposer: models.Model | None) -> pl.DataFrame:
    """PROBLEMS with the generated cases that the config asks for (`suite.generated_cases`)."""
    section, suite = run.config.suite, run.suite
    if not section.generated_cases or not isinstance(suite, PythonSuite):
        return frame
    propose = None
    if proposer:
        propose = testgen.asking(
            proposer.path,
            frame,
            suite.system,
            engine=run.config.engine,
            seed=section.seed,
            log=run.dir.log,
            lock=run.accelerator_lock,
            waiting=run.waiting,
            progress=run.progress("propose cases", "completions"),
        )
    with run.use_pool() as pool:
        return testgen.extend(
            frame,
            suite,
            pool,
            per_problem=section.generated_cases,
            seed=section.seed,
            timeout_seconds=run.config.execute.timeout_seconds,
            propose=propose,
            progress=run.progress("generate cases", "runs"),
        )


def _judged(
    run: Run, samples: pl.DataFrame, problems: Artifact, expected: Artifact, heard: Callable[..., None] | None = None
) -> Made:
    """SAMPLES through the sandbox: OUTCOMES, facts."""
    machine = run.machine
    with run.use_pool() as pool:
        began = time.monotonic()  # shards queue for the pool: what they wait is no work
        frame, facts = execution.execute(
            samples,
            problems.frame("problems"),
            expected.frame("expected"),
            run.suite,
            pool,
            timeout_seconds=run.config.execute.timeout_seconds,
            cache=run.outcome_cache,
            machine=machine,
            progress=heard,
        )
        return frame, {**facts, "busy_seconds": round(time.monotonic() - began, 3)}


def _training(
    run: Run, policy: Policy, out: Path, work: Path, stage: str, label: str, base: Base | None
) -> training.Training:
    heard = run.training_progress(stage, label)
    system, seed, lock, thinking = run.suite.system, run.config.seed, run.accelerator_lock, run.config.prompt.thinking
    return training.Training(Path(policy.path), system, seed, out, work, run.dir.log, lock, heard, base, thinking)


def _supervised(config: TrainSection) -> WarmStartSection:
    """The settings that plain SFT shares with training on pairs."""
    return WarmStartSection(**config.model_dump(include=set(WarmStartSection.model_fields)))


def _recipe(stage: str, config: dict[str, Any], inputs: dict[str, str]) -> Recipe:
    return Recipe(stage, VERSIONS[stage], config, inputs)


_judging = Run.judging


def _judged_inputs(outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> dict[str, str]:
    named = {f"outcomes-{i:03}": a.digest for i, a in enumerate(outcomes)}
    return named | {"problems": problems.digest, "expected": expected.digest}


def _concat(outcomes: Sequence[Artifact]) -> pl.DataFrame:
    return pl.concat([a.frame("outcomes") for a in outcomes])


def _normalised(run: Run, outcomes: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    codes = (
        outcomes.select("problem_id", "code")
        .vstack(asked.filter(pl.col("reference") != "").select("problem_id", code="reference"))
        .unique(maintain_order=True)
    )
    return codes.with_columns(normalised=pl.Series([run.suite.normalise(c) for c in codes["code"]], dtype=pl.String))


def _references_shown(run: Run) -> dict[str, Any]:
    section = run.config.suite
    return {} if section.references is None else {"references": section.references, "suite_seed": section.seed}
