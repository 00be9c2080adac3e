"""Standard output and standard error of a command: UTF-8 whatever the locale, and quiet once nobody reads them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator

READER_GONE = 128 + signal.SIGPIPE
"""The exit code that a shell tells of a command which SIGPIPE ended."""


class Output(io.TextIOWrapper):
    """Ends the command with READER_GONE once whoever read it has closed the pipe, and takes everything in silence where it
    was closed from the start. After any error it drops what it could not write: a second try would fail again."""

    def write(self, text: str) -> int:
        written = len(text)
        with self._watched():
            written = super().write(text)
        return written

    def flush(self) -> None:
        with self._watched():
            super().flush()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if e.errno == errno.EPIPE:
                raise SystemExit(READER_GONE) from None
            if e.errno != errno.EBADF:
                raise


def prepare() -> None:
    """Open what whoever started us has closed, and have both outputs be `Output`s.

    Files and child processes are UTF-8 whatever the locale; a terminal that is not gets escapes for what it lacks.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    for number in (0, 1, 2):  # else the next file that is opened would be what others write to or read from
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)))
        if type(stream) is io.TextIOWrapper:  # not what somebody has put in its place, in whose process this runs
            each_line, at_once = stream.line_buffering, stream.write_through
            output = Output(
                stream.detach(), stream.encoding, "backslashreplace", line_buffering=each_line, write_through=at_once
            )
            setattr(sys, name, output)
            setattr(sys, f"__{name}__", output)
    if "PYTHONIOENCODING" in os.environ:
        os.environ["PYTHONIOENCODING"] = "utf-8"  # of the flow's process, which writes to files only
