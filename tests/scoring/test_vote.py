"""The vote over several samples is by their results, and never by what is right."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from codelutra.schema import OUTCOMES
from codelutra.scoring.vote import voted

SAME = {
    "problem_id": "a",
    "greedy": False,
    "completion": "",
    "finish_reason": "stop",
    "mode": "m",
    "verdict": "host",
    "output": "",
    "seconds": 0.0,
    "error": "",
}


def drawn(*rows: tuple[str, str], problem: str = "a") -> pl.DataFrame:
    """OUTCOMES of (status, answer), numbered."""
    made = [
        SAME | {"problem_id": problem, "sample": i, "status": s, "answer": a, "code": str(i)}
        for i, (s, a) in enumerate(rows)
    ]
    return pl.DataFrame(made, schema=OUTCOMES)


def winner(*rows: tuple[str, str]) -> int:
    (found,) = voted(drawn(*rows))["sample"]
    return int(found)


def test_the_result_that_most_give_wins_right_or_wrong() -> None:
    assert winner(("correct", "x"), ("wrong", "y"), ("wrong", "z"), ("wrong", "z")) == 2
    assert winner(("wrong", "y"), ("correct", "x"), ("wrong", "z"), ("correct", "x")) == 1


def test_checks_that_decide_in_the_programs_process_have_no_vote() -> None:
    """All that pass give the same, and so do all that fail: the vote would be of their verdicts."""
    passed = drawn(
        ("wrong", "failed"), ("correct", "passed"), ("correct", "passed"), ("wrong", "failed"), ("wrong", "failed")
    )
    there = passed.with_columns(verdict=pl.lit("in-process"), code=pl.Series(["a", "b", "c", "d  =\n1", "d = 1"]))
    assert voted(there)["sample"].to_list() == [3]
    assert voted(there.with_columns(verdict=pl.lit("host")))["sample"].to_list() == [0]


def test_what_did_not_run_has_no_vote() -> None:
    failed = ("runtime_error", "")
    assert winner(failed, failed, failed, ("wrong", "y")) == 3
    assert winner(("infra_error", ""), failed, failed) == 1
    assert winner(("infra_error", "")) == 0


def test_of_as_many_votes_the_first_drawn_wins() -> None:
    assert winner(("wrong", "y"), ("correct", "x"), ("correct", "x"), ("wrong", "y")) == 0


def test_each_problem_has_one_row_which_counts_as_its_answer() -> None:
    greedy = drawn(("correct", "x")).with_columns(greedy=True, sample=pl.lit(7, pl.Int32))
    both = pl.concat([drawn(("wrong", "y")), drawn(("correct", "x"), problem="b"), greedy])
    found = voted(both)
    assert found.select("problem_id", "status", "greedy").rows() == [("a", "wrong", True), ("b", "correct", True)]


statuses = st.sampled_from(["correct", "wrong", "runtime_error", "infra_error"])


@given(st.lists(st.tuples(statuses, st.sampled_from("xyz")), min_size=1), st.randoms())
def test_the_order_of_rows_does_not_matter_and_the_winner_has_the_most_votes(
    rows: list[tuple[str, str]], draw: object
) -> None:
    rows = [(s, a if s in ("correct", "wrong") else "") for s, a in rows]
    frame = drawn(*rows)
    (found,) = voted(frame)["sample"]
    assert voted(frame.sample(fraction=1, shuffle=True, seed=1))["sample"].to_list() == [found]
    votes = [a for s, a in rows if s in ("correct", "wrong")]
    if votes:
        assert votes.count(rows[found][1]) == max(map(votes.count, votes))
