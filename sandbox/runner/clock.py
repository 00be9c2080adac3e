"""How long a process has run and has waited for a CPU: waiting is not its own time."""

from __future__ import annotations

STRETCH = 8  # a busy machine may stretch a deadline at most so far: waiting for a CPU is not the program's time


def schedule(pid: int) -> tuple[float, float]:
    """Seconds a process's main thread has run, and has waited for a CPU; zeros where the kernel won't say."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            ran, waited, _ = file.read().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(ran) / 1e9, int(waited) / 1e9
