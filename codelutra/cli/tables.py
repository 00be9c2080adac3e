"""Results on a terminal. What is shown is in the run's files; this module only lays it out.

Where there is no terminal (a pipe, a file) nothing is wrapped and nothing is cut.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from codelutra.cli.doctor import Check
from codelutra.pipeline.check import Report
from codelutra.results import text
from codelutra.results.escapes import one_line, visible
from codelutra.results.summary import RunSummary, policy_name
from codelutra.results.table import Table, policies_notes, policies_table
from codelutra.store.paths import told_command

_SHOWN = 10  # of a kind, for people; JSON has all
_ENDLESS = 10_000  # columns, where there is no terminal
_WORD = 8  # columns that a column of words needs; longer words are folded


def say(text: str, style: str = "") -> None:
    """Print text that may be anybody's."""
    console().print(visible(text), style=style or None)


def say_under(label: str, text: str) -> None:
    """Print `text` behind a label; on a terminal its further lines stand below its beginning."""
    width = max(console().width, len(label) + 20) if on_terminal() else _ENDLESS
    say(textwrap.fill(text, width, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False))


def console() -> Console:
    """Prints text as it is: no markup, no wrapping, no cutting."""
    width = None if sys.stdout.isatty() else _ENDLESS
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, width=width)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def narrow(columns: int = 110) -> bool:
    """Whether the terminal has too few columns for all of a wide table's."""
    return console().width < columns


