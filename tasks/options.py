"""What all stage tasks have in common: the store's key as Prefect's cache key, and retries for transient faults only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings

from codelutra.errors import CodelutraError
from codelutra.store.artifacts import Step

HOUR = 3600.0


def cached_as(stage: Callable[..., Step]) -> dict[str, Any]:
    """Options of a task whose result is the artifact of `stage`: found again by any later run with the same key."""

    def key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
        inputs = dict(parameters)
        run = inputs.pop("run")
        return cache_key(run.store, stage(run, *inputs.values()))

    return {
        "cache_key_fn": key,
        "persist_result": True,
        "retries": 2,
        "retry_delay_seconds": [2, 20],
        "retry_condition_fn": is_transient,
    }


def cache_key(store: Any, step: Step) -> str:
    """Prefect's key of a step: stage and key of its artifact in this store.

    Prefect would go on answering "Cached" after an artifact was deleted or found damaged, so its record is dropped when
    the artifact is not there; when it is, the ledger hears that it was reused.
    """
    where = hashlib.sha256(str(store.root).encode()).hexdigest()[:8]
    key = f"codelutra-{where}-{step.recipe.stage}-{step.recipe.key}"
    record = get_current_settings().results.local_storage_path / key
    found = store.find(step.recipe)
    if not found:
        record.unlink(missing_ok=True)
    elif record.exists():
        store.reused(step, found)
    return key


def is_transient(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Whether another try can help: not for what the user must put right, nor for what a stage decided."""
    return not isinstance(state.result(raise_on_failure=False), CodelutraError)
