"""What version 0.1.0 left opens, counts and goes on today: records, a promoted policy, a store, a run it was killed in.

The number format is given where a config is read anew: 0.1.0 wrote bfloat16, its default, into every run; now it is `auto`.
SQL is judged otherwise today (version 2 of starter-sql), so what was judged is judged anew; what was sampled is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import load_config
from codelutra.hardware import multiplies_bf16
from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import measure_plan
from codelutra.results.load import chosen_weights
from codelutra.store.artifacts import Artifact
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.old_run import MADE_AT, unpack_old_run

IMAGE = "codelutra/python:2183bf6fe6eb"
JUDGED = {"references", "execute", "score", "pairs"}  # made anew where the sandbox image has another content
THEN = ("engine.dtype=bfloat16", "train.sft_norm=sequence")  # the defaults that 0.1.0 had
AS_THEN = [word for value in THEN for word in ("--set", value)]
POLICIES = ["base", "policy-0", "policy-1"]
trained_alike = pytest.mark.skipif(
    not multiplies_bf16(), reason="the run was trained in bfloat16; a CPU that emulates it trains in float32, anew"
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpack_old_run(tmp_path)


def said(*args: str, home: Path, code: int = 0, **env: str) -> str:
    done = codelutra(*args, "--home", str(home), **({"COLUMNS": "200"} | env))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def record(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return read


def manifests(home: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(f.read_text()) for f in sorted((home / "store" / stage).glob("*/manifest.json"))]


# ---- looked at -------------------------------------------------------------------------------------------------------


def test_status_tells_its_numbers_under_the_names_of_today(old: Path, prefect: dict[str, str]) -> None:
    home = old / "home"
    raw = record(home / "runs/old")
    read = json.loads(codelutra("status", "old", "--home", str(home), "--json").stdout)
    assert [p["label"] for p in read["policies"]] == POLICIES
    assert [p["name"] for p in read["policies"]] == ["base", "policy 0", "policy 1"]
    same = (
        "label",
        "folder",
        "path",
        "dev",
        "executable",
        "statuses",
        "pairs",
        "seconds",
        "tokens",
        "alarms",
        "other_modes",
    )
    for was, now in zip(raw["policies"], read["policies"], strict=True):
        assert {k: now[k] for k in same} == {k: was[k] for k in same}
        assert {s: (a["n"], a["ended"], a["tokens"]) for s, a in now["answers"].items()} == {
            s: (a["n"], a["ended"], a["tokens"]) for s, a in was["answers"].items()
        }
    assert {k: read["problems"][k] for k in raw["problems"]} == raw["problems"]
    assert (read["state"], read["best"]) == ("interrupted", "base"), "it was killed"
    shown = said("status", "old", home=home)
    for name in ("base", "policy 0", "policy 1"):
        assert f"\n {name} " in shown
    assert f"codelutra run {home}/runs/old/run.yaml --home {home}` goes on" in shown
    every = json.loads(codelutra("status", "--home", str(home), "--json").stdout)
    states = {s["run"]: s["state"] for s in every}
    assert states == {"old": "interrupted"} | dict.fromkeys(
        ("old-r001", "old-warm-start-s0", "old-codelutra-s0"), "finished"
    )


@pytest.mark.parametrize("name", ["old", "old-codelutra-s0"])
def test_its_report_is_written(name: str, old: Path) -> None:
    said("report", name, "--beside", "old-r001", home=old / "home")
    page = (old / f"home/runs/{name}/report/index.html").read_text()
    for policy in record(old / "home/runs" / name)["policies"]:
        low, high = 100 * policy["dev"]["low"], 100 * policy["dev"]["high"]
        named = policy["label"].replace("-", " ")
        assert f">{named}</td>" in page
        assert f"{policy['dev']['value']:.1%} [{low:.1f} – {high:.1f}]" in page
    for part in ("numbers", "figures", "beside", "pairs", "failures", "cost", "config", "provenance"):
        assert f'id="{part}"' in page, "its artifacts are found in the folders of 0.1.0"


def test_its_methods_are_in_one_table(old: Path) -> None:
    methods = ["--methods", "warm-start,codelutra", "--table", *AS_THEN]
    before = json.loads((old / "home/comparisons/old/comparison.json").read_text())
    now = json.loads(codelutra("compare", str(old / "old.yaml"), *methods, "--json", "--home", str(old / "home")).stdout)
    assert [r["method"] for r in now["methods"]] == ["warm-start", "codelutra"]
    assert now["missing"] == []
    for was, row in zip(before["methods"], now["methods"], strict=True):
        assert (row["test"], row["against"]) == (was["test"], was["against"])
        assert row["runs"][0]["samples"] == was["runs"][0]["samples"]
        assert row["runs"][0]["minutes"] == was["runs"][0]["minutes"]
    shown = said("compare", str(old / "old.yaml"), *methods, home=old / "home")
    assert "\n warm-start " in shown
    assert "\n codelutra " in shown


def test_its_policies_are_exported(old: Path) -> None:
    home, out = old / "home", old / "out"
    said("export", "old-codelutra-s0", str(out / "best"), home=home)
    assert (out / "best/model.safetensors").read_bytes() == (old / "model/model.safetensors").read_bytes(), "base was chosen"
    assert "The policy in this folder is **base**" in (out / "best/README.md").read_text()
    said("export", "old-codelutra-s0", str(out / "one"), "--policy", "policy 1", home=home)
    (trained,) = (home / "store/train").glob("*")
    assert (out / "one/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert "The policy in this folder is **policy 1**" in (out / "one/README.md").read_text()
    assert chosen_weights(home / "runs", "old-codelutra-s0") == old / "model", "model: run:old-codelutra-s0"


def test_what_it_promoted_is_promoted_still(old: Path) -> None:
    found = json.loads(codelutra("promoted", "old", "--home", str(old / "home"), "--json").stdout)
    assert (found["promoted"]["run"], found["promoted"]["policy"]) == ("old-r001", "base")
    assert [r["verdict"] for r in found["retrainings"]] == ["promoted"]
    assert "old-r001" in said("promoted", "old", home=old / "home")
    assert (old / "home/promoted/old/model/config.json").is_file()
    back = said("promoted", "old", "--to", "old-r001", home=old / "home")
    assert "promoted, base" in back


def test_nothing_of_it_is_unused(old: Path) -> None:
    found = json.loads(codelutra("prune", "--home", str(old / "home"), "--json").stdout)
    assert (found["artifacts"], found["runs"], found["removed"]) == ([], [], False)
    half = [p.name for p in (old / "home/store/.partial").iterdir()]
    assert len(half) == 1, "not even what the killed run had half made"
    assert "needed to roll old back" in said("prune", "old-r001", home=old / "home", code=2)


# ---- gone on with ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.access("/", os.W_OK), reason=f"{MADE_AT} cannot be made by this user")
def test_it_is_retrained_because_answers_are_judged_otherwise(
    prefect: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The model's path is a setting, so nothing is moved, and the model is where it was."""
    old = unpack_old_run(tmp_path, moved=False)
    request.addfinalizer(partial(Path(MADE_AT).unlink, missing_ok=True))
    Path(MADE_AT).symlink_to(old)
    before = json.loads((old / "home/promoted/old/record.json").read_text())
    shown = said("retrain", str(old / "old.yaml"), *AS_THEN, home=old / "home", **prefect)
    assert "nothing new since the last retraining" not in shown
    first, second = json.loads((old / "home/promoted/old/record.json").read_text())
    assert {k: first[k] for k in before[0] if k not in ("title", "problems", "test")} == {
        k: v for k, v in before[0].items() if k not in ("title", "problems", "test")
    }
    assert first["test"].items() >= before[0]["test"].items(), "and what later versions measure besides"
    assert second["problems"].items() >= before[0]["problems"].items(), "the problems are the same"
    assert "nothing new since the last retraining" in said("retrain", str(old / "old.yaml"), *AS_THEN, home=old / "home")


