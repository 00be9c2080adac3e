"""The whole loop at small scale, for tests: a tiny real model, real vLLM, real Docker, real TRL, real Prefect."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.ports import free_port

Event = dict[str, Any]
MARK = "CODELUTRA_TEST_HOME"


def small_config(path: Path, model: Path, **changes: Any) -> Path:
    """Write a config of seconds rather than minutes; `changes` replace whole sections or values."""
    config: dict[str, Any] = {
        "name": path.stem,
        "model": f"path:{model}",
        "iterations": 2,
        "suite": {"name": "starter-sql", "train": 24, "dev": 12, "test": 6},
        "warm_start": {"epochs": 1, "batch_size": 4, "micro_batch": 4, "checkpoint_steps": 1, "max_length": 512},
        "sample": {"samples_per_problem": 4, "max_tokens": 16, "shard_problems": 8},
        "engine": {"max_model_len": 512, "cache_gib": 0.5},
        "pairs": {"per_problem": 2},
        "train": {"batch_size": 2, "micro_batch": 2, "checkpoint_steps": 1, "max_length": 512},
        "select": {"patience": 5},
    }
    path.write_text(yaml.safe_dump(config | changes))
    return path


class Command:
    """`codelutra run` in a process group of its own, so that all of it can be killed at once."""

    def __init__(self, config: Path, home: Path, *more: str, **env: str) -> None:
        self.run = home / "runs" / config.stem
        self._partial = home / "store" / ".partial"
        self._seen = len(self.events())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codelutra.cli", "run", str(config), "--home", str(home), "--json", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"COLUMNS": "200", MARK: str(home)} | env,
        )

    def events(self) -> list[Event]:
        ledger = self.run / "ledger.jsonl"
        lines = ledger.read_text().splitlines(keepends=True) if ledger.exists() else []
        return [json.loads(x) for x in lines if x.endswith("\n")]  # the last one may be on its way

    def kill_when(self, reached: Callable[[list[Event], Event], bool], how: str = "all", timeout: float = 300) -> str:
        """End it as soon as `reached(new events, progress)`; returns what it last said it did.

        how: "all" is kill -9 of the process group, "command" of the command alone, "ask" a SIGTERM to the command alone.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            state = self.progress()
            new = self.events()[self._seen :]
            if reached(new, state):
                if how == "all":
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.send_signal(signal.SIGTERM if how == "ask" else signal.SIGKILL)
                self.process.communicate(timeout=60)
                assert self.process.returncode == (130 if how == "ask" else -signal.SIGKILL)
                return f"{state.get('stage')} {state.get('done')}/{state.get('total')}"
            time.sleep(0.005)
        os.killpg(self.process.pid, signal.SIGKILL)
        raise AssertionError(f"never reached; {self.process.communicate()[1][-2000:]}")

    def progress(self) -> Event:
        file = self.run / "progress.json"
        state: Event = json.loads(file.read_text()) if file.exists() else {}
        whole = self._partial.glob("train-*/work/checkpoint-*/whole.json")
        return state | {"checkpoints": len(list(whole))}

    def finish(self, timeout: float = 600) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            raise AssertionError(f"no end in {timeout} s: {err[-2000:]}") from None
        return self.process.returncode, out, err


@contextmanager
def prefect_server(folder: Path, *more: str) -> Iterator[str]:
    """A server of its own, as `make ui` starts one; gives the address of its API. `more` are options of its command."""
    port = free_port()
    own = os.environ | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), *more]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=own)
    try:
        api, deadline = f"http://127.0.0.1:{port}/api", time.monotonic() + 180
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=5):
                break
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.3)
        yield api
    finally:
        server.terminate()
        server.wait()


def processes_of(home: Path) -> list[str]:
    """Command lines of running processes that a `Command` on this home started, directly or not."""
    lines, mark = [], f"{MARK}={home}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended
            if mark in path.read_bytes().split(b"\0"):
                lines.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
