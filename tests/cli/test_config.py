"""Keys explained, configs shown, and the schema by which editors check what people write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from codelutra.cli.init import init_sql
from codelutra.config import PRESETS, RunConfig, load_config, parse_config, preset_names, settings, to_yaml
from codelutra.config.explain import SCHEMA_FILE, explain, explained, schema, value_of
from codelutra.errors import ConfigError
from codelutra.reading.plain_yaml import parse_yaml
from tests.cli.test_app import AS_INSTALLED
from tests.helpers.commands import codelutra
from tests.helpers.terminal import on_terminal

ROOT = Path(__file__).parents[2]
DEMO = load_config("demo")


def faults(raw: Any) -> list[str]:
    return [e.json_path for e in jsonschema.Draft202012Validator(schema()).iter_errors(raw)]


def test_the_schema_is_one_and_takes_every_preset_and_every_written_config() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for name in preset_names():
        assert faults(parse_yaml((PRESETS / f"{name}.yaml").read_text())) == []
        assert faults(yaml.safe_load(to_yaml(load_config(name)))) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"train": {"bta": 1}}, "$.train"),
        ({"iterations": -1}, "$.iterations"),
        ({"train": {"loss_type": "dpo"}}, "$.train.loss_type"),
        ({"sample": {"top_p": 0}}, "$.sample.top_p"),
        ({"name": "a b"}, "$.name"),
        ({"suite": None}, "$.suite"),
    ],
)
def test_the_schema_refuses_what_the_config_refuses(change: dict[str, Any], where: str) -> None:
    raw = {"name": "x", "suite": {"name": "starter-sql"}} | change
    assert faults(raw) == [where]
    with pytest.raises(ConfigError):
        parse_config(raw)


def test_editors_are_shown_what_each_key_trades() -> None:
    told = schema()
    parts = [told, *told["$defs"].values()]
    without = [name for part in parts for name, p in part["properties"].items() if not p.get("description")]
    assert set(without) <= {"seed"}, "a key without a docstring"


def test_init_writes_the_schema_beside_the_config_and_names_it_in_the_first_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs/example/library/build.py"), str(tmp_path / "library.sqlite")]
    subprocess.run(command, check=True, capture_output=True)
    made = init_sql(tmp_path / "library.sqlite", ROOT / "docs/example/library/questions.jsonl", tmp_path / "library")
    assert made.config.read_text().startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    written = json.loads(made.config.with_name(SCHEMA_FILE).read_text())
    assert written == schema() == json.loads(codelutra("config", "schema").stdout)
    assert list(jsonschema.Draft202012Validator(written).iter_errors(parse_yaml(made.config.read_text()))) == []


def test_every_setting_of_a_run_is_explained_with_its_value() -> None:
    known = explained()
    assert set(settings(DEMO)) | {"warm_start"} <= set(known)
    for key in settings(DEMO):
        e = known[key]
        value = json.loads(json.dumps(value_of(DEMO, key)))
        assert e.kind
        assert (e.default == "") == (key in ("name", "suite.name")), "what has to be given, and no other"
        assert value == value_of(RunConfig.model_validate(DEMO.model_dump()), key)


def test_a_key_says_what_it_takes_its_default_and_what_changing_it_means() -> None:
    (beta,) = explain("beta")
    assert beta.key == "train.beta"
    assert (beta.kind, beta.default) == ("number > 0 and ≤ 1000", 0.1)
    assert beta.what.startswith("β of DPO")
    assert "another run" in beta.change
    assert explain("train.method")[0].kind == "one of full, lora, qlora"
    assert explain("engine.gpu_memory")[0].kind == "number > 0 and ≤ 1"
    assert "may change between two starts" in explain("select.patience")[0].change, "as its section"
    assert "no artifact depends on it" in explain("execute.workers")[0].change
    assert [e.key for e in explain("prompt")] == ["prompt", "prompt.thinking", "prompt.thinking_tokens"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ("explain", "train.bta"),
            "no key 'train.bta' in a config; `codelutra config explain` lists all; did you mean train.b",
        ),
        (("explain", "lora_rank"), "did you mean warm_start.lora_rank or train.lora_rank?"),
        (("explain", "patiense"), "did you mean patience?"),
        (("explain", "beta", "dmo"), "did you mean demo?"),
        (("explain", "beta", "--set", "train.beta=1"), "--set lays values over a config: name one"),
        (("show", "dmo"), "did you mean demo?"),
        (("show", "demo", "--set", "train.bta=1"), "did you mean beta?"),
    ],
)
def test_bad_input_is_told_with_the_way_out(args: tuple[str, ...], says: str) -> None:
    done = codelutra("config", *args, COLUMNS="999")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_shown_is_the_config_again(tmp_path: Path) -> None:
    asked = ("config", "show", "spider-lora", "--set", "train.beta=0.25")
    wanted = load_config("spider-lora", ("train.beta=0.25",))
    for more in ((), ("--changed",), ("--json",)):
        file = tmp_path / "shown.yaml"
        file.write_text(codelutra(*asked, *more).stdout)
        assert load_config(file) == wanted
    assert "beta: 0.25" in codelutra(*asked, "--changed").stdout
    assert "weight_decay" not in codelutra(*asked, "--changed").stdout


def test_on_80_columns_an_explanation_stands_behind_its_label() -> None:
    lines = on_terminal("config", "explain", "engine.replicas", "demo", columns=80)
    assert all(len(line) <= 80 for line in lines)
    assert any(line.strip() == "in demo:      null" for line in lines)
    said = json.loads(codelutra("config", "explain", "beta", "demo", "--json").stdout)
    assert said == [vars(explain("beta")[0]) | {"value": 0.1}]


def test_bash_completes_presets_runs_and_keys(tmp_path: Path) -> None:
    (tmp_path / "runs/my-run").mkdir(parents=True)
    (tmp_path / "runs/my-run/run.yaml").touch()

    def offered(words: str) -> list[str]:
        env = os.environ | {"_CODELUTRA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([sys.executable, "-c", AS_INSTALLED], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert offered("codelutra run de") == ["demo"]
    assert offered(f"codelutra report --home {tmp_path} my") == ["my-run"]
    assert offered("codelutra run demo --set train.bet") == ["train.beta="]
    assert offered("codelutra config explain grpo.k") == ["grpo.kl"]
    (tmp_path / "file").touch()
    assert offered(f"codelutra report --home {tmp_path}/file/x my") == [], "no traceback in the middle of a line"
