"""Commands for a policy that is retrained as data grows: retrain, promoted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, print_json
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir

_FLIPS_SHOWN = 10  # problems gained, and as many lost


def retrain(
    config: Config,
    alpha: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="P", help="Promote only if p of the gain on dev is at most this; 1 takes any gain."
        ),
    ] = 0.2,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONFIG", help="A guard suite: promote only if there is no significant loss on it; repeatable."
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0,
            max=100,
            help="Promote only if the 95 % interval rules out a loss of so many points on every guard suite.",
        ),
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Refine the promoted policy on new data; promote a better one.

    If no problem and no setting is new, it ends at once. Problems stay in the split they were in while the data grow. The
    promoted policy is at promoted/NAME/model; NAME is the config's name. If it is interrupted, give the same command again.

    ```
    codelutra retrain my/config.yaml
    codelutra retrain my/config.yaml --keep other/config.yaml --margin 5
    ```
    """
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config
    from codelutra.experiments.gate import Gate, guards, judged
    from codelutra.experiments.retrain import conclude, next_retraining

    root, laid_over = home_dir(home), tuple(set_ or ())
    gate = Gate(alpha, tuple(keep or ()), margin).checked()
    if due := next_retraining(root, config, laid_over):
        summary = watch_run(config, due.arm.overrides, root)
        measured = guards(root, due, summary, gate)
        for arm in (arm for guard in measured for arm in guard.arms):
            watch_run(arm.source, arm.overrides, root)
        conclude(root, due, summary, alpha=alpha, guards=judged(root, measured, margin))
    else:
        print("nothing new since the last retraining", file=sys.stderr)
    _show_record(root, load_config(config, laid_over).name, json_)


def promoted(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a retrained config.")],
    to: Annotated[str | None, typer.Option(metavar="RUN", help="Go back: promote this earlier retraining.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Show a config's retrainings, and which is promoted now.

    ```
    codelutra promoted town
    codelutra promoted town --to town-r001
    ```
    """
    from codelutra.experiments.retrain import promote

    if to:
        promote(home_dir(home), name, to)
    _show_record(home_dir(home), name, json_)


def _show_record(root: Path, name: str, as_json: bool) -> None:
    from codelutra.cli import tables
    from codelutra.experiments.changes import flips_table
    from codelutra.experiments.retrain import read_record, record_table

    record = read_record(root, name)
    now = record.promoted
    if as_json:
        rows = [row.model_dump(mode="json") for row in record.rows]
        print_json({"name": name, "promoted": now.model_dump(mode="json") if now else None, "retrainings": rows})
        return
    tables.show(record_table(record), f"{name}: retrainings")
    last = next((row for row in reversed(record.rows) if row.paired or row.guards), None)
    if last:
        flips, most = last.flips, _FLIPS_SHOWN
        if flips.gained or flips.lost:
            title = f"{last.run}: dev problems it solves and its start does not, and the other way round"
            tables.show(flips_table(flips, most), title)
        if max(len(flips.gained), len(flips.lost)) > most:
            print(visible(f"all {len(flips.gained) + len(flips.lost)}: {record.folder / 'record.json'}"))
        for guard in last.guards:
            print(visible(guard.text))
    print(visible(f"promoted: {record.folder / 'model'}") if now else "promoted: none yet")
