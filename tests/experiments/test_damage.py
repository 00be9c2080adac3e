"""Every kind of damage to every file a run leaves × every command that reads it: one message or none, never a traceback.

A message names the file and a way out; other runs are still listed; the same command again, or what the message says,
gives the same numbers again.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.app import main
from codelutra.errors import CodelutraError, of_the_system
from codelutra.experiments.retrain import PROMOTED, Record, Retraining
from codelutra.reporting.figures.policies import run_figures
from codelutra.reporting.model_card import card
from codelutra.reporting.report import render
from codelutra.results.findings import policy_row, read_findings
from codelutra.results.load import load_summary
from tests.helpers.example_run import example_run
from tests.helpers.rights import rights_count

RUN = "example-codelutra-s0"  # as `compare` names the arm of this method
WAYS_OUT = ("`codelutra run ", "put a copy of it back", "remove it", "move it away", "get the right to", "Get the right to")
GONE = ("start the run with its own config", "start them with", "`codelutra retrain ")  # where there is nothing to be mended
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with two runs, one of them promoted, and a copy of it beside."""
    memory = Path("/dev/shm")  # where nothing waits for a disk
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path_factory.getbasetemp()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CODELUTRA_HOME", str(folder / "home"))
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / "weights").mkdir(exist_ok=True)
            (folder / "weights" / name).write_text("{}")
        for name in (RUN, "other"):
            refine(folder / "home", name)
        summary = load_summary(folder / "home/runs" / RUN)
        assert summary
        assert summary.chosen
        with Record(folder / "home", "example").changing() as rows:
            model = summary.model
            rows.append(Retraining(run=RUN, made_of="", base_model=model, model=model, verdict=PROMOTED, promoted_at=1.0))
            rows[0].policy, rows[0].path, rows[0].promotion = summary.chosen.label, summary.chosen.path, 1
        (folder / "example.yaml").write_text((folder / "home/runs" / RUN / "run.yaml").read_text().replace(RUN, "example"))
        shutil.copytree(folder / "home", folder / "copy", symlinks=True)
        yield folder
    shutil.rmtree(folder)


def refine(home: Path, name: str = RUN) -> Path:
    suite = {"name": "starter-sql", "train": 12, "dev": 12, "test": 6}
    return example_run(home, name=name, skills=(0.2, 0.5, 0.6), weights=home.parent / "weights", suite=suite)


@pytest.fixture
def home(whole: Path) -> Iterator[Path]:
    with rights_count():
        yield whole / "home"
    shutil.rmtree(whole / "home")
    shutil.copytree(whole / "copy", whole / "home", symlinks=True)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def noise(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(300))


def another(file: Path) -> None:
    """Of the same kind, with something else in it."""
    if file.suffix == ".parquet":
        pl.DataFrame({"problem_id": ["x"], "n": [1]}).write_parquet(file)
    else:
        file.write_text('{"a": [1, {"b": null}]}\n')


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def leads_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def leads_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


DAMAGES: dict[str, Damage] = {
    "cut short": cut,
    "empty": lambda file: file.write_bytes(b""),
    "noise": noise,
    "another": another,
    "a number": lambda file: file.write_text("3"),
    "deleted": lambda file: file.unlink(),
    "a folder": folder,
    "a pipe": pipe,
    "unreadable": lambda file: file.chmod(0),
    "leads nowhere": leads_nowhere,
    "leads to itself": leads_to_itself,
}
TARGETS = {
    "record": "runs/example-codelutra-s0/summary.json",
    "config": "runs/example-codelutra-s0/run.yaml",
    "ledger": "runs/example-codelutra-s0/ledger.jsonl",
    "manifest": "runs/example-codelutra-s0/policy-1/dev-scores/manifest.json",
    "scores": "runs/example-codelutra-s0/policy-1/dev-scores/scores.parquet",
    "test scores": "runs/example-codelutra-s0/test-scores/scores.parquet",
    "samples": "runs/example-codelutra-s0/base/dev-samples-000/samples.parquet",
    "outcomes": "runs/example-codelutra-s0/policy-1/dev-outcomes-000/outcomes.parquet",
    "pairs": "runs/example-codelutra-s0/policy-0/pairs.parquet",
    "problems": "runs/example-codelutra-s0/problems.parquet",
    "weights": "promoted/example/model/model.safetensors",
    "steps": "promoted/example/model/training.jsonl",
    "record of retrainings": "promoted/example/record.json",
}
LINKS = {
    "link to scores": "runs/example-codelutra-s0/policy-1/dev-scores",
    "link to problems": "runs/example-codelutra-s0/problems.parquet",
    "link to the promoted": "promoted/example/model",
}
KEPT_BY_HAND = ("config", "record of retrainings")  # the message says what to do


