"""Options that several commands have, and how results are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codelutra.cli.completion import preset_starting, run_starting, setting_starting

if TYPE_CHECKING:
    from codelutra.results.summary import RunSummary
    from codelutra.results.table import Table

Home = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder that holds store/ and runs/ (default: $CODELUTRA_HOME, else this folder)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the config, e.g. train.beta=0.2; repeatable.",
        autocompletion=setting_starting,
    ),
]
Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A preset's name (`codelutra presets`) or the path of a YAML file.",
        autocompletion=preset_starting,
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name (`codelutra status` lists them).", autocompletion=run_starting)
]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def show_run(summary: RunSummary, home: Path, as_json: bool) -> None:
    """A run's record."""
    from codelutra.cli import tables

    print_json(summary.as_json()) if as_json else tables.show_run(summary, home / "runs" / summary.run)


def listed(what: dict[str, str], *columns: str) -> Table:
    """A table of names and what they are."""
    from codelutra.results.table import Table

    return Table(columns, list(what.items()))
