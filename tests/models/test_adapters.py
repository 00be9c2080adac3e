"""`adapter:DIR` is the base it was trained over plus what it learned, or one clear message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from codelutra.errors import UserError
from codelutra.models import check_reference, fingerprint, resolve
from tests.helpers.tiny_model import write_tiny_adapter, write_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    return write_tiny_adapter(folder, base, f"path:{base}", fingerprint(base, folder.parent / "cache"))


@pytest.mark.slow
def test_it_is_the_base_plus_the_scaled_product_of_its_two_matrices(base: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = resolve(f"adapter:{adapter}", tmp_path / "cache")
    merged, before = load_file(model.path / "model.safetensors"), load_file(base / "model.safetensors")
    learned = load_file(adapter / "adapter_model.safetensors")
    changed = 0
    for name, weights in before.items():
        a = learned.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        b = learned.get(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        wanted = weights if a is None or b is None else weights + 2.0 * (b @ a)  # alpha 8 over rank 4
        assert (merged[name] - wanted).abs().max() < 1e-5, name
        changed += a is not None and (wanted - weights).abs().max() > 1e-2
    assert changed == 14, "seven matrices in each of two layers"
    assert (model.path / "tokenizer.json").is_file()
    again = resolve(f"adapter:{adapter}", tmp_path / "cache")
    assert again == model


def damaged(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    def copy(adapter: Path, to: Path) -> Path:
        folder = shutil.copytree(adapter, to / "copy")
        change(folder)
        return folder

    return copy


def record(**changes: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "codelutra-adapter.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (record(fingerprint="ab" * 32), "over other weights it is another function"),
        (record(base="adapter:/x"), "names an adapter as its base"),
        (record(base="policy-1"), "'policy-1' is not a model reference"),
        (record(base="path:/nope"), "'path:/nope' is not there"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "is not an adapter that codelutra exported"),
        (lambda f: (f / "codelutra-adapter.json").write_text("[1]"), "is not an adapter that codelutra exported"),
        (lambda f: (f / "codelutra-adapter.json").write_text("{"), "is not an adapter that codelutra exported"),
        (shutil.rmtree, "give the directory that holds adapter_config.json"),
    ],
)
def test_what_is_no_adapter_of_a_base_that_is_there_is_refused_and_nothing_is_made(
    change: Callable[[Path], object], says: str, adapter: Path, tmp_path: Path
) -> None:
    folder = damaged(change)(adapter, tmp_path)
    check_reference(f"adapter:{folder}")
    with pytest.raises(UserError, match=says):
        resolve(f"adapter:{folder}", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("adapter-*"))
