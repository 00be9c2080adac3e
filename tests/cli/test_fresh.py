"""`run --fresh` and a variant of a run: real flow and sandbox, from answers that are in the store already."""

from __future__ import annotations

from pathlib import Path

import pytest

from codelutra.config import load_config
from codelutra.pipeline.run import Run
from codelutra.results.load import load_summary, run_names
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model

OTHER = "execute.timeout_seconds=6"  # the same answers, judged anew


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.extended
def test_a_name_is_taken_anew_and_a_variant_gets_its_own_and_all_share_their_work(tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "model")
    config = str(without_dev(tmp_path, *["test"] * 4, model=f"path:{weights}", iterations=0))
    with Run(tmp_path, load_config(config)) as run:
        answer(run, weights, right=3)
    runs, asked = tmp_path / "runs", ("run", config, "--home", str(tmp_path), "--json")
    first = codelutra(*asked)
    assert first.returncode == 0, first.stderr

    variant = codelutra(*asked, "--set", OTHER)
    assert variant.returncode == 0, variant.stderr
    assert "so this one is called nodev-timeout_seconds-6 (--set name=" in variant.stderr
    assert run_names(runs) == ["nodev", "nodev-timeout_seconds-6"]

    fresh = codelutra(*asked, "--set", OTHER, "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    (aside,) = (name for name in run_names(runs) if name.startswith("nodev-20"))
    assert f"the run nodev that was here is called {aside} now" in fresh.stderr
    kept, now = (RunDir(runs / name).config("") for name in (aside, "nodev"))
    assert kept
    assert now
    assert (kept.execute.timeout_seconds, now.execute.timeout_seconds) == (5, 6)
    for name in run_names(runs):
        summary = load_summary(runs / name)
        assert summary
        assert summary.test
        assert (summary.run, summary.state, summary.test.correct) == (name, "finished", 3)
    stages = {e["stage"] for e in RunDir(runs / "nodev").events() if e["event"] == "made"}
    assert stages == set(), "the variant had made all of it"
