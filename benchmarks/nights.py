"""How often does chance promote, and how much true gain is lost? A year of nights, simulated under several rules.

    python -m benchmarks.nights [--years 100] [--out docs/results/year-of-nights.json]

Every night has a candidate that goes on from the promoted policy. Its true accuracy (over all problems there could be)
differs from the promoted one's as the scenario says; most candidates are a little worse. Both answer the same dev problems,
all year or with one in a hundred replaced every night. A policy solves a problem when a normal score is under the quantile
of its true accuracy. Half of the score's variance is the problem's difficulty, half the policy's own luck, and a candidate
inherits most of its parent's luck: a candidate of equal strength differs on 14 % of the problems, and what luck has
promoted stays lucky on dev. A guard suite of as many problems works alike; there a candidate loses a point on average, with
a standard deviation of one.

Rules: promote on any gain on dev; on a gain with an exact McNemar p of at most ALPHA; and with a guard, as `retrain --keep`
does (no significant loss against the promoted policy and against the first one), and with --margin.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codelutra.experiments.changes import Guarded
from codelutra.results.summary import PairedTest
from codelutra.scoring.statistics import exact_mcnemar

NIGHTS = 365
START, MOST = 0.5, 0.85  # true accuracy on the first day, and at most
INHERITED = 0.64  # of the variance of a policy's own luck
OWN = 0.5  # of the variance of a score: the policy's own luck; the rest is the problem's difficulty
EROSION, SPREAD = -0.01, 0.01  # of a candidate's true accuracy on the guard suite
SCENARIOS = {  # share of nights with a truly better candidate, and by how much; the others lose |N(0, 1 point)|
    "nothing to gain": (0.0, 0.0),
    "one night in ten gains 1 point": (0.1, 0.01),
    "one night in twenty gains 3 points": (0.05, 0.03),
}
FRESH = (0.0, 0.01)  # share of the dev problems that is replaced every night
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    alpha: float = 1.0
    keep: bool = False
    margin: float | None = None

    @property
    def text(self) -> str:
        gain = "any gain" if self.alpha == 1 else f"p ≤ {self.alpha:g}"
        return gain + (", guard" if self.keep else "") + (f", margin {self.margin:g}" if self.margin is not None else "")


RULES = (
    Rule(),
    Rule(alpha=0.5),
    Rule(alpha=0.2),
    Rule(alpha=0.05),
    Rule(keep=True),
    Rule(alpha=0.2, keep=True),
    Rule(alpha=0.2, keep=True, margin=5),
)


@cache
def is_gain(gained: int, lost: int, n: int, alpha: float) -> bool:
    return gained > lost and exact_mcnemar(gained, lost, n).p <= alpha


@cache
def held(gained: int, lost: int, n: int, margin: float | None) -> bool:
    p = exact_mcnemar(gained, lost, n).p
    return Guarded(suite="", against="", paired=PairedTest(gained=gained, lost=lost, p=p, n=n), margin=margin).held


class Suite:
    """The problems of one suite, a row for each simulated year, and what the promoted policy's luck on them is."""

    def __init__(self, draw: np.random.Generator, years: int, problems: int) -> None:
        self._draw, self._shape = draw, (years, problems)
        self._difficulty = draw.normal(size=self._shape)
        self.luck = draw.normal(size=self._shape)

    def renew(self, share: float) -> None:
        """Replace some of the problems, a night's new ones; nobody has been selected on them."""
        new = self._draw.random(self._shape) < share
        self._difficulty[new], self.luck[new] = self._draw.normal(size=(2, int(new.sum())))

    def child(self) -> Scores:
        """The luck of a candidate."""
        return INHERITED**0.5 * self.luck + (1 - INHERITED) ** 0.5 * self._draw.normal(size=self._shape)

    def solved(self, luck: Scores, accuracy: Scores) -> NDArray[np.bool_]:
        scores = (1 - OWN) ** 0.5 * self._difficulty + OWN**0.5 * luck
        return np.asarray(scores < np.array([[NormalDist().inv_cdf(a)] for a in accuracy]))


