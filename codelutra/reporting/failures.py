"""Problem by problem, as parts of the report: what still fails, what each policy gained and lost, and the data from which
the page's script shows any problem and any two policies.

Without scripts the page has examples, and all answers in a file beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from codelutra.reporting.answers import Answered, embedded, readable
from codelutra.reporting.html import Html, cut, data, grid, join, tag
from codelutra.reporting.lessons import card, pill
from codelutra.results import text
from codelutra.results.findings import Findings
from codelutra.results.table import Table

ANSWERS_FILE = "dev-answers.jsonl"
Row = dict[str, Any]  # of `Answered.problems`
_SHOWN = 6
_FLIPS_SHOWN = 3  # a direction


def failures(found: Answered | None, *, every: bool = True) -> Html | None:
    """Dev problems the chosen policy gets wrong, the most frequent statuses in turns. `every`: with the data of all, for
    the page's script."""
    if found is None:
        return None
    name, wrong = found.policies[found.chosen], found.unsolved()
    counts = Counter(p["answers"][found.chosen]["status"] for p in wrong).most_common()
    by_status = [_spread([p for p in wrong if p["answers"][found.chosen]["status"] == s], _SHOWN) for s, _ in counts]
    picked = [p for turn in zip_longest(*by_status) for p in turn if p is not None][:_SHOWN]
    shares = ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in counts)
    asked = sum(p["answers"][found.chosen] is not None for p in found.problems)
    intro = f"{text.capital(name)} does not solve {len(wrong)} of {asked} dev problems: {shares}."
    if not wrong:
        intro = f"Nothing: {name} solves every dev problem."
    note = "Where order counts, the last columns of what was expected may be those that the reference sorts by."
    link = join(" All answers of all policies: ", tag("a", ANSWERS_FILE, href=ANSWERS_FILE), ".")
    examples = [tag("p", "Some of them:", class_="soft"), *(_failure(p, p["answers"][found.chosen]) for p in picked)]
    return join(
        tag("p", intro, class_="soft"),
        tag("p", note, link if every else "", class_="facts"),
        tag("div", id="explorer"),
        tag("div", *(examples if wrong else []), id="examples"),
        data("answers", embedded(found)) if every else "",
    )


def _failure(p: Row, answer: Row) -> Html:
    wrote = (join("it wrote ", pill(answer["status"])), answer["program"])
    told = {"error": cut(answer["error"], 400), "gave": readable(answer["gave"]), "expected": readable(p["expected"])}
    return card(p, wrote, ("reference", p["reference"]), *_told(told))


def gains(found: Findings, answers: Answered | None) -> Html | None:
    """Every policy against every one before it, and examples of what the chosen one gained and lost over the first."""
    policies = [p for p in found.policies if p.dev.n]
    if len(policies) < 2:
        return None
    cells = []
    for i, after in enumerate(policies[1:], 1):
        against = [found.gain(before, after) for before in policies[:i]]
        tests = [f"+{g.gained} −{g.lost}, {text.p_value(g.p)}" if g else "" for g in against]
        cells.append([after.name, *tests, *[""] * (len(policies) - 1 - i)])
    table = Table(["", *(f"against {p.name}" for p in policies[:-1])], cells)
    note = "+a −b: dev problems solved that the other policy did not solve, and the other way round."
    best = next((i for i, p in enumerate(policies) if found.best is p), 0)
    examples = _flips(answers, policies[0].name, policies[best].name) if answers and best else Html("")
    return join(grid(table), tag("p", note, class_="facts"), examples)


def _flips(found: Answered, before: str, after: str) -> Html:
    if not {before, after} <= set(found.policies):
        return Html("")
    old, new = found.policies.index(before), found.policies.index(after)
    parts = []
    for what, flipped in zip(("gained", "lost"), found.flips(old, new), strict=True):
        some = ", some of them" if len(flipped) > _FLIPS_SHOWN else ""
        if flipped:
            parts.append(tag("h3", f"{len(flipped)} that {after} {what} over {before}{some}"))
        for p in _spread(flipped, _FLIPS_SHOWN):
            a, b = p["answers"][old], p["answers"][new]
            sides = [(join(f"{name} ", pill(x["status"])), x["program"]) for name, x in ((before, a), (after, b))]
            told = {f"{name} gave": readable(x["gave"]) or cut(x["error"], 240) for name, x in ((before, a), (after, b))}
            parts.append(card(p, sides[0], sides[1], *_told({**told, "expected": readable(p["expected"])})))
    return join(*parts)


def _told(said: dict[str, str]) -> list[Html]:
    return [tag("p", tag("b", f"{kind} "), tag("code", what), class_="said") for kind, what in said.items() if what]


def _spread(rows: Sequence[Row], n: int) -> Sequence[Row]:
    """`n` of them, evenly spaced: always the same ones."""
    return rows[:: max(1, len(rows) // n)][:n]
