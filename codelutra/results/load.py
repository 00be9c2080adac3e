"""The record of a run from its folder: as it was written, or with what can be seen of the run now."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from codelutra.errors import UserError
from codelutra.results.summary import Progress, RunSummary
from codelutra.store.paths import go_on_command
from codelutra.store.run_dir import RunDir


def load_summary(run: Path) -> RunSummary | None:
    """The record in a run's folder as it was written, None where there is none.

    Raises UserError where the file cannot be read as one.
    """
    file = run / "summary.json"
    try:
        return RunSummary.model_validate(json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as e:  # ValidationError is a ValueError
        why = " ".join(str(e).split())[:200]
        raise UserError(f"{file} is damaged ({why}); `{go_on_command(run)}` writes it anew from the store") from e


def finished_summary(run: Path) -> RunSummary | None:
    """The record of a finished run; None where the run is missing or has not finished."""
    summary = load_summary(run)
    return summary if summary and summary.finished else None


def read_summary(runs: Path, name: str) -> RunSummary:
    """The record of a run with its live state. Raises UserError naming the runs there are."""
    run = RunDir(runs / name)
    summary = load_summary(run.path)
    if summary is None:
        there = sorted(p.parent.name for p in runs.glob("*/run.yaml"))
        raise UserError(f"no run {name!r} with results under {runs}; there: {', '.join(there) or 'none'}")
    if summary.state == "running" and not run.held:
        last = next((e for e in reversed(run.events()) if e["event"] != "refused"), {"event": ""})
        again = f"`{go_on_command(run.path)}` goes on where it was"
        failed = last["event"] == "error"
        summary.state = "failed" if failed else "interrupted"
        summary.reason = f"{last['text']}\n{again}" if failed else f"its process is gone; {again}"
    if summary.state == "running":
        with contextlib.suppress(ValueError):  # not readable: then it is not shown
            now = run.read("progress.json")
            summary.now = Progress.model_validate(now) if now else None
    return summary


def list_runs(runs: Path) -> tuple[list[RunSummary], list[UserError]]:
    """Every run with results, by name; and what is wrong with those whose record cannot be read."""
    found, damaged = [], []
    for path in sorted(runs.glob("*/summary.json")):
        try:
            found.append(read_summary(runs, path.parent.name))
        except UserError as e:
            damaged.append(e)
    return found, damaged


def chosen_weights(runs: Path, name: str) -> Path:
    """The weights that the finished run `name` chose (`model: run:NAME`).

    Raises UserError where there is no such run, it has not finished, or the weights are gone.
    """
    summary = load_summary(runs / name)
    if not summary:
        there = sorted(f.parent.name for f in runs.glob("*/summary.json"))
        raise UserError(f"model run:{name}: no such run in {runs}; there: {', '.join(there) or 'none'}")
    if not summary.finished or not summary.chosen:
        raise UserError(
            f"model run:{name} has not chosen a policy yet, it is {summary.state}; "
            f"`{go_on_command(runs / name)}` goes on to its end"
        )
    directory = Path(summary.chosen.path)
    if not (directory / "config.json").is_file():
        raise UserError(
            f"model run:{name}: the weights of its {summary.chosen.name} are not at {directory} any more; "
            f"`{go_on_command(runs / name)}` makes them anew"
        )
    return directory