class AsThen(Run):
    """A run whose keys name 0.1.0's sandbox image. Today's has another content, and what ran in the old is run again."""

    @property
    def image(self) -> str:
        return IMAGE


@pytest.fixture
def fresh(old: Path, tmp_path: Path) -> Iterator[Run]:
    """A run of the same config over an empty store."""
    with AsThen(tmp_path / "fresh", load_config(old / "old.yaml", ("name=fresh", *THEN))) as run:
        yield run


def artifact(home: Path, stage: str, digest: str) -> Artifact:
    """The first of 0.1.0's artifacts of this content."""
    found = next(m for m in manifests(home, stage) if m["digest"] == digest)
    path = home / "store" / stage / found["key"]
    return Artifact(stage, found["key"], digest, str(path), found["facts"], found["seconds"])


def test_what_is_made_anew_has_its_bytes(old: Path, fresh: Run) -> None:
    """Problems from nothing, scores and pairs from the outcomes 0.1.0 had."""
    home = old / "home"
    (problems,), (references,) = (manifests(home, stage) for stage in ("problems", "references"))
    asked, expected = artifact(home, "problems", problems["digest"]), artifact(home, "references", references["digest"])
    made = fresh.make(stages.problems(fresh))
    assert made.frame("problems").drop("judge").equals(asked.frame("problems").drop("judge"))
    assert made.key != problems["key"]
    compared = 0
    for stage in ("score", "pairs"):
        for was in manifests(home, stage):
            judged = [artifact(home, "execute", d) for name, d in sorted(was["inputs"].items()) if "outcomes" in name]
            assert judged
            step = (
                stages.score(fresh, judged, asked, expected, was["config"]["split"])
                if stage == "score"
                else stages.pairs(fresh, judged, asked, expected)
            )
            made = fresh.make(step)
            if stage == "score":  # 0.1.0 had no status `undecided`
                assert made.facts["greedy"].pop("undecided") == 0
            else:
                assert made.digest == was["digest"]
            assert made.facts == was["facts"]
            compared += 1
    assert compared == 6 + 2


