"""The store keeps its promises: whole or absent, made once, damaged never used."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from codelutra.errors import UserError
from codelutra.store.artifacts import Artifact, Recipe, Step, Store, read_frame, write_frame

RECIPE = Recipe("pairs", 1, {"seed": 0}, {"outcomes": "abc"})


def writes(text: str = "hello", calls: list[int] | None = None) -> Any:
    def build(out: Path, work: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(1)
        (out / "file.txt").write_text(text)
        return {"rows": 3}

    return build


def test_the_same_recipe_is_built_once(tmp_path: Path) -> None:
    calls: list[int] = []
    store = Store(tmp_path)
    first = store.make(Step(RECIPE, writes(calls=calls)))
    second = Store(tmp_path).make(Step(RECIPE, writes(calls=calls)))
    assert calls == [1]
    assert first == second
    assert second.facts == {"rows": 3}


def test_how_long_its_training_took_is_no_part_of_a_policy(tmp_path: Path) -> None:
    def train(out: Path, work: Path) -> dict[str, Any]:
        (out / "model.safetensors").write_text("weights")
        (out / "training.jsonl").write_text(f'{{"seconds": {time.monotonic_ns()}}}')
        return {}

    made = [Store(tmp_path / name).make(Step(RECIPE, train)) for name in ("a", "b")]
    assert made[0].file("training.jsonl").read_text() != made[1].file("training.jsonl").read_text()
    assert made[0].digest == made[1].digest


def test_seconds_are_of_the_work_where_the_stage_tells_them(tmp_path: Path) -> None:
    made = Store(tmp_path).make(Step(RECIPE, lambda out, work: {"busy_seconds": 0.25}))
    assert made.seconds == 0.25


@pytest.mark.parametrize(
    "other",
    [
        Recipe("score", 1, {"seed": 0}, {"outcomes": "abc"}),
        Recipe("pairs", 2, {"seed": 0}, {"outcomes": "abc"}),
        Recipe("pairs", 1, {"seed": 1}, {"outcomes": "abc"}),
        Recipe("pairs", 1, {"seed": 0}, {"outcomes": "abd"}),
        Recipe("pairs", 1, {"seed": 0}, {"outcome": "abc"}),
    ],
)
def test_stage_version_config_and_inputs_each_change_the_key(other: Recipe) -> None:
    assert other.key != RECIPE.key


def test_the_key_does_not_depend_on_the_order_things_are_named_in() -> None:
    a = Recipe("pairs", 1, {"x": 1, "y": 2}, {"p": "1", "q": "2"})
    assert a.key == Recipe("pairs", 1, {"y": 2, "x": 1}, {"q": "2", "p": "1"}).key


def test_a_build_that_fails_leaves_no_artifact_and_no_rest_of_it_in_the_next(tmp_path: Path) -> None:
    def fails(out: Path, work: Path) -> dict[str, Any]:
        (out / "half.txt").write_text("half")
        raise ValueError("boom")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="boom"):
        store.make(Step(RECIPE, fails))
    assert store.find(RECIPE) is None
    made = store.make(Step(RECIPE, writes()))
    assert sorted(p.name for p in Path(made.path).iterdir()) == ["file.txt", "manifest.json"]


def test_work_survives_a_failed_build_and_is_gone_after_a_good_one(tmp_path: Path) -> None:
    seen = []

    def build(out: Path, work: Path) -> dict[str, Any]:
        seen.append(sorted(p.name for p in work.iterdir()))
        (work / "checkpoint").write_text("1")
        if len(seen) == 1:
            raise ValueError("killed")
        return {}

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="killed"):
        store.make(Step(RECIPE, build))
    store.make(Step(RECIPE, build))
    assert seen == [[], ["checkpoint"]]
    assert list((tmp_path / ".partial").iterdir()) == []


@pytest.mark.parametrize("damage", ["content", "size", "missing", "manifest"])
def test_a_damaged_artifact_is_set_aside_reported_and_made_again(tmp_path: Path, damage: str) -> None:
    events: list[dict[str, Any]] = []
    store = Store(tmp_path, events.append)
    made = store.make(Step(RECIPE, writes("hello")))
    file = made.file("file.txt")
    match damage:
        case "content":
            file.write_text("jello")
        case "size":
            file.write_text("hello, again")
        case "missing":
            file.unlink()
        case "manifest":
            made.file("manifest.json").write_text('{"half": ')
    again = store.make(Step(RECIPE, writes("hello")))
    assert again.file("file.txt").read_text() == "hello"
    (damaged,) = [e for e in events if e["event"] == "damaged"]
    assert Path(damaged["moved_to"]).is_dir()
    assert [e["event"] for e in events].count("made") == 2


def test_every_flipped_bit_of_a_parquet_file_or_its_manifest_is_noticed(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"problem_id": [f"p{i}" for i in range(40)], "n": range(40), "right": [i % 3 == 0 for i in range(40)]}
    )

    def build(out: Path, work: Path) -> dict[str, Any]:
        return {"rows": write_frame(frame, out / "scores.parquet"), "pass@1": 0.5, "by k": {1: 0.25, 10: 0.5, 2: 0.3}}

    store = Store(tmp_path)
    made = store.make(Step(RECIPE, build))
    for name in ("scores.parquet", "manifest.json"):
        file = made.file(name)
        whole = file.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 150)):
            spoilt = bytearray(whole)
            spoilt[at] ^= 1 << at % 8
            file.write_bytes(spoilt)
            with pytest.raises(UserError, match=r"is damaged \(.*make it again"):
                read_frame(made.file("scores.parquet"), "make it again")
            assert store.find(RECIPE) is None, f"byte {at} of {name}"
            again = store.make(Step(RECIPE, build))
            assert again.file(name).exists()
            whole = file.read_bytes()
    assert_frame_equal(read_frame(made.file("scores.parquet"), ""), frame)


@pytest.mark.parametrize("change", ["facts", "digest", "seconds", "files", "libraries", "inputs", "sha256"])
def test_a_manifest_covers_all_it_says(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path)
    made = store.make(Step(RECIPE, writes()))
    manifest = json.loads(made.file("manifest.json").read_text())
    spoilt = {"facts": {"rows": 4}, "seconds": 7.0, "inputs": {}, "libraries": {"codelutra": "9"}, "files": {}}
    manifest[change] = spoilt.get(change, "0" * 64)
    made.file("manifest.json").write_text(json.dumps(manifest))
    assert store.find(RECIPE) is None
    del manifest["sha256"]
    store.make(Step(RECIPE, writes()))
    made.file("manifest.json").write_text(json.dumps(manifest | {"added": 1}))
    assert store.find(RECIPE) is None, "0.1.0, which had no hash of its own there, had other keys"


def test_a_manifest_of_0_1_0_is_accepted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make(Step(RECIPE, writes()))
    manifest = json.loads(made.file("manifest.json").read_text())
    del manifest["sha256"]
    made.file("manifest.json").write_text(json.dumps(manifest))
    assert store.find(RECIPE) == made


@pytest.mark.parametrize("left", ["a file", "a folder", "a link to nowhere", "an artifact of another key"])
def test_what_lies_where_an_artifact_belongs_and_is_none_is_set_aside(tmp_path: Path, left: str) -> None:
    store = Store(tmp_path)
    place = tmp_path / RECIPE.stage / RECIPE.key
    place.parent.mkdir()
    match left:
        case "a file":
            place.write_text("3")
        case "a folder":
            (place / "manifest.json").mkdir(parents=True)
        case "a link to nowhere":
            place.symlink_to("nowhere")
        case _:
            other = store.make(Step(Recipe("pairs", 1, {"seed": 1}, {}), writes("other")))
            shutil.copytree(other.path, place)
    assert store.make(Step(RECIPE, writes())).file("file.txt").read_text() == "hello"
    assert len(list((tmp_path / ".damaged").iterdir())) == 1


def test_checkpoints_go_with_the_next_start_where_a_kill_came_before_they_could(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make(Step(RECIPE, writes()))
    (tmp_path / ".partial" / f"pairs-{RECIPE.key}" / "work/checkpoint-3").mkdir(parents=True)
    calls: list[int] = []
    store.make(Step(RECIPE, writes(calls=calls)))
    assert calls == []
    assert list((tmp_path / ".partial").iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def full(out: Path, work: Path) -> dict[str, Any]:
        (out / "half.txt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(UserError, match="disk full"):
        store.make(Step(RECIPE, full))
    assert list(tmp_path.glob("**/half.txt")) == []
    assert store.find(RECIPE) is None


def _slow_maker(root: str, started: Any, tally: str) -> None:
    def build(out: Path, work: Path) -> dict[str, Any]:
        with open(tally, "a") as f:
            f.write("x")
        started.set()
        time.sleep(0.5)
        (out / "file.txt").write_text("hello")
        return {}

    Store(Path(root)).make(Step(RECIPE, build))


def test_two_processes_do_not_make_one_key_twice(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    started, tally = fork.Event(), tmp_path / "tally"
    makers = [fork.Process(target=_slow_maker, args=(str(tmp_path / "s"), started, str(tally))) for _ in range(3)]
    for m in makers:
        m.start()
    for m in makers:
        m.join()
    assert tally.read_text() == "x"


def test_whoever_waits_for_another_process_says_so(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    started, events = fork.Event(), list[dict[str, Any]]()
    maker = fork.Process(target=_slow_maker, args=(str(tmp_path), started, str(tmp_path / "tally")))
    maker.start()
    started.wait(10)
    Store(tmp_path, events.append).make(Step(RECIPE, writes(), "pairs of iteration 1"))
    maker.join()
    assert [e["event"] for e in events] == ["waiting", "reused"]
    assert events[0]["what"] == "another process that makes pairs of iteration 1"


def test_a_killed_maker_leaves_neither_artifact_nor_lock(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    maker = fork.Process(target=_slow_maker, args=(str(tmp_path), started, str(tmp_path / "tally")))
    maker.start()
    started.wait(10)
    assert maker.pid
    os.kill(maker.pid, signal.SIGKILL)
    maker.join()
    store = Store(tmp_path)
    assert store.find(RECIPE) is None
    assert store.make(Step(RECIPE, writes())).file("file.txt").read_text() == "hello"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", "", "z"]})
    write_frame(frame, tmp_path / "1.parquet")
    write_frame(frame.clone(), tmp_path / "2.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_artifacts_are_hashable_small_references() -> None:
    assert len({Artifact("s", "k", "d", "/p", {"rows": 1}), Artifact("s", "k", "d", "/p", {"rows": 2})}) == 1


@pytest.mark.parametrize("name", ["a[1]", "a*b?", "{x,y}", "100% ünï 😀", "a\nb", "file:x"])
def test_a_frame_is_read_from_a_folder_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    def build(out: Path, work: Path) -> dict[str, Any]:
        return {"rows": write_frame(pl.DataFrame({"n": [1]}), out / "pairs.parquet")}

    made = Store(tmp_path / name).make(Step(RECIPE, build))
    assert made.frame("pairs")["n"].to_list() == [1]
    assert read_frame(made.file("pairs.parquet"), "make it again")["n"].to_list() == [1]
