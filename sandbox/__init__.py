"""Runs untrusted programs in warm containers. The caller compares their outputs: nothing here decides what is right.

Read `protocol.py` first. `pool.py` is the host's side, `runner/` is what runs inside the container.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sandbox.errors import SandboxError
from sandbox.protocol import PythonJob, Result, SqlJob

if TYPE_CHECKING:
    from sandbox.client import ensure_daemon_reachable
    from sandbox.image import ensure_image
    from sandbox.owner import reap_orphans
    from sandbox.pool import Pool

__all__ = [
    "Pool",
    "PythonJob",
    "Result",
    "SandboxError",
    "SqlJob",
    "ensure_daemon_reachable",
    "ensure_image",
    "reap_orphans",
]
# Imported when first used, so that code which only describes jobs does not load Docker's client.
_LATER = {"Pool": "pool", "ensure_daemon_reachable": "client", "ensure_image": "image", "reap_orphans": "owner"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sandbox.{_LATER[name]}"), name)
