"""The spine: each stage as (run, inputs) → `Step`, and `Run.make(step)` → artifact. What a stage does lives in its own
module; here it gets its key.

    problems ─► references                      what is asked, what a right answer gives
    Sampling ─► execute ─► score                measure a policy
                       └─► pairs ─► train       improve it
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from codelutra import models
from codelutra.config import SAME_RESULT, TrainSection, WarmStartSection, settings
from codelutra.errors import StageError, UserError
from codelutra.execution import outcomes as execution
from codelutra.execution import testgen
from codelutra.hardware import number_format
from codelutra.pipeline.run import Policy, Run, cache_dir
from codelutra.prompts import extract_code
from codelutra.results.lineage import refuse_taught
from codelutra.schema import PAIRS, SAMPLES
from codelutra.scoring import scores as scoring
from codelutra.store.artifacts import Artifact, Recipe, Step, digest_of, write_frame
from codelutra.store.paths import go_on_command
from codelutra.suites.python import PythonSuite
from codelutra.suites.splits import digests, shown
from codelutra.training import launch as training
from codelutra.training.pairs import funnel, make_pairs, right_answers

VERSIONS = {
    "problems": 2,
    "references": 1,
    "sample": 1,
    "execute": 2,
    "score": 2,
    "pairs": 2,
    "answers": 2,
    "warm-start": 1,
    "train": 1,
}


def base_policy(run: Run) -> Policy:
    """The model a run starts from, on disk."""
    model = _model(run, run.config.model)
    return Policy("base" if run.config.warm_start else "policy-0", str(model.path), model.fingerprint)


def _model(run: Run, reference: str) -> models.Model:
    def tell(text: str) -> None:
        run.dir.ledger({"event": "note", "text": text})

    chosen = partial(policy_of_run, run.home / "runs")
    return models.resolve(reference, cache_dir() / "models", policy_of_run=chosen, progress=tell)


def policy_of_run(runs: Path, name: str) -> Path:
    """The directory of the policy that a finished run has chosen. Raises UserError where there is none."""
    file = runs / name / "summary.json"
    if not file.is_file():
        there = sorted(f.parent.name for f in runs.glob("*/summary.json"))
        raise UserError(f"model run:{name}: no such run in {runs}; there: {', '.join(there) or 'none'}")
    summary = json.loads(file.read_text())
    if summary["state"] != "finished":
        raise UserError(
            f"model run:{name} has not chosen a policy yet, it is {summary['state']}; "
            f"`{go_on_command(file.parent)}` goes on to its end"
        )
    best = next(p for p in summary["policies"] if p["label"] == summary["best"])
    directory = Path(best["path"])
    if not (directory / "config.json").is_file():
        raise UserError(
            f"model run:{name}: the weights of its {best['title']} are not at {directory} any more; "
            f"`{go_on_command(file.parent)}` makes them anew"
        )
    return directory


def problems(run: Run) -> Step:
    """The suite's problems, as PROBLEMS; refuses splits too small to learn from or to measure on."""
    frame, s = run.all_problems, run.suite
    iterations, select = run.config.iterations, run.config.select
    train, dev, test = (frame.filter(pl.col("split") == split).height for split in ("train", "dev", "test"))
    if iterations and train < 2:
        raise UserError(f"suite {s.name!r} gives {train} train problem(s); at least 2 are needed, see the `suite` section")
    if iterations and not dev:
        raise UserError(
            f"suite {s.name!r} gives 0 dev problems ({train} train, {test} test) and iterations is {iterations}: policies "
            "are chosen on dev, so at least 1 is needed. Choose another protocol, other databases or shares (the `suite` "
            "section); or set iterations to 0, to measure the model on test alone"
        )
    if not dev and not (test and select.test):
        raise UserError(
            f"suite {s.name!r} gives 0 dev and {test} test problems, and select.test is {str(select.test).lower()}: there "
            "is nothing to measure on; see the `suite` section, or set select.test to true"
        )
    _require_references(run, frame)
    refuse_taught(frame, run.config.model, run.home / "runs")
    content = digest_of([frame.write_ndjson(), sorted(s.databases())])
    asked, limits = run.config.suite, run.config.execute
    read: dict[str, Any] = {"suite": s.name, "suite_version": s.version}
    if asked.generated_cases:
        read |= {"testgen": testgen.VERSION, "seed": asked.seed, **_judging(run)}
    proposer = _model(run, asked.proposals) if asked.proposals else None
    if proposer:
        read |= {"dtype": number_format(run.config.engine.dtype), "max_model_len": run.config.engine.max_model_len}
    recipe = _recipe("problems", read, {"content": content} | ({"proposer": proposer.fingerprint} if proposer else {}))

    def build(out: Path, work: Path) -> dict[str, Any]:
        made = frame
        if asked.generated_cases and isinstance(s, PythonSuite):
            propose = (
                testgen.asking(
                    proposer.path,
                    frame,
                    s.system,
                    engine=run.config.engine,
                    seed=asked.seed,
                    log=run.dir.log,
                    lock=run.accelerator_lock,
                    waiting=run.waiting,
                    progress=run.progress("propose cases", "completions"),
                )
                if proposer
                else None
            )
            with run.use_pool() as pool:
                made = testgen.extend(
                    frame,
                    s,
                    pool,
                    per_problem=asked.generated_cases,
                    seed=asked.seed,
                    timeout_seconds=limits.timeout_seconds,
                    propose=propose,
                    progress=run.progress("generate cases", "runs"),
                )
        write_frame(made, out / "problems.parquet")
        counts = dict(made.group_by("split").len().rows())
        extended = int((made["judge"] != frame["judge"]).sum())
        return {
            "suite": s.name,
            "suite_version": s.version,
            "licence": s.licence,
            "splits": counts,
            "digests": digests(made),
            "with_generated_cases": extended,
        }

    return Step(recipe, build)


