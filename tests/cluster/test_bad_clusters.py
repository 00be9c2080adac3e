"""A cluster that cannot be used is told in one message, before anything is made; what it is changes no key."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codelutra.cluster.connection import Cluster, Node, _require_alike, _require_room, require_answer
from codelutra.cluster.crew import Crew
from codelutra.cluster.node import Process, about, versions
from codelutra.config import HOW_FAR, SAME_RESULT, RunConfig, parse_config, settings
from codelutra.errors import ConfigError, NoSandboxError, StageError, UserError
from codelutra.pipeline.judges import Judge
from codelutra.pipeline.startable import require_startable
from codelutra.store.child import EndedEarlyError
from tests.helpers.ports import free_port

GPU, SMALL = Node("a", "big", {"GPU": 4, "CPU": 8, "docker": 1}), Node("b", "small", {"CPU": 2, "docker": 1})


def config(cluster: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    told = {"cluster": {"address": "host:6379"} | cluster} if cluster is not None else {}
    return parse_config({"name": "x", "suite": {"name": "starter-sql"}} | told | changes)


def test_the_cluster_is_in_no_key() -> None:
    far, here = config({"cpus": 3, "engines": 2}), config()
    assert settings(far, SAME_RESULT, HOW_FAR) == settings(here, SAME_RESULT, HOW_FAR)
    assert here.cluster is None


@pytest.mark.parametrize("address", ["", "host", "ray://host:10001", "host:port", "http://u:p@host:80", "a b:1", "local"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.address"):
        config({"address": address})


@pytest.mark.slow
def test_something_else_that_listens_there_is_no_cluster() -> None:
    """Ray tries for a quarter of an hour, where it is left to itself."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        ask = f"from codelutra.cluster.connection import _attach; _attach({at!r})"
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=200, check=False)
    assert f"UserError: cluster.address {at}: no Ray cluster can be used there" in done.stderr


def test_nobody_listens_there(tmp_path: Path) -> None:
    at = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"cluster\.address {at}: no Ray cluster can be used there .*ray start --head"):
        require_answer(at)
    with pytest.raises(UserError, match=r"no Ray cluster can be used there"):
        require_startable(config({"address": at}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_answer(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("cluster", "changes", "nodes", "wanted"),
    [
        ({}, {}, [GPU, SMALL], ""),
        ({"cpus": 2}, {}, [SMALL], ""),
        ({}, {}, [SMALL], r"none of its 1 nodes offers a GPU .*or set cluster\.cpus"),
        ({"cpus": 3}, {}, [SMALL], r"cluster\.cpus 3 is more than the 2 cores"),
        ({}, {"engine": {"tensor_parallel": 8}}, [GPU, GPU], r"engine\.tensor_parallel 8 is more than any of its nodes has"),
        ({}, {"train": {"processes": 5}}, [GPU], r"train\.processes 5, and there is room for 4"),
        ({}, {"train": {"processes": 5}}, [GPU, GPU], ""),
        ({}, {"train": {"processes": 5}, "iterations": 0}, [GPU], ""),
        ({}, {"sample": {"endpoints": ["http://gpu:8000"]}, "iterations": 0}, [SMALL], ""),
        ({}, {"sample": {"endpoints": ["http://gpu:8000"]}}, [SMALL], r"none of its 1 nodes offers a GPU"),
        ({}, {"sample": {"endpoints": ["http://gpu:8000"]}, "engine": {"tensor_parallel": 8}}, [GPU], ""),
        ({}, {"model": "api:http://gpu:8000/v1#m", "iterations": 0}, [SMALL], ""),
        ({}, {"warm_start": {"processes": 9}}, [GPU, GPU], r"warm_start\.processes 9, and there is room for 8"),
        (
            {},
            {},
            [Node("a", "big", {"GPU": 1})],
            r"none of its nodes offers the resource docker.*--resources='\{\"docker\": 1\}'",
        ),
    ],
)
def test_what_the_nodes_lack_is_told(
    cluster: dict[str, Any], changes: dict[str, Any], nodes: list[Node], wanted: str
) -> None:
    asked = config(cluster, **changes)
    assert asked.cluster is not None
    if not wanted:
        _require_room(asked, Cluster(asked.cluster.cpus, None), nodes)
        return
    with pytest.raises(UserError, match=wanted):
        _require_room(asked, Cluster(asked.cluster.cpus, None), nodes)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a node says that is as this machine."""
    store = tmp_path_factory.mktemp("store")
    (store / ".cluster-t").write_text("t")
    said = about(str(store), "t")
    assert said["sees"]
    assert (store / said["answer"]).read_text() == "t"
    return said


@pytest.mark.parametrize(
    ("node", "said", "wanted"),
    [
        (GPU, {}, ""),
        (GPU, None, r"no answer within 60 s from big"),
        (
            GPU,
            {"missing": "No module named 'codelutra'"},
            r"codelutra does not load on big \(No module named 'codelutra'\); install",
        ),
        (GPU, {"versions": {"polars": "0.1"}}, r"big has .*polars 0\.1 \(here "),
        (GPU, {"versions": {"torch": None}}, r"big has .*torch not at all \(here "),
        (SMALL, {"versions": {"torch": None}}, ""),  # executes only
        (GPU, {"versions": {"codelutra's code": "0"}}, r"codelutra's code 0 \(here "),
        (GPU, {"sees": False, "why": "No such file"}, r"is not that of big \(No such file\)\. All nodes .* one store"),
        (GPU, {"format": "bfloat17"}, r"engine\.dtype auto means \S+ on this machine.*bfloat17; set engine\.dtype"),
    ],
)
def test_nodes_that_differ_are_named(
    node: Node, said: dict[str, Any] | None, wanted: str, here: dict[str, Any], tmp_path: Path
) -> None:
    found = {}
    if said is not None:
        versions = here["versions"] | said.get("versions", {})
        found = {node.id: here | said | {"versions": {k: v for k, v in versions.items() if v is not None}}}
    given: Any = [node], found, config({}), Cluster(None, None), tmp_path
    if not wanted:
        _require_alike(*given)
        return
    with pytest.raises(UserError, match=wanted):
        _require_alike(*given)


def test_a_node_that_joins_later_with_another_code_does_no_work(tmp_path: Path) -> None:
    """The judge says so as a node without a sandbox does, so that others do without it."""
    told, other = config().model_dump(mode="json"), versions() | {"codelutra's code": "0"}
    wanted = (
        r"has codelutra's code \S+ \(here 0\): it has joined, or was changed, since the run began; install the same lock"
    )
    with pytest.raises(NoSandboxError, match=wanted):
        Judge(told, {}, other).judge(print, (), {}, {})
    process = Process(other)
    process.start("engine", "no.such.module", [], str(tmp_path / "log"), {}, [])
    (error,) = process.heard(30)
    assert isinstance(error, UserError)
    assert "since the run began" in str(error)
    assert not (tmp_path / "log").exists()


def test_nothing_is_executed_any_more_once_the_run_has_ended() -> None:
    """Threads of a flow that failed go on for a moment: nobody would end what they start."""
    crew = Crew(Cluster(1, None), object)
    crew.close()
    with pytest.raises(StageError, match="the run was ended before this was executed"):
        crew.do(print, meanwhile=lambda place: None)


def test_an_end_is_told_from_one_machine_to_another(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("the last line\n")
    error = pickle.loads(pickle.dumps(EndedEarlyError("engine", -9, tmp_path / "log")))
    assert isinstance(error, StageError)
    assert (error.code, error.out_of_memory, error.last_lines) == (-9, True, ["the last line"])
    assert "SIGKILL" in str(error)
