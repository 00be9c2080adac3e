"""The models that a run's config names, brought onto this machine."""

from __future__ import annotations

import contextlib
from functools import partial

from codelutra import models
from codelutra.pipeline.run import Run
from codelutra.results.load import whole_weights
from codelutra.store.files import UNREADABLE
from codelutra.store.paths import cache_dir
from codelutra.store.run_dir import RunDir

_SOURCES = "models.json"  # name → where it was taken from


def fetched(run: Run, reference: str) -> models.Model:
    """The model of a reference. One given by name comes from where this run took it first, on whatever machine it goes on:
    other sources have other weights."""

    def tell(text: str) -> None:
        run.dir.ledger({"event": "note", "text": text})

    def count(stage: str, done: int, total: int, unit: str) -> None:
        run.progress(stage, unit)(done, total)

    model = models.resolve(
        reference,
        cache_dir() / "models",
        policy_of_run=partial(whole_weights, run.home / "runs"),
        source=source_of(run.dir, reference),
        progress=tell,
        counted=count,
    )
    if (known := models.find(reference)) and not source_of(run.dir, reference):
        run.dir.write(_SOURCES, {**_sources(run.dir), known.name: model.reference})
    return model


def source_of(run: RunDir, reference: str) -> str:
    """Where a run took a model from that its config gives by name; "" for other models."""
    known = models.find(reference)
    return _sources(run).get(known.name, "") if known else ""


def _sources(run: RunDir) -> dict[str, str]:
    with contextlib.suppress(*UNREADABLE):
        return {str(name): str(source) for name, source in (run.read(_SOURCES) or {}).items()}
    return {}