def said(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output of `codelutra ARGS`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["codelutra", *args])
        with pytest.raises(SystemExit) as end:
            main()
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out + out.err


def page(home: Path) -> str:
    """What `report` and `export` write, without drawing the figures."""
    found = read_findings(home / "runs" / RUN)
    run_figures(found.summary, found.training)
    return render(found, []) + card(found, policy_row(found, None))


def refused(do: Callable[[], Any]) -> str:
    """The message of an error raised on purpose, or of the system; "" where there is none. Any other goes on."""
    try:
        do()
    except Exception as e:
        known = e if isinstance(e, CodelutraError) else of_the_system(e)
        if not known:
            raise
        return str(known)
    return ""


def check_commands(home: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {str(target), str(target.resolve()) if target.exists() else str(target), target.name, target.parent.name}
    out = home.parent / "out"
    commands = [
        ("status",),
        ("status", RUN, "--json"),
        ("prune",),
        ("promoted", "example"),
        ("promoted", "example", "--to", RUN),
        ("compare", str(home.parent / "example.yaml"), "--methods", "codelutra", "--table"),
    ]
    messages = [refused(lambda: page(home))]
    if target.parent.parent.name == "train":
        commands.append(("export", RUN, str(out)))  # slow, and but for the weights `page`
    for command in commands:
        code, text = said(*command, capsys=capsys)
        shutil.rmtree(out, ignore_errors=True)
        assert code in (0, 2), (command, text)
        assert "Traceback" not in text
        if command[0] == "status" and len(command) == 1:
            assert "\n other " in text, text
        messages += [text] if code else []
    ways = WAYS_OUT
    if not target.exists():
        names, ways = {*names, RUN, "'example'"}, (*WAYS_OUT, *GONE)
    for message in filter(None, messages):
        assert any(name in message for name in names), message
        assert any(way in message for way in ways), message


def heal(home: Path, name: str, target: Path) -> None:
    before = load_summary(home.parent / "copy/runs" / RUN)
    message = refused(lambda: refine(home))
    if message:
        assert str(target) in message
        assert any(way in message for way in WAYS_OUT), message
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
        refine(home)
    now = load_summary(home / "runs" / RUN)
    assert now
    assert before
    assert [(p.label, p.dev, p.pairs) for p in now.policies] == [(p.label, p.dev, p.pairs) for p in before.policies]
    assert (now.test, now.finished) == (before.test, True)
    if name not in KEPT_BY_HAND:
        assert page(home)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_named_with_a_way_out_and_the_run_makes_it_again(
    name: str, damage: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = home / TARGETS[name]
    real = target.resolve()
    DAMAGES[damage](real)
    check_commands(home, real, capsys)
    if real.is_symlink() and damage.startswith("leads"):
        assert os.path.lexists(real), "nothing but the run mends it"
    if name != "record of retrainings":
        heal(home, name, real)


@pytest.mark.parametrize("damage", ["leads nowhere", "leads to itself", "deleted", "a folder"])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_is_gone_or_leads_elsewhere_is_set_again(
    name: str, damage: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = home / LINKS[name]
    DAMAGES[damage](link)
    check_commands(home, link, capsys)
    if link.is_dir() and not link.is_symlink():
        link.rmdir()
    if name != "link to the promoted":
        heal(home, name, link)
    else:
        code, text = said("promoted", "example", "--to", RUN, capsys=capsys)
        assert code == 0, text
    assert link.exists()


def test_scores_of_another_policy_are_not_taken_for_its_own(home: Path) -> None:
    link = home / LINKS["link to scores"]
    other = (home / "runs" / RUN / "base/dev-scores").resolve()
    link.unlink()
    link.symlink_to(other)
    message = refused(lambda: page(home))
    assert "dev-scores/scores.parquet is damaged (" in message
    assert "in summary.json" in message
    heal(home, "scores", link)