def test_its_samples_and_policies_are_found_by_the_keys_of_today(old: Path, fresh: Run) -> None:
    home = old / "home"
    (problems,), (references,) = (manifests(home, stage) for stage in ("problems", "references"))
    asked, expected = artifact(home, "problems", problems["digest"]), artifact(home, "references", references["digest"])
    base = stages.base_policy(fresh)
    (warm,) = manifests(home, "warm-start")
    assert stages.warm_start(fresh, base, asked, expected).recipe.key == warm["key"]
    start = Policy.of("policy-0", artifact(home, "warm-start", warm["digest"]))
    (trained,) = manifests(home, "train")
    lesson = artifact(home, "pairs", trained["inputs"]["lesson"])
    assert stages.train(fresh, start, lesson, asked, expected).recipe.key == trained["key"]
    first = Policy.of("policy-1", artifact(home, "train", trained["digest"]))
    drawn = [(base, "dev", False), (base, "test", False), (start, "dev", True), (first, "dev", True)]
    keys = set[str]()
    for policy, split, train in drawn:
        with measure_plan(fresh, policy, asked, expected, split, train=train) as sampling:
            keys |= {step.recipe.key for step in sampling.steps}
    assert keys == {m["key"] for m in manifests(home, "sample")}
    samples = [artifact(home, "sample", m["digest"]) for m in manifests(home, "sample")]
    found = {stages.execute(fresh, s, asked, expected).recipe.key for s in samples}
    assert not found & {m["key"] for m in manifests(home, "execute")}, "judged otherwise"


@trained_alike
def test_the_same_command_again_samples_nothing_and_gives_folders_the_names_of_today(
    old: Path, prefect: dict[str, str]
) -> None:
    home, run = old / "home", RunDir(old / "home/runs/old-codelutra-s0")
    before, seen = record(run.path), run.ledger_size()
    said("run", str(run.path / "run.yaml"), home=home, **prefect)
    assert {e["event"] for e in run.events(seen) if e.get("stage") == "sample"} == {"reused"}
    after = record(run.path)
    assert (after["best"], after["test"]["value"]) == (before["best"], before["test"]["value"])
    assert [(p["label"], p["dev"]) for p in after["policies"]] == [(p["label"], p["dev"]) for p in before["policies"]]
    assert folders(run.path) == POLICIES


def folders(run: Path) -> list[str]:
    """Those of policies."""
    return sorted(p.name for p in run.iterdir() if p.is_dir() and p.name != "report" and not p.is_symlink())


@trained_alike
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_run_it_was_killed_in_goes_on_and_samples_nothing_twice(old: Path, prefect: dict[str, str]) -> None:
    home, run = old / "home", RunDir(old / "home/runs/old")
    store = {(s.name, a.name) for s in (home / "store").glob("[!.]*") if s.is_dir() for a in s.iterdir()}
    earlier, seen = run.events(), run.ledger_size()
    assert (earlier[-1]["event"], earlier[-1]["stage"]) == ("start", "train"), "it was killed there"
    assert folders(run.path) == ["base", "iteration-01", "iteration-02"]
    done = codelutra(
        "run", str(old / "old.yaml"), "--set", "iterations=2", *AS_THEN, "--home", str(home), "--json", **prefect
    )
    assert done.returncode == 0, done.stderr

    events = run.events(seen)
    made = {(e["stage"], e["key"]) for e in events if e["event"] == "made"}
    assert not made & store, "made twice"
    reused = {(e["stage"], e["key"]) for e in events if e["event"] == "reused"}
    sampled = {(e["stage"], e["key"]) for e in earlier if e["event"] in ("made", "reused") and e["stage"] == "sample"}
    assert sampled
    assert reused >= sampled
    assert [stage for stage, _ in made].count("sample") == 1, "policy 2, for its dev numbers"

    summary = json.loads(done.stdout)
    assert summary["state"] == "finished"
    assert [p["label"] for p in summary["policies"]] == [*POLICIES, "policy-2"]
    assert [p["folder"] for p in summary["policies"]] == [*POLICIES, "policy-2"] == folders(run.path)
    for policy in POLICIES:
        assert (run.path / policy / "dev-scores/scores.parquet").is_file()
    assert (run.path / "policy-0/pairs.parquet").is_file()
    assert (run.path / "policy-1/pairs.parquet").is_file()
