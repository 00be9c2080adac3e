"""The command line on a terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress


def on_terminal(*args: str, columns: int) -> list[str]:
    """Lines that `codelutra ARGS` prints there, without colours and blanks at their ends; it must exit with 0."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", written_to_terminal(*args, columns=columns))
    return [line.rstrip() for line in text.splitlines()]


def written_to_terminal(*args: str, columns: int) -> str:
    """All that `codelutra ARGS` writes there, escape sequences included; it must exit with 0."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "codelutra.cli", *args]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # how a terminal tells that nobody writes to it any more
            while chunk := os.read(ours, 1 << 16):
                said += chunk
    os.close(ours)
    assert process.returncode == 0, said.decode()
    return said.decode()
