"""The pool keeps its promises whatever happens to containers, daemon and owner."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from sandbox import Pool, PythonJob, Result, SandboxError, SqlJob, reap_orphans
from sandbox.owner import POOL, is_orphan, labels
from sandbox.pool import AHEAD
from sandbox.probe import fixture_database

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(image: str) -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def containers(client: docker.DockerClient, pool: str) -> list[str]:
    return [c["Id"] for c in client.api.containers(all=True, filters={"label": f"{POOL}={pool}"})]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def numbers(count: int, program: str = "def f(x): return x * x") -> Iterator[PythonJob]:
    return (PythonJob(str(n), program, (f"f({n})",)) for n in range(count))


def squares(results: list[Result]) -> bool:
    return [(r.id, r.status, r.value) for r in results] == [(str(n), "ok", [{"value": n * n}]) for n in range(len(results))]


def test_results_come_in_the_order_of_the_jobs_whatever_they_take(image: str) -> None:
    jobs = [PythonJob(str(n), "import time", (f"time.sleep({(n * 7) % 5 / 50}) or {n}",)) for n in range(40)]
    with Pool(image=image, workers=3, run="tests") as pool:
        assert [r.value[0]["value"] for r in pool.map(jobs)] == list(range(40))


def test_jobs_are_taken_only_so_far_ahead_of_the_consumer(pool: Pool) -> None:
    taken = itertools.count()
    stream = pool.map(PythonJob(str(next(taken)), "pass", ("1",)) for _ in itertools.count())
    for _ in range(50):
        next(stream)
    assert next(taken) <= AHEAD + 60
    stream.close()


def test_an_abandoned_iterator_does_not_answer_for_the_next_one(pool: Pool) -> None:
    first = pool.map(numbers(500, "def f(x): return 'stale'"))
    next(first)
    first.close()
    assert squares(list(pool.map(numbers(100))))


def test_two_iterators_at_once_in_one_thread_are_refused_clearly(pool: Pool) -> None:
    first = pool.map(numbers(3))
    next(first)
    with pytest.raises(SandboxError, match="already mapping"):
        next(pool.map(numbers(1)))
    assert len(list(first)) == 2


def test_several_threads_take_turns(pool: Pool) -> None:
    fine: list[bool] = []
    threads = [threading.Thread(target=lambda: fine.append(squares(list(pool.map(numbers(60)))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fine == [True] * 4


def test_no_jobs_give_no_results(pool: Pool) -> None:
    assert list(pool.map([])) == []


def test_killing_containers_costs_no_result_and_changes_none(image: str, client: docker.DockerClient) -> None:
    with Pool(image=image, workers=2, run="tests", retries=5) as pool:
        results = []
        for result in pool.map(numbers(1500)):
            results.append(result)
            if len(results) in (100, 600, 1000):
                for name in containers(client, pool.settings.pool)[:1]:
                    client.api.kill(name)
        assert squares(results)
        assert len(results) == 1500
        assert len(pool.replaced) >= 3


def test_killing_the_runner_in_the_container_costs_no_result(image: str, client: docker.DockerClient) -> None:
    with Pool(image=image, workers=1, run="tests", retries=3) as pool:
        results = []
        for result in pool.map(numbers(300)):
            results.append(result)
            if len(results) == 50:
                (name,) = containers(client, pool.settings.pool)
                processes = client.api.top(name, "-eo pid,args")["Processes"]
                victim = next(pid for pid, args in processes if "supervisor" in args and "init" not in args.split()[0])
                os.kill(int(victim), signal.SIGKILL)
        assert squares(results)
        assert pool.replaced


def test_a_frozen_container_is_given_up_and_its_jobs_are_run_again(
    image: str, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.pool.SILENCE_SECONDS", 1.0)
    jobs = [PythonJob(job.id, job.program, job.calls, timeout_seconds=0.5) for job in numbers(200)]
    with Pool(image=image, workers=1, run="tests") as pool:
        results = []
        for result in pool.map(jobs):
            results.append(result)
            if len(results) == 20:
                client.api.pause(containers(client, pool.settings.pool)[0])
        assert squares(results)
        assert any("silent" in reason for reason in pool.replaced)


def end_from_outside(client: docker.DockerClient, container: str) -> None:
    client.api.kill(container)


def end_from_inside(client: docker.DockerClient, container: str) -> None:
    """What the kernel does for want of memory: the daemon knows nobody who did it."""
    processes = client.api.top(container, "-eo pid,args")["Processes"]
    os.kill(
        min(int(pid) for pid, args in processes if "supervisor" in args and "init" not in args.split()[0]), signal.SIGKILL
    )


@pytest.mark.parametrize(("end", "status"), [(end_from_outside, "infra_error"), (end_from_inside, "resource_limit")])
def test_a_job_that_always_loses_its_container_is_an_outage_unless_it_did_that_itself_and_the_others_are_right(
    end: Callable[[docker.DockerClient, str], None], status: str, image: str, client: docker.DockerClient
) -> None:
    def jobs(pool: Pool) -> Iterator[PythonJob]:
        yield from numbers(5)
        yield PythonJob("marked", "import time\ntime.sleep(20)", timeout_seconds=30)
        yield from numbers(5)

    with Pool(image=image, workers=1, run="tests", retries=1) as pool:
        done = threading.Event()

        def sniper() -> None:
            own = docker.from_env()
            while not done.wait(0.05):
                for name in containers(own, pool.settings.pool):
                    listed = own.api.inspect_container(name)["State"]
                    if listed["Running"] and time.time() - started > 1.0:
                        end(own, name)
                        time.sleep(1.5)
            own.close()

        started = time.time()
        thread = threading.Thread(target=sniper)
        thread.start()
        stream = pool.map(jobs(pool))
        results = list(itertools.islice(stream, 6))
        done.set()
        thread.join()
        results += list(stream)
    assert [r.status for r in results] == ["ok"] * 5 + [status] + ["ok"] * 5
    assert results[5].attempts == 2
    assert results[5].value is None


def test_containers_are_replaced_after_their_share_of_programs(image: str, client: docker.DockerClient) -> None:
    with Pool(image=image, workers=1, run="tests", recycle_after=100) as pool:
        assert squares(list(pool.map(numbers(350))))
        assert pool.replaced == ["recycled"] * 3


def test_closing_leaves_no_container_even_in_the_middle(image: str, client: docker.DockerClient) -> None:
    pool = Pool(image=image, workers=2, run="tests")
    stream = pool.map(numbers(1000))
    next(stream)
    name = pool.settings.pool
    assert len(containers(client, name)) == 2
    pool.close()
    assert containers(client, name) == []
    with pytest.raises(SandboxError, match="closed"):
        list(stream)
    with pytest.raises(SandboxError, match="closed"):
        list(pool.map(numbers(1)))
    pool.close()


OWNER = """
    import sys
    from sandbox import Pool, PythonJob
    with Pool(image=sys.argv[1], workers=2, run="owned") as pool:
        print(pool.settings.pool, flush=True)
        list(pool.map(PythonJob(str(n), "import time", ("time.sleep(1)",), timeout_seconds=60) for n in range(1000)))
