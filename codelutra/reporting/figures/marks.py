"""What several figures do alike: group rows, give intervals as error bars, write numbers beside marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codelutra.reporting.figures.drawing import Row
from codelutra.results.summary import TestResult
from codelutra.scoring.statistics import Estimate


def estimate_columns(e: Estimate | TestResult) -> Row:
    """The columns of a row that has an interval."""
    return {"value": e.value, "low": e.low, "high": e.high, "problems": e.n}


def grouped(rows: Sequence[Row], column: str) -> dict[Any, list[Row]]:
    """Value of `column` → its rows, in the order the values come."""
    return {value: [r for r in rows if r[column] == value] for value in dict.fromkeys(r[column] for r in rows)}


def percents(rows: Sequence[Row], column: str = "value") -> list[float]:
    return [100 * r[column] for r in rows]


def error_bars(rows: Sequence[Row]) -> list[list[float]]:
    """How far intervals reach below and above their values, in percentage points, as matplotlib's `errorbar` takes them."""
    return [[100 * (r["value"] - r["low"]) for r in rows], [100 * (r["high"] - r["value"]) for r in rows]]


def problem_numbers(rows: Sequence[Row]) -> str:
    """For a caption: how many problems the rows are about."""
    return ", ".join(sorted({f"{r['problems']:,}" for r in rows}))


def write_beside(ax: Any, said: str, at: tuple[float, float], gap: float = 3, size: float | None = 7.5) -> None:
    """Write at the right of a point, `gap` points away."""
    ax.annotate(said, at, xytext=(gap, 0), textcoords="offset points", va="center", size=size)


def legend_below(figure: Any, columns: int) -> None:
    """One legend for all axes, made from the first."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
