"""The command line as a user gives it."""

from __future__ import annotations

import os
import subprocess
import sys


def codelutra(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`codelutra ARGS` in a process of its own; `env` is laid over the environment."""
    return subprocess.run(
        [sys.executable, "-m", "codelutra.cli", *args], capture_output=True, text=True, env=os.environ | env
    )
