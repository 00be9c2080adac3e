"""Commands about runs on the disk: runs list, show, rm."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json, show_run
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def runs_list(home: Home = None, json_: Json = False) -> None:
    """List the runs: state, suite, model, best numbers, date, size.

    The run that was started last comes last. *GiB* is everything that the run uses in the store. *alone* is the part that
    no other run uses, which removing the run frees.
    """
    from codelutra.cli import tables
    from codelutra.cli.shelf import runs_table
    from codelutra.experiments.run_list import listed

    found, damaged = listed(home_dir(home))
    if json_:
        print_json([run.as_json() for run in found])
    elif found:
        table = runs_table(found)
        tables.show(table.without("model", "suite") if tables.narrow() else table)
    elif not damaged:
        print("no runs here yet; `codelutra run demo` makes one")
    for error in damaged:
        print(visible(f"codelutra: {error}"), file=sys.stderr)


def runs_show(name: RunName, home: Home = None, json_: Json = False) -> None:
    """Show one run: folder, dates, size, results, and related runs.

    Related runs are the one that it started from, and those that started from it.

    ```
    codelutra runs show demo
    ```
    """
    from codelutra.cli.shelf import say_run
    from codelutra.experiments.run_list import one

    root = home_dir(home)
    found = one(root, name)
    if json_:
        print_json({**found.as_json(), "record": found.summary.as_json()})
        return
    say_run(found)
    show_run(found.summary, root, False)


def runs_rm(
    name: RunName,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without --yes it is only listed.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Remove a run's folder.

    What the run made stays in the store until `codelutra prune`, so the same config is quick to run again. (`codelutra
    prune demo --yes` removes both at once.) A run is kept if it is going on, was promoted, or another run started from it.

    ```
    codelutra runs rm demo --yes
    ```
    """
    from codelutra.cli.shelf import removal
    from codelutra.experiments import run_list

    found = (run_list.remove if yes else run_list.removable)(home_dir(home), name)
    if json_:
        print_json({"removed": yes, "run": found.as_json(), "left_in_store": found.only})
    else:
        print(visible(removal(found, done=yes)))
