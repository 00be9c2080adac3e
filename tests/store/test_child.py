"""A child does what it is told, says why it ends, and never outlives its parent; what a killed flow left is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codelutra.cli import watch
from codelutra.errors import StageError, UserError
from codelutra.store.child import OWNER, Child, EndedEarlyError, reap_strays
from codelutra.store.files import locked
from sandbox.owner import BOOT, HOST, PID, STARTED, as_text, from_text, is_orphan, marks, started

WORKER = "tests.helpers.worker"
PARENT = f"""
import os, sys
from pathlib import Path
from codelutra.store.child import Child
with Child("test", "{WORKER}", log=Path(sys.argv[1])) as child:
    child.send("below")
    below = child.hear()["pid"]
    if not (fork := os.fork()):  # holds our end of the child's stdin, as a library's helper might
        os.close(1)
        __import__("time").sleep(60)
        os._exit(0)
    print(fork, child.pid, below, flush=True)
    child.hear()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with Child("test", WORKER, log=tmp_path / "log" / "child.log") as running:
        yield running


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while started(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not started(pid)


def test_messages_come_through_whole_whatever_is_printed_meanwhile(child: Child, tmp_path: Path) -> None:
    long = "x" * 300_000
    for text in ("print", long, "\n{}\n"):
        child.send(text)
        assert child.hear(timeout=30) == {"event": "echo", "text": text}
    child.send("print")
    assert child.hear(timeout=30)["text"] == "print"
    assert (tmp_path / "log" / "child.log").read_text().count('{"event": "not one"}') == 4
    assert child.hear(timeout=0.01) == {}


@pytest.mark.parametrize(
    ("how", "error", "says"), [("user", UserError, "put it right"), ("stage", StageError, "it cannot go on")]
)
def test_an_error_raised_on_purpose_is_raised_in_the_parent(
    child: Child, how: str, error: type[Exception], says: str
) -> None:
    child.send(how)
    with pytest.raises(error, match=f"^{says}$"):
        child.hear()


@pytest.mark.parametrize(
    ("how", "says", "memory"),
    [
        ("crash", r"exit code 1\)(?s:.*)The end of (?s:.*)  KeyError: 'boom'", False),
        ("exit 3", r"exit code 3\)", False),
        ("memory", r"out of memory\)(?s:.*)MemoryError: all of it", True),
        ("torch's memory", r"out of memory\)(?s:.*)OutOfMemoryError", True),
        ("shared GPU", r"out of memory: other processes hold 68\.0 of the GPU's 80\.0 GiB \(`nvidia-smi`", True),
        ("killed", r"killed from outside by signal 9, SIGKILL: most likely .*memory ran out.*the same command", True),
    ],
)
def test_any_other_end_is_told_with_the_end_of_the_log(child: Child, how: str, says: str, memory: bool) -> None:
    child.send(how)
    with pytest.raises(EndedEarlyError, match=says) as told:
        child.hear()
    assert told.value.out_of_memory is memory


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU])
def test_a_kill_from_outside_is_told_by_its_signal_and_not_by_a_log_that_knows_nothing(
    child: Child, tmp_path: Path, number: signal.Signals
) -> None:
    child.send("print")
    child.hear(timeout=30)
    os.kill(child.pid, number)
    with pytest.raises(EndedEarlyError, match=rf"from outside by signal {number:d}, {number.name}: \w") as told:
        child.hear(timeout=30)
    assert "not one" not in str(told.value)
    assert str(tmp_path / "log" / "child.log") in str(told.value)


def test_a_module_that_cannot_start_ends_early_too(tmp_path: Path) -> None:
    with Child("test", "tests.helpers.no_such_module", log=tmp_path / "log") as child:
        child.send("x" * 300_000)  # more than a pipe holds, and nobody reads it
        with pytest.raises(EndedEarlyError, match="No module named"):
            child.hear()


