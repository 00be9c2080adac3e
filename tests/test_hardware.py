"""The number format follows the hardware: what is emulated is never chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from codelutra import hardware
from codelutra.config import load_config
from codelutra.errors import UserError, memory_ran_out
from codelutra.store.run_dir import RunDir


@pytest.mark.parametrize(
    ("flags", "gpus", "wanted"),
    [
        ({"avx2", "fma"}, (), "float32"),
        ({"avx2", "avx512f", "avx512_bf16"}, (), "bfloat16"),
        ({"avx2", "amx_tile", "amx_bf16"}, (), "bfloat16"),
        ({"asimd", "bf16"}, (), "bfloat16"),  # ARM
        (set(), (), "float32"),
        ({"avx2"}, (9.0,), "bfloat16"),
        ({"avx512_bf16"}, (7.5,), "float16"),  # the GPU computes, whatever the CPU can do
        ({"avx2"}, (8.6, 7.0), "float16"),  # the oldest of several decides
    ],
)
def test_auto_is_what_the_hardware_multiplies(
    flags: set[str], gpus: tuple[float, ...], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    monkeypatch.setattr(hardware, "gpu_capabilities", lambda: gpus)
    assert hardware.number_format("auto") == wanted
    assert hardware.number_format("float32") == "float32"  # what is asked for stays


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t: x\n", {"fpu", "avx2", "avx512_bf16"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("", set()),
    ],
)
def test_flags_are_read_as_the_kernel_writes_them(text: str, wanted: set[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert hardware.cpu_flags(tmp_path / "cpuinfo") == wanted
    assert hardware.cpu_flags(tmp_path / "absent") == set()


GPUS = "0, GPU-1a2b, 8.0\n1, GPU-3c4d, 7.0\n2, GPU-3c99, 9.0\n"
PARTS = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1a2b)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4)
  MIG 1c.2g.10gb  Device  1: (UUID: MIG-cba6)
GPU 1: Tesla V100 (UUID: GPU-3c4d)
"""


@pytest.mark.parametrize(
    ("visible", "wanted"),
    [
        (None, "8.0 7.0 9.0"),
        ("0", "8.0"),
        (" 1, 0", "7.0 8.0"),
        ("GPU-3c4", "7.0"),
        ("GPU-3c", ""),  # which one?
        ("2,GPU-1a2b", "9.0 8.0"),
        ("", ""),
        (",0", ""),
        ("-1", ""),
        ("0,-1,1", "8.0"),
        ("7,0", ""),  # what follows a name that is none does not count
        ("0,7,1", "8.0"),
        ("0,,1", "8.0"),
        ("0,0", ""),
        ("0,GPU-1a", ""),  # twice the same
        ("01", "7.0"),
        ("1gpu", "7.0"),
        ("all", ""),
        ("void", ""),
        ("NoDevFiles", ""),
        ("MIG-c6d4", "8.0 3g.20gb"),
        ("MIG-cba6,1", "8.0 1c.2g.10gb 7.0"),
        ("MIG-", ""),
        ("MIG-ffff", ""),
        ("MIG-GPU-1a2b/1/0", "8.0"),
    ],
)
def test_only_the_gpus_this_process_may_use_count_as_cuda_counts_them(visible: str | None, wanted: str) -> None:
    seen = hardware.visible_lines(GPUS, visible, PARTS)
    assert " ".join(word for line in seen for word in line if word) == wanted


def test_names_for_engines_are_those_that_name_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, names in {"1,0": ("1", "0"), "0,7,1": ("0",), "7,0": (), "0,0": ()}.items():
        seen = tuple(float(told) for told, _ in hardware.visible_lines(GPUS, visible))
        monkeypatch.setattr(hardware, "gpu_capabilities", lambda seen=seen: seen)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert hardware.visible_gpus() == names


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/../elsewhere\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "\n"}, None),
    ],
)
def test_cores_are_those_a_control_group_pays_for(files: dict[str, str], wanted: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    allowed = len(os.sched_getaffinity(0))
    assert hardware.cores(tmp_path) == min(allowed, wanted or allowed)


def test_a_driver_that_says_nothing_of_its_gpus_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for said in ("echo '0, GPU-1, [N/A]'", "exit 9", "echo NVIDIA-SMI has failed"):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(hardware, "torch_version", lambda: "2.13.0")
        assert hardware.gpu_capabilities.__wrapped__() == ()


GIB = 1 << 30


@pytest.mark.parametrize(
    ("error", "gpu", "says"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", (2, 80, 10), "hold 68.0 of the GPU's 80.0 GiB"),
        ("CUDA error: out of memory", (0.1, 24, 12), "hold 11.9 of the GPU's 24.0 GiB"),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", (0.1, 24, 1), "hold 22.9 of"),
        ("CUDA out of memory", (1, 80, 78), ""),  # its own, and CUDA's context
        ("CUDA error: out of memory", None, "hold nearly all memory of the GPU"),  # when it was first touched
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory", (2, 80, 10), ""),
    ],
)
def test_memory_of_a_gpu_that_others_hold_is_told(
    error: str, gpu: tuple[float, int, int] | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [round(size * GIB) for size in gpu or (0, 0, 0)]
    cuda = SimpleNamespace(
        is_initialized=lambda: gpu is not None, mem_get_info=lambda: tuple(sizes[:2]), memory_reserved=lambda: sizes[2]
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    told = hardware.held_by_others(RuntimeError(error))
    assert says in told
    assert bool(told) == bool(says)
    assert memory_ran_out(RuntimeError(error))


def test_a_gpu_that_answers_nothing_any_more_is_not_blamed_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda = SimpleNamespace(is_initialized=lambda: True, mem_get_info=silent)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert hardware.held_by_others(RuntimeError("CUDA out of memory")) == ""
    assert not memory_ran_out(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_training_and_sampling_here_see_what_torch_sees() -> None:
    torch = pytest.importorskip("torch")
    cuda = torch.cuda.is_available()
    seen = cuda or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert hardware.multiplies_bf16() == seen


def test_auto_goes_on_with_a_run_that_named_the_same_format_and_refuses_another(tmp_path: Path) -> None:
    here = hardware.number_format("auto")
    RunDir.create(tmp_path, load_config("demo", (f"engine.dtype={here}",)))
    run = RunDir.create(tmp_path, load_config("demo"))
    (run.path / "dev-scores").mkdir()  # something to lose
    other = next(f for f in ("float32", "bfloat16") if f != here)
    with pytest.raises(UserError, match=r"engine\.dtype"):
        RunDir.create(tmp_path, load_config("demo", (f"engine.dtype={other}",)))
