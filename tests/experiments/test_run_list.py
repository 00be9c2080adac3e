"""Runs as things: what each takes on the disk, that one can be removed, moved aside, and have variants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from codelutra.config import RunConfig, load_config, to_yaml
from codelutra.errors import UserError
from codelutra.experiments.prune import unused
from codelutra.experiments.retrain import Record, Retraining
from codelutra.experiments.run_list import listed, one, removable, remove
from codelutra.experiments.sweep import sweep
from codelutra.experiments.variants import named_apart, set_aside, variant_name
from codelutra.results.findings import read_findings
from codelutra.results.load import load_summary
from codelutra.store.artifacts import Store
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_config, example_run
from tests.helpers.terminal import on_terminal

WIDEST = "w" * 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that share all but what follows from `pairs.per_problem`, and one with the longest name there can be."""
    home = tmp_path_factory.mktemp("home")
    example_run(home, name="first")
    example_run(home, name="second", skills=(0.1, 0.2, 0.9), pairs={"per_problem": 1})
    example_run(home, name=WIDEST, skills=(0.1, 0.2), finished=False)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    for record in tmp_path.glob("runs/*/summary.json"):  # policies lie in this home's store
        record.write_text(record.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


def bytes_of(*folders: Path) -> int:
    return sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def config_of(home: Path, name: str, **changes: object) -> RunConfig:
    config = RunDir(home / "runs" / name).config("")
    assert config
    return config.model_copy(update=changes)


def test_what_a_run_alone_uses_is_what_prune_would_free(home: Path) -> None:
    found, damaged = listed(home)
    assert not damaged
    for run in found:
        assert run.only == unused(home, [run.name]).size
        assert run.folder == bytes_of(run.path)
    assert {r.name for r in found} == {"first", "second", WIDEST}
    assert [r.summary.started for r in found] == sorted(r.summary.started for r in found)
    everything = bytes_of(*(p.parent for p in home.glob("store/*/*/manifest.json")))
    (first,) = (r for r in found if r.name == "first")
    assert 0 < first.only < first.uses < everything


def test_a_removed_run_leaves_its_work_and_nothing_of_itself(home: Path) -> None:
    store = {p: p.read_bytes() for p in home.glob("store/*/*/manifest.json")}
    said = codelutra("runs", "rm", "second", "--home", str(home)).stdout
    assert said.startswith("would remove second: ")
    assert "--yes removes it" in said
    assert (home / "runs/second/run.yaml").is_file()
    only = one(home, "second").only
    told = json.loads(codelutra("runs", "rm", "second", "--yes", "--json", "--home", str(home)).stdout)
    assert (told["removed"], told["left_in_store"]) == (True, only)
    assert not (home / "runs/second").exists()
    assert {p: p.read_bytes() for p in home.glob("store/*/*/manifest.json")} == store
    assert unused(home).size == only, "now it is prune's"


@pytest.mark.parametrize(
    "may_not_go", [removable, remove, lambda home, name: set_aside(home, config_of(home, name, seed=9))]
)
def test_a_run_that_is_needed_stays(home: Path, may_not_go: object) -> None:
    assert callable(may_not_go)
    with RunDir(home / "runs/first").hold(), pytest.raises(UserError, match="'first' is going on"):
        may_not_go(home, "first")
    (home / "runs/second/run.yaml").write_text(to_yaml(config_of(home, "second", model="run:first")))
    with pytest.raises(UserError, match="run 'first' is what 'second' goes on from"):
        may_not_go(home, "first")
    row = Retraining(run="second", made_of="x", base_model="m", model="m", verdict="promoted", promoted_at=1.0)
    record = Record(home, "town")
    record.folder.mkdir(parents=True)
    (record.folder / "record.json").write_text(f"[{row.model_dump_json()}]")
    with pytest.raises(UserError, match="run 'second' is needed to roll town back"):
        may_not_go(home, "second")
    assert {p.name for p in (home / "runs").iterdir()} == {"first", "second", WIDEST}
    shown = one(home, "second")
    assert (shown.from_run, shown.promoted_in, one(home, "first").used_by) == ("first", ("town",), ("second",))


def test_a_run_that_was_moved_aside_goes_on_under_its_new_name(home: Path) -> None:
    was = load_summary(home / "runs/first")
    name = set_aside(home, config_of(home, "first"))
    assert name.startswith("first-20")
    assert not (home / "runs/first").exists()
    now = load_summary(home / "runs" / name)
    assert was
    assert now == was.model_copy(update={"run": name})
    moved = config_of(home, name)
    assert moved.name == name
    RunDir.create(home / "runs", moved)  # not refused
    found = read_findings(home / "runs" / name)
    assert [found.dev_scores(p) is not None for p in found.policies] == [True] * 4, "its links lead where they led"
    assert unused(home).size == 0, "and still say what it uses"
    with Store(home / "store").alone():
        pass


def test_another_run_of_the_same_minute_gets_another_name(home: Path) -> None:
    config = config_of(home, "first")
    first = set_aside(home, config)
    shutil.copytree(home / "runs" / first, home / "runs/first", symlinks=True)
    record = home / "runs/first/summary.json"
    record.touch()
    assert set_aside(home, config) not in ("", first)


def test_what_has_nothing_to_lose_is_not_moved(home: Path) -> None:
    assert set_aside(home, example_config(name="nope")) == ""
    assert set_aside(home, config_of(home, WIDEST)) == "", "it has not finished and goes on"
    moved = set_aside(home, config_of(home, WIDEST, seed=5))
    assert len(moved) <= 64
    (home / "runs/empty").mkdir()
    (home / "runs/empty/run.yaml").write_text(to_yaml(example_config(name="empty")))
    assert set_aside(home, example_config(name="empty", seed=3)) == ""


def test_a_variant_has_a_name_of_its_own_which_a_sweep_gives_it_too(home: Path) -> None:
    file = home / "first.yaml"
    file.write_text(to_yaml(config_of(home, "first")))
    (point,) = sweep(str(file), (), ["train.learning_rate=2e-5"]).arms
    assert named_apart(home, str(file), ("train.learning_rate=2e-5",)) == "first-learning_rate-2e-5" == point.config.name
    assert (
        named_apart(home, str(file), ("train.learning_rate=2e-5", "iterations=9", "select.patience=3")) == point.config.name
    )
    for same in ((), ("iterations=9",), ("execute.workers=1",), ("name=mine", "seed=4"), ("name=nope", "seed=4")):
        assert named_apart(home, str(file), same) == ""
    (home / "gone.yaml").write_text(to_yaml(example_config(name="gone")))
    assert named_apart(home, str(home / "gone.yaml"), ("seed=4",)) == "", "no run of that name"
    long = [variant_name("x" * 60, [("train.beta", beta)]) for beta in ("0.2", "0.3")]
    assert [len(name) for name in long] == [64, 64]
    assert long[0] != long[1]
    load_config(str(file), (f"name={variant_name('first', [('suite.databases', '[a, b]'), ('model', 'path:/x')])}",))


def test_the_refusal_of_another_config_names_the_ways_out(home: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)seed: 0 there, 4 now.*--set name=.*--fresh.*codelutra runs rm first"):
        RunDir.create(home / "runs", config_of(home, "first", seed=4))


def test_the_list_cuts_no_name_and_has_every_column(home: Path) -> None:
    asked = ("runs", "list", "--home", str(home))
    (header, *rows) = [
        line.split() for line in codelutra(*asked, COLUMNS="80").stdout.splitlines() if "─" not in line and line.strip()
    ]
    assert header == ["run", "state", "suite", "model", "dev", "test", "began", "GiB", "alone"]
    assert {row[0]: row[1] for row in rows} == {"first": "finished", "second": "finished", WIDEST: "interrupted"}
    assert WIDEST in "".join(on_terminal(*asked, columns=80))
    told = json.loads(codelutra(*asked, "--json").stdout)
    assert {r["name"]: r["bytes"] for r in told} == {r.name: r.bytes for r in listed(home)[0]}
    shutil.rmtree(home / "runs" / WIDEST)
    assert all(len(line) <= 80 for line in on_terminal(*asked, columns=80))


@pytest.mark.parametrize("command", ["show", "rm"])
def test_a_run_that_is_not_there_is_told_with_those_that_are(home: Path, command: str) -> None:
    done = codelutra("runs", command, "frist", "--home", str(home), COLUMNS="999")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no run 'frist' under {home}/runs; there: first, second, {WIDEST}; did you mean first?" in done.stderr


def test_a_damaged_run_hides_no_other(home: Path) -> None:
    (home / "runs/first/summary.json").write_text("{")
    done = codelutra("runs", "list", "--home", str(home), "--json")
    assert {r["name"] for r in json.loads(done.stdout)} == {"second", WIDEST}
    assert "first/summary.json is damaged" in done.stderr
    done = codelutra("runs", "show", "first", "--home", str(home))
    assert (done.returncode, "first/summary.json is damaged" in done.stderr) == (2, True)
