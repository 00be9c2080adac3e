"""What an iteration learned from, as parts of the report: pairs, or answers in groups; and the cards that show programs."""

from __future__ import annotations

from typing import Any

import polars as pl

from codelutra.reporting.html import Html, cut, folded, join, side_by_side, tag
from codelutra.results.findings import Findings, question, spread
from codelutra.results.summary import iteration_of

Row = dict[str, Any]  # of a frame
_SHOWN = 3  # an iteration
_CODE_SHOWN = 1200  # characters


def pairs(found: Findings) -> Html | None:
    parts = []
    for row in found.policies:
        frame = found.frame(f"{row.folder}/pairs.parquet")
        if not row.funnel or frame is None or frame.is_empty():
            continue
        kinds = dict(frame["rejected_status"].value_counts(sort=True).rows())
        against = ", ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in kinds.items())
        stood_in = row.funnel.pairs_from_references or 0
        intro = f"{frame.height:,} pairs of {frame['problem_id'].n_unique():,} problems, from the answers of {row.name}. "
        intro += f"Rejected: {against}. " + (f"In {stood_in:,} the reference is the chosen answer." if stood_in else "")
        parts += [tag("h3", f"Pairs that policy {iteration_of(row.label) + 1} learned from"), tag("p", intro, class_="soft")]
        parts += [_pair(p) for p in spread(frame, _SHOWN).rows(named=True)]
    return join(*parts) if parts else None


def _pair(p: Row) -> Html:
    source = "the reference" if p["chosen_source"] == "reference" else f"sample {p['chosen_sample']}"
    rejected = join(f"rejected: sample {p['rejected_sample']} ", pill(p["rejected_status"]))
    chosen = join(f"chosen: {source} ", pill("correct"))
    return card(p, (rejected, p["rejected"]), (chosen, p["chosen"]))


def answers(found: Findings) -> Html | None:
    """Of GRPO: some groups, right answers and wrong ones with their advantages."""
    parts = []
    for row in found.policies:
        frame = found.frame(f"{row.folder}/groups.parquet")
        if frame is None or frame.is_empty():
            continue
        kinds = dict(frame.group_by("status").agg(pl.col("count").sum()).sort("count", descending=True).rows())
        intro = f"{frame.height:,} distinct answers in {frame['problem_id'].n_unique():,} groups, from {row.name}. "
        intro += f"Samples: {', '.join(f'{n:,} {status}'.replace('_', ' ') for status, n in kinds.items())}."
        parts += [
            tag("h3", f"Answers that policy {iteration_of(row.label) + 1} learned from"),
            tag("p", intro, class_="soft"),
        ]
        best = frame.sort("reward", "count", descending=True).unique("problem_id", keep="first", maintain_order=True)
        worst = frame.sort("reward", "count", descending=[False, True]).unique(
            "problem_id", keep="first", maintain_order=True
        )
        sides = best.join(worst, on="problem_id", suffix="_of_worst").sort("problem_id")
        for p in spread(sides, _SHOWN).rows(named=True):
            right, wrong = (p | {k: p[f"{k}{side}"] for k in ("status", "count", "advantage")} for side in ("", "_of_worst"))
            parts.append(card(p, (_weight(wrong), p["completion_of_worst"]), (_weight(right), p["completion"])))
    return join(*parts) if parts else None


def _weight(answer: Row) -> Html:
    times = "once" if answer["count"] == 1 else f"{answer['count']} times"
    return join(f"{times}, advantage {answer['advantage']:+.2f} ", pill(answer["status"]))


def card(problem: Row, left: tuple[str, str], right: tuple[str, str], *more: Html) -> Html:
    """A problem, two (label, program) for it, and what more there is to say."""
    (left_label, left_code), (right_label, right_code) = left, right
    programs = side_by_side((left_label, cut(left_code, _CODE_SHOWN)), (right_label, cut(right_code, _CODE_SHOWN)))
    return tag("div", _asked(problem["problem_id"], problem["prompt"]), programs, *more, class_="card")


def _asked(problem_id: str, prompt: str) -> Html:
    whole = prompt.strip()
    asked = question(whole)
    more = folded("whole prompt", tag("pre", whole)) if whole != asked else Html("")
    return join(tag("p", tag("b", asked), " ", tag("span", problem_id, class_="soft"), class_="ask"), more)


def pill(status: str) -> Html:
    return tag("span", status.replace("_", " "), class_="pill good" if status == "correct" else "pill bad")
