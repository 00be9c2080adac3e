from __future__ import annotations

import pytest

from codelutra.config import SelectSection
from codelutra.scoring.selection import Decision, PolicyScore, decide
from codelutra.scoring.statistics import Estimate


def decided(*correct: int, labels: str = "warm", patience: int = 1, iterations: int = 4) -> Decision:
    """Decide after policies that solve so many of 100 dev problems: base, policy-0 (only if labels is "warm"), policy-1 …"""
    first = 0 if labels == "warm" else 1
    names = ["base", *(f"policy-{i}" for i in range(first, len(correct)))]
    history = [PolicyScore(names[i], i, Estimate(c / 100, 0, 1, 100, c)) for i, c in enumerate(correct)]
    return decide(history, SelectSection(patience=patience), iterations)


def test_the_best_policy_is_kept_and_never_a_later_worse_one():
    got = decided(5, 37, 41, 39)
    assert (got.best_index, got.go_on) == (2, False)
    assert got.reason == (
        "Stopped after 1 iteration without a new best (patience 1); policy 1 is the best policy at 41.0% (41 of 100) "
        "of dev, ahead of policy 2 at 39.0% (39 of 100)."
    )


def test_of_equals_the_earlier_is_best():
    got = decided(5, 37, 37)
    assert (got.best_index, got.go_on) == (1, False)
    assert "tied with policy 1; keeping the earlier one" in got.reason


def test_an_outage_of_ours_makes_no_new_best():
    before, after = (PolicyScore(f"policy-{i}", i, Estimate(41 / n, 0, 1, n, 41)) for i, n in enumerate((100, 98)))
    got = decide([before, after], SelectSection(), 4)
    assert (got.best_index, got.go_on) == (0, False)


def test_patience_counts_iterations_without_a_new_best():
    assert decided(5, 37, 36, patience=2).go_on
    assert not decided(5, 37, 36, 35, patience=2).go_on
    assert decided(5, 37, 36, 38, patience=2).go_on, "a new best starts the count again"
    assert not decided(5, 37, 36, 38, 37, 36, patience=2).go_on
    assert decided(5, 37, patience=0).go_on
    assert not decided(5, 37, 36, patience=0).go_on


def test_a_bad_warm_start_does_not_end_the_run_before_an_iteration():
    got = decided(5, 3)
    assert (got.best_index, got.go_on) == (0, True)
    assert not decided(5, 3, 4).go_on
    assert decided(5, 3, 6).best_index == 2


@pytest.mark.parametrize(("labels", "correct"), [("warm", (5, 30, 40, 50)), ("cold", (5, 30, 40))])
def test_the_run_ends_when_all_iterations_are_done(labels, correct):
    assert decided(*correct, labels=labels, iterations=3).go_on
    got = decided(*correct, labels=labels, iterations=2)
    assert (got.best_index, got.go_on) == (len(correct) - 1, False)
    assert got.reason.startswith("All 2 iterations are done; policy 2 is the best policy at")


def test_iterations_left_are_told():
    assert (
        decided(5, iterations=1).reason == "base is the best policy at 5.0% (5 of 100) of dev; going on, 1 iteration left."
    )


def test_nothing_is_left_to_do_when_every_dev_problem_is_solved():
    assert not decided(5, 100).go_on


def test_no_iterations_means_measuring_only():
    assert not decided(5, iterations=0).go_on


def test_deciding_needs_a_measured_policy():
    with pytest.raises(ValueError, match="measure the start"):
        decide([], SelectSection(), 4)
