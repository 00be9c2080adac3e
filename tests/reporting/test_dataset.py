"""A run's pairs and outcomes as a data set: what TRL and `datasets` read of it is what the run learned from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from codelutra.errors import UserError
from codelutra.reporting.dataset import export_data
from codelutra.results.findings import read_findings
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_data(run, tmp_path_factory.mktemp("out") / "data")


def loaded(folder: Path, config: str, cache: Path) -> dict[str, Any]:
    """What `datasets` makes of it, in a process of its own: splits with their rows, and whether TRL finds conversations."""
    script = """
import json, sys
from datasets import load_dataset
from trl import is_conversational
found = load_dataset(sys.argv[1], sys.argv[2])
print(json.dumps({s: {"rows": d.to_list(), "chat": is_conversational(d[0])} for s, d in found.items()}, default=str))
"""
    env = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), config], capture_output=True, text=True, env=env, check=True
    )
    parsed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return parsed


def test_pairs_load_as_trls_conversational_preferences(exported: Path, run: Path, tmp_path: Path) -> None:
    found = loaded(exported, "pairs", tmp_path)
    assert list(found) == ["train"]
    assert found["train"]["chat"]
    rows = found["train"]["rows"]
    pairs = pl.concat([pl.read_parquet(run / p.folder / "pairs.parquet") for p in read_findings(run).policies if p.funnel])
    assert len(rows) == pairs.height
    for row, pair in zip(rows, pairs.rows(named=True), strict=True):
        assert row["prompt"][-1] == {"role": "user", "content": pair["prompt"]}
        assert row["chosen"] == [{"role": "assistant", "content": pair["chosen"]}]
        assert row["rejected"] == [{"role": "assistant", "content": pair["rejected"]}]
        assert row["rejected_status"] == pair["rejected_status"]
    assert [m["role"] for m in rows[0]["prompt"]] == ["system", "user"]
    assert {row["policy"] for row in rows} == {"policy-0", "policy-1"}


def test_outcomes_load_as_trls_labelled_completions_and_without_the_test_split(
    exported: Path, run: Path, tmp_path: Path
) -> None:
    found = loaded(exported, "outcomes", tmp_path)
    assert set(found) == {"train", "dev"}
    policies = read_findings(run).policies
    dev = found["dev"]["rows"]
    for policy in policies:
        mine = [row["label"] for row in dev if row["policy"] == policy.label]
        assert (sum(mine), len(mine)) == (policy.dev.correct, policy.dev.n)
    train = found["train"]["rows"]
    drawn = {p.label: p.train.samples for p in policies if p.train}
    assert drawn
    assert {label: sum(row["policy"] == label for row in train) for label in drawn} == drawn
    assert all(row["label"] == (row["status"] == "correct") for row in train)
    tested = set(pl.read_parquet(run / "problems.parquet").filter(pl.col("split") == "test")["problem_id"])
    assert tested
    assert not tested & {row["problem_id"] for row in dev + train}


def test_its_card_says_what_is_in_it(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    for config in front["configs"]:
        for file in config["data_files"]:
            rows = pl.read_parquet(exported / file["path"]).height
            assert f"- {config['config_name']}, {file['split']}: {rows:,} rows" in text


def test_a_run_without_answers_and_a_folder_in_use_are_refused(run: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there and not empty"):
        export_data(run, exported)
    bare = example_run(tmp_path, skills=(), finished=False)
    with pytest.raises(UserError, match="has no pairs and no outcomes yet"):
        export_data(bare, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    file = (run / "policy-0/pairs.parquet").resolve()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"pairs\.parquet"):
        export_data(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "--push", "hf:me/data"], "there is no Hugging Face token here"),
        (["--data", "--push", "me/data"], "write hf:org/name"),
        (["--data", "--policy", "policy-1"], "leave --policy out"),
        (["--logs", "--policy", "policy-1"], "leave --policy out"),
        (["--logs", "--push", "hf:me/data"], "logs are not pushed"),
        (["--logs", "--data"], "give one of them"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "CODELUTRA_HOME": str(run.parents[1])}
    done = codelutra("export", run.name, str(tmp_path / "out"), *options, **home)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
