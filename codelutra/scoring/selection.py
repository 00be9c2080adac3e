"""Which policy is best, and whether to go on.

Patience counts iterations without a new best. A new best is a policy that solves more of the same dev problems than the
best so far; problems are counted, not shares, because an infra_error that leaves a problem out would raise a share.

The gain need not be significant. In simulated runs with 178 dev problems (`benchmarks/stopping.py`,
docs/results/stopping.json) waiting for p < 0.05 ships up to 2.6 points less and saves one or two iterations, because
single iterations rarely gain enough to show. Paired tests are reported beside every policy. A policy after the best never
ships; the report shows it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from codelutra.config import SelectSection
from codelutra.scoring.statistics import Estimate


@dataclass(frozen=True)
class PolicyScore:
    """A policy that was measured on dev."""

    label: str  # "base", "policy-0", "policy-1" …
    index: int  # its place among the policies measured
    dev: Estimate

    @property
    def iteration(self) -> int:
        """The iteration that made it; 0 for what the run started from."""
        made = re.fullmatch(r"policy-(\d+)", self.label)
        return int(made[1]) if made else 0


@dataclass(frozen=True)
class Decision:
    best_index: int  # `index` of the policy to ship as things stand
    go_on: bool
    reason: str  # one sentence


def decide(history: Sequence[PolicyScore], config: SelectSection, iterations: int) -> Decision:
    """The best policy so far by dev problems solved (the earlier one where two are tied), and whether to go on.

    `history` is in the order the policies were made. The run stops when `iterations` are done, when every dev problem is
    solved, or after `patience` iterations (at least one) in a row without a new best.
    """
    if not history:
        raise ValueError("no policy was measured; measure the start before deciding")
    best = max(history, key=lambda p: (p.dev.correct, -history.index(p)))
    last = history[-1]
    stale = last.iteration - best.iteration
    standing = f"{_name(best)} is the best policy at {_percent(best.dev)} of dev{_others(best, last)}"
    if last.iteration >= iterations:
        done = "The one iteration is done" if iterations == 1 else f"All {iterations} iterations are done"
        return Decision(best.index, False, f"{done}; {standing}.")
    if best.dev.n and best.dev.correct == best.dev.n:
        return Decision(best.index, False, f"{_name(best)} solves every dev problem: there is nothing left to measure.")
    if stale >= max(1, config.patience):
        stopped = f"Stopped after {_iterations(stale)} without a new best (patience {config.patience})"
        return Decision(best.index, False, f"{stopped}; {standing}.")
    return Decision(best.index, True, f"{standing}; going on, {_iterations(iterations - last.iteration)} left.")


def _iterations(n: int) -> str:
    return "1 iteration" if n == 1 else f"{n} iterations"


def _others(best: PolicyScore, last: PolicyScore) -> str:
    if last is best:
        return ""
    if last.dev.correct == best.dev.correct:
        return f", tied with {_name(last)}; keeping the earlier one"
    return f", ahead of {_name(last)} at {_percent(last.dev)}"


def _name(policy: PolicyScore) -> str:
    return policy.label.replace("-", " ")


def _percent(dev: Estimate) -> str:
    return f"{dev.value:.1%} ({dev.correct} of {dev.n})"
