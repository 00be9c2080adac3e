"""How many wrong programs that pass the given cases do generated cases catch, and how many right programs do they fail?

    python benchmarks/testgen.py --mbpp DIR --out docs/results/testgen.json

Wrong programs: MBPP's references with one operator or number changed that pass the three given asserts. Some of them are not
wrong (a changed bound that no input reaches), so 100 % cannot be reached. Right programs: solutions of the hand-checked
release (sanitized-mbpp.json) that differ from the reference and pass the given asserts. "any input" leaves out the
habits (codelutra/execution/mutation.py), which keep new inputs like the known ones; "proposed first" asks a model
(--proposer) before it mutates.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.references import mutants, programs
from codelutra import models
from codelutra.config import DEFAULT_MODEL, EngineSection, SuiteSection
from codelutra.execution import mutation, testgen
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.pipeline.run import cache_dir
from codelutra.schema import usable
from codelutra.suites.base import open_suite
from codelutra.suites.python import PythonSuite, calls_of, normalise
from sandbox import Pool, ensure_image

SECONDS = 2.0  # of a program; a changed loop may have no end
VARIANTS = (("5 cases", 5, True), ("10 cases", 10, True), ("20 cases", 20, True), ("20 cases, any input", 20, False))
PROPOSED = (("20 cases, proposed first", 20, True),)


def passing(
    samples: pl.DataFrame, problems: pl.DataFrame, expected: pl.DataFrame, suite: PythonSuite, pool: Pool
) -> pl.DataFrame:
    outcomes, _ = execute(samples, problems, expected, suite, pool, timeout_seconds=SECONDS)
    return samples.filter(outcomes["status"] == "correct")


def share(part: int, whole: int) -> dict[str, Any]:
    return {"n": part, "of": whole, "share": round(part / max(whole, 1), 4)}


def measure(folder: Path, problems_at_most: int, pool: Pool, proposer: str) -> dict[str, Any]:
    suite = open_suite(SuiteSection(name="mbpp", path=str(folder)))
    assert isinstance(suite, PythonSuite)
    asked = suite.problems()
    asked = asked[sorted(random.Random(0).sample(range(asked.height), min(problems_at_most, asked.height)))]
    expected, _ = judge_references(asked, suite, pool, timeout_seconds=SECONDS)
    asked = usable(asked, expected)

    wrong = [(p, m) for i, (p, r) in enumerate(asked.select("problem_id", "reference").rows()) for m in mutants(r, i)]
    references = dict(asked.select("problem_id", "reference").rows())
    checked = {str(e["task_id"]): e["code"] for e in json.loads((folder / "sanitized-mbpp.json").read_text())}
    right = [(p, c) for p, c in checked.items() if p in references and normalise(c) != normalise(references[p])]
    survivors = passing(programs(wrong), asked, expected, suite, pool)
    alternatives = passing(programs(right), asked, expected, suite, pool)

    rows, habits = {}, mutation.habits
    propose = (
        testgen.asking(
            models.resolve(proposer, cache_dir() / "models").path,
            asked,
            suite.system,
            engine=EngineSection(max_model_len=1024),
            seed=0,
            log=Path("testgen-engine.log"),
            lock=cache_dir() / "accelerator.lock",
        )
        if proposer
        else None
    )
    for name, cases, strict in VARIANTS + (PROPOSED if propose else ()):
        mutation.habits = testgen.habits = habits if strict else lambda known: []
        began = time.monotonic()
        more = testgen.extend(
            asked,
            suite,
            pool,
            per_problem=cases,
            seed=0,
            timeout_seconds=SECONDS,
            propose=propose if "proposed" in name else None,
        )
        seconds = time.monotonic() - began
        wanted, _ = judge_references(more, suite, pool, timeout_seconds=SECONDS)
        broken = wanted.filter(pl.col("status") != "correct")["problem_id"].to_list()
        fine = ~pl.col("problem_id").is_in(broken)
        added = [len(calls_of(b)) - len(calls_of(a)) for a, b in zip(asked["judge"], more["judge"], strict=True)]
        left = passing(survivors.filter(fine), more, wanted, suite, pool)
        ok = passing(alternatives.filter(fine), more, wanted, suite, pool)
        failed = alternatives.filter(fine).join(ok, on="problem_id", how="anti")
        rows[name] = {
            "problems_with_new_cases": sum(n > 0 for n in added),
            "cases_a_problem": round(sum(added) / len(added), 2),
            "references_broken_by_it": len(broken),
            "wrong_caught": share(survivors.filter(fine).height - left.height, survivors.filter(fine).height),
            "right_failed": share(failed.height, alternatives.filter(fine).height),
            "right_failed_ids": failed["problem_id"].to_list(),
            "seconds": round(seconds, 1),
        }
        print(name, json.dumps(rows[name]), flush=True)
    return {
        "problems": asked.height,
        "mutants": len(wrong),
        "mutants_past_the_given_asserts": share(survivors.height, len(wrong)),
        "alternatives_past_the_given_asserts": alternatives.height,
        "variants": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbpp", type=Path, default=Path(os.environ.get("CODELUTRA_DATA", ".")) / "mbpp")
    parser.add_argument("--problems", type=int, default=100_000, help="a seeded choice of so many")
    parser.add_argument("--proposer", default=DEFAULT_MODEL, help="model asked for cases; empty: none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/testgen.json"))
    options = parser.parse_args()
    image = ensure_image("python", progress=print)
    with Pool(image=image, workers=options.workers, run="testgen", memory_mb=1024) as pool:
        report = measure(options.mbpp, options.problems, pool, options.proposer)
    report |= {"image": image, "testgen": testgen.VERSION, "proposer": options.proposer}
    print(json.dumps(report, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
