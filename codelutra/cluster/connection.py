"""The cluster a run works on: the connection, what its nodes have, and whether they can do what is asked of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codelutra.cluster.node import SAME, about, differences
from codelutra.config import RunConfig
from codelutra.errors import UserError

DOCKER = "docker"
"""The resource that nodes with Docker offer."""
_ANSWER_SECONDS = 60.0  # for the first worker process of a node
# Ray's own patience with what answers and is no cluster: a try takes it 40 seconds, and it would make twenty.
_ONE_TRY = "RAY_gcs_server_port_wait_time_s", "1"
_SHOWN = 3
_attached: list[str] = []  # by which this process has its connection: Ray tells another name for the same host


@dataclass(frozen=True)
class Node:
    id: str
    name: str
    resources: dict[str, float]

    def room(self, resource: str, each: int) -> int:
        """How many pieces of work that take `each` of a resource it has room for."""
        return int(self.resources.get(resource, 0.0) // each)


@dataclass
class Cluster:
    """A connection, and what a piece of work takes."""

    cpus: int | None
    """Cores of one piece of work; None: a GPU."""
    executors: int | None
    note: Callable[[str], None] = field(default=lambda text: None)
    """Told what people should know: a node that was lost, or left out."""

    def takes(self, count: int) -> dict[str, Any]:
        """Ray's options for work on `count` GPUs, or as often `cpus` cores."""
        return {"num_cpus": count * self.cpus, "num_gpus": 0} if self.cpus else {"num_cpus": 0, "num_gpus": count}

    def bundle(self) -> dict[str, float]:
        """What one of several training processes takes, for a placement group."""
        return {"CPU": self.cpus} if self.cpus else {"GPU": 1}

    def room(self, count: int, nodes: Iterable[Node] | None = None) -> int:
        """How many pieces of work that take so much fit the nodes that there are."""
        resource, each = ("CPU", count * self.cpus) if self.cpus else ("GPU", count)
        return sum(node.room(resource, each) for node in (alive() if nodes is None else nodes))


def connect(config: RunConfig, store: Path, note: Callable[[str], None]) -> Cluster:
    """Raises UserError where the cluster does not answer, lacks what the config asks of it, or has nodes that hold other
    packages or do not see `store`."""
    section = config.cluster
    assert section is not None
    _attach(section.address)
    nodes = alive()
    cluster = Cluster(section.cpus, section.executors, note)
    _require_room(config, cluster, nodes)
    used = [n for n in nodes if n.resources.get(DOCKER) or cluster.room(1, [n])]
    _require_alike(used, _looked_at(used, store), config, cluster, store)
    return cluster


def offered(config: RunConfig) -> str:
    """What the nodes of the config's cluster offer, in words; makes nothing there. Raises UserError where it does not answer
    or lacks what the config asks of it."""
    section = config.cluster
    assert section is not None
    require_answer(section.address)  # sooner told than that Ray is not installed
    _attach(section.address)
    nodes = alive()
    _require_room(config, Cluster(section.cpus, section.executors), nodes)
    gpus, cores, docker = (sum(n.resources.get(name, 0.0) for n in nodes) for name in ("GPU", "CPU", DOCKER))
    return f"{section.address}: {len(nodes)} nodes offer {gpus:g} GPUs, {cores:g} cores, {docker:g} × {DOCKER}"


