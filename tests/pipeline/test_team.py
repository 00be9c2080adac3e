"""Prefect for teams: the server on a real PostgreSQL, and what makes flow runs containers or jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from prefect.states import Running
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration

from codelutra.errors import UserError
from tasks.database import require_database
from tasks.worker import POOL, _command
from tests.helpers.ports import free_port
from tests.helpers.prefect_server import ROOT, asking, clean_environment, served, settings_of

NAMED = re.compile(r"{{ (\w+) }}")
PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
with_postgres = pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not installed: Debian's package postgresql")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a cluster of Debian's PostgreSQL, as root")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of its own, without the last part: role owner has the database `prefect`, role guest
    another's; every password is 'pass'."""
    assert PROGRAMS
    port = free_port()
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="codelutra-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres")
        (word := folder / "word").write_text("pass")
        word.chmod(0o644)

        def run(program: str, *arguments: str) -> None:
            subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, cwd=folder, **user)

        run("initdb", "-D", "data", "-U", "owner", f"--pwfile={word}", "-A", "scram-sha-256", "-N")
        run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
        try:
            sql = "create role guest login password 'pass'; create database prefect; create database closed;"
            for command in sql.split(";")[:-1]:
                address = f"postgresql://owner:pass@127.0.0.1:{port}/postgres"
                subprocess.run([PROGRAMS / "psql", "-X", "-c", command, address], check=True, capture_output=True)
            yield f"postgresql+asyncpg://owner:pass@127.0.0.1:{port}/"
        finally:
            run("pg_ctl", "-D", "data", "-m", "immediate", "stop")


@with_postgres
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.extended
def test_what_the_server_knew_is_there_after_a_kill(postgres: str, tmp_path: Path) -> None:
    env = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres + "prefect"}
    with (
        served(tmp_path, "server.sh", how=signal.SIGKILL, **env) as asks,
        asking(asks),
        get_client(sync_client=True) as client,
    ):
        made = client.create_flow_run(_flow(), name="kept", state=Running()).id
    assert env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] not in (tmp_path / ".config/codelutra/prefect.env").read_text()
    assert not list(tmp_path.rglob("prefect.db")), "nothing is kept in SQLite"
    with served(tmp_path, "server.sh", **env) as asks, asking(asks), get_client(sync_client=True) as client:
        assert client.read_flow_run(made).state_name == "Running"


def _flow() -> Any:
    from prefect import flow

    @flow(name="team")
    def team() -> None: ...

    return team


@with_postgres
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://owner:pass@127.0.0.1/x", "is no address like"),
        ("postgresql+asyncpg://owner:pass@127.0.0.1", "is no address like"),
        ("postgresql+asyncpg://owner:secret@127.0.0.1:1/prefect", "'prefect' .* at 127.0.0.1:1 .* Connect call failed"),
        ("owner:secret prefect", 'password authentication failed for user "owner"'),
        ("owner:pass absent", 'database "absent" does not exist'),
        ("guest:pass closed", 'does not let guest make tables; .* ALTER DATABASE "closed" OWNER TO "guest"'),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_message(postgres: str, address: str, said: str) -> None:
    if " " in address:
        login, _, name = address.partition(" ")
        address = postgres.replace("owner:pass", login) + name
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address}), pytest.raises(UserError, match=said) as raised:
        require_database()
    assert "secret" not in str(raised.value)


@with_postgres
def test_a_database_that_can_be_used_and_sqlite_pass(postgres: str) -> None:
    for address in (postgres + "prefect", "sqlite+aiosqlite:////nowhere/x.db"):
        with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address}):
            require_database()


