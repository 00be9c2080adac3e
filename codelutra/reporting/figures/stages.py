"""How an iteration's material and time went: from problems and samples to pairs or groups, and minutes by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from codelutra.reporting.figures.drawing import BLUE, GREEN, ORANGE, PURPLE, SERIES, Figure, Row
from codelutra.reporting.figures.marks import grouped, legend_below, write_beside
from codelutra.results.summary import PolicyResult, iteration_of

STAGES = ("sample", "execute", "pairs", "answers", "groups", "train")  # a run has one of the three before `train`
_STAGE_COLOURS = dict(zip(STAGES, (BLUE, ORANGE, PURPLE, PURPLE, PURPLE, GREEN), strict=True))


def funnel_figure(policies: Sequence[PolicyResult]) -> Figure | None:
    """From problems and samples to pairs (or to the answers of groups), by iteration."""
    in_groups = any(p.funnel and p.funnel.groups is not None for p in policies)
    made = "groups" if in_groups else "pairs"
    steps = {
        "problems": ("problems", "usable_reference", "right_and_wrong", "groups" if in_groups else "paired_problems"),
        "samples": ("samples", "executable", "correct", "answers" if in_groups else "pairs"),
    }
    rows: list[Row] = [
        {"iteration": iteration_of(p.label) + 1, "from": p.name, "unit": unit, "step": step, "count": counts[step]}
        for p in policies
        if p.funnel and (counts := p.funnel.model_dump())[made] is not None
        for unit, names in steps.items()
        for step in names
    ]
    if not rows:
        return None

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for ax, (unit, mine) in zip(figure.subplots(1, 2), grouped(rows, "unit").items(), strict=True):
            bars = grouped(mine, "iteration").items()
            counts = {f"iteration {i}": {r["step"]: r["count"] for r in series} for i, series in bars}
            _grouped_bars(ax, counts, dict(zip(counts, cycle(SERIES), strict=False)), steps[unit], "{:,}".format)
            ax.set_xlim(0, 1.28 * (max(r["count"] for r in mine) or 1))
            ax.set_xlabel(unit)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        legend_below(figure, 4)

    caption = (
        "Left, train problems: a pair needs a right and a wrong answer to the same problem, and where no sample is right "
        "the reference may stand in. Right, samples drawn for them."
    )
    if in_groups:
        caption = (
            "Left, train problems: a group needs right and wrong answers to the same problem. Right, samples drawn for them "
            "and the distinct answers that are learned from."
        )
    height = 3.2 + 0.3 * max(0, len(grouped(rows, "iteration")) - 2)
    return Figure("funnel", f"From samples to {made}", caption, rows, draw, (5.4, height))


def minutes_figure(policies: Sequence[PolicyResult]) -> Figure:
    """Minutes each stage took, by policy."""
    rows: list[Row] = [
        {"policy": p.name, "stage": s, "minutes": p.seconds[s] / 60} for p in policies for s in STAGES if p.seconds.get(s)
    ]
    names = [p.name for p in policies]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        taken = {s: {r["policy"]: r["minutes"] for r in rows if r["stage"] == s} for s in STAGES}
        taken = {s: minutes for s, minutes in taken.items() if minutes}
        _grouped_bars(ax, taken, _STAGE_COLOURS, names, lambda m: f"{m:.1f}" if m >= 0.05 else "< 0.1")
        ax.set_xlim(0, 1.12 * max([r["minutes"] for r in rows], default=1))
        ax.set_xlabel("minutes")
        legend_below(figure, 4)

    caption = (
        "Time spent in each stage for a policy: training that made it, sampling and executing its answers, pairing or "
        "grouping them. "
        "Execution runs while sampling goes on, so bars overlap in time."
    )
    return Figure("minutes", "Where the time went", caption, rows, draw, (5.4, 1.6 + 0.55 * len(names)))


def _grouped_bars(
    ax: Any,
    series: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    places: Sequence[str],
    said: Callable[[float], str],
) -> None:
    """Horizontal bars with their numbers: a group for each of `places`, in it one for each of `series` (label → place →
    number)."""
    thick = 0.8 / max(1, len(series))
    for i, (label, numbers) in enumerate(series.items()):
        y = [places.index(place) + (i - (len(series) - 1) / 2) * thick for place in numbers]
        ax.barh(y, list(numbers.values()), height=thick * 0.92, color=colours[label], label=label)
        for at, number in zip(y, numbers.values(), strict=True):
            write_beside(ax, said(number), (number, at))
    ax.set_yticks(range(len(places)), [place.replace("_", "\n", 1).replace("_", " ") for place in places])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
