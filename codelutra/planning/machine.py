"""What this machine has: memory within a container's limit, GPUs, cores, disk. Reads system files and asks `nvidia-smi`."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codelutra.hardware import gpu_capabilities, multiplies_bf16

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    free: int  # bytes, as the one above


@dataclass(frozen=True)
class Machine:
    memory: int
    """Bytes that processes here may use in all: the machine's memory, or less in a container with a limit."""
    free: int
    """Bytes of it that nobody uses now."""
    cores: int = 1
    gpus: tuple[Gpu, ...] = ()
    bf16: bool = False
    """Whether it multiplies bfloat16; training then computes in it, and holds frozen weights in it."""
    name: str = "this machine"

    @property
    def cuda(self) -> bool:
        return bool(self.gpus)


def this_machine() -> Machine:
    gpus = _gpus() if gpu_capabilities() else ()
    return Machine(memory_bytes(), free_bytes(), len(os.sched_getaffinity(0)), gpus, multiplies_bf16())


def described(memory: float | None, gpu_memory: float | None, gpus: int = 1) -> Machine:
    """A machine of which sizes are told, GiB; it has what this one has where nothing is. A GPU multiplies bfloat16."""
    here = this_machine()
    ram = round(memory * GIB) if memory else here.memory
    card = Gpu("as described", round(gpu_memory * GIB), round(gpu_memory * GIB)) if gpu_memory else None
    return Machine(ram, ram, here.cores, (card,) * gpus if card else (), bool(card) or here.bf16, "the machine described")


def memory_bytes(root: Path = Path("/")) -> int:
    """What this process may use: the machine's memory, or less in a container with a limit."""
    return min([_meminfo(root)["MemTotal"], *(limit for limit, _ in _limits(root))])


def free_bytes(root: Path = Path("/")) -> int:
    """What of that is not used now; caches of files count as free."""
    known = _meminfo(root)
    free = known.get("MemAvailable", known["MemTotal"])
    return max(0, min([free, *(limit - used for limit, used in _limits(root))]))


def _meminfo(root: Path) -> dict[str, int]:
    """Bytes by name."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}


def _limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) of the control groups that this process is in, in bytes: of version 2 and of version 1."""
    named = root / "proc/self/cgroup"
    lines = named.read_text().splitlines() if named.is_file() else []
    inside = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2)}
    ways = [
        (root / "sys/fs/cgroup", inside.get("", "/"), "memory.max", "memory.current", "inactive_file"),
        (
            root / "sys/fs/cgroup/memory",
            inside.get("memory", "/"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ]
    found = []
    for top, path, limit, used, cached in ways:
        own = top / path.strip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            most = _number(group / limit)
            if most is not None:
                found.append((most, max(0, (_number(group / used) or 0) - _cached(group / "memory.stat", cached))))
    return found


def _number(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None  # no such file, or "max"


def _cached(stat: Path, name: str) -> int:
    """Bytes of files in memory that go when memory is wanted."""
    with suppress(OSError, ValueError):
        return next((int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith(f"{name} ")), 0)
    return 0


def _gpus() -> tuple[Gpu, ...]:
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free,name", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return visible_gpus(listed, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def visible_gpus(listed: str, visible: str | None) -> tuple[Gpu, ...]:
    """Of nvidia-smi's lines "index, uuid, MiB in all, MiB free, name" the GPUs that CUDA_VISIBLE_DEVICES names (as
    `hardware.visible_capabilities` reads it). Raises ValueError for a line that is something else."""
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    found = []
    for line in listed.splitlines():
        index, uuid, total, free, name = line.split(", ", 4)
        if names is None or any(index == n or uuid.startswith(n) for n in names):
            found.append(Gpu(name, int(total) << 20, int(free) << 20))
    return tuple(found)


def free_disk(folder: Path) -> int:
    """Free bytes where `folder` is, or would be made."""
    return shutil.disk_usage(_there(folder)).free


def same_disk(a: Path, b: Path) -> bool:
    return _there(a).stat().st_dev == _there(b).stat().st_dev


def _there(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    absolute = folder.absolute()
    return next(p for p in (absolute, *absolute.parents) if p.is_dir())
