"""Several runs in one figure: with and without something, and what more training data gives.

Runs are given with a label; runs that share a label are seeds of one setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from codelutra.reporting.figures.drawing import BLUE, INK, ORANGE, Figure, Row
from codelutra.reporting.figures.marks import (
    error_bars,
    estimate_columns,
    grouped,
    legend_below,
    percents,
    problem_numbers,
    write_beside,
)
from codelutra.reporting.figures.policies import pass_at_1_figure
from codelutra.reporting.figures.training import log_probabilities_compared, preferring
from codelutra.results.findings import Findings
from codelutra.results.summary import RunSummary
from codelutra.scoring.statistics import Estimate

_START, _CHOSEN = "start", "chosen"
_LOOKS = {_START: ("o", ORANGE, -1), _CHOSEN: ("D", BLUE, 1)}  # marker, colour, side it stands on
_BARS = {"elinewidth": 1.5, "capsize": 3}


def runs_compared_figure(runs: Sequence[tuple[str, RunSummary]]) -> Figure:
    """pass@1 on dev of each run's start and of the policy it chose, with intervals, one line a label: with and without
    references, one method against another. Raises ValueError where no run has a number."""
    rows = [{"setting": label, "run": s.run, **found} for label, s in runs for found in _estimates(s)]
    if not rows:
        raise ValueError("no run has a policy measured on dev")
    labels = list(grouped(rows, "setting"))

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for kind, mine in grouped(rows, "policy_kind").items():
            marker, colour, side = _LOOKS[kind]
            y = [labels.index(r["setting"]) + _spread(r, mine) - 0.16 * side for r in mine]
            bars = {"xerr": error_bars(mine), "label": f"{kind} policy", **_BARS}
            ax.errorbar(percents(mine), y, fmt=marker, ms=6, color=colour, **bars)
            for label, seeds in grouped(mine, "setting").items():
                middle = mean(at for at, r in zip(y, mine, strict=True) if r["setting"] == label)
                number = f"{100 * mean(r['value'] for r in seeds):.1f}"
                write_beside(ax, number, (max(percents(seeds, "high")), middle), gap=5)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.6)
        ax.set_xlim(0, 6 + max(percents(rows, "high")))
        ax.set_xlabel("dev pass@1 (% of problems)")
        ax.grid(axis="y", visible=False)
        legend_below(figure, 2)

    caption = (
        f"Greedy answers to the dev problems, judged by running them; bars are 95 % Wilson intervals, n = "
        f"{problem_numbers(rows)} problems. Start is policy 0 (after the warm start, where there is one); several marks of "
        "a kind are seeds, the number their mean. Overlapping bars do not mean no difference: policies answer the same "
        "problems, the paired test decides."
    )
    return Figure("runs-compared", "dev pass@1 by setting", caption, rows, draw, (5.4, 1.7 + 0.55 * len(labels)))


def data_share_figure(runs: Sequence[tuple[float, RunSummary]]) -> Figure:
    """pass@1 on dev by the share of the train problems that was used, of (share in (0, 1], run); runs of one share are
    seeds. Raises ValueError where no run has a number."""
    rows = [
        {"share": share, "train_problems": s.problems.train, "run": s.run, **found}
        for share, s in sorted(runs, key=lambda r: r[0])
        for found in _estimates(s)
    ]
    if not rows:
        raise ValueError("no run has a policy measured on dev")

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for kind, mine in grouped(rows, "policy_kind").items():
            marker, colour, side = _LOOKS[kind]
            x = [100 * r["share"] + 10 * _spread(r, mine, "share") + side for r in mine]
            bars = {"yerr": error_bars(mine), "label": f"{kind} policy", **_BARS}
            ax.errorbar(x, percents(mine), fmt=marker, ms=5, color=colour, **bars)
            seeds = grouped(mine, "share")
            means = [mean(percents(s)) for s in seeds.values()]
            ax.plot([100 * share + side for share in seeds], means, color=colour, alpha=0.45, zorder=1)
        named = {r["share"]: r["train_problems"] for r in rows}
        ax.set_xticks([100 * s for s in named], [f"{100 * s:g}\n({n:,})" if n else f"{100 * s:g}" for s, n in named.items()])
        ax.set_xlim(0, 108)
        ax.set_ylim(0, None)
        ax.set_xlabel("share of the train problems (%, in brackets how many)")
        ax.set_ylabel("dev pass@1 (% of problems)")
        ax.grid(axis="x", visible=False)
        legend_below(figure, 2)

    caption = (
        f"Greedy answers to the same {problem_numbers(rows)} dev problems, judged by running; bars are 95 % Wilson "
        "intervals. Start is policy 0 of each run, warm-started on the same share; several marks of a kind are seeds, the "
        "line is their mean."
    )
    return Figure("data-share", "What more train problems give", caption, rows, draw)


def methods_figure(
    suite: str, methods: Sequence[tuple[str, Estimate, Sequence[float]]], ours: str, more: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Test pass@1 of every method (name, mean, each seed's) with its interval, the best on top; a dot a seed. `more`: what
    else is known of a method, by column; it stands in the rows alone."""
    ordered = sorted(methods, key=lambda m: m[1].value)
    columns = dict.fromkeys(column for found in more.values() for column in found)
    rows = [
        {
            "method": name,
            "test_pass_at_1": test.value,
            "low": test.low,
            "high": test.high,
            "seeds": ";".join(f"{seed:.4f}" for seed in seeds),
            **{column: more[name].get(column) for column in columns},
        }
        for name, test, seeds in ordered
    ]
    n = methods[0][1].n

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for y, (name, test, seeds) in enumerate(ordered):
            ax.barh(y, 100 * test.value, color=BLUE, alpha=0.85 if name == ours else 0.4, height=0.6)
            ax.plot([100 * test.low, 100 * test.high], [y, y], color=INK, linewidth=1.4)
            if len(seeds) > 1:
                ax.plot([100 * s for s in seeds], [y] * len(seeds), "o", color=INK, markersize=3)
            write_beside(ax, f"{100 * test.value:.1f}", (100 * test.high, y), gap=4, size=None)
        ax.set_yticks(range(len(ordered)), [name for name, _, _ in ordered])
        ax.grid(axis="y", visible=False)
        ax.set_xlim(left=0)
        ax.set_xlabel(f"test pass@1, % of {n} problems")

    caption = (
        f"Greedy pass@1 on the test split of {suite} ({n} problems), policies chosen on dev. Lines: 95 % intervals, dots: "
        "single seeds."
    )
    return Figure("methods", "What a user would do instead", caption, rows, draw, (5.8, 0.9 + 0.36 * len(rows)))


