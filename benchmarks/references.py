"""Do right programs come out correct, and wrong ones not? MBPP's and DS-1000's references, through the real sandbox.

    python benchmarks/references.py --mbpp DIR --ds1000 DIR --out docs/results/references.json

MBPP: every reference must be correct; a stub that returns None and one that raises must not; of programs with one
operator or constant changed, the share that is caught says how much the given tests see. DS-1000: the references of
the pandas and numpy problems in the `datascience` image, judged by the benchmark's own checks (an in-process verdict).
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codelutra import compare
from codelutra.suites.python import take_apart
from sandbox import Pool, PythonJob, Result, ensure_image

MODE = "python-value/v1"
MUTANTS = 3  # a problem
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


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


def mbpp_jobs(problem: dict[str, Any], number: int) -> list[tuple[str, PythonJob]]:
    """(what it is, job): the expectation first, computed from the reference in a job that never sees a candidate."""
    source = problem["code"].replace("\r\n", "\n")
    calls, expected = zip(*map(take_apart, problem["test_list"]), strict=True)
    after = problem["test_setup_code"]

    def job(what: str, program: str, asked: tuple[str, ...]) -> tuple[str, PythonJob]:
        seconds = 2.0 if what == "mutant" else 10.0  # a changed loop may have no end
        return what, PythonJob(f"{problem['task_id']}-{what}", f"{program}\n{after}", asked, timeout_seconds=seconds)

    return [
        job("expected", source, expected),
        job("reference", source, calls),
        job("stub", stubs(source, "return None"), calls),
        job("raises", stubs(source, "raise ValueError"), calls),
        *(job("mutant", mutant, calls) for mutant in mutants(source, number)),
    ]


def correct(result: Result, expected: Result) -> bool:
    if result.status != "ok" or expected.status != "ok":
        return False
    return all(
        "value" in got and "value" in want and compare.agrees(MODE, got["value"], want["value"])
        for got, want in zip(result.value, expected.value, strict=True)
    )


def mbpp(folder: Path, pool: Pool) -> dict[str, Any]:
    problems = [json.loads(line) for line in (folder / "mbpp.jsonl").read_text().splitlines()]
    planned = [mbpp_jobs(problem, number) for number, problem in enumerate(problems)]
    results = pool.map(job for jobs in planned for _, job in jobs)
    right, total, statuses = Counter[str](), Counter[str](), Counter[str]()
    failed: list[str] = []
    for jobs in planned:
        expected = next(results)
        for what, job in jobs[1:]:
            result = next(results)
            total[what] += 1
            right[what] += (fine := correct(result, expected))
            statuses[f"{what}: {'correct' if fine else 'wrong' if result.status == 'ok' else result.status}"] += 1
            if fine != (what == "reference") and what != "mutant":
                failed.append(f"{job.id}: {result.status} {result.error or ''}"[:200])
    return {
        "problems": len(problems),
        "references_correct": right["reference"],
        "stubs_correct": right["stub"],
        "raising_correct": right["raises"],
        "mutants": total["mutant"],
        "mutants_caught": round(1 - right["mutant"] / total["mutant"], 4),
        "outcomes": dict(sorted(statuses.items())),
        "not_as_they_must_be": failed,
    }


def ds1000(folder: Path, pool: Pool) -> dict[str, Any]:
    with gzip.open(folder / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [p for p in map(json.loads, file) if p["metadata"]["library"] in ("Pandas", "Numpy")]

    def jobs(stub: str = "") -> Iterator[PythonJob]:
        for problem in problems:
            context, code = problem["code_context"], stub or problem["reference_code"]
            checks = [f"test_execution({code!r})"] + [f"test_string({code!r})"] * ("def test_string(" in context)
            name = f"{problem['metadata']['library']}-{problem['metadata']['problem_id']}"
            yield PythonJob(name, context, tuple(checks), timeout_seconds=60.0, in_process=True)

    def failures(stub: str = "") -> dict[str, str]:
        failed = {}
        for result in pool.map(jobs(stub)):
            errors = [item["error"] for item in result.value or [] if "error" in item]
            if result.status != "ok" or errors:
                failed[result.id] = (errors[0] if errors else f"{result.status}: {(result.error or '')[-200:]}")[:300]
        return failed

    failed, stubbed = failures(), failures("pass")
    return {
        "problems": len(problems),
        "references_correct": len(problems) - len(failed),
        "stubs_correct": len(problems) - len(stubbed),
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbpp", type=Path)
    parser.add_argument("--ds1000", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/references.json"))
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, folder, kind, judge in (
        ("mbpp", options.mbpp, "python", mbpp),
        ("ds1000", options.ds1000, "datascience", ds1000),
    ):
        if folder is None:
            continue
        image = ensure_image(kind, progress=print)
        started = time.monotonic()
        with Pool(image=image, workers=options.workers, run=f"references-{name}", memory_mb=1024) as pool:
            report[name] = judge(folder, pool) | {"image": image, "containers_replaced": len(pool.replaced)}
        report[name]["seconds"] = round(time.monotonic() - started, 1)
        print(name, json.dumps(report[name], indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
