"""A learning rate that is left open follows what is trained and the model's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from codelutra.config import PRESETS, TrainSection, WarmStartSection, load_config, preset_names
from codelutra.config import settings as resolved
from codelutra.training.launch import _spec
from codelutra.training.rates import settled, weights
from tests.helpers.training import Train, place, some_pairs


def folder(at: Path, count: int) -> Path:
    """A model directory with so many weights, in two files; `meta` of them would do, but headers are what is read."""
    at.mkdir()
    for i, part in enumerate((count // 2, count - count // 2)):
        save_file({f"w{i}": torch.zeros(part, dtype=torch.int8)}, at / f"model-{i}.safetensors")
    return at


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sizes")
    return {"135M": folder(base / "small", 134_515_008), "494M": folder(base / "larger", 494_032_768)}


def test_weights_are_counted_over_all_files(sizes: dict[str, Path]) -> None:
    assert {name: weights(path) for name, path in sizes.items()} == {"135M": 134_515_008, "494M": 494_032_768}


@pytest.mark.parametrize(
    ("section", "settings", "rates"),
    [
        (TrainSection, {}, (1e-5, 2e-6)),
        (TrainSection, {"method": "lora"}, (1e-5, 5e-6)),
        (TrainSection, {"method": "qlora"}, (1e-5, 5e-6)),
        (TrainSection, {"sft_weight": 0}, (5e-6, 1e-6)),
        (TrainSection, {"dpo_weight": 0}, (1e-5, 2e-6)),
        (TrainSection, {"objective": "grpo"}, (1e-5, 1e-6)),
        (TrainSection, {"objective": "grpo", "method": "lora"}, (1e-4, 1e-5)),
        (TrainSection, {"objective": "sft", "method": "qlora"}, (1e-4, 1e-4)),
        (WarmStartSection, {"method": "lora"}, (1e-3, 1e-4)),
        (TrainSection, {"objective": "rft"}, (1e-5, 1e-5)),
        (WarmStartSection, {}, (1e-4, 1e-5)),
        (TrainSection, {"learning_rate": 3e-5}, (3e-5, 3e-5)),
        (WarmStartSection, {"learning_rate": 3e-5}, (3e-5, 3e-5)),
    ],
)
def test_the_training_process_is_told_the_rate_that_suits_the_model(
    section: Any, settings: dict[str, Any], rates: tuple[float, float], sizes: dict[str, Path], tmp_path: Path
) -> None:
    config = section(**settings)
    assert tuple(settled(config, sizes[size]).learning_rate for size in ("135M", "494M")) == rates
    assert _spec("any", place(sizes["494M"], tmp_path), config)["config"]["learning_rate"] == rates[1]


def test_an_open_rate_compares_as_what_it_was_before_it_could_be_open() -> None:
    """So runs of before go on; what larger models are trained with is in the key of the training itself."""
    for section in (TrainSection, WarmStartSection):
        small = settled(section(), Path("/nowhere"))
        assert resolved(section()) == resolved(small)


def test_the_presets_name_their_rates() -> None:
    for config in (load_config(PRESETS / f"{name}.yaml") for name in preset_names()):
        assert config.train.learning_rate or not config.iterations
        assert not config.warm_start or config.warm_start.learning_rate


@pytest.mark.filterwarnings("ignore")
def test_the_facts_of_a_training_name_the_rate_it_took(run: Train) -> None:
    assert run(some_pairs(4), learning_rate=3e-4)["learning_rate"] == 3e-4
