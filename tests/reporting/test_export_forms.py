"""Exports in other forms: a GGUF file with a Modelfile, an adapter alone; what cannot be is said before it is made."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml

from codelutra.errors import UserError
from codelutra.experiments import remeasure
from codelutra.models import fingerprint
from codelutra.reporting.export import export
from codelutra.suites.sql import SYSTEM
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.tiny_model import write_tiny_adapter, write_tiny_model

pytestmark = pytest.mark.usefixtures("drawn_once")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"), weights=weights)


@pytest.fixture(scope="module")
def adapted(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policies have an adapter over its base beside them."""
    home = tmp_path_factory.mktemp("adapted")
    policy = shutil.copytree(weights, home / "policy")
    write_tiny_adapter(policy / "adapter", weights, "hf:example/tiny@main", fingerprint(weights, home / "cache"))
    return example_run(home, weights=policy, warm_start={"method": "lora"}, train={"method": "lora", "adapter": "continued"})


def front(folder: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return parsed


@pytest.mark.slow
def test_a_gguf_leaves_with_its_modelfile_a_card_and_nothing_else(run: Path, tmp_path: Path) -> None:
    done = codelutra("export", run.name, str(tmp_path / "out"), "--to", "gguf", "--home", str(run.parents[1]), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"exported": str(tmp_path / "out"), "pushed": None}
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {"example-q8_0.gguf", "Modelfile", "README.md", "run.yaml", "report"}
    told = (out / "Modelfile").read_text()
    assert f'SYSTEM """{SYSTEM}"""' in told
    assert "FROM ./example-q8_0.gguf" in told
    assert 'PARAMETER stop "<|im_end|>"' in told
    assert "PARAMETER num_predict 256" in told
    fields = gguf.GGUFReader(out / "example-q8_0.gguf").fields
    assert fields["general.name"].contents() == "example"
    assert "<|im_start|>" in fields["tokenizer.chat_template"].contents()
    card = (out / "README.md").read_text()
    assert front(out)["library_name"] == "gguf"
    assert "ollama create example -f Modelfile" in card
    assert "from_pretrained" not in card
    assert "$" not in card.replace('"$(cat prompt.txt)"', "")


def test_an_adapter_leaves_alone_and_its_card_names_the_base(adapted: Path, tmp_path: Path) -> None:
    out = export(adapted, tmp_path / "out", to="adapter")
    adapter = {"adapter_config.json", "adapter_model.safetensors", "codelutra-adapter.json"}
    assert {p.name for p in out.iterdir()} == adapter | {"README.md", "run.yaml", "report"}
    card = (out / "README.md").read_text()
    said = json.loads((out / "codelutra-adapter.json").read_text())
    assert f"of `hf:example/tiny@main` (fingerprint `{said['fingerprint']}`) and of no other model" in card
    assert front(out)["library_name"] == "peft"
    assert front(out)["base_model"] == "example/tiny"


@pytest.mark.slow
def test_the_adapter_s_example_answers_over_its_base(adapted: Path, weights: Path, tmp_path: Path) -> None:
    out = export(adapted, tmp_path / "out", to="adapter")
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert code
    program = code[1].replace("PATH", str(out)).replace("example/tiny", str(weights))
    program = program.replace("max_new_tokens=256", "max_new_tokens=4") + "\nassert type(model).__name__.startswith('Peft')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_without_an_adapter_of_its_base_is_refused_with_the_way_out(run: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its weights were trained without one.*without --to.*train.adapter continued"):
        export(run, tmp_path / "out", to="adapter")
    over_another = shutil.copytree(weights, tmp_path / "policy")
    write_tiny_adapter(over_another / "adapter", weights, "policy-1", "ab" * 32)
    later = example_run(tmp_path / "home", weights=over_another, skills=(0.2, 0.5))
    with pytest.raises(UserError, match="has no adapter over the run's own base model: its weights were trained in steps"):
        export(later, tmp_path / "out", to="adapter")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("out", "--to", "onnx"), "onnx"),
        (("out", "--to", "gguf", "--type", "q4_k_m"), "q4_k_m"),
        (("used", "--to", "gguf"), "is there and not empty"),
        (("out", "--to", "adapter"), "has no adapter over the run's own base model"),
        (("out", "--to", "gguf", "--policy", "policy-9"), "no policy 'policy-9'"),
    ],
)
def test_a_form_that_cannot_be_made_is_refused_and_nothing_is_written(
    more: tuple[str, ...], says: str, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").touch()
    folder, *options = more
    done = codelutra("export", run.name, str(tmp_path / folder), *options, "--home", str(run.parents[1]))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine", "used"]


@pytest.mark.slow
def test_an_architecture_that_no_gguf_is_written_for_is_refused_by_the_command(weights: Path, tmp_path: Path) -> None:
    other = shutil.copytree(weights, tmp_path / "other")
    config = json.loads((other / "config.json").read_text()) | {"architectures": ["MistralForCausalLM"]}
    (other / "config.json").write_text(json.dumps(config))
    run = example_run(tmp_path / "home", weights=other, skills=(0.2, 0.5))
    with pytest.raises(UserError, match=r"a MistralForCausalLM cannot be written as GGUF here, only LlamaForCausalLM"):
        export(run, tmp_path / "out", to="gguf")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_weights_that_are_not_those_scored_do_not_become_a_gguf(run: Path, tmp_path: Path) -> None:
    home = shutil.copytree(run.parents[1], tmp_path / "home", symlinks=True)
    own = home / "runs" / run.name
    summary = (own / "summary.json").read_text().replace(str(run.parents[1]), str(home))
    (own / "summary.json").write_text(summary)
    with (Path(json.loads(summary)["policies"][-1]["path"]) / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(UserError, match="its sha256 differs"):
        export(own, tmp_path / "out", to="gguf")
    assert not (tmp_path / "out").exists()


def test_what_the_export_scores_stands_in_its_card_beside_what_the_run_scored(
    run: Path, weights: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(run.parents[1], tmp_path / "home", symlinks=True)
    own = home / "runs" / run.name
    out = export(own, tmp_path / "out")
    arm = remeasure.remeasuring(home, own, out, None, "transformers")
    assert arm.config.model == f"path:{out}"
    assert arm.config.iterations == 0
    assert arm.config.warm_start is None
    assert not arm.config.select.test, "test is scored once"
    with pytest.raises(UserError, match="none of these runs can be compared"):
        remeasure.tell(home, arm, own, out, None, "transformers", "q8_0")
    example_run(home, weights=weights, arm=arm.config, skills=(0.4,), warm_start=None, model=arm.config.model)
    said = remeasure.tell(home, arm, own, out, None, "transformers", "q8_0")
    seen = json.loads((home / "runs" / arm.config.name / "summary.json").read_text())["policies"][0]["dev"]
    best = json.loads((own / "summary.json").read_text())
    best = next(p for p in best["policies"] if p["label"] == best["best"])["dev"]
    assert seen["value"] != best["value"], "so the test can tell the two"
    assert re.search(
        rf"loader \(as it lies here.*{seen['value']:.1%} .* of 40 problems; the run itself had {best['value']:.1%}", said
    )
    gained, lost = map(int, re.findall(r"\+(\d+) −(\d+), p", said)[0])
    assert gained - lost == seen["correct"] - best["correct"]
    card = (out / "README.md").read_text()
    assert f"**{seen['value']:.1%}" in card