def year(
    rule: Rule, scenario: tuple[float, float], problems: int, years: int, fresh: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Means over simulated years."""
    draw, fate = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    dev, guard = Suite(draw, years, problems), Suite(draw, years, problems)
    true, guarded = np.full(years, START), np.full(years, START)
    first = guard.solved(guard.luck, guarded)
    promotions, by_chance, offered, missed = (np.zeros(years) for _ in range(4))
    often, gain = scenario
    for _ in range(NIGHTS):
        dev.renew(fresh)
        better = fate.random(years) < often
        change = np.where(better, gain, -np.abs(fate.normal(0, 0.01, years)))
        candidate = np.clip(true + change, 0.01, MOST)
        really = candidate > true
        on_guard = np.clip(guarded + fate.normal(EROSION, SPREAD, years), 0.01, MOST)
        luck, luck_on_guard = dev.child(), guard.child()
        taken = pairs(dev.solved(dev.luck, true), dev.solved(luck, candidate), lambda g, n: is_gain(*g, n, rule.alpha))
        if rule.keep:
            now = guard.solved(luck_on_guard, on_guard)
            for before in (guard.solved(guard.luck, guarded), first):
                taken &= pairs(before, now, lambda g, n: held(*g, n, rule.margin))
        promotions += taken
        by_chance += taken & ~really
        offered += really
        missed += really & ~taken
        true, guarded = np.where(taken, candidate, true), np.where(taken, on_guard, guarded)
        dev.luck[taken], guard.luck[taken] = luck[taken], luck_on_guard[taken]
    dev_says = dev.solved(dev.luck, true).mean(axis=1)
    return {
        "promotions": float(promotions.mean()),
        "of policies that are no better": float(by_chance.mean()),
        "better ones offered": float(offered.mean()),
        "better ones refused": float(missed.mean()),
        "true accuracy at the end": float(true.mean()),
        "what dev says": float(dev_says.mean()),
        "on the guard suite": float(guarded.mean()),
    }


def pairs(before: NDArray[np.bool_], after: NDArray[np.bool_], judge: Any) -> NDArray[np.bool_]:
    """`judge` of (gained, lost) and the number of problems, for each year."""
    gained, lost = (after & ~before).sum(axis=1), (before & ~after).sum(axis=1)
    return np.array([judge(pair, before.shape[1]) for pair in zip(gained.tolist(), lost.tolist(), strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=100)
    parser.add_argument("--problems", type=int, action="append", help="dev problems; default 100 and 400")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for (scenario, what), problems, fresh in product(SCENARIOS.items(), asked.problems or (100, 400), FRESH):
        print(f"\n{scenario}, {problems} dev problems, {fresh:.0%} new every night")
        print(f"{'promote on':<26}{'promoted':>9}{'no better':>11}{'refused':>9}{'true':>8}{'dev says':>10}{'guard':>8}")
        for rule in RULES:
            found = {k: round(v, 4) for k, v in year(rule, what, problems, asked.years, fresh).items()}
            rows.append({"scenario": scenario, "problems": problems, "new every night": fresh, "rule": rule.text, **found})
            promoted, chance, _, refused, true, said, kept = found.values()
            print(f"{rule.text:<26}{promoted:>9.1f}{chance:>11.1f}{refused:>9.1f}", end="")
            print(f"{true:>8.1%}{said:>10.1%}{kept:>8.1%}", flush=True)
    print("\nmean over all of these")
    for rule in RULES:
        of_rule = [row for row in rows if row["rule"] == rule.text]
        true, kept = (fmean(row[k] for row in of_rule) for k in ("true accuracy at the end", "on the guard suite"))
        print(f"{rule.text:<26}true {true:.1%}, guard {kept:.1%}")
    if asked.out:
        about = {"years": asked.years, "nights": NIGHTS, "start": START, "inherited": INHERITED, "own": OWN}
        asked.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
