"""What no run uses goes, and nothing else does."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.prune import prune, remove, unused
from codelutra.experiments.retrain import Record, Retraining
from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Store
from codelutra.store.files import locked
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_config, example_run
from tests.helpers.rights import rights_count


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


# ---- while others work -----------------------------------------------------------------------------------------------


def _starts(home: str, opened: Any, go_on: Any, made: Any) -> None:
    """A run that has been opened, and has met nothing yet."""
    with Run(Path(home), example_config(name="late")) as run:
        opened.set()
        go_on.wait(30)
        made.put(run.make(stages.problems(run)).path)


def test_nothing_is_removed_from_under_a_run_that_starts(tmp_path: Path) -> None:
    shutil.rmtree(example_run(tmp_path))
    spawn = multiprocessing.get_context("spawn")
    opened, go_on, made = spawn.Event(), spawn.Event(), spawn.Queue()
    late = spawn.Process(target=_starts, args=(str(tmp_path), opened, go_on, made))
    late.start()
    assert opened.wait(60)
    before = artifacts(tmp_path)
    with pytest.raises(UserError, match=r"is using .*/store and may be about to reuse anything"):
        prune(tmp_path)
    assert artifacts(tmp_path) == before
    go_on.set()
    path = Path(made.get(timeout=30))
    late.join()
    assert prune(tmp_path).artifacts
    assert artifacts(tmp_path) == {path}, "what the run met"


def _prunes(home: str, ready: Any) -> None:
    ready.wait(30)
    for _ in range(200):
        try:
            prune(Path(home))
            return
        except UserError:
            time.sleep(0.02)


def test_runs_and_prunings_at_once_lose_nothing_a_run_has_met(tmp_path: Path) -> None:
    shutil.rmtree(example_run(tmp_path))
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    prunings = [fork.Process(target=_prunes, args=(str(tmp_path), ready)) for _ in range(2)]
    for p in prunings:
        p.start()
    ready.set()
    run = RunDir(example_run(tmp_path, name="late"))
    for p in prunings:
        p.join()
    assert {(e["stage"], e["key"]) for e in run.events() if "key" in e} == {
        (p.parent.name, p.name) for p in artifacts(tmp_path)
    }
    assert unused(tmp_path).artifacts == []


def test_what_a_process_is_making_stays(tmp_path: Path) -> None:
    halves = [tmp_path / "store/.partial" / name for name in ("references-1", "references-2")]
    for half in halves:
        half.mkdir(parents=True)
    with locked(tmp_path / "store/.locks/references-1"):
        assert [p for p, _ in unused(tmp_path).artifacts] == halves[1:]


def test_what_was_left_beside_a_finished_artifact_goes(tmp_path: Path) -> None:
    example_run(tmp_path)
    (made,) = (tmp_path / "store/problems").iterdir()
    left = tmp_path / "store/.partial" / f"problems-{made.name}"
    left.mkdir(parents=True)
    assert [p for p, _ in unused(tmp_path).artifacts] == [left]


# ---- where the ledger does not tell ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "half", "noise", "deleted"])
def test_what_a_run_uses_is_known_without_its_ledger(tmp_path: Path, lost: str) -> None:
    run = example_run(tmp_path)
    ledger = run / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(True)
    match lost:
        case "all":
            ledger.write_bytes(b"")
        case "half":
            ledger.write_bytes(b"".join(lines[len(lines) // 2 :]))
        case "noise":
            ledger.write_bytes(b"\xff\x00{" * 99)
        case _:
            ledger.unlink()
    left = {p.parent.name for p, _ in unused(tmp_path).artifacts}
    assert left <= {"score", "sample"}, "of train: nothing names them as what it was made from, in this example"
    (run / "summary.json").write_text("3")
    for policy in ("policy-0", "policy-1"):
        for link in (run / policy).iterdir():
            assert not {p for p, _ in unused(tmp_path).artifacts} & {link.resolve(), link.resolve().parent}


@pytest.mark.parametrize("gone", ["run.yaml", "the run", "record.json"])
def test_promoted_weights_stay_whatever_else_is_lost(tmp_path: Path, gone: str) -> None:
    run = example_run(tmp_path)
    path = json.loads((run / "summary.json").read_text())["policies"][-1]["path"]
    record = Record(tmp_path, "demo")
    with record.changing() as rows:
        start = "hf:example/tiny@main"
        rows.append(Retraining(run="example", made_of="", base_model=start, model=start, promoted_at=1.0, path=path))
    match gone:
        case "run.yaml":
            (run / "run.yaml").unlink()
        case "the run":
            shutil.rmtree(run)
        case _:
            shutil.rmtree(run)
            (record.folder / "record.json").unlink()
    prune(tmp_path)
    assert Path(path).is_dir()
    assert (record.folder / "model/manifest.json").is_file()


def test_a_config_that_cannot_be_read_keeps_what_it_may_need(tmp_path: Path) -> None:
    example_run(tmp_path)
    other = RunDir.create(tmp_path / "runs", load_config("demo", ("name=later", "model=run:example")))
    (other.path / "run.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"later/run.yaml is damaged .*name this run too"):
        unused(tmp_path, ["example"])
    assert unused(tmp_path, ["example", "later"]).runs


def test_without_the_right_to_write_it_still_tells(tmp_path: Path) -> None:
    shutil.rmtree(example_run(tmp_path))
    folders = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with rights_count():
            assert unused(tmp_path).artifacts
            with pytest.raises(PermissionError):
                prune(tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("name", ["runs", "promoted", "runs/night", "promoted/night"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_nothing_is_removed_while_runs_lie_on_a_disk_that_is_gone(tmp_path: Path, name: str, target: str) -> None:
    example_run(tmp_path)
    before, path = artifacts(tmp_path), tmp_path / name
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(path.name if target == "itself" else target)
    with pytest.raises(UserError, match=f"{name} leads to no folder, so what is in use cannot be known"):
        unused(tmp_path)
    assert artifacts(tmp_path) == before


def test_a_store_that_leads_to_itself_is_told_without_a_traceback(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").symlink_to("store")
    for args in (("prune",), ("status",), ("status", run.name)):
        assert codelutra(*args, "--home", str(tmp_path)).returncode in (0, 2)
    shutil.rmtree(run)
    run.symlink_to(run.name)
    for args in (("prune",), ("status",), ("status", run.name)):
        assert codelutra(*args, "--home", str(tmp_path)).returncode in (0, 2)
