"""A config explains itself, refuses what it does not know, and every preset that ships is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelutra.config import PRESETS, RunConfig, in_key, load_config, parse_config, preset_names, to_yaml
from codelutra.config.explain import schema
from codelutra.errors import ConfigError

MINIMAL: dict[str, Any] = {"name": "x", "suite": {"name": "starter-sql"}}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_opens_with_its_purpose(name: str) -> None:
    load_config(name)
    assert (PRESETS / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": {"beta": -1}}, r"train\.beta = -1: .*greater than 0"),
        ({"train": {"bta": 1}}, r"train\.bta: unknown key; known here: .*\bbeta\b"),
        ({"warm_start": {"lr": 1}}, r"warm_start\.lr: unknown key; known here: .*learning_rate"),
        ({"trian": {}}, r"trian: unknown key; known here: .*train"),
        ({"sample": {"temperature": 0}}, r"sample\.temperature = 0"),
        ({"name": "../x"}, r"name = '\.\./x'"),
        ({"train": {"batch_size": 10, "micro_batch": 4}}, r"batch_size 10 is not a multiple of micro_batch 4"),
        ({"train": {"dpo_weight": 0, "sft_weight": 0}}, r"dpo_weight 0 and sft_weight 0: .*nothing would be learned"),
        ({"train": {"sft_on": "wrong"}}, r"train\.sft_on = 'wrong'"),
        ({"train": {"loss_type": ["sigmoid"]}}, r"train\.loss_type = "),
        ({"train": 3}, r"train = 3"),
        ({"train": {"start": "first"}, "pairs": 3}, r"pairs = 3"),
        ({"sample": {"max_tokens": 2048}}, r"leaves no room for a prompt"),
        ({"suite": {"name": "s", "train": 1}}, r"suite\.train = 1"),
        ({"seed": -1}, r"seed = -1: .*greater than or equal to 0"),
        ({"seed": 2**64}, r"seed = 18446744073709551616: .*at most 2147483647"),
        ({"seed": 10**300}, r"seed = 10{70,80} …: .*at most"),
        ({"suite": {"name": "s", "seed": 2**40}}, r"suite\.seed = .*at most 2147483647"),
        ({"suite": {"name": "s", "train": 10**30}}, r"suite\.train = .*less than or equal to 10000000"),
        ({"train": {"learning_rate": float("inf")}}, r"train\.learning_rate = inf: .*finite number"),
        ({"train": {"min_chosen_drift": float("nan")}}, r"train\.min_chosen_drift = nan: .*finite number"),
        ({"execute": {"timeout_seconds": float("inf")}}, r"execute\.timeout_seconds = inf"),
        ({"warm_start": {"epochs": float("nan")}}, r"warm_start\.epochs = nan"),
        ({"train": {"adapter": "continued"}}, r"adapter continued: method full trains no adapter; set method to lora"),
        (
            {"train": {"adapter": "continued", "method": "lora"}, "warm_start": {}},
            r"warm_start\.method full changes the base model's own weights.*set warm_start\.method to lora or qlora",
        ),
        (
            {"train": {"adapter": "continued", "method": "qlora"}, "warm_start": {"method": "lora", "lora_rank": 8}},
            r"warm_start has lora_rank and lora_alpha \(8, 32\), train has \(16, 32\)",
        ),
        ({"iteration": 1}, r"iteration: unknown key; .*; did you mean iterations\?"),
        ({"name": "x" * 5000}, r"name = 'x{70,80} …"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({**MINIMAL, **change})


def numbers() -> Iterator[tuple[str, str]]:
    """Every field that takes a number: dotted name, and "integer" or "number"."""
    whole = schema()

    def of(properties: dict[str, Any], before: str) -> Iterator[tuple[str, str]]:
        for name, told in properties.items():
            for part in told.get("anyOf", [told]):
                if "$ref" in part:
                    yield from of(whole["$defs"][part["$ref"].rpartition("/")[2]]["properties"], f"{before}{name}.")
                elif part.get("type") in ("integer", "number"):
                    yield f"{before}{name}", part["type"]

    return of(whole["properties"], "")


@pytest.mark.parametrize(("name", "kind"), list(numbers()))
def test_an_absurd_number_is_refused_by_name(name: str, kind: str) -> None:
    """999,999 of anything but problems, tokens, money and seeds is a slip of the hand."""
    absurd: list[float] = [10**10, -(10**10)]
    if not any(word in name for word in ("seed", "price", "drift")):
        absurd += [20_000_000]
    if name.endswith(("lora_rank", "batch", "batch_size", "processes", "workers", "epochs", "iterations", "patience")):
        absurd += [999_999]
    section, _, key = name.rpartition(".")
    given = MINIMAL | ({"cluster": {"address": "auto"}} if section == "cluster" else {})
    for value in absurd:
        number = value if kind == "integer" else float(value)
        inside = {**given.get(section, {}), key: number}
        with pytest.raises(ConfigError, match=rf"{re.escape(name)} = "):
            parse_config({**given, section: inside} if section else {**given, key: number})


@pytest.mark.parametrize("name", [name for name, _ in numbers()])
@pytest.mark.parametrize("value", [True, False, "010", "-03"])
def test_what_is_no_number_is_not_taken_for_one(name: str, value: Any) -> None:
    """YAML's yes, no, on and off are truth values, and 010 may mean 8."""
    section, _, key = name.rpartition(".")
    given = MINIMAL | ({"cluster": {"address": "auto"}} if section == "cluster" else {})
    inside = {**given.get(section, {}), key: value}
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} = {value!r}: Input should be a number"):
        parse_config({**given, section: inside} if section else {**given, key: value})