@with_postgres
@as_root
def test_debian_s_own_postgres_gets_a_role_and_a_database_and_the_settings_their_address(tmp_path: Path) -> None:
    """In a cluster of this test. The server itself is not started: the environment takes its password away."""
    if not shutil.which("pg_createcluster"):
        pytest.skip("Debian's postgresql-common is not installed")
    assert PROGRAMS
    version, port = PROGRAMS.parent.name, free_port()
    with tempfile.TemporaryDirectory(prefix="codelutra-pg-", ignore_cleanup_errors=True) as name:
        shutil.chown(name, "postgres")
        own = {"PG_CLUSTER_CONF_ROOT": f"{name}/etc"}
        (etc := Path(name, "etc")).mkdir()
        shutil.chown(etc, "postgres")
        env = clean_environment(tmp_path, PREFECT_SERVER_API_AUTH_STRING="", **own)
        make = ["pg_createcluster", version, "own", "-p", str(port), "-d", f"{name}/data", "-s", name, "-l", f"{name}/log"]
        subprocess.run([*make, "--start-conf", "manual"], env=env, check=True, capture_output=True)

        def server() -> str:
            done = subprocess.run([ROOT / "scripts/server.sh"], env=env, capture_output=True, text=True, cwd="/")
            assert (done.returncode, "holds no PREFECT_SERVER_API_AUTH_STRING" in done.stderr) == (2, True), done
            return done.stdout

        try:
            assert f"pg_ctlcluster {version} own start" in server()
            file = tmp_path / ".config/codelutra/prefect.env"
            address = settings_of(tmp_path)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
            assert re.fullmatch(rf"postgresql\+asyncpg://codelutra:[\w-]{{32}}@127\.0\.0\.1:{port}/codelutra", address)
            assert file.stat().st_mode & 0o777 == 0o600
            assert server() == "", "the second start has nothing to make"
            subprocess.run(["pg_ctlcluster", version, "own", "stop", "-m", "immediate"], env=env, check=True)
            assert f"pg_ctlcluster {version} own start" in server(), "as after a reboot without an init"
            assert settings_of(tmp_path)["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == address
            # A kill between the role and the settings: made again, with a password that holds.
            file.write_text("\n".join(line for line in file.read_text().splitlines() if "DATABASE" not in line))
            server()
            again = settings_of(tmp_path)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
            assert again != address
            with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: again}):
                require_database()
        finally:
            subprocess.run(["pg_dropcluster", "--stop", version, "own"], env=env, check=True, capture_output=True)


def test_where_there_is_no_postgres_the_message_says_what_to_give(tmp_path: Path) -> None:
    """A system without apt and without Debian's tools, by a PATH that has neither."""
    (programs := tmp_path / "bin").mkdir()
    for name in ("bash", "env", "dirname", "mkdir", "cat", "mv", "rm", "grep", "sed", "sort", "awk", "flock", "id"):
        (programs / name).symlink_to(shutil.which(name) or name)
    env = clean_environment(tmp_path, PATH=str(programs))
    done = subprocess.run([ROOT / "scripts/server.sh"], env=env, capture_output=True, text=True, cwd="/")
    assert done.returncode == 2
    assert "PostgreSQL is not installed" in done.stderr
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://" in done.stderr
    assert "PREFECT_SERVER_DATABASE" not in (tmp_path / ".config/codelutra/prefect.env").read_text()
    env |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////secret.db"}
    done = subprocess.run([ROOT / "scripts/server.sh"], env=env, capture_output=True, text=True, cwd="/")
    assert (done.returncode, "names no PostgreSQL" in done.stderr, "secret" in done.stderr) == (2, True, False)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], ["--pool", POOL, "--type", "process"]),
        (["--run-once"], ["--pool", POOL, "--type", "process"]),
        (["--pool", "x", "--type", "docker"], []),
        (["--pool=x"], []),
        (["-p", "x", "-t", "docker"], []),
    ],
)
def test_a_worker_is_of_the_pool_it_is_told(arguments: list[str], asked: list[str]) -> None:
    pytest.importorskip("prefect_docker")
    command = _command(arguments)
    at = command.index("start") + 1
    assert command[at : command.index("--name")] == asked
    assert command[command.index("--name") + 2 :] == arguments


def template(kind: str) -> dict[str, Any]:
    return json.loads((ROOT / f"deploy/{kind}-pool.json").read_text())


def filled(kind: str, **values: Any) -> dict[str, Any]:
    """What a worker makes of the template: defaults, then a deployment's own values."""
    of_pool = template(kind)
    defaults = BaseJobConfiguration._get_base_config_defaults(of_pool["variables"]["properties"])
    return apply_values(of_pool["job_configuration"], defaults | values)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_names_each_of_its_variables_and_no_other(kind: str) -> None:
    of_pool = template(kind)
    variables = of_pool["variables"]["properties"]
    assert set(NAMED.findall(json.dumps(of_pool["job_configuration"]))) == set(variables)
    assert all(v["title"] and v["description"] for v in variables.values())
    assert "{{" not in json.dumps(filled(kind, **dict.fromkeys(variables, "x")))


