"""Which number formats this machine multiplies in hardware. Reads system files; imports neither torch nor vLLM."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 AVX512-BF16, x86 AMX, ARM
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
    """Compute capability of every NVIDIA GPU that torch can use; empty with a CPU build of torch."""
    if not shutil.which("nvidia-smi") or _torch().endswith("+cpu"):
        return ()
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return tuple(map(float, done.stdout.split())) if done.returncode == 0 else ()


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
