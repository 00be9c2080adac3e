"""A store that hosts share keeps the promises of a local one: whole or absent, made once, damaged never used; and a place
that is away stops nothing. Against a real S3 server, and a folder."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codelutra.errors import UserError
from codelutra.experiments.prune import prune
from codelutra.store import s3 as s3_place
from codelutra.store.artifacts import Artifact, Event, Recipe, Step, Store
from codelutra.store.files import this_process
from codelutra.store.folder import Folder
from codelutra.store.leases import Lease, Pace, take
from codelutra.store.place import Moved, Place, PlaceError
from codelutra.store.places import open_place, require_place
from codelutra.store.publisher import Job, publish
from codelutra.store.reach import Reach
from codelutra.store.shared import SharedStore, open_store
from tests.helpers.s3 import KEY, S3, SECRET, s3_server

RECIPE = Recipe("pairs", 1, {"seed": 0}, {"outcomes": "abc"})
NAME = f"artifacts/pairs/{RECIPE.key}"
FORK = multiprocessing.get_context("fork")
QUICK = Pace(beat=0.05, look=0.02, lapse=0.5)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    (tmp_path / "mounted").mkdir()
    place = open_place(str(tmp_path / "mounted"))
    require_place(place)
    return place


@pytest.fixture
def bucket(s3: S3) -> Place:
    place = open_place(s3.bucket())
    require_place(place)
    return place


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue("bucket" if request.param == "s3" else "folder")
    return found


class Host:
    """A machine with a store of its own that shares a place."""

    def __init__(self, root: Path, place: Place, **more: Any) -> None:
        self.events: list[Event] = []
        self.store = SharedStore(root, place, self.events.append, **{"pace": QUICK, "patience": 20.0} | more)

    def told(self) -> str:
        return "\n".join(str(e["text"]) for e in self.events if "text" in e)

    def names(self) -> list[str]:
        return [e["event"] for e in self.events if "text" not in e]

    def make(self, text: str = "hello", recipe: Recipe = RECIPE) -> Artifact:
        return self.store.make(Step(recipe, writes(text)))


def writes(text: str = "hello") -> Any:
    def build(out: Path, work: Path) -> dict[str, Any]:
        (out / "file.txt").write_text(text)
        (out / "deep").mkdir()
        (out / "deep" / "other.bin").write_bytes(text.encode() * 1000)
        return {"rows": 3}

    return build


def never(out: Path, work: Path) -> dict[str, Any]:
    raise AssertionError("made again")


def content(artifact: Artifact) -> dict[str, bytes]:
    root = Path(artifact.path)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def publish_now(place: Place, root: Path, text: str = "hello") -> Artifact:
    """An artifact made and published by a host that is gone again."""
    host = Host(root, place)
    made = host.make(text)
    host.store.close()
    assert "text" not in host.told()
    return made


def test_what_one_host_has_made_another_fetches(place: Place, tmp_path: Path) -> None:
    made = publish_now(place, tmp_path / "a")
    b = Host(tmp_path / "b", place)
    fetched = b.store.make(Step(RECIPE, never))
    assert (fetched.digest, fetched.facts, fetched.seconds) == (made.digest, made.facts, made.seconds)
    assert fetched.path == str(tmp_path / "b" / "pairs" / RECIPE.key)
    assert content(fetched) == content(made)
    assert [p.stat().st_mtime_ns for p in sorted(Path(fetched.path).glob("*.txt"))] == [
        p.stat().st_mtime_ns for p in sorted(Path(made.path).glob("*.txt"))
    ]
    assert b.names() == ["fetched", "reused"]
    assert list((tmp_path / "b" / ".partial").iterdir()) == []
    assert Store(tmp_path / "b").find(RECIPE) == fetched, "it is an artifact of the local store like any other"


def test_find_fetches_and_finds_nothing_that_nobody_has_published(place: Place, tmp_path: Path) -> None:
    b = Host(tmp_path / "b", place)
    assert b.store.find(RECIPE) is None
    made = publish_now(place, tmp_path / "a")
    found = b.store.find(RECIPE)
    assert found is not None
    assert content(found) == content(made)


def test_what_is_shared_has_the_bytes_of_what_is_not(folder: Place, tmp_path: Path) -> None:
    shared, alone = publish_now(folder, tmp_path / "a"), Store(tmp_path / "alone").make(Step(RECIPE, writes()))
    assert shared.digest == alone.digest
    files, others = content(shared), content(alone)
    manifests = [json.loads(f.pop("manifest.json")) for f in (files, others)]
    assert files == others
    assert manifests[0].keys() == manifests[1].keys()


def test_a_run_that_finds_its_work_here_publishes_what_was_not(folder: Place, tmp_path: Path) -> None:
    Store(tmp_path / "a").make(Step(RECIPE, writes()))
    a = Host(tmp_path / "a", folder)
    a.store.make(Step(RECIPE, never))
    a.store.close()
    assert Host(tmp_path / "b", folder).store.find(RECIPE)


def test_an_artifact_that_is_damaged_here_comes_again_from_there(folder: Place, tmp_path: Path) -> None:
    made = publish_now(folder, tmp_path / "a")
    made.file("file.txt").write_text("jello")
    a = Host(tmp_path / "a", folder)
    assert a.store.make(Step(RECIPE, never)).file("file.txt").read_text() == "hello"
    assert a.names() == ["damaged", "fetched", "reused"]


def test_checkpoints_of_what_another_host_has_finished_go(folder: Place, tmp_path: Path) -> None:
    (tmp_path / "b/.partial" / f"pairs-{RECIPE.key}" / "work").mkdir(parents=True)
    publish_now(folder, tmp_path / "a")
    Host(tmp_path / "b", folder).store.make(Step(RECIPE, never))
    assert list((tmp_path / "b/.partial").iterdir()) == []


CHANGES = ("create", "replace", "remove", "put")


class Mortal:
    """A place whose user is killed by -9 before the n-th thing it changes there, or the n-th of other `deeds`."""

    def __init__(self, place: Place, n: int, deeds: tuple[str, ...] = CHANGES) -> None:
        self._place, self._left, self._deeds = place, n, deeds
        self.address = place.address

    def __getattr__(self, name: str) -> Any:
        if name in self._deeds:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self._place, name)


def in_child(work: Callable[[], Any], timeout: float = 60) -> int | None:
    """The exit code of a process that does `work`, and nothing of what this one would do at its exit."""

    def alone() -> None:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)

    child = FORK.Process(target=alone)
    child.start()
    child.join(timeout)
    assert child.exitcode is not None, "it hangs"
    return child.exitcode


def whole_or_none(place: Place, root: Path, *contents: str) -> bool:
    """Whether a new host finds the artifact; what it finds is one of `contents`, and nothing it meets is damaged."""
    host = Host(root, place)
    found = host.store.find(RECIPE)
    assert host.told() == ""
    if found:
        text = found.file("file.txt").read_text()
        assert text in contents
        assert found.file("deep/other.bin").read_bytes() == text.encode() * 1000
    return found is not None


def test_a_kill_before_every_step_of_publishing_leaves_it_whole_or_absent(place: Place, tmp_path: Path) -> None:
    address = place.address

    def killed(root: Path, n: int) -> None:
        host = Host(root, Mortal(open_place(address), n), pace=Pace())
        host.make(root.name)
        host.store.close()

    seen = []
    for n in range(1, 7):
        root = tmp_path / f"a{n}"
        code = in_child(lambda root=root, n=n: killed(root, n))  # type: ignore[misc]
        assert code == (0 if n == 6 else -signal.SIGKILL)
        seen.append(whole_or_none(place, tmp_path / f"reader{n}", root.name))
        survivor = Host(root, place)  # the same command again
        survivor.make(root.name)
        survivor.store.close()
        assert whole_or_none(place, tmp_path / f"again{n}", root.name)
        for name in (f"{NAME}/manifest.json", f"leases/pairs-{RECIPE.key}"):
            place.remove(name)  # the next one begins anew
    assert seen == [False] * 4 + [True] * 2, "before lease, two files, manifest, end of the lease; and one that lives"


def test_a_kill_before_every_step_of_fetching_leaves_nothing_in_the_way(folder: Place, tmp_path: Path) -> None:
    made = publish_now(folder, tmp_path / "a")
    dies = [
        lambda n=n: Host(tmp_path / "b", Mortal(folder, n, ("read", "size", "get"))).store.find(RECIPE) for n in range(1, 6)
    ]
    assert [in_child(die) for die in dies] == [-signal.SIGKILL] * 5, "the manifest, and of two files size and content"
    assert Store(tmp_path / "b").find(RECIPE) is None
    found = Host(tmp_path / "b", folder).store.find(RECIPE)
    assert found is not None
    assert content(found) == content(made)
    assert list((tmp_path / "b/.partial").iterdir()) == []


def test_a_kill_in_the_middle_of_a_large_upload_leaves_no_object(s3: S3, tmp_path: Path) -> None:
    address, source = s3.bucket(), tmp_path / "big"
    source.write_bytes(os.urandom(40 << 20))

    def dies() -> None:
        def moved(count: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        open_place(address).put("big", source, moved)

    assert in_child(dies) == -signal.SIGKILL
    place, got = open_place(address), list[int]()
    assert place.size("big") is None
    place.put("big", source, got.append)
    assert sum(got) == place.size("big") == 40 << 20
    assert len(got) > 2, "in pieces"
    place.get("big", tmp_path / "back", got.append)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def spoil(place: Place, kind: str, made: Artifact, tmp_path: Path) -> None:
    manifest = json.loads((Path(made.path) / "manifest.json").read_bytes())
    target = f"{NAME}/{manifest['files']['file.txt']['sha256']}"
    match kind:
        case "other bytes":
            place.replace(target, b"jello")
        case "cut short":
            place.replace(target, b"hel")
        case "object gone":
            place.remove(target)
        case "manifest cut short":
            place.replace(f"{NAME}/manifest.json", json.dumps(manifest).encode()[:100])
        case "manifest changed":
            place.replace(f"{NAME}/manifest.json", json.dumps(manifest | {"facts": {"rows": 4}}).encode())
        case "manifest empty":
            place.replace(f"{NAME}/manifest.json", b"")
        case "another's manifest":
            other = Store(tmp_path / "other").make(Step(Recipe("pairs", 2, {}, {}), writes()))
            place.replace(f"{NAME}/manifest.json", other.file("manifest.json").read_bytes())


KINDS = ["cut short", "manifest cut short", "manifest changed", "manifest empty", "another's manifest"]


@pytest.mark.parametrize(
    ("where", "kind"),
    [*(("folder", kind) for kind in KINDS), *((w, k) for w in ("folder", "bucket") for k in ("other bytes", "object gone"))],
)
def test_what_is_damaged_there_is_told_made_again_and_replaced(
    request: pytest.FixtureRequest, tmp_path: Path, where: str, kind: str
) -> None:
    place: Place = request.getfixturevalue(where)
    spoil(place, kind, publish_now(place, tmp_path / "a"), tmp_path)
    b = Host(tmp_path / "b", place)
    made = b.make("hello")
    b.store.close()
    assert f"{place.address}/{NAME} is damaged (" in b.told()
    assert b.told().count("is damaged (") == 1
    assert b.names() == ["start", "made"]
    assert made.file("file.txt").read_text() == "hello"
    assert whole_or_none(place, tmp_path / "c", "hello")


@pytest.mark.parametrize("name", ["../../out.txt", "/tmp/out.txt", "a/../../../out.txt", "manifest.json", "", "a\0b"])
def test_a_manifest_cannot_name_files_outside_its_folder(folder: Place, tmp_path: Path, name: str) -> None:
    from codelutra.store.artifacts import _content, digest_of

    made = publish_now(folder, tmp_path / "a")
    manifest = json.loads(made.file("manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"] = {name: manifest["files"]["file.txt"]}
    manifest["digest"] = _content(manifest["files"])
    folder.replace(f"{NAME}/manifest.json", json.dumps(manifest | {"sha256": digest_of(manifest)}).encode())
    b = Host(tmp_path / "b", folder)
    assert b.store.find(RECIPE) is None
    assert "leads out of its folder" in b.told()
    assert [p for p in (tmp_path / "b").rglob("*") if p.is_file() and ".locks" not in p.parts] == []


BOTH_WAYS = """
import resource, sys
from pathlib import Path
from codelutra.store.places import open_place
place, folder = open_place(sys.argv[1]), Path(sys.argv[2])
place.size("big")  # libraries are loaded
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
place.put("big", folder / "big", lambda n: None)
place.get("big", folder / "back", lambda n: None)
print(peak() - before)
"""


def test_a_large_file_goes_both_ways_in_bounded_memory(place: Place, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as f:
        f.truncate(200 << 20)
    command = [sys.executable, "-c", BOTH_WAYS, place.address, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").stat().st_size == 200 << 20
    assert int(done.stdout) < 130 << 20


def test_the_first_publisher_wins_and_the_other_goes_on_with_its_own(place: Place, tmp_path: Path) -> None:
    first, second = (Store(tmp_path / n).make(Step(RECIPE, writes(n))) for n in ("one", "two"))
    assert publish(place, Job(first), lambda n: None)
    assert not publish(place, Job(second), lambda n: None)
    found = Host(tmp_path / "c", place).store.find(RECIPE)
    assert found is not None
    assert found.file("file.txt").read_text() == "one"
    assert second.file("file.txt").read_text() == "two"


def test_work_goes_on_while_the_server_is_away_and_is_published_when_it_is_back(s3: S3, tmp_path: Path) -> None:
    place = open_place(s3.bucket())
    require_place(place)
    a = Host(tmp_path / "a", place)
    s3.stop()
    try:
        made = [a.make("hello", Recipe("pairs", v, {}, {})) for v in range(1, 4)]
        assert all(Path(m.path).is_dir() for m in made)
        assert a.told().count("Work goes on here") == 1
        assert "no answer at http://127.0.0.1" in a.told()
        closing = threading.Thread(target=a.store.close)
        closing.start()
        time.sleep(1.5)
    finally:
        s3.start()
    closing.join(60)
    assert not closing.is_alive()
    assert "answers again" in a.told()
    assert "not in the shared store" not in a.told()
    b = Host(tmp_path / "b", place)
    assert all(b.store.find(Recipe("pairs", v, {}, {})) for v in range(1, 4))


def test_a_server_that_says_nothing_is_asked_a_few_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """s3fs and botocore both try again: with their own settings a silent server is asked sixty times, a minute each."""
    monkeypatch.setitem(s3_place._TIMES, "read_timeout", 0.2)
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    asked = 0

    def take_and_say_nothing() -> None:
        nonlocal asked
        kept = []
        with contextlib.suppress(OSError):
            while True:
                kept.append(silent.accept())
                asked += 1

    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=take_and_say_nothing, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for question in (lambda place: place.size("x"), lambda place: place.read("x", 10), lambda place: place.require()):
            asked = 0
            with pytest.raises(PlaceError, match="no answer at"):
                question(open_place("s3://bucket/x"))
            assert 1 < asked <= 8


def test_a_place_that_is_slow_to_fail_is_left_alone_for_as_long() -> None:
    def slow() -> None:
        time.sleep(0.3)
        raise PlaceError("no answer")

    reach = Reach("s3://b/x", lambda text: None, first_pause=0.01)
    with pytest.raises(PlaceError):
        reach.ask(slow)
    assert reach.wait > 0.2
    with pytest.raises(PlaceError):
        reach.ask(lambda: pytest.fail("asked in the pause"))


def test_a_server_that_stays_away_is_told_and_the_same_command_publishes_later(s3: S3, tmp_path: Path) -> None:
    place = open_place(s3.bucket())
    require_place(place)
    s3.stop()
    try:
        a = Host(tmp_path / "a", place, patience=0.1)
        a.make()
        a.store.close()
    finally:
        s3.start()
    (last,) = [e for e in a.events if e["event"] == "unpublished"]
    assert f"1 finished artifacts are not in the shared store {place.address} yet (pairs/{RECIPE.key})" in last["text"]
    again = Host(tmp_path / "a", place)
    again.store.make(Step(RECIPE, never))
    again.store.close()
    assert whole_or_none(place, tmp_path / "b", "hello")


class Choosy:
    """A place that will not take one artifact."""

    def __init__(self, place: Place, key: str) -> None:
        self._place, self._key, self.address = place, key, place.address

    def __getattr__(self, name: str) -> Any:
        def asked(*args: Any) -> Any:
            if name == "put" and self._key in args[0]:
                raise PlaceError("the server refuses this (EntityTooLarge)", lasting=True)
            return getattr(self._place, name)(*args)

        return asked


def test_an_artifact_that_is_refused_stands_in_the_way_of_no_other(folder: Place, tmp_path: Path) -> None:
    a = Host(tmp_path / "a", Choosy(folder, RECIPE.key))
    a.make()
    other = Recipe("pairs", 2, {}, {})
    a.make(recipe=other)
    deadline = time.monotonic() + 20
    while folder.size(f"artifacts/pairs/{other.key}/manifest.json") is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    a.store.close()
    assert "the server refuses this (EntityTooLarge). Work goes on here" in a.told()
    assert a.events[-1]["text"].startswith(f"1 finished artifacts are not in the shared store {folder.address} yet (pairs/")
    assert RECIPE.key in a.events[-1]["text"]


def test_a_folder_that_is_not_mounted_any_more_is_away_and_nothing_is_written_there(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    place = Folder(str(mounted))
    require_place(place)
    mounted.rename(tmp_path / "elsewhere")
    mounted.mkdir()
    a = Host(tmp_path / "a", place, patience=0.1)
    a.make()
    a.store.close()
    assert "is it mounted?" in a.told()
    assert list(mounted.iterdir()) == []


def test_one_of_two_hosts_makes_it_and_the_other_waits_and_fetches(place: Place, tmp_path: Path) -> None:
    a, b = Host(tmp_path / "a", place), Host(tmp_path / "b", place)
    begun, go = threading.Event(), threading.Event()

    def slow(out: Path, work: Path) -> dict[str, Any]:
        begun.set()
        assert go.wait(30)
        return dict(writes()(out, work))

    first = threading.Thread(target=lambda: a.store.make(Step(RECIPE, slow)))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=lambda: b.store.make(Step(RECIPE, never)))
    second.start()
    deadline = time.monotonic() + 30
    while "waiting" not in b.names():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(2 * QUICK.lapse)  # its lease is written anew all the while
    assert b.names() == ["waiting"]
    go.set()
    first.join(30)
    second.join(30)
    assert b.names() == ["waiting", "fetched", "reused"]
    a.store.close()
    b.store.close()
    assert place.size(f"leases/pairs-{RECIPE.key}") is None


class Breaking(Folder):
    broken = 2

    def get(self, name: str, file: Path, moved: Moved) -> None:
        if self.broken:
            self.broken -= 1
            raise PlaceError("the connection broke")
        super().get(name, file, moved)


def test_a_fetch_that_breaks_off_is_tried_again_before_the_work_is_done_again(folder: Place, tmp_path: Path) -> None:
    a = Host(tmp_path / "a", folder)
    a.make()
    a.store.close()
    b = Host(tmp_path / "b", Breaking(folder.address))
    assert b.store.make(Step(RECIPE, never)).facts == {"rows": 3}


def test_a_build_that_fails_leaves_its_lease_to_the_next(folder: Place, tmp_path: Path) -> None:
    a = Host(tmp_path / "a", folder)
    with pytest.raises(AssertionError, match="made again"):
        a.store.make(Step(RECIPE, never))
    assert Host(tmp_path / "b", folder).make().facts == {"rows": 3}


@pytest.mark.parametrize(
    "holder", ["a process of this machine that was killed", "another machine that fell silent", "garbage"]
)
def test_a_lease_of_a_process_that_is_gone_is_taken(folder: Place, holder: str) -> None:
    killed = this_process().replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    process = {"a": killed, "g": None}.get(holder[0]) if not holder.startswith("another") else "deadbeef-1-2"
    folder.create("leases/x", json.dumps({"token": "t", "process": process, "host": "h"}).encode() if process else b"\xff[")
    said = list[str]()
    began = time.monotonic()
    lease = take(folder, "leases/x", QUICK, said.append)
    assert lease is not None
    if holder.startswith("a process"):
        assert said == []
    else:
        assert time.monotonic() - began > QUICK.lapse
        assert said == ["h" if holder.startswith("another") else "another host"]
    lease.release()
    assert folder.size("leases/x") is None


def test_a_lease_that_is_released_while_it_is_written_is_gone(folder: Place) -> None:
    for _ in range(30):
        lease = take(folder, "leases/x", Pace(beat=0.001, look=0.001, lapse=9), lambda host: None)
        assert lease is not None
        time.sleep(0.01)
        lease.release()
        time.sleep(0.01)
        assert folder.size("leases/x") is None


class Blinking:
    """A place that does not answer its 3rd to 8th question."""

    def __init__(self, place: Place) -> None:
        self._place, self._asked, self.address = place, 0, place.address

    def __getattr__(self, name: str) -> Any:
        self._asked += 1
        if 3 <= self._asked <= 8:
            raise PlaceError("no answer")
        return getattr(self._place, name)


def test_a_place_that_is_away_for_a_moment_ends_no_waiting(folder: Place) -> None:
    held = take(folder, "leases/x", QUICK, lambda host: None)
    assert held is not None
    threading.Timer(0.6, held.release).start()
    began = time.monotonic()
    lease = take(Blinking(folder), "leases/x", QUICK, lambda host: None)
    assert lease is not None
    assert time.monotonic() - began > 0.5
    lease.release()


def test_what_a_lease_says_is_no_message_to_the_terminal(folder: Place) -> None:
    folder.create("leases/x", json.dumps({"token": "t", "process": "z-1-2", "host": "\x1b[2Jevil\nhost" * 20}).encode())
    said = list[str]()
    lease = take(folder, "leases/x", QUICK, said.append)
    assert lease is not None
    lease.release()
    assert said[0].startswith("__2Jevil_host")
    assert len(said[0]) == 64


def test_who_lost_a_lease_in_an_outage_does_not_take_it_from_the_next(place: Place) -> None:
    mine, theirs = (Lease(place, "leases/x", QUICK) for _ in range(2))
    place.replace("leases/x", theirs.content())  # before the outage is over: between two beats no one can tell
    mine.hold()
    time.sleep(4 * QUICK.beat)
    mine.release()
    assert place.read("leases/x", 1000) == theirs.content()


def test_turns_are_taken_among_hosts_and_what_was_made_in_one_is_there_for_the_next(folder: Place, tmp_path: Path) -> None:
    a, b, order = Host(tmp_path / "a", folder), Host(tmp_path / "b", folder), list[str]()

    def second() -> None:
        with b.store.turn("sampling-x", lambda: order.append("b waits")):
            order.append("b finds" if b.store.find(RECIPE) else "b misses")

    with a.store.turn("sampling-x", lambda: order.append("a waits")):
        other = threading.Thread(target=second)
        other.start()
        deadline = time.monotonic() + 30
        while not order:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        a.make()
    other.join(30)
    assert order == ["b waits", "b finds"]


def test_a_store_inside_the_shared_folder_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "store", tmp_path.parent):
        with pytest.raises(UserError, match="must not lie in each other"):
            open_store(root, str(tmp_path), print, lambda *a: None)


def test_a_place_that_cannot_be_a_store_is_one_message(s3: S3, tmp_path: Path) -> None:
    cases = {
        "s3://no-such-bucket-here/x": "there is no bucket 'no-such-bucket-here'",
        str(tmp_path / "gone"): "no such folder",
    }
    for address, said in cases.items():
        with pytest.raises(UserError, match=said):
            open_store(tmp_path / "here", address, print, lambda *a: None)
    assert not (tmp_path / "here").exists()
    other = s3.bucket()
    open_place(other).create("codelutra-store.json", b'{"codelutra_store": 9}')
    with pytest.raises(UserError, match="not what this version of codelutra writes"):
        open_store(tmp_path / "here", other, print, lambda *a: None)


def test_no_address_is_the_plain_local_store(tmp_path: Path) -> None:
    assert type(open_store(tmp_path, "", print, lambda *a: None)) is Store


def test_without_its_library_a_bucket_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"pip install 'codelutra\[s3\]'"):
        open_place("s3://bucket/x")


@pytest.fixture
def enforcing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks at credentials."""
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONGWRONG1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush/hush/hush")