def references(run: Run, problems: Artifact) -> Step:
    """What every reference gives, as EXPECTED: the reference check."""
    limits = run.config.execute
    recipe = _recipe("references", _judging(run), {"problems": problems.digest})

    def build(out: Path, work: Path) -> dict[str, Any]:
        with run.use_pool() as pool:
            frame = execution.judge_references(
                problems.frame("problems"),
                run.suite,
                pool,
                timeout_seconds=limits.timeout_seconds,
                progress=run.progress("reference check", "problems"),
            )
        write_frame(frame, out / "expected.parquet")
        return {"problems": frame.height, "reference_errors": frame.filter(pl.col("status") != "correct").height}

    return Step(recipe, build)


def execute(run: Run, samples: Artifact, problems: Artifact, expected: Artifact, label: str = "") -> Step:
    """Outcomes of one shard of samples, as OUTCOMES. Raises StageError on too many outages, and keeps nothing then."""
    limits = run.config.execute
    inputs = {"samples": samples.digest, "problems": problems.digest, "expected": expected.digest}
    recipe = _recipe("execute", _judging(run), inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        with run.use_pool() as pool:
            began = time.monotonic()  # shards queue for the pool: what they wait is no work
            frame, others = execution.execute_and_compare(
                samples.frame("samples"),
                problems.frame("problems"),
                expected.frame("expected"),
                run.suite,
                pool,
                timeout_seconds=limits.timeout_seconds,
                cache=run.outcome_cache,
                machine=_machine(run),
                progress=run.progress(f"execute {label}".strip(), "programs"),
            )
            busy = round(time.monotonic() - began, 3)
        share = execution.infra_share(frame)
        if share > limits.max_infra_error:
            error = frame.filter(pl.col("status") == "infra_error")["error"][0]
            raise StageError(
                f"{share:.1%} of {frame.height} outcomes are our own outage, more than execute.max_infra_error "
                f"{limits.max_infra_error:.1%} (the first: {error}). None were kept; see `codelutra doctor`, then give the "
                "same command again"
            )
        write_frame(frame, out / "outcomes.parquet")
        return {"rows": frame.height, **_counts(frame), "other_modes": others, "busy_seconds": busy}

    return Step(recipe, build, label)


def score(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact, split: str) -> Step:
    """One row a problem of `split`, as SCORES, and their summary in the facts."""
    inputs = _many("outcomes", outcomes) | {"problems": problems.digest, "expected": expected.digest}

    def build(out: Path, work: Path) -> dict[str, Any]:
        asked = problems.frame("problems").filter(pl.col("split") == split)
        frame = scoring.score_problems(_concat(outcomes), asked, expected.frame("expected"))
        write_frame(frame, out / "scores.parquet")
        facts = scoring.summary(frame)
        others = scoring.other_modes([o.facts.get("other_modes", {}) for o in outcomes], facts["pass@1"])
        return {"split": split, **facts, "other_modes": others, **_counts(_concat(outcomes))}

    return Step(_recipe("score", {"split": split}, inputs), build)


def pairs(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """Right and wrong answers side by side, as PAIRS. An empty artifact is a result: its facts tell why."""
    config, seed = run.config.pairs, run.config.seed
    inputs = _many("outcomes", outcomes) | {"problems": problems.digest, "expected": expected.digest}

    def build(out: Path, work: Path) -> dict[str, Any]:
        asked = shown(problems.frame("problems"), run.config.suite).filter(pl.col("split") == "train")
        frame = _concat(outcomes)
        made = make_pairs(frame, asked, config, seed=seed, normalised=_normalised(run, frame, asked))
        write_frame(made, out / "pairs.parquet")
        return funnel(asked, expected.frame("expected"), frame, made)

    read = {**settings(config, SAME_RESULT), "seed": seed, "suite": run.suite.version, **_references_shown(run)}
    return Step(_recipe("pairs", read, inputs), build)


def answers(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """The policy's own right answers, for SFT (`train.objective: rft`). An empty artifact is a result, as with pairs."""
    inputs = _many("outcomes", outcomes) | {"problems": problems.digest, "expected": expected.digest}

    def build(out: Path, work: Path) -> dict[str, Any]:
        asked = problems.frame("problems").filter(pl.col("split") == "train")
        frame = _concat(outcomes)
        made = right_answers(frame, asked, normalised=_normalised(run, frame, asked))
        write_frame(made, out / "answers.parquet")
        counts = {
            k: v
            for k, v in funnel(asked, expected.frame("expected"), frame, pl.DataFrame(schema=PAIRS)).items()
            if "pair" not in k
        }
        return {**counts, "answers": made.height, "why": "" if made.height else "no sample was right"}

    return Step(_recipe("answers", {"suite": run.suite.version}, inputs), build)


def warm_start(run: Run, policy: Policy, problems: Artifact, expected: Artifact) -> Step:
    """SFT on the usable references of the train split that are shown: policy 0."""
    config = run.config.warm_start
    assert config is not None
    inputs = {"policy": policy.digest, "problems": problems.digest, "expected": expected.digest}
    read = {**settings(config, SAME_RESULT), "seed": run.config.seed, "system": run.suite.system}
    recipe = _recipe("warm-start", read | _references_shown(run), inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        here = _training(run, policy, out, work, "warm-start", "warm start")
        return training.warm_start(here, _to_imitate(run, problems, expected), config)

    return Step(recipe, build)


def train(run: Run, policy: Policy, lesson: Artifact, problems: Artifact, expected: Artifact, label: str = "") -> Step:
    """Policy t from policy t-1 and its lesson: pairs, or by `train.objective` its right answers, or the problems."""
    config = run.config.train
    inputs = {"policy": policy.digest, "lesson": lesson.digest}
    if config.replay_references or config.objective in ("sft", "grpo"):
        inputs |= {"problems": problems.digest, "expected": expected.digest}
    read = {**settings(config, SAME_RESULT), "seed": run.config.seed, "system": run.suite.system}
    if config.replay_references or config.objective == "sft":
        read |= _references_shown(run)
    if config.objective == "grpo":
        drawn = settings(run.config.sample, SAME_RESULT)
        del drawn["shard_problems"]  # GRPO draws its own batches
        read |= {"sample": drawn, **_judging(run)}
    recipe = _recipe("train", read, inputs)

    def build(out: Path, work: Path) -> dict[str, Any]:
        here = _training(run, policy, out, work, "train", f"train {label}".strip())
        match config.objective:
            case "preference":
                known = _to_imitate(run, problems, expected) if config.replay_references else None
                return training.refine(here, lesson.frame("pairs"), config, known)
            case "rft":
                return training.supervise(here, lesson.frame("answers"), _supervised(config))
            case "sft":
                return training.warm_start(here, _to_imitate(run, problems, expected), _supervised(config))
            case "grpo":
                judge = rewards(run, problems, expected)
                return training.grpo(here, _teachable(problems, expected), config, run.config.sample, judge)

    return Step(recipe, build, label)


def rewards(run: Run, problems: Artifact, expected: Artifact) -> Callable[[list[str], list[str]], list[float]]:
    """1 for a correct answer, else 0, by the same path as all outcomes. Raises StageError on any outage of ours."""
    asked, wanted = problems.frame("problems"), expected.frame("expected")
    languages = dict(asked.select("problem_id", "language").rows())

    def judge(problem_ids: list[str], completions: list[str]) -> list[float]:
        rows = [
            {
                "problem_id": p,
                "sample": i,
                "greedy": False,
                "completion": c,
                "code": extract_code(c, languages[p]),
                "finish_reason": "",
                "prompt_tokens": 0,
                "completion_tokens": 0,
            }
            for i, (p, c) in enumerate(zip(problem_ids, completions, strict=True))
        ]
        with run.use_pool() as pool:
            frame = execution.execute(
                pl.DataFrame(rows, schema=SAMPLES),
                asked,
                wanted,
                run.suite,
                pool,
                timeout_seconds=run.config.execute.timeout_seconds,
                cache=run.outcome_cache,
                machine=_machine(run),
            )
        outages = frame.filter(pl.col("status") == "infra_error")
        if outages.height:
            raise StageError(
                f"{outages.height} of {frame.height} rewards are our own outage ({outages['error'][0]}); training stopped "
                "at its last checkpoint; see `codelutra doctor`, then give the same command again"
            )
        return [float(s == "correct") for s in frame["status"]]

    return judge


def _training(run: Run, policy: Policy, out: Path, work: Path, stage: str, label: str) -> training.Training:
    heard = run.training_progress(stage, label)
    system, seed, lock = run.suite.system, run.config.seed, run.accelerator_lock
    return training.Training(Path(policy.path), system, seed, out, work, run.dir.log, lock, heard)


def _supervised(config: TrainSection) -> WarmStartSection:
    """The settings that plain SFT shares with training on pairs."""
    return WarmStartSection(**config.model_dump(include=set(WarmStartSection.model_fields)))


def _recipe(stage: str, config: dict[str, Any], inputs: dict[str, str]) -> Recipe:
    return Recipe(stage, VERSIONS[stage], config, inputs)


def _judging(run: Run) -> dict[str, Any]:
    """All that decides what a program gives and whether that is right."""
    limits = run.config.execute
    return {
        "suite": run.suite.name,
        "suite_version": run.suite.version,
        "mode": run.suite.mode,
        "image": run.image,
        "timeout": limits.timeout_seconds,
        "memory_mb": limits.memory_mb,
        "runtime": limits.runtime,
    }


def _machine(run: Run) -> str:
    return f"{run.image} {run.config.execute.memory_mb} MB {run.config.execute.runtime or ''}"


def _many(name: str, artifacts: Sequence[Artifact]) -> dict[str, str]:
    return {f"{name}-{i:03}": a.digest for i, a in enumerate(artifacts)}


def _concat(outcomes: Sequence[Artifact]) -> pl.DataFrame:
    return pl.concat([a.frame("outcomes") for a in outcomes])


def _counts(outcomes: pl.DataFrame) -> dict[str, Any]:
    by = outcomes.group_by("greedy", "status").len().sort("greedy", "status").rows()
    return {"statuses": {k: {s: n for g, s, n in by if g is flag} for k, flag in (("greedy", True), ("sampled", False))}}


def _normalised(run: Run, outcomes: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    codes = (
        outcomes.select("problem_id", "code")
        .vstack(asked.filter(pl.col("reference") != "").select("problem_id", code="reference"))
        .unique(maintain_order=True)
    )
    return codes.with_columns(normalised=pl.Series([run.suite.normalise(c) for c in codes["code"]], dtype=pl.String))


def _teachable(problems: Artifact, expected: Artifact) -> pl.DataFrame:
    usable = expected.frame("expected").filter(pl.col("status") == "correct").select("problem_id")
    return (
        problems.frame("problems")
        .filter(pl.col("split") == "train")
        .join(usable, on="problem_id", how="semi", maintain_order="left")
    )


def _to_imitate(run: Run, problems: Artifact, expected: Artifact) -> pl.DataFrame:
    """Those of `_teachable` whose reference is shown."""
    learned_from = shown(problems.frame("problems"), run.config.suite).filter(pl.col("reference") != "")
    return _teachable(problems, expected).join(learned_from, on="problem_id", how="semi", maintain_order="left")


def _require_references(run: Run, problems: pl.DataFrame) -> None:
    """Raise UserError where the config learns from references, there are train problems, and no reference is shown."""
    train, c = shown(problems, run.config.suite).filter(pl.col("split") == "train"), run.config
    imitates = {
        "warm_start": c.warm_start is not None,
        "train.objective sft": c.train.objective == "sft" and c.iterations > 0,
        "train.replay_references": c.train.replay_references and c.iterations > 0,
        "suite.shots": c.suite.shots > 0,
    }
    wanting = [name for name, does in imitates.items() if does]
    if train.height and wanting and not (train["reference"] != "").any():
        raise UserError(
            f"{' and '.join(wanting)} learn{'s' if len(wanting) == 1 else ''} from references, and of {train.height} train "
            f"problems none has one that is shown (suite.references: {c.suite.references}); leave it out, or show some"
        )


def _references_shown(run: Run) -> dict[str, Any]:
    section = run.config.suite
    return {} if section.references is None else {"references": section.references, "suite_seed": section.seed}