def test_whoever_waits_for_a_lock_says_so(child: Child, tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with locked(tmp_path / "lock"):
        child.send(f"lock {lock}")
        assert child.hear(timeout=30) == {"event": "waiting", "for": lock}
    assert child.hear(timeout=30) == {"event": "locked"}


def test_the_end_of_the_block_ends_the_child_and_all_it_has_started(child: Child) -> None:
    child.send("below")
    below = child.hear(timeout=30)["pid"]
    child.__exit__()
    assert gone(child.pid, 0)
    assert gone(below)


def test_a_child_ends_with_its_parent_even_if_a_fork_of_that_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "log"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        fork, *pids = map(int, parent.stdout.readline().split())
        parent.send_signal(signal.SIGKILL)
    try:
        assert [pid for pid in pids if not gone(pid)] == []
        assert started(fork), "it no longer holds the child's stdin: this test would prove nothing"
    finally:
        os.kill(fork, signal.SIGKILL)


def child_of(owner: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {OWNER: owner})
    while b"input()" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        pass  # between fork and exec it still has our environment
    return child


def test_what_a_dead_flow_left_is_killed_and_what_a_live_one_runs_or_nobody_owns_is_not() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    stray = child_of(as_text(marks() | {PID: str(dead.pid), STARTED: "12345"}))
    others = [child_of(text) for text in (as_text(marks()), "x", f"{dead.pid}:12345", "")]
    try:
        assert stray.pid in reap_strays()
        assert stray.wait(10) == -9
        assert [child.poll() for child in others] == [None] * 4
    finally:
        for child in (stray, *others):
            child.kill()
            child.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be asked by another user")
def test_a_stranger_s_environment_is_not_read(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    orphan = as_text(marks() | {PID: str(dead.pid), STARTED: "12345"})
    script = "import os\nos.setresuid(65534, 65534, 65534)\nos.execv('/bin/sleep', ['sleep', '60'])"
    stranger = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {OWNER: orphan})
    try:
        while not Path(f"/proc/{stranger.pid}/cmdline").read_bytes().startswith(b"sleep\0"):
            pass
        assert stranger.pid not in reap_strays()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a process namespace")
def test_nothing_is_killed_from_a_namespace_that_sees_the_process_table_of_another() -> None:
    """There the numbers in /proc are other processes' than the ones that a signal would reach."""
    script = "from codelutra.store import child\nasked = []\nchild._kill(lambda marks: asked.append(marks))\nprint(asked)"
    own = [sys.executable, "-c", f"import subprocess, sys\nsys.exit(subprocess.call([sys.executable, '-c', {script!r}]))"]
    marked = os.environ | {OWNER: as_text(marks())}
    asked = subprocess.run(["unshare", "--pid", "--fork", *own], env=marked, capture_output=True, text=True)
    assert asked.stdout == "[]\n", asked.stderr


def test_marks_survive_being_a_text_and_anything_else_is_nobodys() -> None:
    mine, dead = marks(), marks() | {STARTED: "1"}
    assert from_text(as_text(mine)) == mine
    assert [is_orphan(m) for m in (mine, dead, mine | {BOOT: "an earlier one"})] == [False, True, True]
    assert not is_orphan(dead | {HOST: "another machine or pid namespace"})
    unreadable = [dead | {PID: pid} for pid in ("", "-1", "x", "²", "١", "1/../1")]
    unreadable += [dead | {name: ""} for name in (HOST, BOOT, STARTED)] + [{}, {PID: "1"}]
    texts = ["", "x", "1:2", "a b c d", "a b c", as_text(dead) + " ", "\ufffd"]
    assert [found for found in (*unreadable, *map(from_text, texts)) if is_orphan(found)] == []


def test_a_process_that_has_ended_and_was_not_waited_for_is_gone() -> None:
    zombie = subprocess.Popen(["true"])
    assert gone(zombie.pid)
    assert Path(f"/proc/{zombie.pid}").exists()
    zombie.wait()


def test_our_processes_run_our_modules_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("codelutra", "datasets", "tasks"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2]
    ours = [str(root / "codelutra/__init__.py"), str(root / "tasks/__init__.py")]
    with Child("test", WORKER, log=tmp_path / "log") as child:
        child.send("modules")
        assert child.hear(timeout=30)["files"] == ours
    look = "import codelutra, importlib.util as u; print(codelutra.__file__, u.find_spec('tasks').origin)"
    done = subprocess.run([sys.executable, "-c", look], env=watch._environment(), capture_output=True, text=True)
    assert done.stdout.split() == ours, done.stderr
