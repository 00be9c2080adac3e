"""What this machine has: memory within a container's limit, GPUs, cores, disk. Reads system files and asks `nvidia-smi`."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codelutra.hardware import GPU_SILENT, ask_gpus, control_groups, cores, gpu_capabilities, multiplies_bf16

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
    return Machine(memory_bytes(), free_bytes(), cores(), gpus, multiplies_bf16())


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
    """Bytes by name; "MemTotal" is always there."""
    known = {"MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}
    with suppress(OSError):  # some containers have no such file, or one without the usual lines
        for line in (root / "proc/meminfo").read_text().splitlines():
            if found := re.match(r"(\w+):\s+(\d+) kB", line):
                known[found[1]] = int(found[2]) * 1024
    return known


_GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) of the control groups that this process is in, in bytes."""
    found = []
    for group, version in control_groups("memory", root):
        limit, used, cached = _GROUP_FILES[version]
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
    try:
        return tuple(gpu(told, part) for told, part in ask_gpus("memory.total,memory.free,name"))
    except GPU_SILENT:
        return ()


def gpu(told: str, part: str) -> Gpu:
    """From "MiB in all, MiB free, name", and the kind of part of a GPU ("3g.20gb"). One that tells no memory of its own
    computes in the machine's."""
    total, free, name = told.split(", ", 2)
    if size := re.search(r"\.(\d+)gb", part):  # nvidia-smi tells what of the whole is free
        return Gpu(f"{name}, {part}", int(size[1]) * 10**9, int(size[1]) * 10**9)
    if not (total.isdigit() and free.isdigit()):
        return Gpu(name, memory_bytes(), free_bytes())
    return Gpu(name, int(total) << 20, int(free) << 20)


def free_disk(folder: Path) -> int:
    """Free bytes where `folder` is, or would be made."""
    return shutil.disk_usage(_there(folder)).free


def same_disk(a: Path, b: Path) -> bool:
    return _there(a).stat().st_dev == _there(b).stat().st_dev


def _there(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    absolute = folder.absolute()
    return next(p for p in (absolute, *absolute.parents) if p.is_dir())
