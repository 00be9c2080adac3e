"""Child processes (engine, training, …): how they get their work, how they answer, and how none outlives its parent.

    parent: Child  ──(stdin: JSON lines; its end means "end")──►  child: `serve(work)`, `work` gets a `Parent`
                   ◄──(its first stdout: events, JSON lines)────

A process exit is the only sure way to get an accelerator's memory back, so what loads a model is a process of its own. What
libraries print, on stdout or stderr, goes to the log and cannot spoil the events. A child ends, with all it has started,
when its `Child` ends and when the parent dies, however it dies. An error that the child raises on purpose is raised in the
parent; any other end is an `EndedEarlyError` with the end of the log.

Whatever we start has the marks of the starting process in its environment (see `sandbox.owner`). So what a killed process
left behind is found: `reap_strays`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from codelutra.errors import CodelutraError, StageError, UserError, disk_is_full, full_disk, memory_ran_out, of_the_system
from codelutra.hardware import held_by_others
from codelutra.store.files import lock_holder, locked
from sandbox import owner as owner

OWNER = "CODELUTRA_STARTED_BY"  # CODELUTRA_OWNER was that of 0.1.0, which stops at an owner it cannot read
_WORKS_FOR = "CODELUTRA_WORKS_FOR"  # for people: whose engine or trainer a process is
OUT_OF_MEMORY = 77  # exit code
_LOG_LINES_SHOWN = 12
_FROM_OUTSIDE: dict[int, str] = {
    signal.SIGKILL: (
        "most likely the kernel or the container's limit, because memory ran out (`dmesg` tells), or somebody's `kill -9`. "
        "If it was memory, lower engine.cache_gib, engine.max_batch or train.micro_batch, or run less beside it"
    ),
    signal.SIGTERM: "a shutdown, a scheduler or somebody's `kill`",
    signal.SIGHUP: "its terminal or session has ended",
    signal.SIGINT: "an interrupt",
    signal.SIGXCPU: "the limit of CPU time (`ulimit -t`)",
}
Event = dict[str, Any]


class EndedEarlyError(StageError):
    """A child has ended without saying why."""

    transient = True

    def __init__(self, what: str, code: int, log: Path, held: str = "") -> None:
        """`held`: what it said of memory that others hold."""
        self.code, self.held = code, held
        self.out_of_memory = code in (OUT_OF_MEMORY, -signal.SIGKILL)  # the kernel's answer to too little memory is SIGKILL
        self.last_lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        kept = "what is finished is kept, the same command goes on from there"
        if cause := _FROM_OUTSIDE.get(-code, ""):  # of which the log knows nothing
            how = f"killed from outside by signal {-code}, {signal.Signals(-code).name}: {cause}"
            super().__init__(f"the {what} process was {how}; {kept}. Its log is {log}")
            return
        how = f"killed by signal {-code}" if code < 0 else "out of memory" if code == OUT_OF_MEMORY else f"exit code {code}"
        if held:
            how = f"{how}: {held}"
        if disk_is_full("\n".join(self.last_lines)):
            how = f"{how}: {full_disk(log.parent)}"
        super().__init__(
            f"the {what} process ended early ({how}); {kept}.\n"
            f"The end of {log}:\n" + "\n".join(f"  {line}" for line in self.last_lines)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it is: its log may be another machine's."""
        return _as_it_was, (self.args, vars(self))


def _as_it_was(said: tuple[str, ...], more: dict[str, Any]) -> EndedEarlyError:
    error = EndedEarlyError.__new__(EndedEarlyError, *said)
    vars(error).update(more)
    return error


class Process(Protocol):
    """What a `Child` is to its parent; on a cluster it may be on another machine."""

    def send(self, message: Any) -> None: ...
    def hear(self, timeout: float | None = None) -> Event: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


Start = Callable[..., Process]
"""Called as `Child` is."""


