"""What a run's numbers look like: one function a figure, each with the rows it draws beside it.

RunSummary, training.jsonl ──► Figure(rows, draw) ──► NAME.svg, .png, .json, .csv

Here: what policies can do. Beside it: `training.py` (steps), `stages.py` (material and minutes), `runs.py` (several runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from codelutra.reporting.figures.drawing import BLUE, GREEN, ORANGE, PAPER, PURPLE, SERIES, SKY, VERMILION, Figure, Row
from codelutra.reporting.figures.marks import error_bars, estimate_columns, grouped, percents, problem_numbers
from codelutra.reporting.figures.stages import funnel_figure, minutes_figure
from codelutra.reporting.figures.training import Training, log_probability_figure, loss_figure
from codelutra.results.summary import PolicyResult, RunSummary
from codelutra.schema import STATUSES

STATUS_COLOURS = {
    "correct": GREEN,
    "wrong": ORANGE,
    "runtime_error": VERMILION,
    "syntax_error": PURPLE,
    "timeout": SKY,
    "resource_limit": BLUE,
    "blocked": "#6b4c9a",
    "no_code": "#8a8f99",
    "infra_error": "#b9bec7",
    "reference_error": "#d9d2bf",
    "undecided": "#e8e8ee",
}


def run_figures(summary: RunSummary, training: Training) -> list[Figure]:
    """The figures a run has data for."""
    rows = summary.policies
    on_dev = bool(rows and rows[0].dev.n)
    found = [
        pass_at_1_figure([summary]) if on_dev else None,
        status_figure(rows) if on_dev else None,
        pass_at_k_figure(rows),
        log_probability_figure(training),
        loss_figure(training),
        funnel_figure(rows),
        minutes_figure(rows) if rows else None,
    ]
    return [figure for figure in found if figure]


def pass_at_1_figure(summaries: Sequence[RunSummary]) -> Figure:
    """dev pass@1 by policy with its interval, one line a run."""
    rows: list[Row] = [
        {"run": s.run, "policy": p.name, "best": p.label == s.best}
        | {**estimate_columns(p.dev), "after_best": s.best in [q.label for q in s.policies[:i]]}
        for s in summaries
        for i, p in enumerate(s.policies)
    ]
    policies, runs = list(grouped(rows, "policy")), grouped(rows, "run")

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for i, ((run, mine), colour) in enumerate(zip(runs.items(), cycle(SERIES), strict=False)):
            x = [policies.index(r["policy"]) + 0.08 * (i - (len(runs) - 1) / 2) for r in mine]
            y = percents(mine)
            ax.plot(x, y, color=colour, alpha=0.45, zorder=1)
            ax.errorbar(x, y, yerr=error_bars(mine), fmt="none", ecolor=colour, elinewidth=1.8, capsize=4)
            sizes = [95 if r["best"] else 42 for r in mine]
            inside = [PAPER if r["after_best"] else colour for r in mine]
            ax.scatter(x, y, s=sizes, facecolors=inside, edgecolors=colour, linewidths=1.6, zorder=3)
            ax.plot([], [], "o", color=colour, label=run)
            if (best := next((k for k, r in enumerate(mine) if r["best"]), None)) is not None and mine[-1]["after_best"]:
                ax.plot([x[best], x[-1]], [y[best]] * 2, color=colour, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
            if len(runs) == 1:
                for at, r in zip(x, mine, strict=True):
                    text, weight = f"{100 * r['value']:.1f}", "bold" if r["best"] else "normal"
                    above = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
                    ax.annotate(text, (at, 100 * r["high"]), weight=weight, **above)
        ax.set_xticks(range(len(policies)), policies)
        ax.set_xlim(-0.4, max(1.0, len(policies) - 1) + 0.4)
        ax.set_ylim(0, min(105, 8 + 100 * max(r["high"] for r in rows)))
        ax.set_ylabel("dev pass@1 (% of problems)")
        ax.grid(axis="x", visible=False)
        if len(runs) > 1:
            ax.legend(loc="best")

    caption = (
        f"Greedy answers to the dev problems, judged by running them; bars are 95 % Wilson intervals, n = "
        f"{problem_numbers(rows)} problems. The large dot is the chosen policy"
        + ("; hollow dots are later policies that were not chosen." if any(r["after_best"] for r in rows) else ".")
    )
    return Figure("pass-at-1", "Problems solved at the first try", caption, rows, draw)


def status_figure(policies: Sequence[PolicyResult]) -> Figure:
    """What became of the answers, as shares: greedy dev answers above, sampled train answers below."""
    kinds = {"dev": "dev, greedy", "train": "train, sampled"}
    rows: list[Row] = [
        {"split": split, "policy": p.name, "status": s, "answers": n, "share": n / sum(counts.values())}
        for split in kinds
        for p in policies
        if (counts := p.statuses[split])
        for s in STATUSES
        if (n := counts.get(s, 0))
    ]
    splits = {split: grouped(mine, "policy") for split, mine in grouped(rows, "split").items()}
    heights = [len(bars) for bars in splits.values()]

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        axes = figure.subplots(len(splits), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for ax, (split, bars) in zip(axes, splits.items(), strict=True):
            for y, mine in enumerate(bars.values()):
                left = 0.0
                for r in mine:
                    colour, share = STATUS_COLOURS[r["status"]], 100 * r["share"]
                    ax.barh(y, share, left=left, color=colour, height=0.72)
                    if share >= 8:
                        at = (left + share / 2, y)
                        ax.annotate(f"{share:.0f}", at, ha="center", va="center", color=_readable_on(colour), size=8)
                    left += share
            ax.set_yticks(range(len(bars)), bars)
            ax.invert_yaxis()
            ax.set_xlim(0, 100)
            ax.set_title(kinds[split], size=8.5, weight="normal", pad=4)
            ax.grid(axis="y", visible=False)
        axes[-1].set_xlabel("answers (%)")
        present = grouped(rows, "status")
        handles = {s.replace("_", " "): Patch(facecolor=STATUS_COLOURS[s]) for s in STATUSES if s in present}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)

    caption = "Every answer was run in the sandbox. correct and wrong ran to their end and gave a result; the rest did not."
    size = (5.4, max(3.0, 1.5 + 0.36 * sum(heights)))
    return Figure("status-mix", "What became of the answers", caption, rows, draw, size)


def pass_at_k_figure(policies: Sequence[PolicyResult]) -> Figure | None:
    """Unbiased pass@k on the train samples of each policy that drew any."""
    rows: list[Row] = [
        {"policy": p.name, "k": k, **estimate_columns(e)}
        for p in policies
        for k, e in sorted((p.train.pass_at_k if p.train else {}).items())
    ]
    if not rows:
        return None

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for (policy, mine), colour in zip(grouped(rows, "policy").items(), cycle(SERIES), strict=False):
            k = [r["k"] for r in mine]
            ax.fill_between(k, percents(mine, "low"), percents(mine, "high"), color=colour, alpha=0.15, lw=0)
            ax.plot(k, percents(mine), marker="o", ms=4.5, color=colour, label=policy)
        ks = sorted(grouped(rows, "k"))
        ax.set_xscale("log", base=2)
        ax.set_xticks(ks, [str(k) for k in ks], minor=False)
        ax.set_ylim(0, 100)
        ax.set_xlabel("k (samples a problem)")
        ax.set_ylabel("train pass@k (% of problems)")
        ax.legend(loc="upper left")

    caption = (
        "Share of train problems with at least one correct answer among k samples (unbiased, Chen et al. 2021; bands are "
        "95 % bootstrap intervals over problems). The rise from k = 1 to the right end is what the loop can learn from."
    )
    return Figure("pass-at-k", "What lies within reach", caption, rows, draw)


def _readable_on(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#14171d"
