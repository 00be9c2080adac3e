"""How an iteration's material and time went: from problems and samples to pairs, and minutes by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codelutra.reporting.figures.drawing import BLUE, GREEN, ORANGE, PURPLE, SERIES, Figure, Row, few_ticks
from codelutra.results.summary import PolicyResult, iteration_of

STAGES = ("sample", "execute", "pairs", "train")
_STAGE_COLOURS = dict(zip(STAGES, (BLUE, ORANGE, PURPLE, GREEN), strict=True))


def funnel_figure(policies: Sequence[PolicyResult]) -> Figure | None:
    """From problems and samples to pairs, by iteration."""
    steps = {
        "problems": ("problems", "usable_reference", "right_and_wrong", "paired_problems"),
        "samples": ("samples", "executable", "correct", "pairs"),
    }
    rows: list[Row] = [
        {"iteration": iteration_of(p.label) + 1, "from": p.name, "unit": unit, "step": step, "count": counts[step]}
        for p in policies
        if p.funnel and p.funnel.pairs is not None and (counts := p.funnel.model_dump())
        for unit, names in steps.items()
        for step in names
    ]
    if not rows:
        return None
    iterations = sorted({r["iteration"] for r in rows})

    def draw(figure: Any) -> None:
        thick = 0.8 / len(iterations)
        for ax, (unit, names) in zip(figure.subplots(1, 2), steps.items(), strict=True):
            most = max(r["count"] for r in rows if r["unit"] == unit) or 1
            for i in iterations:
                mine = [r for r in rows if r["unit"] == unit and r["iteration"] == i]
                y = [names.index(r["step"]) + (iterations.index(i) - (len(iterations) - 1) / 2) * thick for r in mine]
                ax.barh(
                    y,
                    [r["count"] for r in mine],
                    height=thick * 0.92,
                    color=SERIES[iterations.index(i) % len(SERIES)],
                    label=f"iteration {i}",
                )
                for at, r in zip(y, mine, strict=True):
                    ax.annotate(
                        f"{r['count']:,}", (r["count"], at), xytext=(3, 0), textcoords="offset points", va="center", size=7.5
                    )
            ax.set_yticks(range(len(names)), [n.replace("_", "\n", 1).replace("_", " ") for n in names])
            ax.invert_yaxis()
            ax.set_xlim(0, most * 1.28)
            ax.set_xlabel(unit)
            ax.xaxis.set_major_locator(few_ticks())
            ax.grid(axis="y", visible=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))

    return Figure(
        "funnel",
        "From samples to pairs",
        "Left, train problems: a pair needs a right and a wrong answer to the same "
        "problem, and where no sample is right the reference may stand in. Right, samples drawn for them.",
        rows,
        draw,
        (5.4, 3.2 + 0.3 * max(0, len(iterations) - 2)),
    )


def minutes_figure(policies: Sequence[PolicyResult]) -> Figure:
    """Minutes each stage took, by policy."""
    rows: list[Row] = [
        {"policy": p.name, "stage": s, "minutes": p.seconds[s] / 60} for p in policies for s in STAGES if p.seconds.get(s)
    ]
    names = [p.name for p in policies]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        stages = [s for s in STAGES if any(r["stage"] == s for r in rows)]
        thick = 0.8 / max(1, len(stages))
        for i, stage in enumerate(stages):
            mine = [r for r in rows if r["stage"] == stage]
            y = [names.index(r["policy"]) + (i - (len(stages) - 1) / 2) * thick for r in mine]
            ax.barh(y, [r["minutes"] for r in mine], height=thick * 0.92, color=_STAGE_COLOURS[stage], label=stage)
            for at, r in zip(y, mine, strict=True):
                ax.annotate(
                    f"{r['minutes']:.1f}" if r["minutes"] >= 0.05 else "< 0.1",
                    (r["minutes"], at),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    size=7.5,
                )
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12 * max([r["minutes"] for r in rows], default=1))
        ax.set_xlabel("minutes")
        ax.grid(axis="y", visible=False)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)

    return Figure(
        "minutes",
        "Where the time went",
        "Time spent in each stage for a policy: training that made it, sampling and "
        "executing its answers, pairing them. Execution runs while sampling goes on, so bars overlap in time.",
        rows,
        draw,
        (5.4, 1.6 + 0.55 * len(names)),
    )
