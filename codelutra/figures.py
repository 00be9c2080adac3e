"""What a run's numbers look like: one function a figure, each with the rows it draws beside it.

summary.json, training.jsonl ──► Figure(rows, draw) ──► NAME.svg, .png, .json, .csv
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from codelutra.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SERIES,
    SKY,
    VERMILION,
    Figure,
    draw,
    few_ticks,
    readable_on,
    swatch,
)
from codelutra.findings import read_findings
from codelutra.schema import STATUSES

Row = dict[str, Any]
Training = Sequence[tuple[str, list[Row]]]  # (title of the policy, lines of its training.jsonl)

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
STAGES = ("sample", "execute", "pairs", "train")
_STAGE_COLOURS = dict(zip(STAGES, (BLUE, ORANGE, PURPLE, GREEN), strict=True))
_TRAINED = {"chosen": GREEN, "rejected": VERMILION}


def run_figures(summary: Row, training: Training) -> list[Figure]:
    """The figures a run has data for."""
    rows = summary["policies"]
    found = [
        pass_at_1_figure([summary]) if rows else None,
        status_figure(rows) if rows else None,
        pass_at_k_figure(rows),
        log_probability_figure(training),
        loss_figure(training),
        funnel_figure(rows),
        minutes_figure(rows) if rows else None,
    ]
    return [figure for figure in found if figure]


def pass_at_1_figure(summaries: Sequence[Row]) -> Figure:
    """dev pass@1 by policy with its interval, one line a run."""
    rows = [
        {
            "run": s["run"],
            "policy": p["title"],
            "best": p["label"] == s["best"],
            "value": p["dev"]["value"],
            "low": p["dev"]["low"],
            "high": p["dev"]["high"],
            "problems": p["dev"]["n"],
        }
        for s in summaries
        for p in s["policies"]
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
            ax.scatter(x, y, s=sizes, color=colour, zorder=3, label=run)
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
        f"them; bars are 95 % Wilson intervals, n = {problems} problems. The large dot is the chosen policy.",
        rows,
        draw,
    )


def status_figure(policies: Sequence[Row]) -> Figure:
    """What became of the answers, as shares: greedy dev answers above, sampled train answers below."""
    kinds = {"dev": "dev, greedy", "train": "train, sampled"}
    rows = [
        {"split": split, "policy": p["title"], "status": s, "answers": n, "share": n / sum(counts.values())}
        for split in kinds
        for p in policies
        if (counts := p["statuses"][split])
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


def pass_at_k_figure(policies: Sequence[Row]) -> Figure | None:
    """Unbiased pass@k on the train samples of each policy that drew any."""
    rows = [
        {"policy": p["title"], "k": int(k), **{c: e[c] for c in ("value", "low", "high")}, "problems": e["n"]}
        for p in policies
        for k, e in p.get("train", {}).get("pass@k", {}).items()
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


def log_probability_figure(training: Training) -> Figure | None:
    """Chosen and rejected log-probabilities by step, their drift from policy t-1 and the KL to it, iterations end to end."""
    names = [f"{side}_{what}" for side in _TRAINED for what in ("log_prob", "drift")]
    rows = list(
        _end_to_end([(t, lines) for t, lines in training if lines and "chosen_log_prob" in lines[0]], [*names, "kl"])
    )
    if not rows:
        return None
    panels = {
        "log_prob": "log-probability\n(nats)",
        "drift": "drift from\npolicy t-1 (nats)",
        "kl": "KL to policy t-1\n(nats a token)",
    }

    def draw(figure: Any) -> None:
        axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
        for ax, (what, label) in zip(axes, panels.items(), strict=True):
            lines = {"kl": PURPLE} if what == "kl" else {f"{side}_{what}": colour for side, colour in _TRAINED.items()}
            for policy, mine in _by_policy(rows):
                for name, colour in lines.items():
                    said = name.split("_")[0] if policy == rows[0]["policy"] and what == "log_prob" else None
                    _line(ax, mine, name, colour, said)
            _iteration_marks(ax, rows, name=ax is axes[0])
            ax.set_ylabel(label)
        axes[1].axhline(0, color=INK, linewidth=0.8)
        axes[2].set_ylim(0, None)
        axes[2].set_xlabel("optimizer step, iterations end to end")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    caption = (
        "Mean summed log-probability of the answers in a step's batch, how far it moved from the reference model, policy "
        "t-1, and the divergence from it. Plain DPO is known to push both kinds down; the SFT term is to hold the chosen up."
    )
    return Figure("log-probability", "Chosen and rejected answers while training", caption, rows, draw, (5.4, 5.0))


def loss_figure(training: Training) -> Figure | None:
    """Training loss by step, the warm start included."""
    rows = list(_end_to_end(training, ["loss"]))
    if not rows:
        return None

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for (policy, mine), colour in zip(_by_policy(rows), cycle(SERIES), strict=False):
            _line(ax, mine, "loss", colour, policy)
        _iteration_marks(ax, rows, name=False)
        ax.set_ylabel("loss (nats)")
        ax.set_xlabel("optimizer step, trainings end to end")
        ax.set_ylim(0, None)
        ax.legend(loc="best")

    caption = (
        "The warm start's is the mean over answer tokens; an iteration's is DPO + λ·SFT. The two have different scales."
    )
    return Figure("loss", "Training loss", caption, rows, draw)


def funnel_figure(policies: Sequence[Row]) -> Figure | None:
    """From problems and samples to pairs, by iteration."""
    steps = {
        "problems": ("problems", "usable_reference", "right_and_wrong", "paired_problems"),
        "samples": ("samples", "executable", "correct", "pairs"),
    }
    rows = [
        {"iteration": i + 1, "from": p["title"], "unit": unit, "step": step, "count": p["funnel"][step]}
        for i, p in enumerate(p for p in policies if p.get("funnel"))
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


def minutes_figure(policies: Sequence[Row]) -> Figure:
    """Minutes each stage took, by policy."""
    rows = [
        {"policy": p["title"], "stage": s, "minutes": p["seconds"][s] / 60}
        for p in policies
        for s in STAGES
        if p["seconds"].get(s)
    ]
    names = [p["title"] for p in policies]

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


def save_figures(run_path: Path, out_dir: Path) -> list[Path]:
    """Write every figure of a run into `out_dir`: NAME.svg and .png, and what they show as .json and .csv."""
    found = read_findings(run_path)
    return [path for figure in run_figures(found.summary, found.training) for path in draw(figure).save(out_dir)]


def _end_to_end(training: Training, names: Sequence[str]) -> Iterator[Row]:
    """Rows of several trainings on one axis of steps."""
    offset = 0
    for policy, lines in training:
        for line in lines:
            at = {"policy": policy, "step": offset + line["step"], "step_in_training": line["step"]}
            yield at | {name: line[name] for name in names}
        offset += lines[-1]["step"]


def _by_policy(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(p, [r for r in rows if r["policy"] == p]) for p in dict.fromkeys(r["policy"] for r in rows)]


def _line(ax: Any, rows: Sequence[Row], name: str, colour: str, label: str | None) -> None:
    marker = "." if len(rows) < 3 else None
    ax.plot([r["step"] for r in rows], [r[name] for r in rows], color=colour, label=label, marker=marker)


def _iteration_marks(ax: Any, rows: Sequence[Row], *, name: bool) -> None:
    """A line where each training but the first starts, and its name above."""
    for policy, mine in _by_policy(rows):
        start = mine[0]["step"] - mine[0]["step_in_training"]
        if start:
            ax.axvline(start, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        if name:
            at = {"xycoords": ("data", "axes fraction"), "xytext": (4, 3), "textcoords": "offset points"}
            ax.annotate(policy, (start, 1), size=7.5, **at)
