"""What training looked like, step by step: the lines of training.jsonl, one figure each way of looking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from codelutra.reporting.figures.drawing import GREEN, INK, PURPLE, SERIES, VERMILION, Figure, Row
from codelutra.reporting.figures.marks import grouped, legend_below

Training = Sequence[tuple[str, Sequence[Row]]]  # (title of the policy, or of a run; lines of its training.jsonl)

_TRAINED = {"chosen": GREEN, "rejected": VERMILION}
_WARM_STARTED = "policy 0"  # the only way in which policy 0 is trained
_SMOOTHED = 5  # steps: the mean of one batch is noise


def log_probability_figure(training: Training) -> Figure | None:
    """Chosen and rejected log-probabilities by step, their drift from policy t-1 and the KL to it, iterations end to end."""
    rows = list(_end_to_end(preferring(training), [*_sides("log_prob", "drift"), "kl"]))
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
            for policy, mine in grouped(rows, "policy").items():
                for name, colour in lines.items():
                    said = name.split("_")[0] if policy == rows[0]["policy"] and what == "log_prob" else None
                    _line(ax, mine, name, colour, said)
            _iteration_marks(ax, rows, name=ax is axes[0])
            ax.set_ylabel(label)
        axes[1].axhline(0, color=INK, linewidth=0.8)
        axes[2].set_ylim(0, None)
        axes[2].set_xlabel("optimizer step, iterations end to end")
        legend_below(figure, 2)

    caption = (
        "Mean summed log-probability of the answers in a step's batch, how far it moved from the reference model, policy "
        "t-1, and the divergence from it. Plain DPO is known to push both kinds down; the SFT term is to hold the chosen up."
    )
    return Figure("log-probability", "Chosen and rejected answers while training", caption, rows, draw, (5.4, 5.0))


def loss_figure(training: Training) -> Figure | None:
    """Training loss by step: the warm start's in a panel of its own, for it is another loss on another scale."""
    kinds = {
        "warm start (SFT)": [t for t in training if t[0] == _WARM_STARTED],
        "iterations": [t for t in training if t[0] != _WARM_STARTED],
    }
    rows = [{"training": kind, **row} for kind, mine in kinds.items() for row in _end_to_end(mine, ["loss"])]
    if not rows:
        return None
    panels = grouped(rows, "training")

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        colours = iter(cycle(SERIES))
        for ax, (kind, shown) in zip(axes, panels.items(), strict=True):
            for policy, mine in grouped(shown, "policy").items():
                _line(ax, mine, "loss", next(colours), policy)
            _iteration_marks(ax, shown, name=False)
            ax.set_title(kind, size=8.5, weight="normal", pad=4)
            ax.set_xlabel("optimizer step")
            ax.set_ylim(min(0, *(r["loss"] for r in shown)), None)  # GRPO's is below 0 where right answers became likelier
            ax.legend(loc="best")
        axes[0].set_ylabel("loss (nats)")

    parts = {
        "warm start (SFT)": "Loss of the warm start: mean over answer tokens.",
        "iterations": "Loss of an iteration: that of its objective, trainings end to end.",
    }
    caption = " ".join(parts[kind] for kind in panels)
    return Figure("loss", "Training loss", caption, rows, draw, (5.4, 3.2))


def log_probabilities_compared(logs: Training) -> Figure | None:
    """Chosen and rejected log-probabilities by step under several trainings of the same policy on the same pairs: with and
    without the SFT term, at several β, …  Trainings without pairs are left out; None where none is left."""
    rows = [
        {"training": label, "step": line["step"], **{name: line[name] for name in _sides("log_prob", "drift")}}
        for label, lines in preferring(logs)
        for line in lines
    ]
    if not rows:
        return None

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, side in zip(axes, _TRAINED, strict=True):
            for (label, mine), colour in zip(grouped(rows, "training").items(), cycle(SERIES), strict=False):
                steps, values = [r["step"] for r in mine], [r[f"{side}_drift"] for r in mine]
                ax.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
                ax.plot(steps, _running_mean(values, _SMOOTHED), color=colour, label=label)
            ax.axhline(0, color=INK, linewidth=0.8)
            ax.set_title(side, size=8.5, weight="normal", pad=4)
            ax.set_xlabel("optimizer step")
        axes[0].set_ylabel("drift of the log-probability\nfrom policy t-1 (nats an answer)")
        legend_below(figure, 3)

    caption = (
        "How far the summed log-probability of chosen and of rejected answers moved from policy t-1's; the data hold the "
        f"log-probabilities as well. Thin: each step's batch; thick: mean over {_SMOOTHED} steps. Below 0 an answer became "
        "less likely: plain DPO is known to do that to the chosen ones too, and the SFT term is to hold them up."
    )
    return Figure("log-probability-compared", "Chosen and rejected answers, by training", caption, rows, draw, (5.4, 3.4))


def preferring(training: Training) -> Training:
    """The trainings on pairs, with their steps that had some."""
    paired = [(title, [line for line in lines if "chosen_log_prob" in line]) for title, lines in training]
    return [(title, lines) for title, lines in paired if lines]


def _end_to_end(training: Training, names: Sequence[str]) -> Iterator[Row]:
    """Rows of several trainings on one axis of steps."""
    offset = 0
    for policy, lines in training:
        for line in lines:
            at = {"policy": policy, "step": offset + line["step"], "step_in_training": line["step"]}
            yield at | {name: line[name] for name in names}
        offset += lines[-1]["step"]


def _line(ax: Any, rows: Sequence[Row], name: str, colour: str, label: str | None) -> None:
    marker = "." if len(rows) < 3 else None
    ax.plot([r["step"] for r in rows], [r[name] for r in rows], color=colour, label=label, marker=marker)


def _iteration_marks(ax: Any, rows: Sequence[Row], *, name: bool) -> None:
    """A line where each training but the first starts, and its name above."""
    for policy, mine in grouped(rows, "policy").items():
        start = mine[0]["step"] - mine[0]["step_in_training"]
        if start:
            ax.axvline(start, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        if name:
            at = {"xycoords": ("data", "axes fraction"), "xytext": (4, 3), "textcoords": "offset points"}
            ax.annotate(policy, (start, 1), size=7.5, **at)


def _sides(*what: str) -> list[str]:
    return [f"{side}_{w}" for side in _TRAINED for w in what]


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Over the values up to each, at most `window` of them."""
    means = []
    for i in range(len(values)):
        recent = values[max(0, i + 1 - window) : i + 1]
        means.append(sum(recent) / len(recent))
    return means