def test_docker_takes_what_the_template_makes() -> None:
    worker = pytest.importorskip("prefect_docker.worker")
    from docker.models.containers import _create_container_args

    gpus = [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
    made = worker.DockerWorkerJobConfiguration(**filled("docker", docker_group="105", device_requests=gpus, mem_limit="24g"))
    assert made.volumes == ["codelutra:/srv/codelutra", "/var/run/docker.sock:/var/run/docker.sock"]
    assert not made.auto_remove, "the worker reads the exit code of a container that has ended"
    more = {
        k: v for k, v in made.container_create_kwargs.items() if k not in worker.DockerWorkerJobConfiguration.model_fields
    }
    settings = {
        "image": made.image,
        "volumes": made.volumes,
        "mem_limit": made.mem_limit,
        "command": None,
        "version": "1.41",
    }
    created = _create_container_args(settings | more)["host_config"]
    assert created["GroupAdd"] == ["105"]
    (asked,) = created["DeviceRequests"]
    assert {k: asked[k] for k in gpus[0]} == gpus[0]
    assert (created["Init"], created["ShmSize"], created["Memory"]) == (True, 2 << 30, 24 << 30)


def test_a_job_of_kubernetes_has_what_is_kept_a_daemon_and_its_limits() -> None:
    limits = {"memory": "24Gi", "nvidia.com/gpu": "1"}
    job = filled("kubernetes", limits=limits, claim="mine")["job_manifest"]
    pod = job["spec"]["template"]["spec"]
    (flow,), (daemon,) = pod["containers"], pod["initContainers"]
    assert flow["resources"]["limits"] == limits
    assert flow["env"]["DOCKER_HOST"].removeprefix("unix://") == daemon["args"][1].removeprefix("--host=unix://")
    mounts = {m["name"]: m["mountPath"] for m in flow["volumeMounts"]}
    assert Path(flow["env"]["DOCKER_HOST"].removeprefix("unix://")).parent == Path(mounts["docker-socket"])
    assert daemon["restartPolicy"] == "Always", "one that would have to end first would never let the flow begin"
    volumes = {v.pop("name"): v for v in pod["volumes"]}
    assert volumes["kept"] == {"persistentVolumeClaim": {"claimName": "mine"}}
    used = {m["name"] for c in (flow, daemon) for m in c["volumeMounts"]}
    assert used == set(volumes)


def test_deployments_for_pools_of_containers_are_those_of_processes() -> None:
    ours, theirs = (yaml.safe_load((ROOT / name).read_text()) for name in ("prefect.yaml", "deploy/prefect.pool.yaml"))
    assert theirs["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": _workdir()}}]
    assert [d.pop("work_pool") for d in theirs["deployments"]] == [{"name": "{{ $CODELUTRA_POOL }}"}] * len(
        ours["deployments"]
    )
    for mine, other in zip(ours["deployments"], theirs["deployments"], strict=True):
        del mine["work_pool"]
        assert mine == json.loads(json.dumps(other).replace("/srv/codelutra/export", "/home/me/export"))


def _workdir() -> str:
    (folder,) = re.findall(r"^WORKDIR (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.extended
def test_a_pool_is_made_with_what_this_host_is_like_and_made_again(tmp_path: Path) -> None:
    with served(tmp_path) as env:
        env |= {"CODELUTRA_VOLUME": "/big/disk", "CODELUTRA_IMAGE": "hub/codelutra:1", "DOCKER_GROUP": "77"}
        for _ in range(2):
            done = subprocess.run([ROOT / "scripts/pool.sh", "docker"], env=env, capture_output=True, text=True, cwd="/")
            assert done.returncode == 0, done.stdout + done.stderr
        with asking(env), get_client(sync_client=True) as client:
            pool = client.read_work_pool("codelutra-docker")
            assert {d.work_pool_name for d in client.read_deployments()} == {"codelutra-docker"}
        made = {k: v.get("default") for k, v in pool.base_job_template["variables"]["properties"].items()}
        assert (made["image"], made["docker_group"]) == ("hub/codelutra:1", "77")
        assert made["volumes"] == ["/big/disk:/srv/codelutra", "/var/run/docker.sock:/var/run/docker.sock"]
        assert "networks" in made


def test_a_pool_of_another_kind_or_without_a_server_is_one_message(tmp_path: Path) -> None:
    nobody = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    for arguments, more, said in (
        (["docker"], {}, "PREFECT_API_URL is not set"),
        (["docker"], nobody, "(PREFECT_API_URL) does not answer as one"),
        (["podman"], {}, "'podman' is no kind"),
        ([], {}, "no kind"),
    ):
        command = [ROOT / "scripts/pool.sh", *arguments]
        done = subprocess.run(command, env=clean_environment(tmp_path, **more), capture_output=True, text=True, cwd="/")
        assert (done.returncode, said in done.stderr) == (2, True), done
        assert "Traceback" not in done.stderr


def test_what_the_settings_file_says_is_exported_and_a_variable_that_is_set_wins(tmp_path: Path) -> None:
    """Credentials of a shared store, for the worker, as well; lines that are none are passed over."""
    (folder := tmp_path / ".config" / "codelutra").mkdir(parents=True)
    (folder / "prefect.env").write_text("# AWS_PROFILE=no\nAWS_ACCESS_KEY_ID=a=b c\nCODELUTRA_HOME=/theirs\nnot one\n")
    command = ["bash", "-c", f". {ROOT}/scripts/settings.sh; load_settings; env"]
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "CODELUTRA_HOME": "/ours"}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"AWS_ACCESS_KEY_ID=a=b c", "CODELUTRA_HOME=/ours"} <= set(lines)
    assert not [line for line in lines if line.startswith("AWS_PROFILE")]
