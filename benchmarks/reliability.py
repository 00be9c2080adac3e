"""How many odd inputs, attacks, damages and kills were tried, and how many held?

    make test ARGS=--junitxml=tests.xml
    python benchmarks/reliability.py tests.xml --out docs/results/reliability.json

Counts the tests of one run by the kind of trouble they make. A test that makes many inputs (hypothesis) counts as one.
Prints the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# What was tried, and the test files that try it.
KINDS = {
    "cases from the field: queries, programs, completions and files modelled on public reports": "tests/cases",
    "attacks by programs and queries: forged verdicts, ways out, outages, neighbours": (
        "tests/sandbox/test_attacks.py tests/sandbox/test_isolation.py tests/sandbox/test_seccomp.py"
    ),
    "results written by a hostile process": "tests/sandbox/test_canonical.py tests/sandbox/test_wire.py",
    "whole programs beside the real `python3`": "tests/sandbox/test_whole_programs.py",
    "the pool and Docker: containers and daemons that die": "tests/sandbox/test_pool.py tests/sandbox/test_daemon.py",
    "Python values and asserts": (
        "tests/suites/test_equality.py tests/suites/test_asserts.py tests/suites/test_python.py tests/execution"
    ),
    "queries: order, ties, clock, chance, names, virtual tables": (
        "tests/suites/test_determined.py tests/suites/test_sql_text.py tests/suites/test_sql.py tests/sandbox/test_worlds.py"
    ),
    "completions: where is the program?": "tests/test_completions.py",
    "chat templates and tokenizers": "tests/test_prompts.py",
    "model architectures: trained as sampled": "tests/training/test_architectures.py",
    "suites and data sets as people have them, and broken": (
        "tests/suites/test_custom.py tests/suites/test_folder.py tests/suites/test_splits.py tests/test_reading.py"
    ),
    "bad input on the command line": "tests/cli/test_bad_input.py tests/cli/test_init.py tests/test_models.py",
    "damaged files of a run, under every command that reads them": "tests/experiments/test_damage.py",
    "the store: kills, flipped bits, full disks, two processes": "tests/store tests/experiments/test_prune.py",
    "a whole run killed, repeated, shared; runs of 0.1.0": "tests/pipeline/test_loop.py tests/pipeline/test_run_of_0_1_0.py",
    "servers that misbehave": "tests/sampling/test_answers.py",
    "texts of models where people look": "tests/results/test_escapes.py",
    "Prefect: passwords, dead runs, away": "tests/pipeline/test_server.py",
}


def tests_of(report: Path) -> list[tuple[str, str]]:
    """(file, outcome) of every test in pytest's JUnit report: passed, failed or skipped."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found.append((case.get("classname", "").replace(".", "/") + ".py", outcome))
    return found


def counted(tests: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """A row a kind: how many tests ran, how many held, how many were skipped, and the command that repeats them."""
    rows = []
    for kind, files in KINDS.items():
        seen = Counter(outcome for file, outcome in tests if file.startswith(tuple(files.split())))
        ran = seen["passed"] + seen["failed"]
        rows.append({"tried": kind, "ran": ran, "held": seen["passed"], "skipped": seen["skipped"], "tests": files})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what pytest wrote under --junitxml")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    asked = parser.parse_args()
    tests = tests_of(asked.report)
    rows = counted(tests)
    print('| what was tried | tests | passed | to repeat: `make test ARGS="…"` |\n|---|---|---|---|')
    for row in rows:
        print(f"| {row['tried']} | {row['ran']} | {row['held']} | `{row['tests']}` |")
    if asked.out:
        whole = Counter(outcome for _, outcome in tests)
        result = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "all_tests": dict(whole),
            "kinds": rows,
        }
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
