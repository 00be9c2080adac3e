"""Claim: with dev sets of the usual size, waiting for a new best on dev ships a better policy than waiting for significance.

    python -m benchmarks.stopping [--runs 1000] [--problems 178] [--out docs/results/stopping.json]

All policies answer the same dev problems, so a new best *is* a positive paired gain over the best so far; the other rule
asks for an exact McNemar p < 0.05 (0.2) as well before an iteration counts. Both ship the best of dev. Runs are simulated:
policy t solves a problem when a normal score, correlated 0.9 between policies (14 % of the problems flip between two
policies of equal strength), is under the quantile of its true accuracy. "ships" is the true accuracy of what a rule ships.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import NormalDist, mean

import numpy as np
from numpy.typing import NDArray

from codelutra.config import SelectSection
from codelutra.scoring.selection import PolicyScore, decide
from codelutra.scoring.statistics import Estimate, exact_mcnemar

TRUE = {  # accuracy of the start, then of iterations 1 to 4
    "the paper's shape, with its dip": (0.55, 0.63, 0.67, 0.69, 0.66),
    "one leap, then little": (0.43, 0.50, 0.52, 0.53, 0.52),
    "steady, 2 points each": (0.43, 0.45, 0.47, 0.49, 0.51),
    "no gain at all": (0.43, 0.43, 0.43, 0.43, 0.43),
}
CORRELATION = 0.9
Solved = NDArray[np.bool_]  # (policies, problems)


def simulate(draw: np.random.Generator, true: tuple[float, ...], problems: int) -> Solved:
    shared = draw.normal(size=problems)
    own = draw.normal(size=(len(true), problems))
    scores = CORRELATION**0.5 * shared + (1 - CORRELATION) ** 0.5 * own
    solved: Solved = scores < np.array([[NormalDist().inv_cdf(p)] for p in true])
    return solved


def by_new_best(solved: Solved, patience: int) -> tuple[int, int]:
    """Index of the policy that ships and iterations made, by `select.decide`."""
    n = solved.shape[1]
    history: list[PolicyScore] = []
    for i, row in enumerate(solved):
        history.append(PolicyScore(f"policy-{i}", i, Estimate(row.mean(), 0, 1, n, int(row.sum()))))
        decision = decide(history, SelectSection(patience=patience), len(solved) - 1)
        if not decision.go_on:
            break
    return decision.best_index, len(history) - 1


def by_significance(solved: Solved, patience: int, alpha: float) -> tuple[int, int]:
    """The same with patience for gains over the last policy that counted."""
    held, stale, made = 0, 0, 0
    for i in range(1, len(solved)):
        made = i
        gained, lost = int((solved[i] & ~solved[held]).sum()), int((~solved[i] & solved[held]).sum())
        counts = gained > lost and exact_mcnemar(gained, lost, solved.shape[1]).p < alpha
        held, stale = (i, 0) if counts else (held, stale + 1)
        if stale >= patience:
            break
    return int(solved[: made + 1].sum(1).argmax()), made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=178)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for shape, true in TRUE.items():
        runs = [simulate(np.random.default_rng(seed), true, asked.problems) for seed in range(asked.runs)]
        for patience in (1, 2):
            ends = {"new best": [by_new_best(s, patience) for s in runs]}
            ends |= {f"p < {a:g}": [by_significance(s, patience, a) for s in runs] for a in (0.2, 0.05)}
            rows += [
                {
                    "shape": shape,
                    "patience": patience,
                    "progress is": rule,
                    "ships": round(mean(true[i] for i, _ in e), 4),
                    "iterations": round(mean(made for _, made in e), 2),
                }
                for rule, e in ends.items()
            ]
    print(f"{'true accuracy':<34}{'patience':>9}{'progress is':>13}{'ships':>9}{'iterations':>12}")
    for r in rows:
        print(f"{r['shape']:<34}{r['patience']:>9}{r['progress is']:>13}{r['ships']:>9.1%}{r['iterations']:>12.1f}")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"runs": asked.runs, "problems": asked.problems, "correlation": CORRELATION, "true": TRUE}
        asked.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