def test_wrong_credentials_are_one_message_that_does_not_repeat_them(s3: S3, enforcing: None, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"refuses the credentials \(InvalidAccessKeyId\)|not allowed to do this \(403\)"
    ) as e:
        open_store(tmp_path, "s3://some-bucket/x", print, lambda *a: None)
    assert "hush" not in repr(e.getrepr())
    assert "WRONG" not in str(e.value)


def test_no_credentials_are_one_message(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"there are no credentials for it .*set AWS_ACCESS_KEY_ID"):
        open_store(tmp_path, "s3://some-bucket/x", print, lambda *a: None)


def test_credentials_that_are_withdrawn_in_between_stop_nothing(s3: S3, tmp_path: Path, request: Any) -> None:
    place = open_place(s3.bucket())
    require_place(place)
    request.getfixturevalue("enforcing")
    a = Host(tmp_path / "a", place, patience=0.1)
    a.make()
    a.store.close()
    assert "Work goes on here; what is finished is published when it can be" in a.told()
    assert a.events[-1]["event"] == "unpublished"
    assert s3_names(a.told()) == set()


def s3_names(text: str) -> set[str]:
    """Credentials of this process that are in a text."""
    return {v for v in ("AKIAWRONGWRONGWRONG1", "hush/hush/hush", KEY, SECRET) if v in text}


def test_prune_leaves_what_others_share(folder: Place, tmp_path: Path) -> None:
    home = tmp_path / "home"
    publish_now(folder, home / "store")
    removed = prune(home)
    assert [p.name for p, _ in removed.artifacts] == [RECIPE.key]
    assert Host(home / "store", folder).store.make(Step(RECIPE, never))
