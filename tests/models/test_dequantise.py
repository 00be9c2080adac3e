"""Dequantising tensor by tensor gives the bytes that transformers and safetensors write of the whole model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers.tiny_model import write_tiny_gguf

BOTH = """
import json, sys
from pathlib import Path
from codelutra.models import dequantise as d
file, out = Path(sys.argv[1]), Path(sys.argv[2])
counts = []
for name in ("streamed", "whole"):
    (out / name).mkdir()
    d.dequantise(file, out / name, lambda done, total: counts.append((done, total)))
    d._streamed = lambda *_: None
print(json.dumps(counts))
"""
WRITE = """
import sys
import numpy as np
from pathlib import Path
from codelutra.models.dequantise import _write
tensors = dict(np.load(sys.argv[1]))
shapes = {name: tensor.shape for name, tensor in tensors.items()}
print(_write(Path(sys.argv[2]), shapes, tensors.get, lambda *_: None))
print(_write(Path(sys.argv[3]), shapes, lambda name: None if name == "b" else tensors[name], lambda *_: None))
"""


def run(code: str, *args: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["", "same", "another"])
def test_tensor_by_tensor_gives_the_bytes_of_the_whole_model(output: str, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", output=output)
    counts = json.loads(run(BOTH, gguf, tmp_path)[-1])
    streamed, whole = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("streamed", "whole"))
    assert streamed.keys() == whole.keys()
    assert [name for name in whole if streamed[name] != whole[name]] == []
    tensors = 21 if output == "another" else 20
    assert counts == [[done, tensors] for done in range(tensors + 1)]  # the whole model counts nothing


def test_the_file_is_what_safetensors_writes_and_nothing_of_it_is_left_where_a_tensor_is_missing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"b": (3, 5), "a.weight": (7,), "z\u00e9": (2, 1, 4), "one": (1,)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "tensors.npz", **tensors)
    ours, theirs, none = (tmp_path / name for name in ("ours", "theirs", "none"))
    assert run(WRITE, tmp_path / "tensors.npz", ours, none) == ["True", "False"]
    save_file(tensors, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()
    assert not none.exists()
