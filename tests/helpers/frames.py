"""Small frames that several test modules need."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from codelutra.schema import SAMPLES


def samples_of(programs: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """SAMPLES, not greedy, from (problem_id, program)s; `sample` is the row's number."""
    rows = [(p, i, False, code, code, "stop", 1, 1) for i, (p, code) in enumerate(programs)]
    return pl.DataFrame(rows, schema=SAMPLES, orient="row")
