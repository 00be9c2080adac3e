"""Where untrusted programs run: warm containers, framed answers, verdicts made elsewhere.

Read `protocol.py` first. `pool.py` is the host's side, `runner/` is what runs inside the container.
"""

from __future__ import annotations

from sandbox.client import ensure_daemon_reachable
from sandbox.errors import SandboxError
from sandbox.image import ensure_image
from sandbox.owner import reap_orphans
from sandbox.pool import Pool
from sandbox.protocol import (
    Malformed,
    NotRepresentable,
    PythonJob,
    Result,
    SqlJob,
    Status,
    decode,
    dumps,
    encode,
    loads,
)

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
