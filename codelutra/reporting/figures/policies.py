"""What a run's numbers look like: one function a figure, each with the rows it draws beside it.

RunSummary, training.jsonl ──► Figure(rows, draw) ──► NAME.svg, .png, .json, .csv

Here: what policies can do. Beside it: `training.py` (steps), `stages.py` (material and minutes), `runs.py` (several runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codelutra.reporting.figures.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PAPER,
    PURPLE,
    SERIES,
    SKY,
    VERMILION,
    Figure,
    Row,
    readable_on,
    swatch,
)
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
        {
            "run": s.run,
            "policy": p.name,
            "best": p.label == s.best,
            "value": p.dev.value,
            "low": p.dev.low,
            "high": p.dev.high,
            "problems": p.dev.n,
            "after_best": s.best in [q.label for q in s.policies[:i]],
        }
        for s in summaries
        for i, p in enumerate(s.policies)
    ]
    policies = list(dict.fromkeys(r["policy"] for r in rows))
    runs = list(dict.fromkeys(r["run"] for r in rows))

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for i, run in enumerate(runs):
            mine = [r for r in rows if r["run"] == run]
            x = [policies.index(r["policy"]) + 0.08 * (i - (len(runs) - 1) / 2) for r in mine]
            y = [100 * r["value"] for r in mine]
            reach = [[100 * (r["value"] - r["low"]) for r in mine], [100 * (r["high"] - r["value"]) for r in mine]]
            colour = SERIES[i % len(SERIES)]
            ax.plot(x, y, color=colour, alpha=0.45, zorder=1)
            ax.errorbar(x, y, yerr=reach, fmt="none", ecolor=colour, elinewidth=1.8, capsize=4)
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

    problems = ", ".join(sorted({f"{r['problems']:,}" for r in rows}))
    return Figure(
        "pass-at-1",
        "Problems solved at the first try",
        "Greedy answers to the dev problems, judged by running "
        f"them; bars are 95 % Wilson intervals, n = {problems} problems. The large dot is the chosen policy"
        + ("; hollow ones were made after it and do not ship." if any(r["after_best"] for r in rows) else "."),
        rows,
        draw,
    )


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
    bars = list(dict.fromkeys((r["split"], r["policy"]) for r in rows))
    splits = [k for k in kinds if any(b[0] == k for b in bars)]

    def draw(figure: Any) -> None:
        heights = [sum(b[0] == k for b in bars) for k in splits]
        axes = figure.subplots(len(splits), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for ax, split in zip(axes, splits, strict=True):
            names = [p for k, p in bars if k == split]
            left = dict.fromkeys(names, 0.0)
            for r in (r for r in rows if r["split"] == split):
                colour, share = STATUS_COLOURS[r["status"]], 100 * r["share"]
                ax.barh(names.index(r["policy"]), share, left=left[r["policy"]], color=colour, height=0.72)
                if share >= 8:
                    at = (left[r["policy"]] + share / 2, names.index(r["policy"]))
                    ax.annotate(f"{share:.0f}", at, ha="center", va="center", color=readable_on(colour), size=8)
                left[r["policy"]] += share
            ax.set_yticks(range(len(names)), names)
            ax.invert_yaxis()
            ax.set_xlim(0, 100)
            ax.set_title(kinds[split], size=8.5, weight="normal", pad=4)
            ax.grid(axis="y", visible=False)
        axes[-1].set_xlabel("answers (%)")
        present = [s for s in STATUSES if any(r["status"] == s for r in rows)]
        handles = [swatch(STATUS_COLOURS[s]) for s in present]
        figure.legend(
            handles, [s.replace("_", " ") for s in present], loc="outside lower center", ncols=min(4, len(present))
        )

    height = 1.5 + 0.36 * len(bars)
    return Figure(
        "status-mix",
        "What became of the answers",
        "Every answer was run in the sandbox. correct and wrong ran to their end and gave a result; the rest did not.",
        rows,
        draw,
        (5.4, max(3.0, height)),
    )


def pass_at_k_figure(policies: Sequence[PolicyResult]) -> Figure | None:
    """Unbiased pass@k on the train samples of each policy that drew any."""
    rows: list[Row] = [
        {"policy": p.name, "k": k, "value": e.value, "low": e.low, "high": e.high, "problems": e.n}
        for p in policies
        for k, e in (p.train.pass_at_k if p.train else {}).items()
    ]
    if not rows:
        return None

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for i, policy in enumerate(dict.fromkeys(r["policy"] for r in rows)):
            mine = sorted((r for r in rows if r["policy"] == policy), key=lambda r: r["k"])
            k, colour = [r["k"] for r in mine], SERIES[i % len(SERIES)]
            ax.fill_between(
                k, [100 * r["low"] for r in mine], [100 * r["high"] for r in mine], color=colour, alpha=0.15, lw=0
            )
            ax.plot(k, [100 * r["value"] for r in mine], marker="o", ms=4.5, color=colour, label=policy)
        ks = sorted({r["k"] for r in rows})
        ax.set_xscale("log", base=2)
        ax.set_xticks(ks, [str(k) for k in ks], minor=False)
        ax.set_ylim(0, 100)
        ax.set_xlabel("k (samples a problem)")
        ax.set_ylabel("train pass@k (% of problems)")
        ax.legend(loc="upper left")

    return Figure(
        "pass-at-k",
        "What lies within reach",
        "Share of train problems with at least one correct answer among k "
        "samples (unbiased, Chen et al. 2021; bands are 95 % bootstrap intervals over problems). The rise from "
        "k = 1 to the right end is what the loop can learn from.",
        rows,
        draw,
    )
