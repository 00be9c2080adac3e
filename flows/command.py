"""Running a flow from a shell: arguments in, exit code out. Output is for the log; people watch through `codelutra run`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from codelutra.config import load_config
from codelutra.errors import CodelutraError
from codelutra.store.child import end_what_followed, own_what_follows, reap_strays, when_parent_ends
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir
from tasks.server import close_temporary_server, crash_own_runs, require_server

_GRACE_SECONDS = 10.0  # for what is open; nothing else is lost, as with any kill
_TELL_SECONDS = 5.0  # for Prefect's server


def main(flow: Callable[..., Any]) -> None:
    """Exit 0, 1 (a stage could not go on), 2 (something to put right), 130 (interrupted), 143 (terminated)."""
    parser = argparse.ArgumentParser(description=(flow.__doc__ or "").split("\n")[0])
    parser.add_argument("config", help="a preset's name or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    parser.add_argument("--home", help="folder of store/ and runs/")
    parser.add_argument("--watched", action="store_true", help="end when stdin or the parent does")
    args = parser.parse_args()
    _end_soon_after_sigterm()
    if args.watched:
        when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    reap_strays()
    own_what_follows()
    try:
        _ready(args)
        flow(config=args.config, overrides=args.overrides, home=args.home)
    except CodelutraError as e:
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        _tell()
        sys.exit(130)


def _ready(args: argparse.Namespace) -> None:
    """What has to be right before there is a flow run. Raises CodelutraError, told to whoever watches or reads the log."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_one_sentence)
    try:
        config = load_config(args.config, tuple(args.overrides))
    except CodelutraError as e:
        print(f"codelutra: {e}", file=sys.stderr)
        raise
    try:
        close_temporary_server()
        require_server()
    except CodelutraError as e:
        print(f"codelutra: {e}", file=sys.stderr)
        folder = home_dir(args.home) / "runs" / config.name
        if folder.is_dir():
            RunDir(folder).ledger({"event": "error", "text": str(e), "exit_code": e.exit_code})
        raise


def _one_sentence(record: logging.LogRecord) -> bool:
    """What we raise on purpose says what is wrong: no traceback in the log."""
    if record.exc_info and isinstance(record.exc_info[1], CodelutraError):
        record.exc_info, record.exc_text = None, None
    return True


def _end_soon_after_sigterm() -> None:
    """While a flow runs, Prefect hears the signal, raises in the flow and waits for tasks that are going on: minutes, where
    one trains. Then it gives the signal to us. A thread of ours hears it too, and waits no longer than it takes to close."""
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    signal.set_wakeup_fd(hears, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(heard, 1)[0] != signal.SIGTERM:
            pass
        _tell()
        time.sleep(_GRACE_SECONDS)
        _leave()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _leave())


def _leave() -> None:
    """The end of a process that was told to end: Prefect's temporary server does not outlive it."""
    _tell()
    end_what_followed()
    os._exit(128 + signal.SIGTERM)


def _tell() -> None:
    """Have the UI show that this run has ended, if Prefect's server answers soon."""
    teller = threading.Thread(target=crash_own_runs, daemon=True)
    teller.start()
    teller.join(_TELL_SECONDS)
