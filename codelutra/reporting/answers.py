"""What every policy answered to every dev problem: one frame, the data that the report's page embeds, a file beside it.

PROBLEMS, EXPECTED, and OUTCOMES and SCORES of dev ──► one row a problem, with an answer of every policy, other runs' too
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from codelutra.reporting.html import cut
from codelutra.results.escapes import visible
from codelutra.results.findings import Findings, question
from codelutra.results.summary import PolicyResult
from codelutra.scoring.scores import that_count
from sandbox.answers import shown
from sandbox.protocol import decode

Row = dict[str, Any]  # of a frame
_CUTS = (1200, 600, 300, 150)  # characters of a program that the page holds: the first with which all fit
_LARGEST = 6_000_000  # characters of programs, prompts and outputs in a page
_OUTPUT = 240  # characters of an output


@dataclass(frozen=True)
class Answered:
    """Greedy answers to the dev problems."""

    policies: list[str]
    """Names, those of other runs with the run's name before."""
    chosen: int
    """Index of the policy the run ships, or would ship now."""
    problems: list[Row]
    """By id: problem_id, group, difficulty, prompt, reference, expected; and `answers`, one a policy: status, completion,
    finish_reason, seconds, program, gave, error; None where it does not count (an infrastructure failure) or was not asked
    for."""

    def flips(self, before: int, after: int) -> tuple[list[Row], list[Row]]:
        """Problems that only the policy `after` solves, and those that only `before` solves, as McNemar's test does."""
        gained, lost = list[Row](), list[Row]()
        for p in self.problems:
            old, new = p["answers"][before], p["answers"][after]
            if old and new and (old["status"] == "correct") != (new["status"] == "correct"):
                (gained if new["status"] == "correct" else lost).append(p)
        return gained, lost

    def unsolved(self) -> list[Row]:
        """Problems that the chosen policy does not solve."""
        return [p for p in self.problems if (a := p["answers"][self.chosen]) and a["status"] != "correct"]


def answered(found: Findings, others: Sequence[Findings] = ()) -> Answered | None:
    """None where the run has no answers to dev problems, or they are gone."""
    problems, expected = found.frame("problems.parquet"), found.frame("expected.parquet")
    mine = [(p.name, frame) for p in found.policies if (frame := _of_policy(found, p)) is not None]
    best = found.best
    if problems is None or expected is None or best is None or best.name not in [name for name, _ in mine]:
        return None
    chosen = [name for name, _ in mine].index(best.name)
    beside = [
        (f"{other.summary.run}: {p.name}", frame)
        for other in others
        if _same_questions(found, other)
        for p in other.policies
        if (frame := _of_policy(other, p)) is not None
    ]
    dev = problems.filter(pl.col("split") == "dev").sort("problem_id")
    dev = dev.join(expected.select("problem_id", "expected"), on="problem_id", how="left", maintain_order="left")
    dev = dev.select("problem_id", "group", "difficulty", "prompt", "reference", pl.col("expected").fill_null(""))
    for i, (_, frame) in enumerate([*mine, *beside]):
        named = frame.select("problem_id", pl.struct(pl.exclude("problem_id")).alias(f"answer-{i}"))
        dev = dev.join(named, on="problem_id", how="left", maintain_order="left")
    names = [name for name, _ in [*mine, *beside]]
    answers = [f"answer-{i}" for i in range(len(names))]
    rows = [
        {k: v for k, v in r.items() if k not in answers} | {"answers": [r[a] for a in answers]} for r in dev.rows(named=True)
    ]
    return Answered(names, chosen, rows)


def _of_policy(found: Findings, policy: PolicyResult) -> pl.DataFrame | None:
    """(problem_id and what `Answered.problems` has of an answer) of the answers that count."""
    outcomes, scores = found.dev_outcomes(policy), found.dev_scores(policy)
    if outcomes is None or scores is None:
        return None
    greedy = outcomes.filter("greedy").unique("problem_id", keep="first", maintain_order=True)
    program = pl.when(pl.col("code") == "").then("completion").otherwise("code")
    error = pl.col("error").str.strip_chars()
    said = greedy.select("problem_id", "completion", "finish_reason", "seconds", program=program, gave="output", error=error)
    judged = that_count(scores).select("problem_id", status=pl.col("greedy_status").cast(pl.String))
    joined = judged.join(said, on="problem_id")
    return joined if joined.height else None


def _same_questions(one: Findings, other: Findings) -> bool:
    """Whether two runs asked the same dev problems and judged them alike."""
    a, b = one.summary, other.summary
    asked = [(s.suite, s.suite_version, s.mode, s.split_digests.get("dev")) for s in (a, b)]
    return bool(a.split_digests.get("dev")) and asked[0] == asked[1]


def embedded(found: Answered) -> str:
    """The JSON that the page holds: each text once, cut to what a page can hold, harmless inside <script>."""
    for most in _CUTS:
        texts: dict[str, int] = {}
        problems = [_packed(p, texts, most) for p in found.problems]
        if sum(map(len, texts)) <= _LARGEST:
            break
    content = {"policies": found.policies, "chosen": found.chosen, "texts": list(texts), "problems": problems}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _packed(problem: Row, texts: dict[str, int], most: int) -> list[Any]:
    """A problem as the page's script reads it: [id, group, difficulty, question, context, reference, expected, answers], an
    answer [status, program, gave, error], and texts by their index."""

    def kept(text: str, length: int = most) -> int:
        return texts.setdefault(cut(visible(text), length), len(texts))

    prompt = problem["prompt"].strip()
    asked = question(prompt)
    context = prompt.removesuffix(asked).strip()
    answers = [
        a and [a["status"], kept(a["program"]), kept(readable(a["gave"])), kept(a["error"], 400)] for a in problem["answers"]
    ]
    names = [visible(problem[name]) for name in ("problem_id", "group", "difficulty")]
    told = (asked, most), (context, 3 * most), (problem["reference"], most), (readable(problem["expected"]), most)
    return [*names, *(kept(text, length) for text, length in told), answers]


def as_lines(found: Answered) -> str:
    """All of it as JSON lines, one a policy and problem, nothing cut."""
    rows = [
        {"policy": name, **{k: v for k, v in p.items() if k != "answers"}, **answer}
        for p in found.problems
        for name, answer in zip(found.policies, p["answers"], strict=True)
        if answer
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def readable(output: str) -> str:
    """An output as it is kept (canonical JSON, or a preview that may be cut short) for people: rows, counted, or the values
    of a Python problem's calls. "" where those say nothing: errors, which are told beside, and checks that return None."""
    try:
        value = decode(json.loads(output))
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(output)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # cut short, or nothing to read
            return "" if output.startswith("[{'error': ") else cut(output, _OUTPUT)
    if _are_calls(value):
        told = [f"raises {call['error']}" if "error" in call else shown(call["value"]) for call in value]
        return cut("; ".join(told), _OUTPUT) if any(call.get("value") is not None for call in value) else ""
    rows = value["rows"] if isinstance(value, dict) and "rows" in value else value
    if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return cut(shown(value), _OUTPUT)
    cells = "; ".join("(" + ", ".join("NULL" if v is None else shown(v) for v in row) + ")" for row in rows)
    return cut(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {cells}" if rows else "no rows", _OUTPUT)


def _are_calls(value: Any) -> bool:
    """Whether it is what a Python problem's calls gave: [{"value": …} or {"error": …}]."""
    calls = value if isinstance(value, list) else []
    return bool(calls) and all(isinstance(c, dict) and list(c) in (["value"], ["error"]) for c in calls)