class Child:
    """`python -m module arguments`, from here to the end of the `with` block. `log` gets what it prints."""

    def __init__(self, what: str, module: str, *arguments: str, log: Path, more: dict[str, str] | None = None) -> None:
        """`what` names the process in errors; `more` is added to its environment."""
        self._what, self._log, self._held = what, log, ""
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = our_environment() | {_WORKS_FOR: f"run {log.parent.name}, process {os.getpid()}"}
        with log.open("ab") as noise:
            # A session of its own: Ctrl-C reaches us, who end it; killpg reaches all it has started.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
                env=os.environ | environment | (more or {}),
                start_new_session=True,
            )
        # Events are taken while the caller is busy, or the child would have to stop.
        threading.Thread(target=self._drain, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a JSON-able message. A dead child is told by `hear`, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, timeout: float | None = None) -> Event:
        """The next event; an empty one when `timeout` seconds bring none.

        Raises the UserError or StageError that the child raised, and EndedEarlyError when it has ended.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return {}
        if event is None:
            raise EndedEarlyError(self._what, self._process.wait(), self._log, self._held)
        if event["event"] == "error":
            raise (UserError if event["exit_code"] == UserError.exit_code else StageError)(event["message"])
        return event

    def _drain(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut off by the child's death, or printed before `Parent` was made
                    event = json.loads(line)
                    if isinstance(event, dict) and event.get("event") == "held":
                        self._held = str(event["why"])
                    elif isinstance(event, dict) and "event" in event:
                        self._events.put(event)
        self._events.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Parent:
    """The other side, in the child: made first of all, before anything is imported that prints or takes long."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        when_parent_ends(lambda: os.killpg(0, signal.SIGKILL), lambda line: self._messages.put(json.loads(line)))

    def tell(self, event: Event) -> None:
        """Send an event: {"event": its kind, …}."""
        self._events.write(json.dumps(event) + "\n")

    def hear(self) -> Any:
        """The next message; waits for it."""
        return self._messages.get()

    def heard(self) -> Any:
        """The next message, if there is one already, else None."""
        with contextlib.suppress(queue.Empty):
            return self._messages.get_nowait()

    def holding(self, lock: Path) -> contextlib.AbstractContextManager[None]:
        """Hold a lock; "waiting" is told while another process has it, and who."""
        return locked(
            lock,
            waiting=lambda: self.tell({"event": "waiting", "for": lock_holder(lock) or str(lock)}),
            holder=os.environ.get(_WORKS_FOR, ""),
        )


def serve(work: Callable[[Parent], None]) -> None:
    """Be a child: do `work`, and tell the parent of an error raised on purpose and of memory that did not suffice."""
    parent = Parent()
    try:
        work(parent)
    except CodelutraError as e:
        parent.tell({"event": "error", "exit_code": e.exit_code, "message": str(e)})
        os._exit(1)  # at once: where several processes train together, the others would wait for this one
    except Exception as e:
        if memory_ran_out(e):
            with contextlib.suppress(OSError):  # a log that cannot be written
                traceback.print_exc()
            if held := held_by_others(e):
                parent.tell({"event": "held", "why": held})
            os._exit(OUT_OF_MEMORY)
        if not (disk_is_full(e) and (known := of_the_system(e))):
            raise
        parent.tell({"event": "error", "exit_code": known.exit_code, "message": str(known)})
        os._exit(1)
    finally:
        gc.unfreeze()  # what `work` has frozen: libraries would count it as leaked, at the end of the log


def when_parent_ends(end: Callable[[], None], hear: Callable[[bytes], None] = lambda line: None) -> None:
    """Call `end`, in a thread, when stdin ends or the owner in our environment is gone; give `hear` each line until then.

    The end of stdin alone would not do: a process that the parent forked may keep the other side open. Nor would a
    parent-death signal: it follows the parent's thread.
    """
    marks, first = owner.from_text(os.environ.get(OWNER, "")), threading.Lock()

    def read() -> None:
        try:
            for line in os.fdopen(os.dup(0), "rb"):  # sys.stdin has a lock that the interpreter wants when it exits
                hear(line)
        finally:  # also at a line that was cut off
            end_once()

    def watch() -> None:
        while not owner.is_orphan(marks):
            time.sleep(1)
        end_once()

    def end_once() -> None:
        if first.acquire(blocking=False):
            end()

    for target in (read, watch):
        threading.Thread(target=target, daemon=True).start()


def our_environment() -> dict[str, str]:
    """What our processes get: this code's modules, even in a folder that has a tasks.py or datasets.py; and our marks."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": paths, OWNER: owner.as_text(owner.marks())}


def own_what_follows() -> None:
    """Mark every process started from here on as ours, those that libraries start too."""
    os.environ[OWNER] = owner.as_text(owner.marks())


def reap_strays() -> list[int]:
    """Kill what killed processes of ours left behind, Prefect's temporary server above all. Returns the process ids."""
    return _kill(owner.is_orphan)


def end_what_followed() -> None:
    """Kill every process that this one has marked."""
    mine = owner.marks()
    _kill(lambda marks: marks == mine)


def strays() -> list[int]:
    """Ids of the processes that `reap_strays` would kill."""
    return list(_marked(owner.is_orphan))


def _kill(which: Callable[[dict[str, str]], bool]) -> list[int]:
    killed = []
    for pid in _marked(which):
        with contextlib.suppress(OSError):  # gone meanwhile
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def _marked(which: Callable[[dict[str, str]], bool]) -> Iterator[int]:
    """The processes of this user whose owner's marks are such.

    Others' are not even read: what a stranger, or a program in a sandbox, has in its environment concerns nobody.
    """
    prefix = f"{OWNER}=".encode()
    if not Path("/proc/self").exists() or os.readlink("/proc/self") != str(os.getpid()):
        return  # the process table of another namespace: its numbers are others' here
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if path.parent.stat().st_uid != os.geteuid():
                continue
            marks = [item[len(prefix) :] for item in path.read_bytes().split(b"\0") if item.startswith(prefix)]
            if any(which(owner.from_text(text.decode(errors="replace"))) for text in marks):
                yield int(path.parent.name)
