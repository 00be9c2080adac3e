"""The command that says whether all is well: health."""

from __future__ import annotations

from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, print_json
from codelutra.store.paths import home_dir


def health(
    days: Annotated[float, typer.Option(min=0, metavar="N", help="Runs that ended in the last N days.")] = 7.0,
    home: Home = None,
    json_: Json = False,
) -> None:
    """What the last runs and nights came to, what failed and why, and what blocks the next one.

    Exit 1 where something failed or blocks: a failed run, a night that has not finished, a held engine whose run is gone, a
    full disk, no Docker, a flow run that Prefect holds open. It only looks.
    E.g. every morning: `codelutra health --days 1 || mail …`.
    """
    from dataclasses import asdict

    from codelutra.cli import tables
    from codelutra.cli.health import health as looked

    found = looked(home_dir(home), days)
    if json_:
        kept = ("name", "ok", "warn", "found", "how_to_get_it")
        print_json([{k: v for k, v in asdict(check).items() if k in kept} for check in found])
    else:
        tables.show(tables.checks_table(found).renamed(**{"how to get it": "what to do"}))
    if not all(check.ok for check in found):
        raise typer.Exit(1)