"""


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_container_outlives_its_owner(deadly: signal.Signals, image: str, client: docker.DockerClient) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), image],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert len(containers(client, name)) == 2
        time.sleep(0.5)
        owner.send_signal(deadly)
        owner.wait(20)
    assert eventually(lambda: containers(client, name) == [])


def test_orphans_are_reaped_and_others_are_left_alone(image: str, client: docker.DockerClient) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = labels("tests", "orphan-test")
    marks = {
        "orphan": mine | {"codelutra.pid": str(dead.pid)},
        "reused": mine | {"codelutra.started": "1"},
        "mine": mine,
        "elsewhere": mine | {"codelutra.host": "another", "codelutra.pid": str(dead.pid)},
    }
    assert [is_orphan(mark) for mark in marks.values()] == [True, True, False, False]
    made = {
        name: client.containers.run(
            image, ["/bin/sleep", "60"], entrypoint="", detach=True, labels=mark, network_mode="none"
        )
        for name, mark in marks.items()
    }
    try:
        assert set(reap_orphans(client)) >= {made["orphan"].name, made["reused"].name}
        left = containers(client, "orphan-test")
        assert sorted(left) == sorted([made["mine"].id, made["elsewhere"].id])
    finally:
        for name in containers(client, "orphan-test"):
            client.api.remove_container(name, force=True)


def test_databases_that_do_not_fit_together_come_and_go(image: str, tmp_path: Path) -> None:
    databases = {}
    for n in range(6):
        path = tmp_path / f"{n}.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("create table t as select ? n, zeroblob(300000) filler", (n,))
        connection.commit()
        connection.close()
        databases[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    jobs = [SqlJob(digest, digest, "select n from t") for digest in list(databases) * 3]
    with Pool(image=image, workers=1, databases=databases, run="tests", database_mb=1) as pool:
        results = list(pool.map(jobs))
        assert pool.replaced == []
    assert [r.value and r.value["rows"] for r in results] == [[[n]] for n in range(6)] * 3


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory everybody may read: a container's users are strangers to this host."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    yield tmp_path
    tmp_path.parent.parent.chmod(0o700)


def test_databases_may_come_from_a_read_only_mount(image: str, shared: Path) -> None:
    databases = fixture_database(shared)
    (database,) = databases
    with Pool(image=image, workers=1, databases=databases, data_mount=shared, run="tests") as pool:
        write = PythonJob("w", "import os\nopen('/data/' + os.listdir('/data')[0], 'a')")
        read, wrote = pool.map([SqlJob("r", database, "select count(*) from singer"), write])
    assert read.value["rows"] == [[4]]
    assert wrote.status == "blocked"


def test_a_mount_that_cannot_be_read_is_an_outage_and_never_a_wrong_query(image: str, shared: Path) -> None:
    databases = fixture_database(shared)
    (database,) = databases
    with Pool(image=image, workers=1, databases=databases, data_mount=shared, run="tests") as pool:
        databases[database].chmod(0o600)
        (result,) = pool.map([SqlJob("r", database, "select count(*) from singer")])
    assert result.status == "infra_error"
    assert "readable" in (result.error or "")


def test_a_database_that_changed_since_it_was_announced_is_refused(image: str, tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    sqlite3.connect(path).execute("create table t(x)").connection.close()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\0")
    with (
        Pool(image=image, workers=1, databases={digest: path}, run="tests") as pool,
        pytest.raises(SandboxError, match="changed"),
    ):
        list(pool.map([SqlJob("1", digest, "select 1")]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"pids": 4}, "pids=4"),
        ({"image": "codelutra/absent:1"}, "not there"),
        ({"image": "codelutra/base:bookworm-1"}, "no runner"),
        ({"memory_mb": 1}, "memory"),
        ({"memory_mb": 8}, "memory_mb=8"),
        ({"runtime": "absent-runtime"}, "absent-runtime"),
        ({"databases": {"x": Path("/dev/null")}}, "sha256"),
        ({"databases": {"0" * 64: Path("/absent")}}, "no file"),
    ],
    ids=str,
)
def test_a_pool_that_cannot_work_says_why_and_leaves_nothing(
    options: dict[str, object], message: str, image: str, client: docker.DockerClient
) -> None:
    before = len(client.api.containers(all=True, filters={"label": "codelutra.run=refused"}))
    if options.get("image") == "codelutra/base:bookworm-1" and not client.images.list("codelutra/base"):
        pytest.skip("this machine's base image came from a registry")
    with pytest.raises(SandboxError, match=message):
        Pool(**{"image": image, "workers": 1, "run": "refused", **options})  # type: ignore[arg-type]
    assert eventually(lambda: len(client.api.containers(all=True, filters={"label": "codelutra.run=refused"})) == before)
