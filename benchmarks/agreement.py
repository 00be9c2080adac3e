"""Do our comparison modes agree with the official evaluators, on answers of real models?

    python -m benchmarks.agreement --run HOME/runs/NAME [--run …] \\
        [--spider DIR of test-suite-sql-eval] [--bird FILE evaluation.py of BIRD] --out docs/results/agreement.json

Every different answer of the runs (greedy and sampled, dev, train and test) is executed once in the sandbox and judged by
the modes, and once by the official code on a copy of the database. The evaluators are not shipped here: clone
taoyds/test-suite-sql-eval (Zhong et al., 2020) and BIRD's repository. Left out are answers that ran out of time or memory
(the evaluators have no such limit) and problems without a usable reference. Each disagreement gets a cause that was
checked; the others are listed as unexplained.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import load_config
from codelutra.pipeline.run import Run, home_dir, open_run
from codelutra.suites.sql import SqlSuite
from sandbox import Pool, ensure_image
from sandbox.protocol import decode

SPIDER, BIRD, STRICT = "spider-testsuite/v1", "bird-ex/official", "sql-strict/v2"
Judge = Callable[[str, str, str], bool]  # database, answer, reference


@dataclass(frozen=True)
class Answer:
    database: Path
    question: str
    reference: str
    code: str
    status: str  # of the sandbox: "ok" or what went wrong
    right_by: frozenset[str]  # modes
    rows: list[Any]
    expected: list[Any]
    ordered: bool
    cut: bool  # the reference's LIMIT cuts rows that tie


def answers(run: Run, pool: Pool) -> Iterator[Answer]:
    """The different answers of a run's outcomes, executed again and judged by every mode."""
    suite = run.suite
    assert isinstance(suite, SqlSuite), f"{run.config.name} asks for {suite.name}, which is not SQL"
    problems = {p["problem_id"]: p for p in pl.read_parquet(run.dir.path / "problems.parquet").rows(named=True)}
    wanted = pl.read_parquet(run.dir.path / "expected.parquet").filter(pl.col("status") == "correct")
    expected = {e["problem_id"]: decode(json.loads(e["expected"])) for e in wanted.rows(named=True)}
    keys = dict.fromkeys(
        e["key"] for e in run.dir.events() if e.get("stage") == "execute" and e["event"] in ("made", "reused")
    )
    frames = [pl.read_parquet(run.store.root / "execute" / k / "outcomes.parquet") for k in keys]
    asked = (
        pl.concat(frames)
        .filter(pl.col("status").is_in(["correct", "wrong", "runtime_error", "syntax_error", "blocked"]))
        .filter(pl.col("problem_id").is_in(list(expected)))
        .select("problem_id", "code")
        .unique(maintain_order=True)
        .rows()
    )
    jobs = (suite.answer_job(problems[p], code, str(i), 5.0) for i, (p, code) in enumerate(asked))
    for (problem_id, code), result in zip(asked, pool.map(jobs), strict=True):
        problem, want = problems[problem_id], expected[problem_id]
        judge = json.loads(problem["judge"])
        right: list[str] = []
        if result.status == "ok":
            right = [m for m in (STRICT, SPIDER, BIRD) if suite.agrees_under(m, problem, result.value, want)]
        yield Answer(
            suite.files[judge["database"]],
            problem["prompt"].rpartition("\n")[2],
            problem["reference"],
            code,
            result.status,
            frozenset(right),
            result.value["rows"] if result.status == "ok" else [],
            want["rows"],
            judge["ordered"],
            bool(want.get("choices")),
        )


# ---- the official evaluators ------------------------------------------------------------------------------------------


def spider_judges(folder: Path) -> dict[str, Judge]:
    """test-suite-sql-eval's execution match on one database, values as predicted: DISTINCT as written, and its default."""
    module = _load(folder / "exec_eval.py")
    return {
        name: lambda database, code, reference, keep=keep: bool(
            module.eval_exec_match(database, code, reference, False, keep, False)
        )
        for name, keep in (("--keep_distinct", True), ("as it comes", False))
    }


def bird_judge(file: Path) -> Judge:
    """`execute_sql` of BIRD's evaluation.py; what raises is wrong, as its caller has it."""
    module = _load(file)

    def judge(database: str, code: str, reference: str) -> bool:
        try:
            return bool(module.execute_sql(code, reference, database))
        except (sqlite3.Error, sqlite3.Warning):
            return False

    return judge


def _load(file: Path) -> Any:
    sys.path.insert(0, str(file.parent))  # it imports its neighbours
    return importlib.import_module(file.stem)


# ---- causes -----------------------------------------------------------------------------------------------------------


def official_cause(a: Answer, ours: bool, keeping_distinct: Judge | None, database: str) -> str:
    """Why an official evaluator differs from the mode that follows it: only its option for DISTINCT is known to."""
    if keeping_distinct and keeping_distinct(database, a.code, a.reference) == ours:
        return "the evaluator takes DISTINCT out of both queries first: told to keep it, it agrees"
    return "unexplained"


