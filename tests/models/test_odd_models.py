"""Folders of models as they come: what no library could load is refused with the file and the way out, and by nobody else's
traceback; what is merely odd works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelutra import policies
from codelutra.config import EngineSection
from codelutra.errors import UserError
from codelutra.models import resolve
from codelutra.planning.shape import shape_of
from codelutra.policies import generation_ends, load_tokenizer, vocabulary
from codelutra.reading.policy import context
from codelutra.sampling.engine import Engine, ShardRequest, stop_ids
from codelutra.training.worker.train import _tokenizer
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "policy")


def has(file: str, text: str | bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def says(file: str = "config.json", **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps(known | values))

    return change


def lacks(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def parts(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def one_part(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config cut short": (has("config.json", "{"), r"config\.json cannot be read as settings"),
    "config of bytes": (has("config.json", b'{"a": "\xff"}'), r"config\.json cannot be read as settings"),
    "config too deep": (has("config.json", "[" * 100_000), r"config\.json cannot be read as settings"),
    "a list for a config": (has("config.json", "[1]"), r"config\.json holds no settings of a model"),
    "a list of generation": (has("generation_config.json", "[]"), r"generation_config\.json holds no settings"),
    "no generation": (has("generation_config.json", ""), r"generation_config\.json cannot be read"),
    "tokenizer cut short": (has("tokenizer.json", '{"model"'), r"tokenizer\.json cannot be read as settings"),
    "a tokenizer's page": (has("tokenizer_config.json", "<html>"), r"tokenizer_config\.json cannot be read"),
    "settings of a tokenizer alone": (lacks("tokenizer.json"), "holds no tokenizer"),
    "a part without the others": (parts, r"holds parts of the weights .* and no model\.safetensors\.index\.json"),
    "T5": (says(is_encoder_decoder=True), r"of no causal language model \(an encoder and a decoder\)"),
    "BERT": (says(architectures=["BertForMaskedLM"]), r"of no causal language model \(BertForMaskedLM\)"),
    "a judge": (says(architectures=["LlamaForSequenceClassification"]), "of no causal language model"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_is_no_model_is_refused_before_anything_is_loaded(way: str, tiny: Path, tmp_path: Path) -> None:
    change, said = REFUSED[way]
    folder = shutil.copytree(tiny, tmp_path / "odd")
    change(folder)
    for look in (lambda: resolve(f"path:{folder}", tmp_path / "cache"), lambda: shape_of(f"path:{folder}", tmp_path)):
        with pytest.raises(UserError, match=f"odd.*{said}"):
            look()


@pytest.mark.parametrize(
    "change", [one_part, lacks("generation_config.json"), says(architectures=None), says(architectures="odd")]
)
def test_what_is_merely_odd_is_taken(change: Callable[[Path], Any], tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "odd")
    change(folder)
    assert resolve(f"path:{folder}", tmp_path / "cache").path == folder
    assert load_tokenizer(folder)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (2, [2]),
        ([7, 2, None], [7, 2]),
        (None, []),
        ([], []),
        (-1, []),  # what a model cannot write ends nothing, and vLLM refuses to be told of it
        ([2, 511, 512, 10**9], [2, 511]),
        ("</s>", "'</s>' in eos_token_id"),
        (True, "True in eos_token_id"),
        (2.0, r"2\.0 in eos_token_id"),
        ([[1]], r"\[1\] in eos_token_id"),
        ({"a": 1}, "{'a': 1} in eos_token_id"),
    ],
)
def test_end_tokens_are_ids_that_the_model_can_write(said: Any, wanted: list[int] | str, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "odd")
    says("generation_config.json", eos_token_id=said)(folder)
    if isinstance(wanted, list):
        assert generation_ends(folder) == wanted
        assert stop_ids(folder, 2) == sorted({2, *wanted})
    else:
        with pytest.raises(UserError, match=rf"generation_config\.json has {wanted}"):
            stop_ids(folder, 2)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({}, 0),
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": "512"}, 0),
        ({"max_position_embeddings": True}, 0),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 256}, "max_position_embeddings": 512}, 256),
        ({"text_config": None, "max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
    ],
)
def test_the_plan_and_the_engine_know_the_same_longest_text(config: dict[str, Any], tokens: int, tmp_path: Path) -> None:
    assert context(config) == tokens
    if tokens:
        has("config.json", json.dumps(config))(tmp_path)
        with pytest.raises(UserError, match=f"max_model_len {tokens + 1} is more than the {tokens} tokens"):
            Engine(tmp_path, EngineSection(max_model_len=tokens + 1), seed=0, log=tmp_path / "log", lock=None)


def test_a_token_without_weights_is_refused_where_usual_text_has_it(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "odd")
    size = len(load_tokenizer(folder))
    says(vocab_size=size)(folder)
    assert vocabulary(folder) == size
    load_tokenizer(folder)
    says(vocab_size=size - 1)(folder)
    with pytest.raises(UserError, match=rf"odd makes token {size - 1} of .* weights for {size - 1} tokens \(vocab_size\)"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("name", "refused"), [("pad_token", False), ("bos_token", True), ("eos_token", True)])
def test_a_special_token_without_weights_is_refused_where_prompts_or_answers_have_it(
    name: str, refused: bool, tiny: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny)
    size = len(tokenizer)
    tokenizer.add_special_tokens({name: "<|beyond|>"})
    tokenizer.save_pretrained(folder := shutil.copytree(tiny, tmp_path / "odd"))
    says(vocab_size=size)(folder)
    if refused:
        with pytest.raises(UserError, match=rf"makes token {size} of '<\|beyond\|>'"):
            load_tokenizer(folder)
    else:
        assert _tokenizer(folder).pad_token_id < size, "a row is padded with a token that has weights"


def test_a_tokenizer_that_does_not_load_is_told_with_its_folder_and_why(tiny: Path, tmp_path: Path) -> None:
    for n, change in enumerate((has("tokenizer.json", '{"model": {}}'), says(max_position_embeddings="512"))):
        folder = shutil.copytree(tiny, tmp_path / f"odd{n}")
        change(folder)
        with pytest.raises(UserError, match=rf"tokenizer in .*odd{n} cannot be loaded \(\w+: .*save_pretrained"):
            load_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "says_so"),
    [
        ({"model_type": "llama99", "architectures": ["Llama99ForCausalLM"]}, "llama99"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}, "architectures": ["Own"]},
            "trust_remote_code|custom code",
        ),
    ],
)
def test_an_architecture_that_nobody_knows_is_one_message_and_its_own_code_is_not_run(
    change: dict[str, Any], says_so: str, tiny: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "odd")
    says(**change)(folder)
    ran = tmp_path / "ran"
    has("configuration_own.py", f"open({str(ran)!r}, 'w')\nclass Own: ...\n")(folder)
    with (
        pytest.raises(UserError, match=f"vLLM does not take the model in .*odd: .*({says_so})"),
        Engine(folder, EngineSection(max_model_len=128), seed=0, log=tmp_path / "log", lock=None) as engine,
    ):
        list(engine.generate([ShardRequest("s", "", ("p",), ("q",), 1, 0.0, 1.0, 4)]))
    from codelutra.training.worker.adapters import load_policy

    with pytest.raises(UserError, match=f"odd does not load as a causal language model: .*(?s:{says_so})"):
        load_policy(folder)
    assert not ran.exists()


def test_every_place_that_reads_a_policy_s_tokenizer_reads_it_there() -> None:
    root = Path(policies.__file__).parent
    made_by_us = {"reporting", "models/dequantise.py", "policies.py"}
    found = [
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if "AutoTokenizer.from_pretrained" in file.read_text(encoding="utf-8")
    ]
    assert [f for f in found if f not in made_by_us and f.partition("/")[0] not in made_by_us] == []
