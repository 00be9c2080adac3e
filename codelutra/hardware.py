"""What this machine computes with: its GPUs, and the number formats that they or the CPU multiply in hardware.

Reads system files; imports neither torch nor vLLM.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 AVX512-BF16, x86 AMX, ARM
_CONTEXT = 1 << 30  # bytes: what CUDA keeps for this process beside torch's memory, and more than that
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


@cache
def gpu_capabilities() -> tuple[float, ...]:
    """Compute capability of every NVIDIA GPU that this process may use; empty with a CPU build of torch."""
    if not shutil.which("nvidia-smi") or _torch().endswith("+cpu"):
        return ()
    command = ["nvidia-smi", "--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return visible_capabilities(listed, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except (OSError, ValueError, subprocess.SubprocessError):  # no driver, or one that says nothing of its GPUs
        return ()


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


def visible_capabilities(listed: str, visible: str | None) -> tuple[float, ...]:
    """Of nvidia-smi's lines "index, uuid, capability" the GPUs that CUDA_VISIBLE_DEVICES names (by index or the beginning of
    the uuid; None names all). Raises ValueError for a line that is something else."""
    gpus = [line.split(", ") for line in listed.splitlines()]
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    seen = [g for g in gpus if names is None or any(g[0] == name or g[1].startswith(name) for name in names)]
    return tuple(float(capability) for _, _, capability in seen)


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


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
