"""The number format follows the hardware: what is emulated is never chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from codelutra import hardware
from codelutra.config import load_config
from codelutra.errors import UserError
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


GPUS = "0, GPU-1a2b, 8.0\n1, GPU-3c4d, 7.0\n"


@pytest.mark.parametrize(
    ("visible", "wanted"), [(None, (8.0, 7.0)), ("0", (8.0,)), ("1,0", (8.0, 7.0)), ("GPU-3c", (7.0,)), ("", ()), ("-1", ())]
)
def test_only_the_gpus_this_process_may_use_count(visible: str | None, wanted: tuple[float, ...]) -> None:
    assert hardware.visible_capabilities(GPUS, visible) == wanted


def test_a_driver_that_says_nothing_of_its_gpus_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for said in ("echo '0, GPU-1, [N/A]'", "exit 9", "echo NVIDIA-SMI has failed"):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(hardware, "_torch", lambda: "2.13.0")
        assert hardware.gpu_capabilities.__wrapped__() == ()


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
