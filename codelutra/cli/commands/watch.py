"""Commands that show a run: status, report."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json, show_run
from codelutra.cli.completion import run_starting
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's name; without it, all runs.", autocompletion=run_starting)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch it to its end; without RUN, the run that is going on.")
    ] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Show what a run has found, and what it is doing now.

    Ctrl-C ends the watching and leaves the run alone.

    ```
    codelutra status
    codelutra status demo --follow
    ```
    """
    from codelutra.cli import tables
    from codelutra.cli.follow import at_work, dates_line, engine_line
    from codelutra.cli.follow import follow as watch
    from codelutra.results.load import list_runs, read_summary
    from codelutra.store.run_dir import RunDir

    root = home_dir(home)
    runs = root / "runs"
    if follow:
        name = name or at_work(runs)
        read_summary(runs, name)
        watch(RunDir(runs / name))
    if name is not None:
        summary = read_summary(runs, name)
        show_run(summary, root, json_)
        if not json_:
            engine = f"; {engine_line()}" if summary.state == "running" else ""
            tables.say(f"{dates_line(summary, RunDir(runs / name))}{engine}", style="dim")
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
        list[str] | None, typer.Option(metavar="RUN", help="Another run to show beside it; repeatable.")
    ] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Write a run's page: figures, pairs, failures.

    The page is runs/RUN/report/index.html. It is one file and loads nothing from elsewhere.

    ```
    codelutra report demo
    ```
    """
    from codelutra.cli.progress import Here
    from codelutra.reporting.report import write_report
    from codelutra.results.load import run_folder

    runs = home_dir(home) / "runs"
    with Here() as progress:
        folders = [run_folder(runs, run) for run in (name, *(beside or ()))]
        page = write_report(folders[0], folders[1:], progress=progress)
    print(json.dumps({"report": str(page)}) if json_ else visible(f"report: {page}"))
