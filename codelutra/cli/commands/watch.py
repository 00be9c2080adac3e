"""Commands that show a run: status, report."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json, show_run
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def status(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; none lists all.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """What a run has found so far, and what it is doing now."""
    from codelutra.cli import tables
    from codelutra.results.load import list_runs, read_summary

    root = home_dir(home)
    runs = root / "runs"
    if name is not None:
        show_run(read_summary(runs, name), root, json_)
        return
    found, damaged = list_runs(runs)
    if json_:
        print_json([s.as_json() for s in found])
    elif found:
        tables.show(tables.runs_table(found))
    elif not damaged:
        print("no runs here yet; `codelutra run demo` makes one")
    for error in damaged:
        print(visible(f"codelutra: {error}"), file=sys.stderr)


def report(
    name: RunName,
    beside: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Another run to show it beside; repeatable.")
    ] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Write the run's report page with its figures (runs/RUN/report/index.html)."""
    from codelutra.cli.progress import Here
    from codelutra.reporting.report import write_report

    runs = home_dir(home) / "runs"
    with Here() as progress:
        page = write_report(runs / name, [runs / other for other in beside or ()], progress=progress)
    print(json.dumps({"report": str(page)}) if json_ else visible(f"report: {page}"))
