"""Gives a verdict for any output. If the judge itself cannot decide, the status says so, with a reason.

The work of a comparison is bounded: by what crosses from the sandbox (sandbox/runner/canonical.py), and by budgets where a
comparison could take more than linear time (suites/values.py). The guard here is for what nobody thought of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sandbox.answers import printable

T = TypeVar("T")


def decided(judge: Callable[[], T]) -> tuple[T | None, str]:
    """What `judge` returns, and ""; or None and why it could not decide."""
    try:
        return judge(), ""
    except Exception as problem:  # noqa: BLE001 - one sample must not stop a run, whatever its output does to the judge
        return None, printable(f"the judge could not decide: {type(problem).__name__}: {problem}"[:400])
