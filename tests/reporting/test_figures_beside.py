"""Several runs in one figure, and what a run made after its best policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codelutra.reporting.figures.drawing import Figure, draw
from codelutra.reporting.figures.policies import pass_at_1_figure
from codelutra.reporting.figures.runs import data_share_figure, figures_beside, runs_compared_figure
from codelutra.reporting.figures.training import log_probabilities_compared
from codelutra.reporting.report import write_report
from codelutra.results.findings import headline, read_findings
from codelutra.results.load import read_summary
from codelutra.results.summary import RunSummary
from tests.helpers.example_run import example_run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def dipping(home: Path) -> Path:
    """A run whose last iteration is worse than the one before."""
    return example_run(home, skills=(0.05, 0.4, 0.7, 0.45), name="dipping")


@pytest.fixture(scope="module")
def small(home: Path) -> Path:
    suite = {"name": "starter-sql", "train": 30, "dev": 40, "test": 20}
    return example_run(home, skills=(0.05, 0.3, 0.5), name="small", suite=suite)


def summary_of(run: Path) -> RunSummary:
    return read_summary(run.parent, run.name)


def capture(figure: Figure) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=figure.size)
    figure.draw(canvas)
    return canvas


def test_a_dip_is_told_with_its_paired_test_and_drawn_hollow(dipping: Path) -> None:
    found = read_findings(dipping)
    assert found.summary.best == "policy-1"
    best, last = found.policies[2:]
    gain = found.gain(best, last)
    assert gain is not None
    (said,) = [s for s in headline(found) if s.startswith("Policy 2 dips to")]
    assert gain.text in said
    assert said.endswith(f"({gain.gained} gained, {gain.lost} lost) against policy 1, so policy 1 stays the chosen one.")
    figure = pass_at_1_figure([found.summary])
    assert [r["after_best"] for r in figure.rows] == [False, False, False, True]
    faces = capture(figure).axes[0].collections[-1].get_facecolors()
    assert (faces[3] != faces[2]).any()
    assert "hollow" in figure.caption


def test_a_run_that_ends_with_its_best_policy_tells_of_no_dip(small: Path) -> None:
    found = read_findings(small)
    assert found.summary.best == "policy-1"
    assert not any("ships" in s for s in headline(found))
    assert "hollow" not in pass_at_1_figure([found.summary]).caption


def test_intervals_of_seeds_stand_beside_each_other_under_one_setting(dipping: Path) -> None:
    one = summary_of(dipping)
    other = one.model_copy(update={"run": "seed 1"})
    figure = runs_compared_figure([("with", one), ("with", other), ("without", one)])
    assert [(r["setting"], r["policy_kind"]) for r in figure.rows] == [
        (label, kind) for label in ("with", "with", "without") for kind in ("start", "chosen")
    ]
    ax = capture(figure).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["with", "without"]
    chosen = [r for r in figure.rows if r["policy_kind"] == "chosen"]
    bars = ax.containers[1][2][0].get_segments()
    for row, bar in zip(chosen, bars, strict=True):
        assert bar[:, 0] == pytest.approx([100 * row["low"], 100 * row["high"]])
    assert len({bar[0, 1] for bar in bars}) == 3, "bars of two seeds would hide each other"


@pytest.mark.parametrize("figure", [runs_compared_figure, data_share_figure])
def test_runs_without_a_number_have_no_figure(figure: Any) -> None:
    with pytest.raises(ValueError, match="measured on dev"):
        figure([])


def test_accuracy_by_share_of_data_says_how_many_problems_a_share_is(dipping: Path, small: Path) -> None:
    figure = data_share_figure([(1.0, summary_of(dipping)), (0.5, summary_of(small))])
    assert [(r["share"], r["train_problems"]) for r in figure.rows] == [(0.5, 30)] * 2 + [(1.0, 60)] * 2
    ax = capture(figure).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["50\n(30)", "100\n(60)"]
    assert "%" in ax.get_xlabel()
    assert "%" in ax.get_ylabel()


def step(n: int, chosen: float) -> dict[str, float]:
    return {"step": n, "chosen_log_prob": chosen - 4, "rejected_log_prob": -9, "chosen_drift": chosen, "rejected_drift": -1}


def test_trainings_with_and_without_the_sft_term_are_one_line_each() -> None:
    logs = [
        ("λ = 1", [step(i, 0.1 * i) for i in range(1, 9)]),
        ("λ = 0", [step(i, -float(i)) for i in range(1, 9)]),
        ("warm start", [{"step": 1, "loss": 2.0}]),
    ]
    figure = log_probabilities_compared(logs)
    assert figure is not None
    chosen, rejected = capture(figure).axes
    assert (chosen.get_title(), rejected.get_title()) == ("chosen", "rejected")
    smooth = {line.get_label(): list(line.get_ydata()) for line in chosen.lines if line.get_label() in ("λ = 1", "λ = 0")}
    assert smooth["λ = 0"][:3] == pytest.approx([-1, -1.5, -2])
    assert smooth["λ = 0"][-1] == pytest.approx(-6), "the mean of the last five steps"
    assert "nats" in chosen.get_ylabel()
    assert log_probabilities_compared(logs[2:]) is None


def test_runs_beside_each_other_share_a_section_of_the_report(dipping: Path, small: Path) -> None:
    found = [read_findings(dipping), read_findings(small)]
    names = {f.name for f in figures_beside(found)}
    assert names == {"pass-at-1-compared", "runs-compared", "log-probability-compared", "data-share"}
    assert "data-share" not in {f.name for f in figures_beside([found[0], found[0]])}
    html = write_report(dipping, [small]).read_text()
    assert "Beside other runs" in html
    for name in names:
        assert (dipping / "report" / f"{name}.csv").exists()
        assert f'href="{name}.svg"' in html


def test_every_comparison_draws(dipping: Path, small: Path) -> None:
    for figure in figures_beside([read_findings(dipping), read_findings(small)]):
        assert draw(figure).svg.startswith("<?xml")
