"""Commands for a policy that is retrained as data grows: retrain, promoted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, print_json
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def retrain(
    config: Config,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Promote only with a paired p of at most this on dev; 1 takes any gain.")
    ] = 1.0,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Where problems or settings are new: refine the promoted policy on them, promote the result if it is better.

    The config's name is the policy's. Problems stay on the split they were on as yours grow. What is promoted is at
    promoted/NAME/model. Nothing new costs nothing; interrupted, the same command goes on.
    """
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config
    from codelutra.experiments.retrain import conclude, next_retraining

    root, laid_over = home_dir(home), tuple(set_ or ())
    if due := next_retraining(root, config, laid_over):
        conclude(root, due, watch_run(config, due.arm.overrides, root), alpha=alpha)
    else:
        print("nothing new since the last retraining", file=sys.stderr)
    _show_record(root, load_config(config, laid_over).name, json_)


def promoted(
    name: Annotated[str, typer.Argument(help="The name in a retrained config.")],
    to: Annotated[str | None, typer.Option(metavar="RUN", help="Promote this retraining instead: roll back.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """The retrainings of a config and which policy is promoted now; --to goes back to an earlier one."""
    from codelutra.experiments.retrain import promote

    if to:
        promote(home_dir(home), name, to)
    _show_record(home_dir(home), name, json_)


def _show_record(root: Path, name: str, as_json: bool) -> None:
    from codelutra.cli import tables
    from codelutra.experiments.retrain import read_record, record_table

    record = read_record(root, name)
    now = record.promoted
    if as_json:
        rows = [row.model_dump(mode="json") for row in record.rows]
        print_json({"name": name, "promoted": now.model_dump(mode="json") if now else None, "retrainings": rows})
        return
    tables.show(record_table(record), f"{name}: retrainings")
    print(visible(f"promoted: {record.folder / 'model'}") if now else "promoted: none yet")