def figures_beside(runs: Sequence[Findings]) -> list[Figure]:
    """What there is to compare between runs, labelled by their names: of the first preference training of each, and of
    their train problems where those differ in number."""
    named = [(f.summary.run, f.summary) for f in runs]
    trained = [(f.summary.run, lines) for f in runs for _, lines in preferring(f.training)[:1]]
    asked = [s.problems.train for _, s in named]
    shares = [(n / max(asked), s) for n, (_, s) in zip(asked, named, strict=True) if n]
    same_questions = len({(s.suite, s.suite_version, s.problems.dev) for _, s in named}) == 1
    found = [
        replace(pass_at_1_figure([s for _, s in named]), name="pass-at-1-compared"),
        runs_compared_figure(named),
        log_probabilities_compared(trained) if len(trained) > 1 else None,
        data_share_figure(shares) if same_questions and len(set(asked)) > 1 else None,
    ]
    return [figure for figure in found if figure]


def _estimates(s: RunSummary) -> list[Row]:
    """Start and chosen policy of a run on dev."""
    found = [(kind, p) for kind, p in ((_START, s.start), (_CHOSEN, s.chosen)) if p]
    return [{"policy_kind": kind, "policy": p.name, **estimate_columns(p.dev)} for kind, p in found]


def _spread(row: Row, kind: list[Row], by: str = "setting") -> float:
    """Seeds of one setting side by side, so that their bars can be told apart."""
    same = [r for r in kind if r[by] == row[by]]
    return 0.12 * (same.index(row) - (len(same) - 1) / 2)
