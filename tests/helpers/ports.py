"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A free port of 127.0.0.1 that no outgoing connection of another process can be given before it is used.

    The kernel hands out the ports of `net.ipv4.ip_local_port_range`, which start at 32768; this one lies below.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port found")
