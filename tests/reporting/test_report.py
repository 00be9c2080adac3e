"""The report: it says what the numbers say, needs nothing but itself, and can be written at any time."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from codelutra.errors import UserError
from codelutra.reporting.answers import answered, readable
from codelutra.reporting.export import export
from codelutra.reporting.failures import ANSWERS_FILE
from codelutra.reporting.figures.drawing import Figure, draw
from codelutra.reporting.figures.policies import pass_at_1_figure, status_figure
from codelutra.reporting.figures.training import log_probability_figure, loss_figure
from codelutra.reporting.html import diff
from codelutra.reporting.report import render, write_report
from codelutra.results.findings import Gain, headline, read_findings
from codelutra.results.load import read_summary
from codelutra.results.summary import RunSummary
from codelutra.results.text import p_value
from codelutra.scoring.scores import mcnemar
from tests.helpers.example_run import SKILLS, example_run
from tests.helpers.tiny_model import write_tiny_model

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change; its links still lead into the store."""
    shutil.copytree(run.parents[1], tmp_path / "home", symlinks=True)
    return tmp_path / "home" / "runs" / run.name


def summary_of(run: Path) -> RunSummary:
    return read_summary(run.parent, run.name)


def change(run: Path, **facts: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | facts))


class Page(HTMLParser):
    """Elements, the text between them, and that every one that opens closes."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def page(run: Path) -> Page:
    """The page without its figures, which take most of the time."""
    return Page(render(read_findings(run), []))


def test_the_page_shows_every_policy_with_the_numbers_of_the_summary(run: Path) -> None:
    shown = page(run)
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["policies"]) == len(SKILLS)
    for row in summary["policies"]:
        dev = row["dev"]
        assert f"{row['name']}{dev['value']:.1%} [{100 * dev['low']:.1f} – {100 * dev['high']:.1f}]" in shown.text
    for value in (summary["suite_version"], summary["model"], "samples_per_problem: 4", "Apache-2.0"):
        assert value in shown.text


def test_the_page_needs_nothing_but_itself(run: Path) -> None:
    page = Page(write_report(run).read_text())
    beside = {p.name for p in (run / "report").iterdir()}
    for tag, attrs in page.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert tag != "script" or set(attrs) <= {"type", "id"}, "a script is in the page itself"
        for name in ("src", "href", "xlink:href"):
            target = attrs.get(name) or ""
            assert target.startswith("#") or target in beside or not target, target
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)), "two figures share an id: one would show the other's shapes"


def test_every_figure_lies_beside_the_page_with_what_it_draws(run: Path) -> None:
    folder = write_report(run).parent
    files = [p for p in folder.iterdir() if p.name not in ("index.html", ANSWERS_FILE)]
    names = {"pass-at-1", "status-mix", "pass-at-k", "log-probability", "loss", "funnel", "minutes"}
    assert {p.stem for p in files} == names
    for name in names:
        svg, png, data, table = (folder / f"{name}.{kind}" for kind in ("svg", "png", "json", "csv"))
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert png.read_bytes().startswith(PNG)
        rows = json.loads(data.read_text())["rows"]
        with table.open() as f:
            assert len(list(csv.DictReader(f))) == len(rows) > 0
    assert len(files) == 4 * len(names), "and nothing else"


def test_no_cell_beside_a_figure_is_a_formula(tmp_path: Path) -> None:
    rows = [{"label": f"{sign}HYPERLINK(1)", "drift": -0.5} for sign in "=+-@\t"]
    *_, table = draw(Figure("f", "t", "c", rows, lambda canvas: None)).save(tmp_path)
    with table.open(newline="") as f:
        assert [(r["label"], r["drift"]) for r in csv.DictReader(f)] == [(f"'{row['label']}", "-0.5") for row in rows]


def test_intervals_and_values_are_drawn_where_the_data_says(run: Path) -> None:
    summary = summary_of(run)
    figure = pass_at_1_figure([summary])
    drawn = capture(figure).axes[0]
    bars = drawn.containers[0][2][0].get_segments()
    for row, segment in zip(summary.policies, bars, strict=True):
        assert segment[:, 1] == pytest.approx([100 * row.dev.low, 100 * row.dev.high])
    assert [r["best"] for r in figure.rows] == [p.label == summary.best for p in summary.policies]
    assert "%" in drawn.get_ylabel()


def test_status_shares_of_a_policy_add_up_to_all_answers(run: Path) -> None:
    rows = status_figure(summary_of(run).policies).rows
    for split, policy in {(r["split"], r["policy"]) for r in rows}:
        assert sum(r["share"] for r in rows if (r["split"], r["policy"]) == (split, policy)) == pytest.approx(1)
    assert {r["split"] for r in rows} == {"dev", "train"}


def test_log_probabilities_run_on_over_iterations_without_the_warm_start(run: Path) -> None:
    found = read_findings(run)
    assert [name for name, _ in found.training] == ["policy 0", "policy 1", "policy 2"]
    figure = log_probability_figure(found.training)
    assert figure is not None
    assert [r["step"] for r in figure.rows] == list(range(1, 61))
    assert {r["policy"] for r in figure.rows} == {"policy 1", "policy 2"}
    assert figure.rows[30]["chosen_drift"] == found.training[2][1][0]["chosen_drift"]


def test_the_same_run_gives_the_same_figures(run: Path) -> None:
    summary = summary_of(run)
    first, second = (draw(pass_at_1_figure([summary])) for _ in range(2))
    assert (first.svg, first.png) == (second.svg, second.png)


def test_an_inlined_figure_takes_the_colours_of_the_page(run: Path) -> None:
    svg = draw(pass_at_1_figure([summary_of(run)])).inline()
    root = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    assert "currentColor" in svg
    assert not re.search(r"#fefefd|#1f2430|#ffffff", svg)
    assert root.get("width") is None


def test_two_runs_share_one_figure(run: Path) -> None:
    summary = summary_of(run)
    figure = pass_at_1_figure([summary, summary.model_copy(update={"run": "other"})])
    assert [t.get_text() for t in capture(figure).axes[0].get_legend().get_texts()] == [summary.run, "other"]


def test_the_headline_is_the_paired_comparison_of_the_chosen_policy_with_the_start(run: Path) -> None:
    found = read_findings(run)
    first, best = found.policies[0], found.policies[-1]
    assert best.label == found.summary.best
    old, new = found.dev_scores(first), found.dev_scores(best)
    assert old is not None
    assert new is not None
    paired = mcnemar(old, new)
    points = 100 * (best.dev.value - first.dev.value)
    said = headline(found)
    assert f": +{points:.1f} [" in said[0]
    assert f"] points, {p_value(paired.p)} ({paired.gained} gained, {paired.lost} lost) of {paired.n} problems" in said[0]
    assert any("What the iterations added" in s for s in said)


def test_a_run_that_did_not_help_says_so(tmp_path: Path) -> None:
    run = example_run(tmp_path, skills=(0.9, 0.4, 0.3))
    change(run, best="base")
    said = " ".join(headline(read_findings(run)))
    assert said.startswith("Nothing improved: base solves")
    assert "Nothing improved" in page(run).text


def test_iterations_that_add_nothing_to_the_warm_start_are_told_so(tmp_path: Path) -> None:
    run = example_run(tmp_path, skills=(0.0, 0.9, 0.3))
    said = headline(read_findings(run))
    assert said[0].startswith("Policy 0 solves")
    assert "The iterations added nothing. The best policy after policy 0 is policy" in said[-1]


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 10), (5, 0, 200), (20, 20, 100), (3, 40, 60), (10, 0, 10)])
def test_the_interval_of_a_gain_holds_its_own_estimate_and_stays_in_range(gained: int, lost: int, n: int) -> None:
    low, high = Gain(gained, lost, n, 1.0).interval
    assert -100 <= low < high <= 100
    assert low <= 100 * (gained - lost) / n <= high or gained + lost == n


def test_the_interval_of_a_gain_is_bonett_and_prices() -> None:
    low, high = Gain(30, 10, 100, 0.0).interval
    assert (low, high) == pytest.approx((7.75, 31.47), abs=0.005)  # by hand: 20/102 ± 1.96 · √((42/102 - (20/102)²) / 102)


def test_pairs_and_failures_are_shown_with_what_differs(run: Path) -> None:
    shown = page(run)
    text = shown.text
    assert text.count("Rejected: ") == 2
    assert text.count("chosen: ") == 6
    tags = [t for t, _ in shown.elements]
    assert tags.count("del") > 0
    assert tags.count("ins") > 0
    found = read_findings(run)
    best = found.best
    assert best is not None
    missed = best.dev.n - best.dev.correct
    assert f"does not solve {missed} of {best.dev.n} dev problems" in text
    assert "it wrote" in text


def test_problems_gained_and_lost_are_those_of_the_paired_test_with_examples(run: Path) -> None:
    found = read_findings(run)
    answers = answered(found)
    assert answers is not None
    for i, before in enumerate(found.policies):
        for j, after in enumerate(found.policies[i + 1 :], i + 1):
            gain = found.gain(before, after)
            gained, lost = answers.flips(i, j)
            assert gain is not None
            assert (len(gained), len(lost)) == (gain.gained, gain.lost)
            assert f"+{gain.gained} −{gain.lost}, {p_value(gain.p)}" in page(run).text
    assert f"{len(answers.flips(0, 3)[0])} that policy 2 gained over base" in page(run).text


def test_every_answer_lies_beside_the_page_as_json_lines(run: Path) -> None:
    file = write_report(run).parent / ANSWERS_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for policy in read_findings(run).policies:
        mine = [line["status"] for line in lines if line["policy"] == policy.name]
        assert (mine.count("correct"), len(mine)) == (policy.dev.correct, policy.dev.n)


def test_each_kind_of_loss_has_an_axis_of_its_own(run: Path) -> None:
    figure = loss_figure(read_findings(run).training)
    assert figure is not None
    shown = {ax.get_title(): [line.get_label() for line in ax.get_lines()] for ax in capture(figure).axes}
    assert [t for t in shown if t] == ["warm start (SFT)", "iterations"]
    assert shown["warm start (SFT)"] == ["policy 0"]
    assert {"policy 1", "policy 2"} <= set(shown["iterations"])


def test_a_diff_marks_what_only_one_side_has() -> None:
    left, right = diff("SELECT a FROM t", "SELECT b FROM t")
    assert (left, right) == ("SELECT <del>a</del> FROM t", "SELECT <ins>b</ins> FROM t")


def test_text_of_a_model_is_never_markup(own: Path) -> None:
    left, right = diff("<script>alert(1)</script>", "SELECT '&lt;'")
    assert "<script>" not in left + right
    assert "&amp;lt;" in right.replace("<ins>", "").replace("</ins>", "")
    change(own, reason="<b>odd</b>")
    assert "Ended: &lt;b&gt;odd" in render(read_findings(own), [])
    assert "<b>odd" not in render(read_findings(own), [])


def test_outputs_are_shown_as_rows() -> None:
    whole = '{"d": [["columns", ["a"]], ["rows", [["x"], [null]]], ["truncated", false]]}'
    assert readable(whole) == "2 rows: ('x'); (NULL)"
    assert readable('[["x"], [1.5]]') == "2 rows: ('x'); (1.5)"
    assert readable('{"d": [["rows", []]]}') == "no rows"
    assert readable('"text"') == "'text'"
    assert readable("[['x'], [None]]") == "2 rows: ('x'); (NULL)"
    assert readable("[['x'], [Non") == "[['x'], [Non"
    assert readable("not ours") == "not ours"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("[{'value': 3}, {'value': None}]", "3; None"),
        ('[{"d": [["value", "a b"]]}]', "'a b'"),
        ("[{'value': [1, 2]}, {'error': 'KeyError: 1'}]", "[1, 2]; raises KeyError: 1"),
        ("[{'error': 'KeyError: 1'}, {'error': 'KeyError: 1'}]", ""),  # told beside, as the error
        ("[{'error': \"AssertionError: Arrays are not eq … (99 more characters)", ""),
        ("[{'value': None}, {'value': None}]", ""),  # of checks that only raise
        ("[{'value': 1, 'error': 'odd'}]", "[{'value': 1, 'error': 'odd'}]"),
        ("[{'value': 3}, {'val", "[{'value': 3}, {'val"),
        ("[]", "no rows"),
    ],
)
def test_outputs_of_calls_are_shown_as_values(output: str, told: str) -> None:
    assert readable(output) == told


@pytest.mark.parametrize("measured", [1, 2, 3])
def test_an_unfinished_run_gives_a_report_of_what_is_there(tmp_path: Path, measured: int) -> None:
    run = example_run(tmp_path, skills=SKILLS[:measured], finished=False)
    shown = page(run)
    assert "This run is interrupted; the report shows what is there so far" in shown.text
    assert json.loads((run / "summary.json").read_text())["policies"][-1]["name"] in shown.text


def test_a_run_with_nothing_measured_still_has_a_report(own: Path) -> None:
    change(own, policies=[], best=None, test=None, problems={}, state="running")
    assert "Nothing is measured yet" in page(own).text


def test_the_reason_a_run_stopped_stands_on_top(own: Path) -> None:
    change(own, state="running")
    with (own / "ledger.jsonl").open("a") as f:
        f.write(json.dumps({"event": "error", "text": "disk full at /somewhere", "exit_code": 2}) + "\n")
    shown = page(own)
    assert shown.text.index("disk full at /somewhere") < shown.text.index("Numbers")


def test_artifacts_that_are_gone_leave_a_shorter_report(own: Path) -> None:
    shutil.rmtree(own.parents[1] / "store")
    shown = page(own)
    assert "dev pass@1 [95 %]" in shown.text
    assert "Pairs it learned from" not in shown.text


def test_an_alarm_of_the_trainer_is_not_hidden(own: Path) -> None:
    policies = json.loads((own / "summary.json").read_text())["policies"]
    policies[-1]["alarms"].append("Training of policy 2: from step 12 on the chosen answers were less likely.")
    change(own, policies=policies)
    shown = page(own).text
    assert shown.index("Training of policy 2: from step 12 on") < shown.index("Numbers")


def test_writing_again_replaces_the_report(own: Path) -> None:
    index = write_report(own)
    before = sorted(p.name for p in index.parent.iterdir())
    index.write_text("old")
    assert write_report(own) == index
    assert index.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in index.parent.iterdir()) == before


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run 'nowhere'"):
        write_report(tmp_path / "runs" / "nowhere")


def capture(figure: Figure) -> Any:
    """The matplotlib figure, drawn."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=figure.size)
    figure.draw(canvas)
    return canvas


