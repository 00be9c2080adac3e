"""`codelutra solve`: checked solutions, by some model, for train problems that have none.

An ordinary run that draws samples of these problems and executes them, and trains nobody: its samples and outcomes are
artifacts as any other's, so the same command goes on where it was. What judges a problem is what its line gives beside a
solution: rows, asserts, expected outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.completions import extract_code
from codelutra.errors import UserError
from codelutra.pipeline import stages
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import Run
from codelutra.pipeline.sampler import Sampling
from codelutra.pipeline.usable import teachable
from codelutra.results.load import no_run, run_folder
from codelutra.results.summary import RunSummary
from codelutra.sampling.shards import plan_shards
from codelutra.store.artifacts import Artifact, Recipe, Step, digest_of, read_frame, write_frame
from codelutra.store.run_dir import RunDir
from codelutra.suites.solutions import OwnLines
from codelutra.suites.splits import digests


@dataclass(frozen=True)
class Solved:
    """What came of it."""

    wanting: int
    """Train problems without a usable solution that were not left to `unsolved_by`."""
    asked: int
    """Those of them that something judges."""
    solutions: Mapping[str, str]
    """Problem id → the shortest right answer, which was judged once more as a solution."""
    summary: RunSummary


def solve(run: Run, own: OwnLines, unsolved_by: str = "") -> Solved:
    """Sample the problems that have no usable solution, and keep what is right.

    `unsolved_by`: a run; what it has solved itself is left out. Raises UserError where there is nothing to solve.
    """
    record = Recorder(run)
    train = run.all_problems.filter(pl.col("split") == "train")
    wanting = _without_solution(run, train)
    if unsolved_by:
        wanting = wanting.filter(~pl.col("prompt").is_in(_solved_prompts(run.home, unsolved_by)))
    if wanting.is_empty():
        by = f" and was not solved by run {unsolved_by}" if unsolved_by else ""
        raise UserError(f"none of the {train.height} train problems lacks a usable solution{by}: there is nothing to solve")
    asked = _problems(run, _as_asked(own.rows(dict.fromkeys(wanting["problem_id"], "")), wanting))
    expected = run.make(stages.references(run, asked))
    usable = teachable(asked.frame("problems"), expected.frame("expected"))
    if usable.is_empty():
        raise UserError(
            f"{wanting.height} train problems have no usable solution, and nothing else judges them: give them rows, "
            "asserts or expected outputs; `codelutra check` says what is wrong with each"
        )
    policy = stages.base_policy(run)
    record.prepared(asked, expected)
    with Sampling(run, policy, plan_shards(usable, run.config.sample, ("train",))) as sampling:
        outcomes = [  # each shard is executed while later ones are being sampled
            run.make(stages.execute(run, sampling.shard(i), asked, expected, label))
            for i, label in sampling.labels(greedy=False)
        ]
        drawn = sampling.made(greedy=False)
    scores = run.make(stages.score(run, outcomes, asked, expected, "train"))
    record.sampled(policy, scores, drawn, outcomes)
    found = run.make(stages.answers(run, outcomes, asked, expected))
    record.learned_from(policy, found)
    kept = _checked(run, own, wanting, _shortest(found.frame("answers"), usable))
    summary = record.finish(f"{len(kept)} of {usable.height} problems were solved")
    return Solved(wanting.height, usable.height, kept, summary)


def _without_solution(run: Run, train: pl.DataFrame) -> pl.DataFrame:
    """Those that have none, or one that fails."""
    given = train.filter(pl.col("reference") != "")
    if given.is_empty():
        return train
    judged = run.make(stages.references(run, _problems(run, given))).frame("expected")
    return train.join(judged.filter(pl.col("status") == "correct"), on="problem_id", how="anti", maintain_order="left")


def _checked(run: Run, own: OwnLines, wanting: pl.DataFrame, found: Mapping[str, str]) -> dict[str, str]:
    """Those that stand as a solution: they give the same in every run, on the problem as it will be written."""
    rows = _as_asked(own.rows(found), wanting)
    if rows.is_empty():
        return {}
    judged = run.make(stages.references(run, _problems(run, rows))).frame("expected")
    right = set(judged.filter(pl.col("status") == "correct")["problem_id"])
    return {named: program for named, program in found.items() if named in right}


def _shortest(answers: pl.DataFrame, asked: pl.DataFrame) -> dict[str, str]:
    """Problem id → the program of its shortest right answer."""
    chosen = (
        answers.join(asked.select("problem_id", "language"), on="problem_id")
        .sort("problem_id", pl.col("completion").str.len_chars(), "completion")
        .unique("problem_id", keep="first", maintain_order=True)
    )
    rows = chosen.select("problem_id", "completion", "language").rows()
    return {named: extract_code(completion, language) for named, completion, language in rows}


def _as_asked(rows: pl.DataFrame, problems: pl.DataFrame) -> pl.DataFrame:
    """PROBLEMS with the prompts that a run has, worked examples included, in its order."""
    prompts = problems.select("problem_id", "prompt")
    return prompts.join(rows.drop("prompt"), on="problem_id", maintain_order="left").select(rows.columns)


def _problems(run: Run, frame: pl.DataFrame) -> Artifact:
    """The frame as an artifact of the stage `problems`."""
    inputs = {"content": digest_of([frame.write_ndjson(), sorted(run.suite.databases())])}

    def build(out: Path, work: Path) -> dict[str, Any]:
        write_frame(frame, out / "problems.parquet")
        return {"splits": {"train": frame.height}, "digests": digests(frame)}

    return run.make(Step(Recipe("problems", stages.VERSIONS["problems"], {"solve": 1}, inputs), build))


def _solved_prompts(home: Path, name: str) -> list[str]:
    """The prompts that a policy of run `name` answered right. Raises UserError where there is no such run."""
    run = RunDir(run_folder(home / "runs", name))
    if not (run.path / "problems.parquet").exists():
        raise no_run(home / "runs", name, asked="--unsolved-by: ", that=" with problems")
    mend = "start that run again, or leave --unsolved-by out"
    solved = set[str]()
    for event in run.events():
        if event.get("stage") == "execute" and isinstance(key := event.get("key"), str):
            with contextlib.suppress(FileNotFoundError):  # pruned
                outcomes = read_frame(home / "store" / "execute" / Path(key).name / "outcomes.parquet", mend)
                solved |= set(outcomes.filter(pl.col("status") == "correct")["problem_id"])
    problems = read_frame(run.path / "problems.parquet", mend)
    return problems.filter(pl.col("problem_id").is_in(sorted(solved)))["prompt"].to_list()
