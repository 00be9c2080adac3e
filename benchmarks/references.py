"""Are right programs judged correct, and wrong ones not? Runs every reference of every suite in the real sandbox.

    python benchmarks/references.py DATA [--only SUITE …] [--out docs/results/references.json]

DATA has spider/, mbpp/, ds1000/, bird-superhero/ and humaneval/, each in its official layout; absent ones are left out. A
reference runs once as the expectation and once as an answer, as in `codelutra check` and every run. For MBPP and
starter-python, wrong programs follow. Stubs that return None or raise must not be correct. Of programs with one operator
or constant changed, the share that is caught measures the cases; some changes do not change what a function does, so 1.0
cannot be reached.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import PROBLEMS, SAMPLES, usable
from codelutra.suites import mbpp
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.determined import tied_limits
from codelutra.suites.folder import read_lines
from sandbox import Pool, ensure_image

SECTIONS = {
    "starter-sql": {"name": "starter-sql"},
    "starter-python": {"name": "starter-python"},
    "spider": {"name": "spider", "path": "spider"},
    "bird-superhero": {"name": "bird", "path": "bird-superhero"},
    "mbpp": {"name": "mbpp", "path": "mbpp"},
    "mbpp-sanitized": {"name": "mbpp-sanitized", "path": "mbpp"},
    "humaneval": {"name": "humaneval", "path": "humaneval"},
    "ds1000": {"name": "ds1000", "path": "ds1000"},
}
WITH_WRONG_PROGRAMS = ("starter-python", "mbpp")
TIMEOUT_SECONDS = {"ds1000": 60.0}  # of a reference; 10 elsewhere. A changed loop may have no end: 2 seconds
MUTANTS = 3  # a problem
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


# ---- references ---------------------------------------------------------------------------------------------------------


def open_whole(name: str, data: Path) -> Suite:
    """A suite with all its problems; MBPP's with the ten few-shot examples, which no run asks."""
    section = dict(SECTIONS[name])
    if "path" in section:
        section["path"] = str(data / section["path"])
    suite = open_suite(SuiteSection(**section))
    if name != "mbpp":
        return suite
    path = data / "mbpp" / "mbpp.jsonl"
    rows = [mbpp.row(entry, path) for _, entry in read_lines(path)]
    return replace(suite, frame=pl.DataFrame(rows, schema=PROBLEMS))


def references(problems: pl.DataFrame, expected: pl.DataFrame) -> dict[str, Any]:
    """How many references are usable, and why the others are not."""
    failed = expected.filter(pl.col("status") != "correct")
    tied = tied_limits(expected)
    right = expected.height - failed.height
    found: dict[str, Any] = {"problems": expected.height, "references_correct": right}
    if tied:
        found["tied_limits"] = {"references": len(tied), "problems": tied}
    groups = problems.select("problem_id", "group").join(expected.select("problem_id", "status"), on="problem_id")
    if 1 < groups["group"].n_unique() < 10:
        counts = groups.group_by("group").agg(n=pl.len(), right=(pl.col("status") == "correct").sum()).sort("group")
        found["by_group"] = {group: f"{right} of {n}" for group, n, right in counts.rows()}
    found["reasons"] = dict(Counter(map(kind_of, failed["error"])).most_common())
    found["failed"] = {problem_id: last_line(error) for problem_id, error in failed.select("problem_id", "error").rows()}
    return found


def last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


def kind_of(error: str) -> str:
    """An error without what differs from problem to problem."""
    last = last_line(error)
    return re.sub(r"'[^']*'|\d+", "…", last)[:100] if "No module named" not in last else last


# ---- wrong programs -----------------------------------------------------------------------------------------------------


def wrong_programs(suite: Suite, problems: pl.DataFrame, expected: pl.DataFrame, pool: Pool) -> dict[str, Any]:
    """Whether stubs and changed references are told from right ones."""
    rows, kinds = [], []
    for number, problem in enumerate(usable(problems, expected).rows(named=True)):
        source = problem["reference"]
        made = [
            ("stub", stubs(source, "return None")),
            ("raises", stubs(source, "raise ValueError")),
            *(("mutant", mutant) for mutant in mutants(source, number)),
        ]
        kinds += [kind for kind, _ in made]
        rows += [(problem["problem_id"], code) for _, code in made]
    outcomes, _ = execute(programs(rows), problems, expected, suite, pool, timeout_seconds=2.0)
    statuses = Counter(zip(kinds, outcomes["status"], strict=True))
    total = Counter(kinds)
    passed = outcomes.filter(pl.Series([k != "mutant" for k in kinds]), pl.col("status") == "correct")
    return {
        "stubs_correct": statuses["stub", "correct"],
        "raising_correct": statuses["raises", "correct"],
        "correct_though_wrong": passed["problem_id"].to_list(),
        "mutants": total["mutant"],
        "mutants_caught": round(1 - statuses["mutant", "correct"] / total["mutant"], 4),
        "outcomes": {f"{kind}: {status}": n for (kind, status), n in sorted(statuses.items())},
    }


def programs(codes: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """SAMPLES from (problem_id, program)s."""
    rows = [(p, i, False, code, code, "stop", 0, 0) for i, (p, code) in enumerate(codes)]
    return pl.DataFrame(rows, schema=SAMPLES, orient="row")


def mutants(source: str, seed: int) -> Iterator[str]:
    """Programs that differ from `source` in one operator or number, a few at random."""
    tree = ast.parse(source)
    places = [(node, name) for node in ast.walk(tree) for name in changeable(node)]
    for node, name in random.Random(seed).sample(places, min(MUTANTS, len(places))):
        before = getattr(node, name)
        setattr(node, name, changed(before))
        yield ast.unparse(tree)
        setattr(node, name, before)


def changeable(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        yield "op"
    if isinstance(node, ast.Compare) and all(type(op) in SWAPS for op in node.ops):
        yield "ops"
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "value"


def changed(before: Any) -> Any:
    if isinstance(before, list):
        return [SWAPS[type(op)]() for op in before]
    return before + 1 if isinstance(before, int) else SWAPS[type(before)]()


def stubs(source: str, body: str) -> str:
    """The program with every function's body replaced."""
    names = [node.name for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return "\n".join(f"def {name}(*a, **k): {body}" for name in names)


def check(name: str, data: Path, workers: int) -> dict[str, Any]:
    suite = open_whole(name, data)
    problems, image = suite.problems(), ensure_image(suite.image, progress=print)
    started = time.monotonic()
    with Pool(image=image, workers=workers, databases=suite.databases(), run=f"references-{name}", memory_mb=1024) as pool:
        expected, _ = judge_references(problems, suite, pool, timeout_seconds=TIMEOUT_SECONDS.get(name, 10.0))
        found = references(problems, expected)
        if name in WITH_WRONG_PROGRAMS:
            found |= wrong_programs(suite, problems, expected, pool)
        found |= {"containers_replaced": len(pool.replaced)}
    about = {"suite": suite.name, "version": suite.version, "mode": suite.mode, "image": image}
    return {**about, **found, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/references.json"))
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only:
        if not (options.data / SECTIONS[name].get("path", "")).is_dir():
            print(f"{name:16} not in {options.data}, left out")
            continue
        report[name] = found = check(name, options.data, options.workers)
        caught = f"  mutants caught {found['mutants_caught']:.1%}" if "mutants_caught" in found else ""
        print(
            f"{name:16} {found['references_correct']:5} of {found['problems']:5} correct{caught}  {found['reasons'] or ''}"
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
