"""The spine: each stage as (run, inputs) → `Step`, and `Run.make(step)` → artifact. What a stage does lives in its own
module; here it gets its key.

    problems ─► references                      what is asked, what a right answer gives
    Sampling ─► execute ─► score                measure a policy
                       └─► pairs ─► train       improve it (or the answers, or groups)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.completions import extraction
from codelutra.config import TrainSection, WarmStartSection, in_key
from codelutra.errors import OutageError
from codelutra.execution import outcomes as execution
from codelutra.execution import testgen
from codelutra.execution.references import judge_references
from codelutra.hardware import number_format
from codelutra.pipeline.cases import with_cases
from codelutra.pipeline.fetched import fetched
from codelutra.pipeline.folds import dealt
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.start import adapter_base, thought_marks
from codelutra.pipeline.start import base_policy as base_policy
from codelutra.pipeline.usable import normalised_codes, require_enough, to_imitate
from codelutra.prompts import in_keys
from codelutra.results.lineage import refuse_taught
from codelutra.sampling.shards import as_read_now
from codelutra.scoring.scores import score_problems
from codelutra.scoring.vote import voted
from codelutra.store.artifacts import Artifact, Recipe, Step, digest_of, write_frame
from codelutra.suites.splits import digests, shown
from codelutra.training import launch as training
from codelutra.training.bases import Base
from codelutra.training.groups import make_groups
from codelutra.training.pairs import make_pairs, right_answers
from codelutra.training.rates import settled

Made = tuple[pl.DataFrame, dict[str, Any]]  # a frame of the schema, and facts about it
VERSIONS = {
    "problems": 2,
    "references": 2,
    "execute": 2,
    "score": 2,
    "pairs": 2,
    "answers": 2,
    "groups": 1,
    "vote": 2,
    "warm-start": 1,
    "train": 1,
}


def problems(run: Run) -> Step:
    """The suite's problems, as PROBLEMS; refuses splits too small to learn from or to measure on."""
    frame, s, config = run.all_problems, run.suite, run.config
    require_enough(frame, config, s.name)
    refuse_taught(frame, config.model, run.home / "runs")
    read: dict[str, Any] = {"suite": s.name, "suite_version": s.version}
    inputs = {"content": digest_of([frame.write_ndjson(), sorted(s.databases())])}
    if config.suite.generated_cases:
        read |= {"testgen": testgen.VERSION, "seed": config.suite.seed, **run.judging()}
    proposer = fetched(run, config.suite.proposals) if config.suite.proposals else None
    if proposer:
        read |= {"dtype": number_format(config.engine.dtype), "max_model_len": config.engine.max_model_len}
        inputs |= {"proposer": proposer.fingerprint}

    def made() -> Made:
        extended = with_cases(run, frame, proposer)
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
        heard = run.progress("reference check", "problems")
        found: tuple[Made, float] = run.judged(judge_references, problems.frame("problems"), heard=heard)
        return found[0]

    return _frame_step("references", run.judging(), {"problems": problems.digest}, "expected", made)


def execute(run: Run, samples: Artifact, problems: Artifact, expected: Artifact, label: str = "") -> Step:
    """Outcomes of one shard of samples, as OUTCOMES, of the programs that are found in them now. Raises OutageError on too
    many outages, and keeps nothing then."""
    inputs = {"samples": samples.digest, "problems": problems.digest, "expected": expected.digest}
    most = run.config.execute.max_infra_error

    def made() -> Made:
        heard = run.progress(f"execute {label}".strip(), "programs")
        asked = as_read_now(samples.frame("samples"), problems.frame("problems"), thought_marks(run))
        frame, facts = _judged(run, asked, problems, expected, heard)
        share = execution.infra_share(frame)
        if share > most:
            error = frame.filter(pl.col("status") == "infra_error")["error"][0]
            raise OutageError(
                f"{share:.1%} of {frame.height} outcomes are infrastructure failures (infra_error), more than "
                f"execute.max_infra_error {most:.1%} (the first: {error}). None were kept; see `codelutra doctor`, then "
                "give the same command again"
            )
        return frame, facts

    return _frame_step("execute", run.judging() | {"extraction": extraction()}, inputs, "outcomes", made, label)


def score(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact, split: str) -> Step:
    """One row a problem of `split`, as SCORES, and their summary in the facts."""

    def made() -> Made:
        counted = [o.facts.get("other_modes", {}) for o in outcomes]
        return score_problems(_concat(outcomes), problems.frame("problems"), expected.frame("expected"), split, counted)

    return _frame_step("score", {"split": split}, judged_inputs(outcomes, problems, expected), "scores", made)


