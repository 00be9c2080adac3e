"""Refuses a config that cannot run here (no such model, too few GPUs, a missing package, …), before a run makes anything and
before a heavy library is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from codelutra.addresses import API_KEY, ApiModel
from codelutra.cluster.connection import require_answer as require_cluster
from codelutra.config import RunConfig
from codelutra.errors import UserError
from codelutra.hardware import too_few_gpus
from codelutra.models import check_reference, require_kind
from codelutra.results.load import chosen_weights, finished_summary
from codelutra.sampling.replicas import replicas
from codelutra.store.places import open_place, require_shared
from codelutra.training.bases import require_means
from codelutra.training.trackers import require_trackers


def require_startable(config: RunConfig, home: Path, *, here: bool = True) -> None:
    """Raise UserError where this machine cannot do what the config asks for, or has no such model or run; not `here`, where
    it has no such model or run alone."""
    require_named(config)
    if here:
        require_gpus(config)
        require_training(config)
    if config.store:
        require_shared(open_place(config.store))
    if not finished_summary(home / "runs" / config.name):  # whose answers are there
        _require_key(config)
    for reference in _models(config):
        if reference.startswith("run:"):
            chosen_weights(home / "runs", reference.removeprefix("run:"))
        else:
            require_kind(reference)


def require_named(config: RunConfig) -> None:
    """Raise UserError for a malformed reference to a model."""
    for reference in _models(config):
        check_reference(reference)
        if ApiModel.of(reference) and reference != config.model:
            raise UserError("an api: model has no weights here; suite.proposals and select.verifier need a model that has")


def _require_key(config: RunConfig) -> None:
    """Raise UserError where a server elsewhere would be asked without a key: most answer 401, and minutes later."""
    api = ApiModel.of(config.model)
    if api and api.url.startswith("https://") and not api.key(os.environ):
        raise UserError(
            f"model {config.model}: no key to ask {api.url} with; set {API_KEY} to it, or to any word "
            "where the server wants none"
        )


def require_gpus(config: RunConfig) -> None:
    """Raise UserError for a stage that would take more GPUs than this process may use: now, not when its turn comes. What a
    cluster has shows when the run connects; here only whether it answers."""
    if config.cluster:
        require_cluster(config.cluster.address)
        return
    if config.own_engines:
        replicas(config.engine)
    for name, section in config.trainings.items():
        if wrong := too_few_gpus(section.processes):
            raise UserError(f"{name}.processes {section.processes} {wrong}")


def require_training(config: RunConfig) -> None:
    """Raise UserError for a way of training, or a tracker, that this machine has no means for."""
    require_trackers(config.report_to)
    if not config.cluster:
        for name, section in config.trainings.items():
            require_means(section.method, f"{name}.method")


def _models(config: RunConfig) -> list[str]:
    return [reference for reference in (config.model, config.suite.proposals, config.select.verifier) if reference]