def show(table: Table, title: str = "") -> None:
    """Print a table. On a narrow terminal words wrap; names (the first column) and numbers do not. Where these leave the
    words no room, rows stay whole and the terminal breaks them."""
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    grid = Grid(title=one_line(title) or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    needed = 1
    for i, name in enumerate(table.columns):
        kept = i == 0 or name in table.numbers
        cells = [one_line(name), *(row[i] for row in rows)]
        needed += 2 + max(map(len, cells) if kept else (min(len(w), _WORD) for c in cells for w in c.split()), default=0)
        grid.add_column(Text(cells[0]), justify="right" if name in table.numbers else "left", no_wrap=kept, overflow="fold")
    for n, row in enumerate(rows):
        grid.add_row(*map(Text, row), style="bold" if n == table.best else "")
    out = console()
    out.width = out.width if needed <= out.width else _ENDLESS
    out.print(grid)


def show_run(s: RunSummary, folder: Path) -> None:
    """What a run ends with: the table of its policies, notes, the test number, its state; `folder` is the run's."""
    table = policies_table(s)
    show(table.without("ends", "tokens") if narrow() else table, f"{s.run}: {s.suite} ({text.problem_counts(s)})")
    for note in policies_notes(s):
        say(note)
    if s.test:
        say(f"test (scored once, with {policy_name(s.test.policy)}): {text.rate(s.test)}, n = {s.test.n}")
    say(f"{s.state}: {s.reason}  ({s.minutes:.1f} minutes)" if s.reason else f"{s.state}  ({s.minutes:.1f} minutes)")
    for alarm in s.alarms:
        say(f"! {alarm}", style="yellow")
    if s.now:
        say(f"now: {s.now.stage} {s.now.done:,}/{s.now.total:,} {s.now.unit}{text.training(s.now.measures)}")
    report = told_command(f"codelutra report {s.run}", folder)
    say(f"files: {folder}   report: {report}   UI: make ui", style="dim")


def runs_table(summaries: Sequence[RunSummary]) -> Table:
    rows = [
        {
            "run": s.run,
            "suite": s.suite,
            "state": s.state,
            "best policy": s.chosen.name if s.chosen else "",
            "dev pass@1 [95 %]": text.dev_rate(s.chosen) if s.chosen else "",
        }
        for s in summaries
    ]
    return Table.of(rows)


def checks_table(checks: Sequence[Check]) -> Table:
    """What `codelutra doctor` found."""
    rows = [
        {
            "": "!" if c.warn else "✓" if c.ok else "✗",
            "what": c.name,
            "found": c.found,
            "how to get it": c.how_to_get_it if c.warn or not c.ok else "",
        }
        for c in checks
    ]
    return Table.of(rows)


def show_check(report: Report) -> None:
    """What `codelutra check` found: counts a split, the first of what fails and leaks, and what it comes to."""
    rows = [{k.replace("_", " "): "not counted" if v is None else str(v) for k, v in s.items()} for s in report.splits]
    numbers = [c for c in (rows[0] if rows else {}) if c not in ("split", "digest")]
    show(Table.of(rows, numbers), f"{report.suite['name']} {report.suite['version']}, {report.suite['mode']}")
    for kind, n in Counter(f["kind"] for f in report.failures).most_common():
        say(f"{n} × {kind}")
        for f in [f for f in report.failures if f["kind"] == kind][:_SHOWN]:
            why = "" if f["why"] == kind else f": {' '.join(f['why'].split())[:160]}"
            say(one_line(f"    {f['split']} {f['problem_id']}{why}"))
            if program := " ".join(f["reference"].split())[:160]:
                say(f"        {program}", style="dim")
    for leak in report.leaks[:_SHOWN]:
        where = f"{leak['suite']} {leak['split']} {leak['problem_id']}"
        say(one_line(f"leak: {where} has the {leak['shares']} of train {leak['train_id']}"))
    if len(report.leaks) > _SHOWN:
        say(f"… and {len(report.leaks) - _SHOWN} more leaks (--json lists all)")
    for line in report.notes:
        say(line)
    if failed := sum(row["reference_errors"] + row["flaky"] for row in report.splits):
        failing = f"{failed} reference{'s' if failed > 1 else ''} failed"
        say(f"{failing}: a problem with such a reference counts as unsolved and makes no pairs (--json lists all)")
    if report.spoilt:
        say(f"not OK: {'; '.join(report.spoilt)}")
    else:
        say("OK: no leaks; every split has usable references.")


def models_table(listed: Sequence[Mapping[str, Any]]) -> Table:
    """What `codelutra.planning.known` tells, a row a model."""
    rows = [
        {
            "name": m["name"],
            "parameters": f"{m['parameters'] / 1e9:.2f} B",
            "licence": m["licence"],
            "context": f"{m['context']:,}",
            **{f"{use} GiB": f"{m['gib'][key]:.1f}" for use, key in _USES.items()},
            "from": ", ".join("PyPI" if s.startswith("pypi:") else "hub" for s in m["sources"]),
            "here": ("from PyPI" if m["here"]["source"].startswith("pypi:") else "from the hub") if m["here"] else "",
        }
        for m in listed
    ]
    return Table.of(rows, ["parameters", "context", *(f"{use} GiB" for use in _USES)])


def narrow_models(table: Table) -> Table:
    """What of `models_table` fits 80 columns."""
    kept = table.without("parameters", "licence", "context", "from")
    short = [name.removesuffix(" GiB") for name in kept.columns]
    return replace(kept, columns=short, numbers=frozenset(_USES))


_USES = {"sample": "sample", "train": "full", "LoRA": "lora", "4-bit": "qlora"}


def by_stage(artifacts: Sequence[tuple[Path, int]]) -> Table:
    """Directories of the store with their bytes → a row a stage: how many, GiB."""
    kinds: dict[str, list[int]] = {}
    for path, size in artifacts:
        kinds.setdefault(path.parent.name, []).append(size)
    rows = [
        {"stage": k, "artifacts": str(len(sizes)), "GiB": f"{sum(sizes) / 2**30:.2f}"} for k, sizes in sorted(kinds.items())
    ]
    return Table.of(rows, numbers=["artifacts", "GiB"])


def purpose(preset: Path) -> str:
    """The sentence a preset opens with."""
    return preset.read_text().split("\n", 1)[0].lstrip("# ").strip()