HOSTILE = (
    "</script></pre><script>alert(1)</script><img src=x onerror=y>\"' onload=z &lt; \u2028 \u202e \x1b[31m"
    " ```\n# Head\n![i](http://e/p.png)"
)


def test_nothing_of_a_suite_is_markup_in_the_page_or_the_card(tmp_path: Path) -> None:
    """Ids, questions, programs, database and suite names of somebody else's, through a whole run."""
    weights = write_tiny_model(tmp_path / "tiny")

    def made(name: str, text: str) -> tuple[Page, str]:
        folder = tmp_path / name
        folder.mkdir()
        with closing(sqlite3.connect(folder / "shop.sqlite")) as connection:
            connection.executescript("CREATE TABLE item (id, name); INSERT INTO item VALUES (1, 'cup'), (2, 'jug')")
        (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
        literal = text.replace("'", "''").replace("\x1b", "")
        lines = [
            {"question": f"{text} {n}?", "query": f"SELECT name, '{literal}' FROM item WHERE id < {n}", "split": split}
            for n, split in enumerate(["train"] * 8 + ["dev"] * 6 + ["test"] * 4)
        ]
        (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
        suite = {"name": "custom", "path": str(folder)}
        run = example_run(tmp_path / f"home-{len(text)}", weights=weights, suite=suite)
        assert "onload=z" in (folder / "problems.jsonl").read_text() or text == "words"
        return page(run), (export(run, tmp_path / f"out-{len(text)}") / "README.md").read_text()

    hostile, card = made("<b>![i](x)` $x$ | \x1b[1m \u202e", HOSTILE)
    harmless, harmless_card = made("harmless", "words")
    attributes = {name for _, attrs in hostile.elements for name in attrs}
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in harmless.elements} | {
        "ins",
        "del",
        "details",
        "summary",
    }
    assert attributes <= {name for _, attrs in harmless.elements for name in attrs} | {"class"}
    assert "onload=z" in hostile.text, "shown as text"
    kinds = [
        {(t.type, t.tag) for t in MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])}
        for text in (card, harmless_card)
    ]
    assert kinds[0] == kinds[1]
