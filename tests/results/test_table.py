"""Tables as values: one description, the same cells on a terminal, on a page and in Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from codelutra.cli.tables import show
from codelutra.reporting.html import grid
from codelutra.results.load import read_summary
from codelutra.results.summary import ModeRate, RunSummary, Training
from codelutra.results.table import Table, other_modes_table, policies_notes, policies_table
from codelutra.scoring.statistics import Estimate
from tests.helpers.example_run import example_run

ODD = Table(
    ["name", "what it is", "n"],
    [["a|b", "x | y", "1"], ["<b>c</b>", "[red]&amp;", "23"], ["plain", "", ""]],
    frozenset({"n"}),
    best=1,
)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    run = example_run(tmp_path_factory.mktemp("home"))
    return read_summary(run.parent, run.name)


class Cells(HTMLParser):
    """The text of each cell of a page's table, and the classes of rows and cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.kinds: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if tag == "tr":
            self.rows.append([])
            self.kinds.append(kind)
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cells.append(kind)

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def on_terminal(table: Table, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells as a pipe gets them: columns stand apart by two blanks or more."""
    capsys.readouterr()
    show(table)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip() and not set(line.strip()) <= {"─", " "}]
    return [[cell for cell in re.split(r"\s{2,}", line.strip()) if cell] for line in lines]


def in_markdown(table: Table) -> list[list[str]]:
    head, _, *rows = table.markdown().splitlines()
    cut = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (head, *rows)]
    return [[re.sub(r"\\([^\w\s])", r"\1", cell.strip("*")) for cell in row] for row in cut]


def without_blanks(rows: list[list[str]]) -> list[list[str]]:
    return [[cell for cell in row if cell] for row in rows]


def test_terminal_page_and_markdown_show_the_same_cells(summary: RunSummary, capsys: pytest.CaptureFixture[str]) -> None:
    others = other_modes_table(summary)
    assert others
    for table in (policies_table(summary), others, ODD):
        meant = [list(table.columns), *map(list, table.rows)]
        assert Cells(grid(table)).rows == meant
        assert in_markdown(table) == meant
        assert on_terminal(table, capsys) == without_blanks(meant)


def test_the_chosen_row_stands_out_and_numbers_are_flush_right_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    page = Cells(grid(ODD))
    assert page.kinds == ["", "", "best", ""]
    assert page.cells == ["", "", "n"] * 4
    _, marks, *rows = ODD.markdown().splitlines()
    assert marks == "| --- | --- | ---: |"
    assert [row.count("**") for row in rows] == [0, 6, 0], "every cell of the best row that says something"
    show(ODD)
    lines = capsys.readouterr().out.splitlines()
    ends = [len(line.rstrip()) for line in lines if line.rstrip().endswith(("1", "23"))]
    assert len(ends) == 2
    assert len(set(ends)) == 1


def test_markdown_escapes_what_would_end_a_cell() -> None:
    table = Table(["a|b"], [["x|y"], ["two\nlines"]])
    assert table.markdown().splitlines() == [r"| a\|b |", "| --- |", r"| x\|y |", "| two lines |"]


def test_fewer_columns_are_the_same_table(summary: RunSummary) -> None:
    table = policies_table(summary)
    fewer = table.without("ends", "tokens")
    assert list(fewer.columns) == [c for c in table.columns if c not in ("ends", "tokens")]
    assert fewer.records() == [{k: v for k, v in r.items() if k in fewer.columns} for r in table.records()]
    assert fewer.best == table.best
    assert table.without().records() == table.records()
    assert table.without("no such column").records() == table.records()


def test_a_row_is_a_policy_and_the_chosen_one_stands_out(summary: RunSummary) -> None:
    table = policies_table(summary)
    assert [row[0] for row in table.rows] == ["base", "policy 0", "policy 1", "policy 2"]
    assert table.best == [p.label for p in summary.policies].index(summary.best or "")
    assert policies_table(summary.model_copy(update={"best": None})).best is None
    assert policies_table(summary.model_copy(update={"policies": []})).rows == []


@pytest.mark.parametrize(
    ("pairs", "answers", "shown"),
    [(5, None, ["pairs"]), (None, 7, ["answers"]), (5, 7, ["pairs", "answers"]), (None, None, ["pairs"])],
)
def test_all_that_a_policy_was_trained_on_has_a_column(
    pairs: int | None, answers: int | None, shown: list[str], summary: RunSummary
) -> None:
    """With `sft_on: right` a policy learns from pairs and, beside them, from answers."""
    told = summary.model_copy(deep=True)
    for policy in told.policies:
        policy.pairs, policy.trained_answers = None, None
    told.policies[-1].pairs, told.policies[-1].trained_answers = pairs, answers
    assert [c for c in policies_table(told).columns if c in ("pairs", "answers")] == shown


def test_gains_over_policy_0_are_told_where_the_table_has_no_column_for_them(summary: RunSummary) -> None:
    who, *gains = policies_notes(summary)
    assert who.startswith("base: ")
    assert [g.partition(":")[0] for g in gains] == ["policy 2 against policy 0"], "policy 1's is in the table"
    assert policies_notes(summary.model_copy(update={"policies": []})) == []


def test_what_taught_a_policy_and_what_was_drawn_of_test_is_told(summary: RunSummary) -> None:
    told = summary.model_copy(deep=True)
    assert told.test
    for row, share in zip(told.policies[2:], (0.691, 0.094), strict=True):
        row.training = Training(dpo_share=share)
    told.test.samples, told.test.mean, told.test.vote = 80, Estimate(0.25, 0.2, 0.3, 10, 6), Estimate(0.4, 0.3, 0.5, 10, 4)
    assert policies_notes(told)[-2:] == [
        "DPO's part of the gradient, beside the SFT term's: 69% (policy 1), 9% (policy 2)",
        "80 answers drawn to test problems: 25.0% [20.0 – 30.0] right; of the result that most give 40.0% [30.0 – 50.0]",
    ]


def test_other_modes_are_a_column_each_and_blank_where_a_policy_has_none(summary: RunSummary) -> None:
    some = summary.model_copy(deep=True)
    for p, modes in zip(some.policies, ({}, {"a": 0.5}, {"b": 0.25}, {}), strict=True):
        p.other_modes = {m: ModeRate(value=v) for m, v in modes.items()}
    table = other_modes_table(some)
    assert table
    assert list(table.columns) == ["policy", "a", "b"]
    assert [row[1:] for row in table.rows] == [["", ""], ["50.0%", ""], ["", "25.0%"], ["", ""]]
    none = summary.model_copy(deep=True)
    for p in none.policies:
        p.other_modes = {}
    assert other_modes_table(none) is None


def test_flat_rows_become_a_table_and_a_table_flat_rows(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    assert Table.of(rows, numbers=["a"]).records() == rows
    assert Table.of([]).markdown().splitlines()[0].strip("| ") == ""
