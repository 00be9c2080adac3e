"""Numbers as people read them. Every medium (terminal, HTML, Markdown, Prefect's UI) writes an interval the way it is
written here.
"""

from __future__ import annotations

from collections.abc import Mapping

from codelutra.results.summary import PairedTest, PolicyResult, RunSummary, TestResult
from codelutra.scoring.statistics import Estimate, Paired

# What comes of several answers to each test problem, as columns are named.
MEAN_OF_SAMPLES, MAJORITY_VOTE = "mean of samples", "majority vote"


def rate(e: Estimate | TestResult | None) -> str:
    """A share and its 95 % interval in per cent: "47.2% [40.0 – 54.5]"; "" where there is none."""
    return f"{e.value:.1%} {interval(100 * e.low, 100 * e.high)}" if e else ""


def interval(low: float, high: float, *, sign: bool = False) -> str:
    """ "[40.0 – 54.5]"; with `sign` as a difference is written: "[+3.4 – +16.0]"."""
    return f"[{signed(low)} – {signed(high)}]" if sign else f"[{low:.1f} – {high:.1f}]"


def points(value: float, low: float, high: float) -> str:
    """A difference of two shares in percentage points: "+9.7 [+3.4 – +16.0] points"."""
    return f"{signed(100 * value)} {interval(100 * low, 100 * high, sign=True)} points"


def signed(number: float) -> str:
    """With its sign, a real minus."""
    return f"{number:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def paired(test: PairedTest | Paired | None) -> str:
    """Problems gained and lost, and the p of the exact McNemar test: "+20 −10, p = 0.099"."""
    return f"+{test.gained} −{test.lost}, {p_value(test.p)}" if test else ""


def dev_rate(policy: PolicyResult) -> str:
    return rate(policy.dev) if policy.dev.n else ""


def ended(policy: PolicyResult, split: str = "dev") -> str:
    """The share of a policy's answers that end by themselves, "" where it is not known."""
    answers = policy.answers.get(split)
    return f"{answers.ended:.0%}" if answers else ""


def length(policy: PolicyResult, split: str = "dev") -> str:
    """Mean tokens of a policy's answers, how many of them are thoughts, and how much that is more than the policy before."""
    answers = policy.answers.get(split)
    if not answers:
        return ""
    drift, thought = answers.length_drift, answers.thinking
    more = [f"{thought:.0f} thought"] if thought is not None else []
    more += [f"{drift:+.0%}".replace("-", "−")] if drift is not None else []
    return f"{answers.tokens:.0f}" + (f" ({', '.join(more)})" if more else "")


def capital(sentence: str) -> str:
    """With a capital first letter, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def problem_counts(summary: RunSummary) -> str:
    """ "400 train (100 with a reference), 178 dev, 150 test"; splits without problems are left out."""
    p = summary.problems
    told = "" if p.train_with_reference is None else f" ({p.train_with_reference:,} with a reference)"
    counts = {f"train{told}": p.train, "dev": p.dev, "test": p.test}
    return ", ".join(f"{n:,} {split}" for split, n in counts.items() if n)


def who_is_who(summary: RunSummary) -> str:
    """What the names of the run's policies stand for, in one line."""
    labels = [p.label for p in summary.policies]
    start = "the model after the warm start (SFT on references)" if "base" in labels[:1] else "the model as it came"
    said = ["base: the model as it came"] if "base" in labels else []
    said += [f"policy 0: {start}"] if "policy-0" in labels else []
    said += ["policy t: made by iteration t"] if len(labels) > len(said) else []
    return "; ".join(said)


def training(measures: Mapping[str, float] | None, before: str = "  ·  ") -> str:
    """A step of training in words: summed log-probabilities of an answer in nats, in brackets how far they moved from the
    reference model's; "" where there is nothing to say."""
    m = measures or {}
    said = [f"loss {m['loss']:.3f}"] if "loss" in m else []
    said += [f"{side} answers {m[f'{side}_drift']:+.2f}" for side in ("right", "wrong") if f"{side}_drift" in m]
    said += [
        f"{side} {m[f'{side}_log_prob']:.1f} ({m[f'{side}_drift']:+.1f})"
        for side in ("chosen", "rejected")
        if f"{side}_log_prob" in m
    ]
    said += [f"{label} {m[name]:.3f}" for name, label in (("margin", "margin"), ("kl", "KL")) if name in m]
    return (before + "  ".join(said)).replace("-", "−") if said else ""
