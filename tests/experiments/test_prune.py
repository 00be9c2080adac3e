"""What no run uses goes, and nothing else does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.prune import remove, unused
from codelutra.experiments.retrain import Retraining
from codelutra.store.artifacts import Store
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run


def artifacts(home: Path) -> set[Path]:
    return {p.parent for p in (home / "store").glob("*/*/manifest.json")}


def test_nothing_a_run_met_is_unused(tmp_path: Path) -> None:
    example_run(tmp_path)
    assert artifacts(tmp_path)
    assert unused(tmp_path).artifacts == []


def test_a_named_run_goes_with_what_only_it_uses(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    before = artifacts(tmp_path)
    other = example_run(tmp_path, name="other", skills=(0.1, 0.2, 0.9), pairs={"per_problem": 1})
    only_its = artifacts(tmp_path) - before
    assert only_its
    found = unused(tmp_path, ["other"])
    assert {path for path, _ in found.artifacts} == only_its
    assert found.size > 0
    remove(found)
    assert artifacts(tmp_path) == before
    assert not other.exists()
    for policy in json.loads((run / "summary.json").read_text())["policies"][1:]:
        assert (Path(policy["path"]) / "manifest.json").exists()
    assert unused(tmp_path).artifacts == []


def test_what_a_removed_run_left_and_what_was_set_aside_is_unused(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    shutil.rmtree(run)
    for left in (".partial/warm-start-0123/work", ".damaged/pairs-0123-1"):
        (tmp_path / "store" / left).mkdir(parents=True)
    found = unused(tmp_path)
    assert {p for p, _ in found.artifacts} > artifacts(tmp_path)
    assert {p.parent.name for p, _ in found.artifacts} >= {".partial", ".damaged"}


def test_what_a_killed_run_had_half_made_stays(tmp_path: Path) -> None:
    run = RunDir(example_run(tmp_path, finished=False))
    (tmp_path / "store/.partial/warm-start-0123/work").mkdir(parents=True)
    run.ledger({"event": "start", "stage": "warm-start", "key": "0123"})
    assert unused(tmp_path).artifacts == []


def test_what_others_need_is_kept(tmp_path: Path) -> None:
    example_run(tmp_path)
    config = load_config("demo", ("name=later", "model=run:example"))
    RunDir.create(tmp_path / "runs", config)
    with pytest.raises(UserError, match="run 'example' is what 'later' goes on from"):
        unused(tmp_path, ["example"])
    assert unused(tmp_path, ["example", "later"]).artifacts
    with pytest.raises(UserError, match=r"no run 'nope' .*there: example, later"):
        unused(tmp_path, ["nope"])
    record = tmp_path / "promoted/demo/record.json"
    record.parent.mkdir(parents=True)
    row = Retraining(
        run="example", made_of="", base_model="hf:example/tiny@main", model="hf:example/tiny@main", promoted_at=1.0
    )
    record.write_text(json.dumps([row.model_dump(mode="json")]))
    with pytest.raises(UserError, match=r"run 'example' is needed to roll demo back \(it was promoted\)"):
        unused(tmp_path, ["example", "later"])
    with RunDir(tmp_path / "runs/later").hold(), pytest.raises(UserError, match="run 'later' is going on"):
        unused(tmp_path)


def test_the_command_tells_and_removes_only_when_told_to(tmp_path: Path) -> None:
    shutil.rmtree(example_run(tmp_path))
    there = artifacts(tmp_path)
    told = codelutra("prune", "--home", str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert "would free" in told.stdout
    assert "warm-start" in told.stdout
    assert artifacts(tmp_path) == there
    done = json.loads(codelutra("prune", "--yes", "--home", str(tmp_path), "--json").stdout)
    assert (done["removed"], len(done["artifacts"])) == (True, len(there))
    assert artifacts(tmp_path) == set()
    assert Store(tmp_path / "store").root.exists()
