"""Prefect's server: the password of the temporary one, and the marking of flow runs whose process is gone."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import refresh_global_settings_context
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.states import Crashed
from prefect.types._datetime import now

from codelutra.errors import UserError, redacted
from codelutra.store.child import owner

# What Prefect's client raises for a server that is away or refuses. RuntimeError is its own "Failed to reach API".
NOT_ANSWERED = (RuntimeError, httpx.HTTPError, PrefectException)
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
OURS = "codelutra"  # tag of every deployment in prefect.yaml
_OPEN = [StateType.RUNNING, StateType.CANCELLING]
UNMARKED_SECONDS = 600.0  # from a worker that takes a flow run to the marks of its process; minutes on a busy machine
_SLASH = "|"  # for /, which a worker's name may not have
_ours = set[UUID]()  # flow runs that this process has claimed
_ENDED = "its process has ended; the same command goes on from what is finished"


def close_temporary_server() -> None:
    """Where no server is set up, have the one that Prefect starts for this run answer this run alone.

    It uses the same database as `make ui`: whoever could ask it could have a worker run commands.
    """
    settings = get_current_settings()
    if settings.api.url or settings.server.api.auth_string:
        return
    password = f"codelutra:{secrets.token_urlsafe(24)}"
    os.environ |= {
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",  # where no page is
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }
    refresh_global_settings_context()


def require_server() -> None:
    """Raise UserError where a server is set up and does not answer, or wants another password."""
    url = get_current_settings().api.url
    if not url:
        return
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            client.read_flow_runs(limit=1)
    except (*NOT_ANSWERED, ValueError) as e:  # ValueError: what is no JSON, or not Prefect's
        if getattr(getattr(e, "response", None), "status_code", None) == 401:
            raise UserError(
                f"Prefect's server at {url} asks for a password that is not set here, or is another one; with `make ui`: "
                "set -a; . ~/.config/codelutra/prefect.env; set +a"
            ) from e
        said = (str(e).strip().splitlines() or [""])[0]
        raise UserError(
            f"Prefect's server at {url} (PREFECT_API_URL) does not answer as one ({type(e).__name__}: {said}); start it "
            "(`make ui`), or unset PREFECT_API_URL: then the run starts a server of its own"
        ) from e


def claim(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """A hook of flows that start: mark the flow run as this process's, and those of processes that are gone as crashed."""
    _ours.add(flow_run.id)
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, dict(owner.marks()))
        crash_dead_runs()
    except NOT_ANSWERED as e:  # what a UI shows is no reason to end
        logging.getLogger(__name__).warning("flow runs are not marked: %s", redacted(f"{type(e).__name__}: {e}"))


def crash_own_runs() -> None:
    """Mark the flow runs of this process as crashed: it is about to end. A server that does not answer is left alone."""
    if not _ours:
        return
    mine = owner.marks()
    try:
        crash_runs(lambda marks: marks == mine)
    except NOT_ANSWERED as e:
        logging.getLogger(__name__).warning("flow runs stay open: %s", redacted(f"{type(e).__name__}: {e}"))


def worker_name() -> str:
    """A name for this process as a worker that carries its marks: flow runs it takes have it as a label."""
    return owner.as_text(owner.marks()).replace("/", _SLASH)


def crash_dead_runs(unmarked_seconds: float = UNMARKED_SECONDS) -> list[str]:
    """Mark as crashed the flow runs of processes of this machine that are gone; those that wait for a process and whose
    worker is gone; and those that no process has marked as its own for so long. Returns their names. A slot they hold is
    free then."""
    return crash_runs(owner.is_orphan) + _crash_unmarked_runs(unmarked_seconds)


def _crash_unmarked_runs(seconds: float) -> list[str]:
    """A flow run of a deployment that has no process yet, or one that has just begun, has no marks."""
    early = [StateType.PENDING, StateType.RUNNING]
    found = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=early)), tags=FlowRunFilterTags(all_=[OURS])
    )
    oldest = now("UTC") - timedelta(seconds=seconds)

    def is_dead(run: FlowRun) -> bool:
        if owner.PID in run.labels or not run.state:
            return False
        worker = owner.from_text(str(run.labels.get("prefect.worker.name", "")).replace(_SLASH, "/"))
        return run.state.timestamp < oldest or (run.state.is_pending() and owner.is_orphan(worker))

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        ended = [run for run in client.read_flow_runs(flow_run_filter=found) if is_dead(run)]
        for run in ended:
            _crash(client, run)
    return [run.name for run in ended]


def crash_runs(whose: Callable[[dict[str, str]], bool]) -> list[str]:
    """Mark open flow runs as crashed by the marks of their process; returns their names. A slot they hold is free then."""
    found = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN)))
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        ended = [
            run
            for run in client.read_flow_runs(flow_run_filter=found)
            if whose({name: str(run.labels[name]) for name in owner.MARKS if name in run.labels})
        ]
        for run in ended:
            _crash(client, run)
    return [run.name for run in ended]


def _crash(client: Any, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Crashed(message=_ENDED), force=True)
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    running = TaskRunFilter(state=TaskRunFilterState(name=None, type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=running):
        client.set_task_run_state(task.id, Crashed(message=_ENDED), force=True)
    bars = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), type=ArtifactFilterType(any_=["progress"], not_any_=None)
    )
    for bar in client.read_artifacts(artifact_filter=bars):
        if bar.data != 100.0:
            client.update_artifact(bar.id, ArtifactUpdate(description=f"ended early: {bar.description}"))
