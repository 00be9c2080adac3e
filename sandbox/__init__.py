"""Where untrusted programs run: warm containers, framed answers, verdicts made elsewhere.

Read `protocol.py` first. `pool.py` is the host's side, `runner/` is what runs inside the container.
"""

from __future__ import annotations

from sandbox.errors import SandboxError
from sandbox.protocol import Malformed, NotRepresentable, PythonJob, Result, SqlJob, Status, decode, dumps, encode, loads

__all__ = [
    "Malformed",
    "NotRepresentable",
    "PythonJob",
    "Result",
    "SandboxError",
    "SqlJob",
    "Status",
    "decode",
    "dumps",
    "encode",
    "loads",
]
