"""What every Python suite shares: jobs, judging material, verdicts, normalised programs.

The process of an answer evaluates calls and returns their values. The expected values are computed in another job, and the
host compares. So nothing that the answer's process can read or patch decides anything, except where judging material
says `in_process`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from codelutra.suites import equality
from codelutra.suites.asserts import Rule, for_more, holds, names_of, own_names, take_apart
from codelutra.suites.base import Suite, material
from codelutra.suites.parsing import Unparsable, joined, parse
from sandbox.protocol import PythonJob, Result

OFFICIAL = "python-eq/official"  # the mode of suites whose own harness runs asserts
PRINTED = "text/v3"  # of whole programs
SYSTEM = "Answer with one Python code block and nothing else."


@dataclass(frozen=True)
class PythonSuite(Suite):
    """A suite whose programs are Python modules, judged by the values of calls."""

    system: str = SYSTEM
    mode: str = "python-value/v2"

    @property
    def takes_cases(self) -> bool:
        return any(calls_of(judge) for judge in self.frame["judge"])

    def answer_job(self, problem: Mapping[str, Any], code: str, job_id: str, timeout_seconds: float) -> PythonJob:
        judged = material(problem["judge"])
        if judged["wrap"] == WHOLE:
            return PythonJob(job_id, code or "pass", inputs=tuple(judged["calls"]), timeout_seconds=timeout_seconds)
        wrapped = judged["wrap"].replace(PLACE, repr(code)) if judged["wrap"] else code
        # Checks without reference or setup are judged beside a program that does nothing.
        program = joined(judged["setup"], wrapped, judged["after"]) or "pass"
        calls, in_process = tuple(judged["calls"]), self.in_process(problem)
        return PythonJob(job_id, program, calls, timeout_seconds=timeout_seconds, in_process=in_process)

    def expected_job(self, problem: Mapping[str, Any], job_id: str, timeout_seconds: float) -> PythonJob:
        judged = material(problem["judge"])
        expected = judged["expected"]
        if judged["wrap"] == WHOLE and expected is not None:
            return PythonJob(job_id, "pass", tuple(expected), timeout_seconds=timeout_seconds)
        job = self.answer_job(problem, problem["reference"], job_id, timeout_seconds)
        return job if expected is None else replace(job, calls=tuple(expected))

    def check_jobs(
        self, problem: Mapping[str, Any], expected: Any, job_id: str, timeout_seconds: float
    ) -> Sequence[PythonJob]:
        """A whole `check(candidate)`, beside functions that do nothing."""
        judged = material(problem["judge"])
        if not self.in_process(problem) or judged["wrap"] or judged["expected"]:
            return []
        names = names_of(problem["reference"])
        idle = "\n".join(f"def {name}(*_, **__): pass" for name in sorted(names.made - names.classes))
        return [self.answer_job(problem, idle, job_id, timeout_seconds)]

    def checked(self, problem: Mapping[str, Any], expected: Any, results: Sequence[Result]) -> tuple[Any, str]:
        passed = any(r.status == "ok" and self.agrees(problem, r.value, expected) for r in results)
        return expected, "its check passes functions that do nothing" if passed else ""

    def in_process(self, problem: Mapping[str, Any]) -> bool:
        return bool(material(problem["judge"]).get("in_process", False))

    def usable(self, problem: Mapping[str, Any], expected: Any) -> str:
        for number, entry in enumerate(expected, 1):
            if "error" in entry:
                return f"case {number} of the reference raises {entry['error']}"
        if not expected:
            return "there is no case to judge by"
        judged, nothing = material(problem["judge"]), None if self.mode != PRINTED else ""
        if self.in_process(problem) and not judged["expected"] and any(entry["value"] is False for entry in expected):
            return "its check gives False for the reference"
        if judged["expected"] or self.in_process(problem):  # what is right is written down, or checked in the process
            return ""
        if all(entry["value"] is None or (nothing == "" and not str(entry["value"]).strip()) for entry in expected):
            what = "prints nothing in any test" if nothing == "" else "gives None in every case"
            return f"the reference {what}, so a program that does nothing would pass"
        return ""

    def answer_digest(self, problem: Mapping[str, Any], output: Any) -> str:
        return equality.answer_digest(self.mode, output)

    def agrees(self, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        rules = _rules(material(problem["judge"])) or [None] * len(expected)
        return len(output) == len(expected) and all(
            "value" in got and "value" in want and holds(rule, self.mode, got["value"], want["value"])
            for rule, got, want in zip(rules, output, expected, strict=True)
        )

    def normalise(self, code: str) -> str:
        return normalise(code)


PLACE = "__the_program__"
_READS_DOCSTRINGS = re.compile("__doc__|doctest|getdoc|docopt")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
WHOLE = "python3 program.py"


def judging(
    calls: Sequence[str],
    expected: Sequence[str] | None = None,
    *,
    rules: Sequence[Rule] = (),
    setup: str = "",
    after: str = "",
    wrap: str = "",
    in_process: bool = False,
) -> str:
    """A problem's judging material, as JSON.

    calls: expressions over the program's names.
    expected: expressions for their values, evaluated beside the reference and never beside the answer; None takes the
    values of the reference's calls.
    rules: how each call's value is compared, where some need not be the same value.
    setup, after: code that runs before and after the program.
    wrap: a program that has the program as text at PLACE; or WHOLE, for programs that read stdin and print: calls are then
    the inputs, and the values what is printed.
    in_process: some calls cannot be taken apart; they decide by themselves, or raise AssertionError on a wrong answer.
    """
    judged = {"calls": list(calls), "expected": expected and list(expected), "setup": setup, "after": after, "wrap": wrap}
    more = ({"rules": list(rules)} if any(rules) else {}) | ({"in_process": True} if in_process else {})
    return json.dumps(judged | more)


def judging_by_asserts(asserts: Iterable[str], *, reference: str = "", setup: str = "", after: str = "") -> str:
    """Judging material of asserts, taken apart. Raises ValueError with the first that is not an assert, or that uses
    nothing the reference defines (without a reference: nothing that an answer could define)."""
    known, before, behind = names_of(reference) if reference else None, names_of(setup), names_of(after)
    given = before.made | before.imported | behind.made | behind.imported
    classes = known.classes if known else frozenset[str]()
    checks = [take_apart(s, own_names(s, known, given), classes, given) for s in asserts]
    return judging(
        [c.call for c in checks],
        [c.expected for c in checks],
        rules=[c.rule for c in checks],
        setup=setup,
        after=after,
        in_process=any(c.in_process for c in checks),
    )


def _rules(judged: Mapping[str, Any]) -> list[Rule]:
    """A rule for each call; empty where every value must be the same."""
    return list(judged.get("rules", ()))


def calls_of(judge: str) -> list[str]:
    """The calls a problem is judged by, where each is a call of the program's own names with one right value; else none."""
    judged = material(judge)
    known = not judged["wrap"] and not judged.get("in_process") and ["among"] not in _rules(judged)
    return list(judged["calls"]) if known else []


def with_calls(judge: str, calls: Sequence[str], *, instead: bool = False) -> str:
    """Judging material with more calls, or with these instead. The reference gives their expected values; they get the
    tolerance of the known calls."""
    judged = material(judge)
    if instead:
        return json.dumps({k: v for k, v in judged.items() if k != "rules"} | {"calls": list(calls), "expected": None})
    more = {side: [*judged[side], *calls] for side in ("calls", "expected") if judged[side] is not None}
    rules = _rules(judged) or [None] * len(judged["calls"])
    return json.dumps(judged | more | {"rules": [*rules, *[for_more(rules)] * len(calls)]})


@lru_cache(maxsize=65536)
def normalise(code: str) -> str:
    """The program without comments and layout, and without docstrings where nothing reads them."""
    try:
        tree = parse(code)
        for node in ast.walk(tree) if not _READS_DOCSTRINGS.search(code) else ():
            if isinstance(node, _DOCUMENTED) and len(node.body) > 1 and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
        return ast.unparse(tree)
    except (Unparsable, ValueError, RecursionError):  # `unparse` of an integer of more than 4,300 digits, of a deep tree
        return code