def vote(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact, split: str) -> Step:
    """As `score`, of the answers that most samples of a problem give: self-consistency."""

    def made() -> Made:
        return score_problems(voted(_concat(outcomes)), problems.frame("problems"), expected.frame("expected"), split)

    return _frame_step("vote", {"split": split}, judged_inputs(outcomes, problems, expected), "scores", made)


def pairs(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """Right and wrong answers side by side, as PAIRS. An empty artifact is a result: its facts tell why."""
    config, seed = run.config.pairs, run.config.seed
    read = {**in_key(config), "seed": seed, "suite": run.suite.version, **_references_shown(run)}

    def made() -> Made:
        asked = shown(problems.frame("problems"), run.config.suite).filter(pl.col("split") == "train")
        frame = _concat(outcomes)
        normalised = normalised_codes(run.suite, frame, asked)
        return make_pairs(frame, asked, expected.frame("expected"), config, seed=seed, normalised=normalised)

    return _frame_step("pairs", read, judged_inputs(outcomes, problems, expected), "pairs", made)


def answers(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """The policy's own right answers and, where the config says so, the references that are shown: for SFT, and for the
    SFT term beside pairs. An empty artifact is a result, as with pairs."""
    read: dict[str, Any] = {"suite": run.suite.version}
    if run.config.train.imitates_references:
        read |= {"with_references": True, **_references_shown(run)}

    def made() -> Made:
        every, judged, frame = problems.frame("problems"), expected.frame("expected"), _concat(outcomes)
        asked = every.filter(pl.col("split") == "train")
        told = to_imitate(every, judged, run.config.suite) if run.config.train.imitates_references else None
        return right_answers(frame, asked, judged, normalised=normalised_codes(run.suite, frame, asked), references=told)

    return _frame_step("answers", read, judged_inputs(outcomes, problems, expected), "answers", made)


def groups(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """All answers of a problem, for `train.objective: grpo`, as GROUPS. An empty artifact is a result, as with pairs."""
    config = run.config.grpo

    def made() -> Made:
        return make_groups(_concat(outcomes), problems.frame("problems"), expected.frame("expected"), config)

    return _frame_step("groups", config.grouping, judged_inputs(outcomes, problems, expected), "groups", made)


def warm_start(run: Run, policy: Policy, problems: Artifact, expected: Artifact, fold: int = 0) -> Step:
    """SFT on the usable references of the train split that are shown: policy 0. With a `fold`, without its references."""
    assert run.config.warm_start is not None
    config = settled(run.config.warm_start, Path(policy.path))
    inputs = {"policy": policy.digest, "problems": problems.digest, "expected": expected.digest}
    part = {"without_fold": fold, "folds": run.config.sample.folds} if fold else {}
    read = _trained_by(run, policy, config) | _references_shown(run) | part
    recipe = _recipe("warm-start", read, inputs)
    label = f"warm start without fold {fold} of {run.config.sample.folds}" if fold else ""

    def build(out: Path, work: Path) -> dict[str, Any]:
        asked = problems.frame("problems"), expected.frame("expected")
        base = adapter_base(run, policy, config)
        here = _training(run, policy, out, work, "warm-start", label or "warm start", base)
        left_out = dealt(*asked, run.config).filter(pl.col("fold") == fold)
        taught = to_imitate(*asked, run.config.suite).join(left_out, on="problem_id", how="anti", maintain_order="left")
        return training.warm_start(here, taught, config)

    return Step(recipe, build, label)


def train(
    run: Run,
    policy: Policy,
    lesson: Artifact,
    problems: Artifact,
    expected: Artifact,
    label: str = "",
    imitated: Artifact | None = None,
) -> Step:
    """Policy t from the policy it trains (t-1, or the first) and a lesson: pairs and the answers `imitated` beside them, or
    by `train.objective` right answers, groups, or the problems."""
    config = settled(run.config.train, Path(policy.path))
    inputs = {"policy": policy.digest, "lesson": lesson.digest}
    if config.replay_references or config.objective == "sft":
        inputs |= {"problems": problems.digest, "expected": expected.digest}
    if config.adapter == "continued":
        inputs |= {"base": base_policy(run).digest}
    inputs |= {"imitated": imitated.digest} if imitated else {}
    read = _trained_by(run, policy, config)
    for told_by_inputs in ("start", "sft_earlier"):
        read.pop(told_by_inputs, None)
    if config.stop_on_drift:
        read["min_chosen_drift_per_token"] = config.min_chosen_drift_per_token
    if config.replay_references or config.objective == "sft":
        read |= _references_shown(run)
    if config.objective == "grpo":
        read |= {f"grpo.{name}": value for name, value in run.config.grpo.training.items()}
        read |= {"max_tokens": run.config.sample.max_tokens} if run.config.grpo.loss == "dr_grpo" else {}
    recipe = _recipe("train", read, inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        base = adapter_base(run, policy, config)
        here = _training(run, policy, out, work, "train", f"train {label}".strip(), base)
        asked = problems.frame("problems"), expected.frame("expected")
        match config.objective:
            case "preference":
                if imitated:
                    return training.refine(here, lesson.frame("pairs"), config, answers=imitated.frame("answers"))
                known = to_imitate(*asked, run.config.suite) if config.replay_references else None
                return training.refine(here, lesson.frame("pairs"), config, known)
            case "rft":
                return training.supervise(here, lesson.frame("answers"), config.supervised)
            case "sft":
                return training.warm_start(here, to_imitate(*asked, run.config.suite), config.supervised)
            case "grpo":
                section, most = run.config.grpo, run.config.sample.max_tokens
                return training.grpo(here, lesson.frame("groups"), config, section, most)

    return Step(recipe, build, label)


def _frame_step(
    stage: str, read: dict[str, Any], inputs: dict[str, str], name: str, made: Callable[[], Made], label: str = ""
) -> Step:
    """The step whose artifact is one frame, NAME.parquet, with facts: `read` and `inputs` are its key."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        frame, facts = made()
        write_frame(frame, out / f"{name}.parquet")
        return facts

    return Step(_recipe(stage, read, inputs), build, label)


def _judged(
    run: Run, samples: pl.DataFrame, problems: Artifact, expected: Artifact, heard: Callable[..., None] | None = None
) -> Made:
    """SAMPLES through the sandbox: OUTCOMES, facts."""
    machine, seconds = run.machine, run.config.execute.timeout_seconds
    frames = samples, problems.frame("problems"), expected.frame("expected")
    if run.judges:
        (frame, facts), took = run.judges.execute(
            *frames, run.suite, run.outcome_cache, heard=heard, machine=machine, timeout_seconds=seconds
        )
        return frame, {**facts, "busy_seconds": round(took, 3)}
    with run.use_pool() as pool:
        began = time.monotonic()  # shards queue for the pool: what they wait is no work
        frame, facts = execution.execute(
            *frames, run.suite, pool, timeout_seconds=seconds, cache=run.outcome_cache, machine=machine, progress=heard
        )
        return frame, {**facts, "busy_seconds": round(time.monotonic() - began, 3)}


def _training(
    run: Run, policy: Policy, out: Path, work: Path, stage: str, label: str, base: Base | None
) -> training.Training:
    heard, report = run.training_progress(stage, label), run.report(label)
    system, seed, lock, thinking = run.suite.system, run.config.seed, run.accelerator_lock, run.config.prompt.thinking
    about = Path(policy.path), system, seed, out, work, run.dir.log, lock, heard, base, thinking, report
    return training.Training(*about, start=run.trainer)


def _trained_by(run: Run, policy: Policy, config: TrainSection | WarmStartSection) -> dict[str, Any]:
    """What the key of a training holds of its section, and of how the policy is asked."""
    how = in_keys(Path(policy.path), thinking=run.config.prompt.thinking)
    return {**in_key(config), "seed": run.config.seed, "system": run.suite.system} | how


def _recipe(stage: str, config: dict[str, Any], inputs: dict[str, str]) -> Recipe:
    return Recipe(stage, VERSIONS[stage], config, inputs)


def judged_inputs(outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> dict[str, str]:
    """What the key of a stage that reads judged answers holds of them."""
    named = {f"outcomes-{i:03}": a.digest for i, a in enumerate(outcomes)}
    return named | {"problems": problems.digest, "expected": expected.digest}


def _concat(outcomes: Sequence[Artifact]) -> pl.DataFrame:
    return pl.concat([a.frame("outcomes") for a in outcomes])


def _references_shown(run: Run) -> dict[str, Any]:
    section = run.config.suite
    return {} if section.references is None else {"references": section.references, "suite_seed": section.seed}