def strict_cause(a: Answer, other: str) -> str:
    """Why the training label differs from another mode."""
    rows, expected = [tuple(r) for r in a.rows], [tuple(r) for r in a.expected]
    if STRICT in a.right_by:
        same = rows != expected and Counter(rows) == Counter(expected)
        if same and a.ordered:
            return "label right: rows that tie under ORDER BY in another order"
        if Counter(rows) != Counter(expected) and a.cut:
            return "label right: other rows of those that tie where the reference's LIMIT cuts"
        return "label right: order by only inside a subquery" if same and other == SPIDER else "unexplained"
    if Counter(rows) == Counter(expected):
        return "label wrong: the order of rows"
    if set(rows) == set(expected):
        return "label wrong: how often a row occurs"
    columns, wanted = ([Counter(c) for c in zip(*side, strict=True)] for side in (rows, expected))
    permuted = columns != wanted and all(c in columns for c in wanted)
    return "label wrong: columns in another order" if permuted else "unexplained"


# ---- the table --------------------------------------------------------------------------------------------------------


def table(
    found: list[Answer], ours: Callable[[Answer], bool], theirs: Callable[[Answer], bool], cause: Callable[[Answer], str]
) -> dict[str, Any]:
    cells: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    examples: dict[str, list[dict[str, str]]] = {}
    for a in found:
        mine, other = ours(a), theirs(a)
        cells[f"{'right' if mine else 'wrong'} here, {'right' if other else 'wrong'} there"] += 1
        if mine != other:
            why = cause(a)
            causes[why] += 1
            shown = examples.setdefault(why, [])
            if len(shown) < 3 or why == "unexplained":
                shown.append({"question": a.question, "reference": a.reference, "answer": a.code, "here": str(mine)})
    agreed = sum(n for cell, n in cells.items() if cell in ("right here, right there", "wrong here, wrong there"))
    return {
        "answers": len(found),
        "agree": agreed,
        "share": round(agreed / max(1, len(found)), 5),
        "cells": dict(cells),
        "causes": dict(causes.most_common()),
        "examples": examples,
    }


def measure(runs: list[Path], spider: Path | None, bird: Path | None) -> dict[str, Any]:
    found: list[Answer] = []
    for path in runs:
        with (
            open_run(path.parent.parent, load_config(path / "run.yaml")) as run,
            Pool(
                image=ensure_image(run.suite.image, progress=print),
                workers=2,
                databases=run.suite.databases(),
                run="agreement",
            ) as pool,
        ):
            found += answers(run, pool)
            print(f"{path.name}: {len(found)} answers so far", flush=True)
    found = list({(a.database, a.reference, a.code): a for a in found}.values())
    report: dict[str, Any] = {"runs": [p.name for p in runs], "databases": len({a.database for a in found})}
    judges: dict[str, tuple[str, Judge]] = {}
    keeping: Judge | None = None
    if spider:
        official = spider_judges(spider)
        keeping = official["--keep_distinct"]
        judges |= {f"test-suite-sql-eval, {name}": (SPIDER, j) for name, j in official.items()}
    if bird:
        judges["BIRD's evaluation.py"] = (BIRD, bird_judge(bird))
    with tempfile.TemporaryDirectory() as scratch:
        copies: dict[Path, str] = {}
        for a in found:
            if a.database not in copies:  # a folder each: the evaluator runs all databases that lie beside one another
                folder = Path(scratch) / str(len(copies))
                folder.mkdir()
                copies[a.database] = shutil.copy(a.database, folder / "copy.sqlite")
        for name, (mode, judge) in judges.items():
            report[f"{mode} and {name}"] = made = table(
                found,
                lambda a, mode=mode: mode in a.right_by,  # type: ignore[misc]
                lambda a, judge=judge: judge(copies[a.database], a.code, a.reference),  # type: ignore[misc]
                lambda a, mode=mode: official_cause(  # type: ignore[misc]
                    a, mode in a.right_by, keeping if mode == SPIDER else None, copies[a.database]
                ),
            )
            print(name, json.dumps({k: v for k, v in made.items() if k != "examples"}), flush=True)
    for mode in (SPIDER, BIRD):
        report[f"{STRICT} and {mode}"] = table(
            found,
            lambda a: STRICT in a.right_by,
            lambda a, mode=mode: mode in a.right_by,  # type: ignore[misc]
            lambda a, mode=mode: strict_cause(a, mode),  # type: ignore[misc]
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", help="a run's folder; may be repeated; default: runs/demo")
    parser.add_argument("--spider", type=Path, help="folder of test-suite-sql-eval")
    parser.add_argument("--bird", type=Path, help="BIRD's llm/src/evaluation.py")
    parser.add_argument("--out", type=Path, default=Path("docs/results/agreement.json"))
    options = parser.parse_args()
    options.run = options.run or [home_dir() / "runs" / "demo"]
    if missing := [str(r) for r in options.run if not (r / "expected.parquet").exists()]:
        print(f"no run at {', '.join(missing)}; `codelutra run demo` makes one")
        return
    report = measure(options.run, options.spider, options.bird)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
