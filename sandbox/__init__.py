"""Runs untrusted programs in warm containers. The caller compares their outputs: nothing here decides what is right.

Read `protocol.py` first. `pool.py` is the host's side, `runner/` is what runs inside the container.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sandbox.errors import SandboxError
from sandbox.protocol import Malformed, NotRepresentable, PythonJob, Result, SqlJob, Status, decode, dumps, encode, loads

if TYPE_CHECKING:
    from sandbox.client import ensure_daemon_reachable
    from sandbox.image import ensure_image
    from sandbox.owner import reap_orphans
    from sandbox.pool import Pool

# Imported when first used, so that code which only describes jobs does not load Docker's client.
_LATER = {
    "Pool": "sandbox.pool",
    "ensure_daemon_reachable": "sandbox.client",
    "ensure_image": "sandbox.image",
    "reap_orphans": "sandbox.owner",
}

__all__ = [
    "Malformed",
    "NotRepresentable",
    "Pool",
    "PythonJob",
    "Result",
    "SandboxError",
    "SqlJob",
    "Status",
    "decode",
    "dumps",
    "encode",
    "ensure_daemon_reachable",
    "ensure_image",
    "loads",
    "reap_orphans",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
