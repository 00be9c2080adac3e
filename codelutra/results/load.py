"""The record of a run from its folder: as it was written, or with what can be seen of the run now."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from codelutra.errors import UserError
from codelutra.reading.keys import nearest, shown
from codelutra.results.summary import Progress, RunSummary, TestResult
from codelutra.scoring.scores import pass_at_1
from codelutra.scoring.statistics import Estimate
from codelutra.store.artifacts import read_frame, require_whole
from codelutra.store.files import reading
from codelutra.store.paths import go_on_command, where_now
from codelutra.store.run_dir import RunDir

RECORD = "summary.json"
_NAME_BYTES = 255  # of a file's name
NEXT_RECORD = "summary.next.json"  # of a start over a whole record, until it is as whole


def run_folder(runs: Path, name: str) -> Path:
    """The folder of run `name`. Raises UserError, naming the runs there are, for what cannot be a run's name."""
    name = name.removesuffix("/")  # a shell completes the names of folders so
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > _NAME_BYTES:
        rule = f"a name has no slash and at most {_NAME_BYTES} bytes"
        raise UserError(f"{shown(name)} cannot be the name of a run: {rule}; {_those_there(runs, Path(name).name)}")
    return runs / name


def no_run(runs: Path, name: str, *, asked: str = "", that: str = "") -> UserError:
    """What to raise where no run has this name (and is `that`). `asked`: what named it, where it is not the command line."""
    return UserError(f"{asked}no run {shown(name)}{that} under {runs}; {_those_there(runs, name)}")


def _those_there(runs: Path, name: str) -> str:
    there = run_names(runs)
    return f"there: {', '.join(there) or 'none'}{nearest(name, there)}"


def load_summary(run: Path, name: str = RECORD) -> RunSummary | None:
    """The record in a run's folder, None where there is none: as it was written, but for the name, which is the folder's,
    and for where its policies lie now.

    Raises UserError where the file cannot be read as one.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        reading(run / name, f"`{go_on_command(run)}` writes it anew from the store"),
    ):
        summary = RunSummary.model_validate_json((run / name).read_bytes())
        summary.run = run.name or summary.run
        for row in summary.policies:
            row.path = where_now(row.path, run.absolute().parents[1])
        return summary
    return None


def finished_summary(run: Path) -> RunSummary | None:
    """The record of a finished run; None where the run is missing or has not finished."""
    summary = load_summary(run)
    return summary if summary and summary.finished else None


def read_summary(runs: Path, name: str, *, newest: bool = True) -> RunSummary:
    """The record of a run with its live state. Raises UserError naming the runs there are.

    `newest`: of a run that was started over a whole record and goes on, what it has found since; else the whole one, to
    which the links in its folder belong.
    """
    run = RunDir(run_folder(runs, name))
    held, summary = run.held, load_summary(run.path)
    if held and newest:
        summary = load_summary(run.path, NEXT_RECORD) or summary
    summary = summary or _without_results(run)
    if summary is None:
        raise no_run(runs, name, that=" with results")
    if held:
        _tell_of_now(summary, run)
    elif summary.state == "running":
        last = next((e for e in reversed(run.events()) if e["event"] not in ("refused", "unpublished")), {"event": ""})
        again = f"`{go_on_command(run.path)}` goes on where it was"
        failed = last["event"] == "error"
        summary.state = "failed" if failed else "interrupted"
        summary.reason = f"{last.get('text', '')}\n{again}" if failed else f"its process is gone; {again}"
    elif summary.finished and (run.path / NEXT_RECORD).is_file():
        summary.reason += f" (started again and not finished; `{go_on_command(run.path)}` goes on)"
    return summary


def run_names(runs: Path) -> list[str]:
    """The folders in `runs` that are of a run."""
    return sorted({p.parent.name for kind in ("run.yaml", RECORD) for p in runs.glob(f"*/{kind}")})


def list_runs(runs: Path) -> tuple[list[RunSummary], list[UserError]]:
    """Every run, by name; and what is wrong with those whose record cannot be read."""
    found, damaged = [], []
    for name in run_names(runs):
        try:
            found.append(read_summary(runs, name))
        except UserError as e:
            damaged.append(e)
    return found, damaged


def _without_results(run: RunDir) -> RunSummary | None:
    """The record of a run that has measured nothing yet, from its config."""
    config = run.config("remove it and start the run again")
    if config is None:
        return None
    known = {"run": run.path.name, "suite": config.suite.name, "model": config.model}
    return RunSummary(**known, suite_version="", mode="", state="running", started=(run.path / "run.yaml").stat().st_mtime)


def _tell_of_now(summary: RunSummary, run: RunDir) -> None:
    """Add what the process that is at the run does now, and the minutes since the record was written."""
    written = max(
        (f.stat().st_mtime for n in (RECORD, NEXT_RECORD) if (f := run.path / n).is_file()), default=summary.started
    )
    summary.state = "running"
    summary.minutes += max(0.0, time.time() - written) / 60
    now, last = run.progressed(), next(reversed(run.events()), None)
    if last and last["event"] == "waiting" and last.get("at", 0.0) >= (now or {"at": 0.0})["at"]:
        summary.reason = f"waiting for {last.get('what')}"
        return
    with contextlib.suppress(ValidationError):  # not readable: then it is not shown
        summary.now = Progress.model_validate(now) if now else None


def read_scores(run: Path, artifact: str, said: Estimate | TestResult) -> pl.DataFrame:
    """The SCORES that a run's folder links as `artifact`, for which its record has the numbers `said`.

    Raises FileNotFoundError where they are not there, and UserError where they are damaged or another policy's.
    """
    file, mend = run / artifact / "scores.parquet", f"`{go_on_command(run)}` makes it anew"
    frame = read_frame(file, mend)
    with reading(file, mend):
        found = pass_at_1(frame)
        if (found.correct, found.n) != (said.correct, said.n):
            raise ValueError(f"{found.correct} of {found.n} right, {said.correct} of {said.n} in {RECORD}")
    return frame


def whole_weights(runs: Path, name: str) -> Path:
    """`chosen_weights`, for who starts from them. Raises UserError, too, where what was trained was changed since."""
    directory = chosen_weights(runs, name)
    if (directory / "manifest.json").exists():  # else a model as it came
        require_whole(directory, f"`{go_on_command(runs / name)}` makes it anew")
    return directory


def chosen_weights(runs: Path, name: str) -> Path:
    """The weights that the finished run `name` chose (`model: run:NAME`).

    Raises UserError where there is no such run, it has not finished, or the weights are gone.
    """
    summary = load_summary(run_folder(runs, name))
    if not summary:
        raise no_run(runs, name, asked=f"model run:{name}: ")
    if not summary.finished or not summary.chosen:
        raise UserError(
            f"model run:{name} has not chosen a policy yet, it is {summary.state}; "
            f"`{go_on_command(runs / name)}` goes on to its end"
        )
    if summary.chosen.path.startswith("api:"):
        raise UserError(f"model run:{name}: that run measured {summary.chosen.path}, which has no weights here; give that")
    directory = Path(summary.chosen.path)
    if not (directory / "config.json").is_file():
        raise UserError(
            f"model run:{name}: the weights of its {summary.chosen.name} are not at {directory} any more; "
            f"`{go_on_command(runs / name)}` makes them anew"
        )
    return directory
