"""Problems on a terminal, a few lines each: what was asked, what a policy wrote, what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from codelutra.cli import tables
from codelutra.results import text
from codelutra.results.changes import Changes
from codelutra.results.escapes import one_line
from codelutra.results.table import Table

FEW = 10  # cards on a terminal, where no other number is asked for
_LONGEST = 400  # characters of an output or an error


def show_failures(failed: pl.DataFrame, asked: int, policy: str, most: int | None) -> None:
    """`failed` of `results.answers`, of `asked` problems; `most`: None shows a few on a terminal, and all in a pipe."""
    counts = failed["status"].cast(pl.String).value_counts(sort=True).rows()
    told = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts)
    tables.say(f"{policy}: {failed.height} failures among {asked} dev problems{f': {told}' if told else ''}")
    if failed["group"].n_unique() > 1:
        tables.show(_by_group(failed))
    cards: list[Card] = [
        (r, [("wrote", r["program"] or "(nothing that runs)"), ("reference", r["reference"]), *_gave(r)], r["status"])
        for r in failed.rows(named=True)
    ]
    _show(cards, most)


def show_changes(c: Changes, most: int | None) -> None:
    tables.say(f"from {c.before} to {c.after}: {text.paired(c.paired)}, {c.paired.n} dev problems that both were asked")
    for n, of in ((c.only_before, c.before), (c.only_after, c.after)):
        if n:
            tables.say(f"{n} more were asked of {of} alone")
    if len(set(c.modes)) > 1:
        tables.say(f"! judged under two comparison modes, {' and '.join(c.modes)}: part of it may be their doing", "yellow")
    for key, (was, now) in c.settings.items():
        tables.say(one_line(f"{key}: {was} → {now}"), "dim")
    for title, frame in (("gained", c.gained), ("lost", c.lost)):
        if frame.height:
            tables.say(f"\n{title}: {frame.height}", "bold")
        _show([(r, _sides(r), f"{r['status']} → {r['status_after']}") for r in frame.rows(named=True)], most)


def _sides(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Both programs, and of the one that failed what it gave."""
    failed = "" if r["status"] != "correct" else "_after"
    gave = _gave({"output": r[f"output{failed}"], "error": r[f"error{failed}"], "expected": r["expected"]})
    programs = [("before", r["program"]), ("after", r["program_after"])]
    return [*[(label, code or "(nothing that runs)") for label, code in programs], ("reference", r["reference"]), *gave]


def _gave(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    from codelutra.reporting.answers import readable

    told = {"error": r["error"].strip()[-_LONGEST:], "gave": readable(r["output"]), "expected": readable(r["expected"])}
    return [(label, what) for label, what in told.items() if what]


Card = tuple[Mapping[str, Any], list[tuple[str, str]], str]  # the problem; labelled texts; how it went


def _show(cards: list[Card], most: int | None) -> None:
    limit = most or (FEW if tables.on_terminal() else len(cards))
    for row, lines, status in cards[:limit]:
        tables.say("")
        tables.say(one_line(f"{row['problem_id']}  {row['group']}: {status}"), "bold")
        tables.say_under("  ", one_line(row["question"]))
        for label, what in lines:
            first, *rest = what.strip().splitlines() or [""]
            if not rest:
                tables.say_under(f"  {label:<9}  ", one_line(first))
                continue
            tables.say(f"  {label:<9}  {one_line(first)}")  # a program whose line breaks count: no others are put in
            for line in rest:
                tables.say(f"  {'':<9}  {one_line(line)}")
    if len(cards) > limit:
        tables.say(f"\n… and {len(cards) - limit} more (--most {len(cards)} shows all, --csv and --json too)")


def _by_group(failed: pl.DataFrame) -> Table:
    counts = (
        failed.with_columns(pl.col("status").cast(pl.String))
        .pivot("status", index="group", values="problem_id", aggregate_function="len")
        .fill_null(0)
        .sort("group")
    )
    statuses = counts.columns[1:]
    rows = [
        {"group": group, **{s.replace("_", " "): str(n or "") for s, n in zip(statuses, ns, strict=True)}}
        for group, *ns in counts.rows()
    ]
    return Table.of(rows, [s.replace("_", " ") for s in statuses])
