"""The command that checks the last runs and nights: health."""

from __future__ import annotations

from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, print_json
from codelutra.store.paths import home_dir


def health(
    days: Annotated[float, typer.Option(min=0, metavar="N", help="Look at runs that ended in the last N days.")] = 7.0,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Check the last runs and nights, and what blocks the next one.

    Exit code 1: something failed or blocks. That may be a failed run, an unfinished night, an engine held for a run that
    is gone, a full disk, no Docker, or a flow run that Prefect holds open. It changes nothing.

    ```
    codelutra health --days 1 || mail …
    ```
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
