"""`codelutra runs list | show | rm`: how runs on the disk are printed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from codelutra.cli import tables
from codelutra.experiments.run_list import Listed
from codelutra.results.table import Table
from codelutra.store.paths import told_command

_GIB = 2**30


def when(seconds: float) -> str:
    """Seconds since 1970 as a date and time here; "" for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def runs_table(found: Sequence[Listed]) -> Table:
    rows = [
        {
            "run": run.name,
            "state": run.summary.state,
            "suite": run.summary.suite,
            "model": run.summary.model,
            "dev": f"{chosen.dev.value:.1%}" if (chosen := run.summary.chosen) and chosen.dev.n else "",
            "test": f"{run.summary.test.value:.1%}" if run.summary.test else "",
            "began": when(run.summary.started),
            "GiB": f"{(run.folder + run.uses) / _GIB:.2f}",
            "alone": f"{run.bytes / _GIB:.2f}",
        }
        for run in found
    ]
    return Table.of(rows, ["dev", "test", "GiB", "alone"])


def say_run(run: Listed) -> None:
    shared = run.uses - run.only
    lines = {
        "folder": str(run.path),
        "config": str(run.path / "run.yaml"),
        "model": run.summary.model,
        "began": f"{when(run.summary.started)}, last written {when(run.changed)}",
        "disk": f"{run.bytes / _GIB:.2f} GiB of its own, {shared / _GIB:.2f} GiB shared with other runs",
        "began with it": ", ".join(run.used_by),
        "promoted in": ", ".join(run.promoted_in),
    }
    for label, text in lines.items():
        if text:
            tables.say(f"{label + ':':<15}{text}")


def removal(run: Listed, *, done: bool) -> str:
    """What the removal of a run does, or has done."""
    took = f"{run.folder / 2**10:,.0f} KiB in {run.path}"
    left = f"{run.only / _GIB:.2f} GiB that no other run uses stay in the store"
    prune = f"`{told_command('codelutra prune', run.path)}` shows what may go"
    if done:
        return f"removed {run.name}: {took}. {left}; {prune}"
    return f"would remove {run.name}: {took}; --yes removes it. {left} then; {prune}"
