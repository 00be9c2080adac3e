"""The answer that a verifier prefers."""

from __future__ import annotations

import polars as pl
import pytest

from codelutra.schema import OUTCOMES
from codelutra.scoring.rank import preferred


def outcomes(*rows: tuple[str, str, bool]) -> pl.DataFrame:
    """(completion, status, whether it is greedy), samples of one problem in order."""
    same = {"problem_id": "p", "mode": "", "verdict": "host", "output": "", "seconds": 0.0, "error": ""}
    made = [
        same
        | {"sample": i, "greedy": greedy, "completion": text, "code": text, "finish_reason": "stop", "status": status}
        | {"answer": text}
        for i, (text, status, greedy) in enumerate(rows)
    ]
    return pl.DataFrame(made, schema=OUTCOMES)


def rewards(**of: float) -> pl.DataFrame:
    return pl.DataFrame(
        {"problem_id": ["p"] * len(of), "completion": list(of), "ended": [True] * len(of), "reward": list(of.values())}
    )


@pytest.mark.parametrize(
    ("rows", "of", "chosen"),
    [
        ([("a", "wrong", False), ("b", "correct", False)], {"a": 1.0, "b": 2.0}, "b"),
        ([("a", "wrong", False), ("b", "correct", False)], {"a": 3.0, "b": 2.0}, "a"),
        ([("a", "runtime_error", False), ("b", "wrong", False)], {"a": 9.0, "b": -9.0}, "b"),
        ([("a", "timeout", False), ("b", "no_code", False)], {"a": -2.0, "b": -1.0}, "b"),
        ([("a", "wrong", False), ("b", "correct", False)], {"a": 1.0, "b": 1.0}, "a"),
        ([("g", "correct", True), ("a", "wrong", False)], {"g": 5.0, "a": 1.0}, "a"),
        ([("a", "infra_error", False), ("b", "runtime_error", False)], {"a": 5.0, "b": 1.0}, "b"),
        ([("a", "wrong", False), ("b", "wrong", False)], {"b": -50.0}, "b"),
    ],
    ids=["right", "the verifier errs", "runs first", "none runs", "tie", "greedy is none", "outage", "one has no reward"],
)
def test_of_those_that_ran_the_one_with_the_highest_reward(
    rows: list[tuple[str, str, bool]], of: dict[str, float], chosen: str
) -> None:
    best = preferred(outcomes(*rows), rewards(**of))
    assert best.select("completion", "greedy").rows() == [(chosen, True)]