def require_answer(address: str) -> None:
    """Raise UserError where nobody listens at a cluster's address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host:  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as e:
        raise UserError(_unreachable(address, e.strerror or str(e))) from e


def alive() -> list[Node]:
    """The nodes of the cluster, by name."""
    import ray

    found = [
        Node(n["NodeID"], f"{n['NodeManagerHostname']} ({n['NodeID'][:6]})", n["Resources"])
        for n in ray.nodes()
        if n["Alive"]
    ]
    return sorted(found, key=lambda node: node.name)


def _attach(address: str) -> None:
    import ray

    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if address not in ("auto", there, *_attached):
            raise UserError(f"cluster.address {address}: this process works on the cluster at {there} already; use that one")
        return
    require_answer(address)
    os.environ.setdefault(*_ONE_TRY)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts another in its place
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(address, namespace="codelutra", log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as e:
        raise UserError(_unreachable(address, " ".join(str(e).split())[:300])) from e
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)
    _attached.append(address)


def _unreachable(address: str, why: str) -> str:
    return (
        f"cluster.address {address}: no Ray cluster can be used there ({why}). The flow runs on a node of the cluster: "
        "`ray start --head` starts one, `ray start --address=HOST:PORT` joins it; or leave `cluster` out to work on this "
        "machine"
    )


def _require_room(config: RunConfig, cluster: Cluster, nodes: list[Node]) -> None:
    at = f"cluster.address {config.cluster.address if config.cluster else ''}"
    scored = config.select.held_out or config.select.verifier
    if (config.own_engines or config.trainings or scored) and not cluster.room(1, nodes):
        if cluster.cpus:
            most = max((n.room("CPU", 1) for n in nodes), default=0)
            raise UserError(f"{at}: cluster.cpus {cluster.cpus} is more than the {most} cores that its largest node offers")
        raise UserError(
            f"{at}: none of its {len(nodes)} nodes offers a GPU (`ray status` shows what they offer). Add nodes that have "
            "one, or set cluster.cpus to the cores that an engine or a training may take"
        )
    each = config.engine.tensor_parallel
    if config.own_engines and not cluster.room(each, nodes):
        raise UserError(f"{at}: engine.tensor_parallel {each} is more than any of its nodes has; lower it")
    for name, section in config.trainings.items():
        if section.processes > (room := cluster.room(1, nodes)):
            raise UserError(f"{at}: {name}.processes {section.processes}, and there is room for {room}; lower it")
    if not any(n.resources.get(DOCKER) for n in nodes):
        raise UserError(
            f"{at}: none of its nodes offers the resource {DOCKER}, so none would execute programs. Start those that have "
            f"Docker with `ray start … --resources='{{\"{DOCKER}\": 1}}'`"
        )


def _looked_at(nodes: list[Node], store: Path) -> dict[str, dict[str, Any]]:
    """What each node says of itself, by its id; nothing of a node that does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    marker = store / f".cluster-{token}"
    store.mkdir(parents=True, exist_ok=True)
    marker.write_text(token)
    look = ray.remote(num_cpus=0, max_retries=0)(_looker())
    try:
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n.id, soft=False)).remote(str(store), token): n
            for n in nodes
        }
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        found = {}
        for ref in ready:
            try:
                said = ray.get(ref)
            except ray.exceptions.RayError as e:
                said = {"missing": " ".join(str(e).split())[:300]}
            if said.get("sees") and not (store / said["answer"]).exists():
                said |= {"sees": False, "why": "what it writes there does not come here"}
            found[asked[ref].id] = said
        return found
    finally:
        for left in store.glob(f".cluster-{token}*"):
            left.unlink(missing_ok=True)


def _looker() -> Callable[[str, str], dict[str, Any]]:
    """A function that travels by its code, since a node may have none of ours."""

    def look(store: str, token: str) -> dict[str, Any]:
        try:
            from codelutra.cluster.node import about
        except ImportError as e:
            return {"missing": str(e)}
        return about(store, token)

    return look


def _require_alike(
    nodes: list[Node], found: dict[str, dict[str, Any]], config: RunConfig, cluster: Cluster, store: Path
) -> None:
    if silent := [n.name for n in nodes if n.id not in found]:
        raise UserError(
            f"no answer within {_ANSWER_SECONDS:.0f} s from {_few(silent)} of the cluster; see Ray's logs there, or stop "
            "Ray there"
        )
    without = [f"{n.name} ({found[n.id]['missing']})" for n in nodes if "missing" in found[n.id]]
    if without:
        raise UserError(f"codelutra does not load on {_few(without)}; {SAME}")
    here = about(str(store), "")
    others = [(n, differences(here["versions"], found[n.id]["versions"], bool(cluster.room(1, [n])))) for n in nodes]
    if different := [f"{n.name} has {', '.join(told)}" for n, told in others if told]:
        raise UserError(f"not every node of the cluster has the packages of this machine: {_few(different)}; {SAME}")
    if blind := [f"{n.name} ({found[n.id]['why']})" for n in nodes if not found[n.id]["sees"]]:
        raise UserError(
            f"the store {store} of this machine is not that of {_few(blind)}. All nodes read and write one store: give a "
            "folder on a file system that they share, at the same path, with --home or CODELUTRA_HOME"
        )
    if config.engine.dtype == "auto" and config.own_engines:
        formats = {found[n.id]["format"] for n in nodes if cluster.room(1, [n])}
        if formats - {here["format"]}:
            raise UserError(
                f"engine.dtype auto means {here['format']} on this machine, and on nodes of the cluster it means "
                f"{', '.join(sorted(formats))}; set engine.dtype to the one you want"
            )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