@pytest.mark.parametrize("value", [5, 1.5, True])
def test_what_is_no_text_is_answered_with_how_text_is_written(value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"name = {value!r}: this is text: put it in quotes"):
        parse_config(MINIMAL | {"name": value})


def test_overrides_reach_into_sections_that_are_not_there_yet() -> None:
    config = load_config("demo", ("train.beta=0.3", "suite.databases=[a, b]", "select.patience=0"))
    assert config.train.beta == 0.3
    assert config.suite.databases == ("a", "b")
    assert config.select.patience == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train.beta", "section.key=value"),
        ("name.x=1", "a value, not a section"),
        ("train.nope=1", "unknown key"),
        ("suite.databases=[a", r"'\[a' is not a YAML value .*lists are \[a, b\]"),
        ("name='a", "is not a YAML value"),
        ("name=a: b: c", "is not a YAML value"),
    ],
)
def test_a_bad_override_says_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config("demo", (text,))


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("4.0E-5", 4e-5), ("1", 1.0)])
def test_a_number_that_yaml_reads_as_text_is_a_number(text: str, value: float) -> None:
    found = load_config("demo", (f"train.learning_rate={text}",)).train.learning_rate
    assert (found, type(found)) == (value, float)


def test_a_config_that_is_not_there_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset; presets: .*demo"):
        load_config("dmeo")


@pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", ""])
def test_a_file_that_is_no_mapping_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(path)


@pytest.mark.parametrize("objective", ["preference", "rft", "sft", "grpo"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_objective_takes_every_method(objective: str, method: str) -> None:
    train = {"objective": objective, "method": method, "adapter": "fresh" if method == "full" else "continued"}
    assert parse_config({**MINIMAL, "train": train, "warm_start": {"method": method}}).train.method == method


def test_the_resolved_yaml_is_the_same_config() -> None:
    config = load_config("demo")
    assert RunConfig.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_every_field_says_what_it_trades() -> None:
    silent = []
    sections = [RunConfig, *{type(getattr(load_config("demo"), n)) for n in RunConfig.model_fields}]
    for section in sections:
        for name, field in getattr(section, "model_fields", {}).items():
            nested = hasattr(field.annotation, "model_fields")
            if not field.description and not nested:
                silent.append(f"{section.__name__}.{name}")
    assert silent == []


SMALL_RATE = {"learning_rate": 4e-5}
OF_0_1_0 = {
    "objective": "preference",
    "method": "full",
    "beta": 0.1,
    "sft_weight": 1.0,
    "sft_norm": "sequence",
    "loss_type": "sigmoid",
    "replay_references": False,
    "epochs": 1.0,
    "batch_size": 16,
    "micro_batch": 8,
    "warmup": 0.1,
    "weight_decay": 0.0,
    "lora_rank": 16,
    "lora_alpha": 32,
    "min_chosen_drift": -10.0,
    "stop_on_drift": False,
}
MEASURED = {
    "demo": SMALL_RATE | {"max_length": 512},
    "few-references": SMALL_RATE | {"max_length": 512, "epochs": 4.0, "replay_references": True},
    "spider-general": {"learning_rate": 1e-5, "max_length": 1024},
    "spider-in-domain": SMALL_RATE | {"max_length": 768, "micro_batch": 16},
    "starter-python": SMALL_RATE | {"max_length": 512},
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_preset_trains_as_it_was_measured_under_the_same_key(name: str) -> None:
    assert in_key(load_config(name).train) == OF_0_1_0 | MEASURED[name]


@pytest.mark.parametrize(
    ("train", "beta"),
    [
        ({}, 0.1),
        ({"loss_type": "hinge"}, 0.1),
        ({"loss_type": "ipo"}, 1.0),
        ({"loss_type": "sigmoid_norm", "beta": None}, 5.0),
        ({"loss_type": "sppo_hard"}, 1.0),
        ({"loss_type": "ipo", "beta": 0.1}, 0.1),
    ],
)
def test_each_loss_has_a_beta_of_its_own_where_none_is_given(train: dict[str, Any], beta: float) -> None:
    assert parse_config({**MINIMAL, "train": train}).train.beta == beta


def test_what_restarts_learns_from_all_data_so_far_unless_told_otherwise() -> None:
    first = ("train.start=first",)
    assert not load_config("demo").pairs.accumulate
    assert load_config("demo", first).pairs.accumulate
    assert not load_config("demo", (*first, "pairs.accumulate=false")).pairs.accumulate
    assert load_config("demo", (*first, "pairs.order=random")).pairs.order == "random"
    assert not load_config("demo", (*first, "train.objective=sft")).train.restarts, (
        "it would make one policy again and again"
    )


def test_a_list_that_is_written_as_text_is_answered_with_how_lists_are_written() -> None:
    with pytest.raises(ConfigError, match=r"suite\.databases = 'a,b': give a list: \[a, b\]"):
        load_config("demo", ("suite.databases=a,b",))
