"""Several runs of one config: a name for a variant (`demo-beta-0.2`), and moving an earlier run aside (`--fresh`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from codelutra.config import HOW_FAR, SAME_RESULT, RunConfig, load_config, settings, to_yaml
from codelutra.errors import UserError
from codelutra.experiments.prune import refuse_needed
from codelutra.results.load import NEXT_RECORD, RECORD, load_summary, run_names
from codelutra.store.artifacts import Store
from codelutra.store.files import write_atomic
from codelutra.store.run_dir import RunDir

LONGEST = 64  # characters of a run's name


def label_of(chosen: Sequence[tuple[str, str]]) -> str:
    """ "learning_rate 1e-5" of train.learning_rate=1e-5."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen)


def variant_name(base: str, chosen: Sequence[tuple[str, str]]) -> str:
    """ "demo-learning_rate-1e-5" of demo and train.learning_rate=1e-5; different for different settings."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{base}-{label_of(chosen)}").strip("-")
    return name if len(name) <= LONGEST else f"{name[:55]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def named_apart(home: Path, source: str, overrides: tuple[str, ...]) -> str:
    """A name for `source` with `overrides` where there is a run of its name with other settings; "" where its own will do.

    A setting that may change between two starts of a run is not in the name. None is made up where the overrides have one,
    or where they change nothing: it is the file that has changed then.
    """
    config = load_config(source, overrides)
    given = [(key, value) for key, _, value in (text.partition("=") for text in overrides)]
    counting = settings(config, SAME_RESULT, HOW_FAR).keys()
    chosen = [(k, v) for k, v in given if k in counting or any(name.startswith(f"{k}.") for name in counting)]
    if any(key == "name" for key, _ in given) or not RunDir(home / "runs" / config.name).is_of_another(config):
        return ""
    return variant_name(config.name, list(dict(chosen).items())) if chosen else ""


def set_aside(home: Path, config: RunConfig) -> str:
    """Give the run of `config`'s name another one, so that it can be made anew; returns that.

    "" where there is nothing to move: no run, one without results, or one of the same config that has not finished, which
    goes on.

    Raises UserError where a process is at it, where it was promoted, or where another run began with its policy.
    """
    run = RunDir(home / "runs" / config.name)
    if run.config("move it away") is None and load_summary(run.path) is None:
        return ""
    with Store(home / "store").in_use(), run.hold():  # nobody prunes meanwhile what its links are to
        summary = load_summary(run.path)
        if not run.has_scores or (not run.is_of_another(config) and not (summary and summary.finished)):
            return ""
        try:
            refuse_needed(home, run_names(home / "runs"), [config.name])
        except UserError as e:
            raise UserError(f"{e}; give the new one a name of its own (--set name=…)") from e
        name = _free_name(run)
        _rename(run, name)
    return name


def _rename(run: RunDir, name: str) -> None:
    """What it says of its name is changed first: killed in between, it is of another config, and is set aside again."""
    if config := run.config("move it away"):
        write_atomic(run.path / "run.yaml", to_yaml(config.model_copy(update={"name": name})))
    for record in (RECORD, NEXT_RECORD):
        if summary := load_summary(run.path, record):
            run.write(record, summary.model_copy(update={"run": name}).as_json())
    os.rename(run.path, run.path.with_name(name))


def _free_name(run: RunDir) -> str:
    """The run's name and when it was last written to."""
    written = time.time()
    with contextlib.suppress(FileNotFoundError):
        written = (run.path / RECORD).stat().st_mtime
    stem = f"{run.path.name[:44]}-{time.strftime('%Y%m%d-%H%M', time.localtime(written))}"
    tries = [stem, *(f"{stem}-{n}" for n in range(2, 1000))]
    return next(name for name in tries if not os.path.lexists(run.path.with_name(name)))
