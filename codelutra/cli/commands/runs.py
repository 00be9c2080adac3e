"""Commands about runs as things on the disk: runs list, show, rm."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json, show_run
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def runs_list(home: Home = None, json_: Json = False) -> None:
    """Every run: state, suite, model, best numbers, when it began, its size on the disk.

    The run that was started last is at the end. *GiB* is all that the run uses in the store, *alone* what no other run
    uses: what its removal frees. E.g. `codelutra runs list --json`.
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
    """One run: where it is, when it ran, its size on the disk, what it began with and what began with it, and its record.

    E.g. `codelutra runs show demo`.
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
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only told.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Remove a run's folder. What it made stays in the store until `codelutra prune`: the same config is quick again.

    Refused for a run that is going on, that was promoted, or that another run began with. E.g. `codelutra runs rm demo
    --yes`; `codelutra prune demo --yes` removes the run and its work at once.
    """
    from codelutra.cli.shelf import removal
    from codelutra.experiments import run_list

    found = (run_list.remove if yes else run_list.removable)(home_dir(home), name)
    if json_:
        print_json({"removed": yes, "run": found.as_json(), "left_in_store": found.only})
    else:
        print(visible(removal(found, done=yes)))
