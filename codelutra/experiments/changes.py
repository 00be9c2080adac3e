"""What a retraining changed, problem by problem, and on suites that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel

from codelutra.results.findings import Gain, question
from codelutra.results.summary import PairedTest
from codelutra.results.table import Table

SIGNIFICANT = 0.05  # a loss on a guard suite
_QUESTION = 200  # characters of a question that the record keeps


class Flip(BaseModel):
    """A dev problem that one of two policies solves."""

    problem_id: str
    question: str


class Flips(BaseModel):
    """The dev problems on which the chosen policy and the one it began from differ."""

    gained: list[Flip] = []
    lost: list[Flip] = []


class Guarded(BaseModel):
    """The dev problems of a guard suite, answered by the chosen policy and by an earlier one."""

    suite: str
    """Name of the guard's config."""
    against: str
    """The earlier policy, as a config's `model` names it."""
    paired: PairedTest
    margin: float | None = None
    """Points of pass@1 that may be lost. None: any loss that is not significant."""

    @property
    def gain(self) -> Gain:
        return Gain(self.paired.gained, self.paired.lost, self.paired.n, self.paired.p)

    @property
    def held(self) -> bool:
        """No significant loss; with a margin, the 95 % interval of the difference lies above a loss of that many points."""
        if self.margin is not None and self.gain.interval[0] <= -self.margin:
            return False
        return self.paired.gained >= self.paired.lost or self.paired.p > SIGNIFICANT

    @property
    def text(self) -> str:
        asked = f", at most {self.margin:g} points may be lost" if self.margin is not None else ""
        return f"{self.suite}: {'held' if self.held else 'LOST'} against {self.against}, {self.gain.text}{asked}"


def flips(problems: pl.DataFrame, before: pl.DataFrame, after: pl.DataFrame) -> Flips:
    """Between two SCORES of some of PROBLEMS, in their order. What an outage kept from counting for either is left out."""
    problems = problems.select("problem_id", "prompt")
    status = [s.select("problem_id", status="greedy_status") for s in (before, after)]
    both = problems.join(status[0], on="problem_id", maintain_order="left").join(
        status[1], on="problem_id", suffix="_after", maintain_order="left"
    )
    both = both.filter(pl.all_horizontal(pl.col("status", "status_after").is_not_null()))
    both = both.filter(~pl.any_horizontal(pl.col("status", "status_after") == "infra_error"))
    was, now = pl.col("status") == "correct", pl.col("status_after") == "correct"
    found = [
        [
            Flip(problem_id=i, question=question(prompt)[:_QUESTION])
            for i, prompt in rows.select("problem_id", "prompt").rows()
        ]
        for rows in (both.filter(~was & now), both.filter(was & ~now))
    ]
    return Flips(gained=found[0], lost=found[1])


def flips_table(changed: Flips, most: int | None = None) -> Table:
    """A row a problem, lost ones first: they are what somebody looks at. At most `most` of either kind."""
    cells = [
        {"": sign, "problem": flip.problem_id, "question": flip.question}
        for sign, some in (("lost", changed.lost), ("gained", changed.gained))
        for flip in some[:most]
    ]
    return Table.of(cells)


def lost_on(guards: Sequence[Guarded]) -> str:
    """The guard suites on which too much was lost, "" where there are none."""
    return ", ".join(dict.fromkeys(g.suite for g in guards if not g.held))
