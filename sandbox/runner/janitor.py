"""Kills everything a program's user owns and empties its directory.

The janitor becomes the program's user for the moment of the deed alone, and only as its effective user: `kill(-1)` reaches
the program's processes in one atomic sweep that no fork bomb outruns. The processes may not signal, trace or limit the
janitor, whose real user is its own; nor change how it is scheduled, as they could one whose effective user is theirs.
"""

from __future__ import annotations

import os
import signal
import socket
import stat

KILL, WIPE = b"k", b"w"


def serve(control: socket.socket, uid: int, janitor_uid: int, homes: list[str]) -> None:
    """Obey until the supervisor goes away. Runs in a process of its own; never returns."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(janitor_uid, 0, 0)
    os.chdir("/")
    tops = [os.fsencode(home) for home in homes]
    control.send(b"ready")
    while True:
        order = control.recv(1)
        if not order:
            os._exit(0)
        os.seteuid(uid)
        if order == KILL:
            kill()
        else:
            for top in tops:
                wipe(top)
        os.seteuid(0)
        control.send(order)


def kill() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def wipe(top: bytes) -> None:
    """Remove what is under `top`, however deep and however forbidden.

    Directories are emptied by moving their children up to `top`, so that no path grows long and nothing recurses.
    Nobody else is at work here: the user's processes are dead.
    """
    while entries := os.listdir(top):
        for name in entries:
            path = os.path.join(top, name)
            if not is_directory(path):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for child in os.listdir(path):
                inner = os.path.join(path, child)
                if not is_directory(inner):
                    os.unlink(inner)
                    continue
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(top, os.urandom(12).hex().encode()))
            os.rmdir(path)


def is_directory(path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)
