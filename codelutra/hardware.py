"""What this machine computes with: its GPUs, and the number formats that they or the CPU multiply in hardware.

Reads system files; imports neither torch nor vLLM.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 AVX512-BF16, x86 AMX, ARM
_CONTEXT = 1 << 30  # bytes: what CUDA keeps for this process beside torch's memory, and more than that
SMI_SECONDS = 30.0  # for an answer of nvidia-smi
GPU_SILENT = (OSError, ValueError, subprocess.SubprocessError)
_BF16_CAPABILITY = 8.0  # NVIDIA Ampere; older GPUs multiply float16, not bfloat16


def number_format(dtype: str) -> str:
    """`engine.dtype` with "auto" resolved to what the hardware multiplies: bfloat16 where it can; else float16 on a GPU,
    float32 on a CPU (an AVX2-only CPU emulates bfloat16: SmolLM2-135M sampled 18 tokens/s in it and 125 in float32)."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if multiplies_bf16() else "float16" if gpu_capabilities() else "float32"


def multiplies_bf16() -> bool:
    """Whether bfloat16 is multiplied in hardware; elsewhere it is emulated, slower than float32."""
    gpus = gpu_capabilities()
    return min(gpus) >= _BF16_CAPABILITY if gpus else bool(_BF16_FLAGS & cpu_flags())


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The instruction sets the kernel lists: `flags` on x86, `Features` on ARM; empty where there is no such file."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set())


def cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may keep busy: those it may run on, or fewer where its control group has a quota."""
    shares = [len(os.sched_getaffinity(0))]
    for group, version in control_groups("cpu", root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = map(int, " ".join((group / name).read_text() for name in files).split())  # no number: no quota
            shares += [math.ceil(quota / period)] if quota > 0 else []
    return max(1, min(shares))


def control_groups(kind: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that this process is in, innermost first, and their version: of version 2, and of
    version 1 those of `kind` ("memory", "cpu")."""
    named = root / "proc/self/cgroup"
    lines = named.read_text().splitlines() if named.is_file() else []
    inside = {
        one: path
        for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2)
        for one in kinds.split(",")
    }
    mounted = root / "sys/fs/cgroup"
    for top, path, version in ((mounted, inside.get("", "/"), 2), (mounted / kind, inside.get(kind, "/"), 1)):
        own = top / path.strip("/")
        yield from ((group, version) for group in (own, *own.parents) if group.is_relative_to(top))


@cache
def gpu_capabilities() -> tuple[float, ...]:
    """Compute capability of every NVIDIA GPU that this process may use; empty with a CPU build of torch."""
    if not shutil.which("nvidia-smi") or torch_version().endswith("+cpu"):
        return ()
    try:
        return tuple(float(told) for told, _ in ask_gpus("compute_cap"))
    except GPU_SILENT:
        return ()


def ask_gpus(fields: str) -> list[tuple[str, str]]:
    """What nvidia-smi says under `fields` of each GPU that this process may use, in the process's order; and where that is
    a part of one, what kind of part ("3g.20gb"). Raises GPU_SILENT where there is no driver, or none that answers."""
    listed = _nvidia_smi(f"--query-gpu=index,uuid,{fields}", "--format=csv,noheader,nounits")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    parts = _nvidia_smi("-L") if visible and "MIG-" in visible else ""
    return visible_lines(listed, visible, parts)


def _nvidia_smi(*arguments: str) -> str:
    return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SMI_SECONDS, check=True).stdout


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, by names for CUDA_VISIBLE_DEVICES: indices, or what the user wrote there."""
    count, visible = len(gpu_capabilities()), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if visible is None else filter(None, map(str.strip, visible.split(",")))
    return tuple(dict.fromkeys(names))[:count]


def too_few_gpus(count: int) -> str:
    """Why `count` processes, each on a GPU of its own, cannot run here; "" where they can. Without any GPU the CPU does the
    work of all."""
    gpus, chosen = visible_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus or count <= len(gpus):
        return ""
    named = f"CUDA_VISIBLE_DEVICES={chosen}" if chosen else "nvidia-smi -L lists them"
    return f"takes {count} GPUs and {len(gpus)} can be used here ({named}); lower it to what there is"


def visible_lines(listed: str, visible: str | None, parts: str = "") -> list[tuple[str, str]]:
    """Of nvidia-smi's lines "index, uuid, more" those of the GPUs that CUDA_VISIBLE_DEVICES names: `more`, and the kind of
    part.

    As CUDA reads it: by index, by the beginning of one uuid alone, or by the uuid of a part (MIG) in `parts`, which
    `nvidia-smi -L` lists. What follows a name that is none does not count; of a GPU named twice, nothing does. None names
    all. Raises ValueError for a line that is something else.
    """
    gpus = {index: (uuid, more) for index, uuid, more in (line.split(", ", 2) for line in listed.splitlines())}
    if visible is None:
        return [(more, "") for _, more in gpus.values()]
    by_name, above = dict[str, tuple[str, str]](), ""
    for line in parts.splitlines():
        if found := re.search(r"^GPU (\d+):", line):
            above = found[1]
        elif (found := re.search(r"^\s*MIG (\S+) .*UUID: (MIG-[^)]+)", line)) and above in gpus:
            by_name[found[2]] = gpus[above][1], found[1]
    seen = list[tuple[str, str]]()
    chosen = list[str]()
    for name in map(str.strip, visible.split(",")):
        if number := re.match(r"\d+", name):
            ways = [index for index in gpus if index == str(int(number[0]))]
        elif name.startswith("MIG-GPU-"):  # of older drivers: MIG-GPU-…/1/0
            ways = [index for index, (uuid, _) in gpus.items() if name[4:].partition("/")[0] == uuid]
        else:
            ways = [index for index, (uuid, _) in gpus.items() if name and uuid.startswith(name)] or [
                part for part in by_name if name.startswith("MIG-") and part.startswith(name)
            ]
        if len(ways) != 1:
            break
        if ways[0] in chosen:
            return []
        chosen += ways
        seen.append(by_name.get(ways[0]) or (gpus[ways[0]][1], ""))
    return seen


def held_by_others(error: BaseException) -> str:
    """Who holds the GPU's memory when torch had too little of it, with the way out; "" where that is this process itself,
    or where no GPU was meant. torch is asked if it was imported."""
    torch = sys.modules.get("torch")
    if not torch or not re.search("cuda|cublas|cudnn", str(error), re.IGNORECASE):
        return ""
    way = "`nvidia-smi` lists them; wait for them, or end them, and give the same command again"
    if not torch.cuda.is_initialized():  # memory did not suffice for so much as to begin
        return f"other processes hold nearly all memory of the GPU ({way})"
    try:
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
    except RuntimeError:  # after some errors a GPU answers nothing
        return ""
    if others < _CONTEXT + total // 20:
        return ""
    return f"other processes hold {others / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB ({way})"


def torch_version() -> str:
    """Of the torch that is installed; "" where there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
