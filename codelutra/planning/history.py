"""What earlier work in a store tells of a model: how fast it sampled and trained here, how long its answers are.

Read from the facts of artifacts. Which model an artifact is of is known by its inputs: a policy that was trained in this
store leads back to the model it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from codelutra.store.artifacts import Manifest
from codelutra.store.files import UNREADABLE

MOST = 400  # artifacts of a stage that are looked at, the newest: a plan is to take a second, not a minute
SAME_SESSION = 1.5  # seconds between the end of a shard and the beginning of the next
Facts = dict[str, Any]


@dataclass(frozen=True)
class Sampled:
    """Seconds of an engine: to start, a prompt, a token of an answer."""

    start: float
    prompt: float
    token: float


@dataclass(frozen=True)
class Trained:
    """Seconds of a trainer beside its steps; tokens a second of its steps, and of the pass for the reference model."""

    start: float
    rate: float
    reference_rate: float
    peak: float = 0.0
    """Bytes."""


@dataclass(frozen=True)
class History:
    """What a store tells; None where it does not."""

    sampled: Sampled | None = None
    warm_start: Trained | None = None
    train: Trained | None = None
    answer: float | None = None
    """Mean tokens of a sample at temperature, of this suite."""
    base_answer: float | None = None
    """Mean tokens of a greedy answer of the model as it comes."""
    paired: float | None = None
    """Pairs of an iteration over `pairs.per_problem` times the train problems."""
    programs: float | None = None
    """Programs a second."""


def read_history(
    store: Path, fingerprint: str, suite: str, dtype: str, objective: str, method: str, thought: int = 0
) -> History:
    """Of the model `fingerprint` in `store`; lengths and pairs of the suite with this version, speeds of all. `thought`:
    tokens that a thought may have; lengths are of answers that had the same."""
    if not store.is_dir():
        return History()
    trained = {stage: list(_manifests(store / stage)) for stage in ("warm-start", "train")}
    root = {m["digest"]: m["inputs"].get("policy", "") for stage in trained.values() for m in stage}
    mine = {digest for digest in root if _root(digest, root) == fingerprint} | {fingerprint}
    shards = [m for m in _manifests(store / "sample") if m["inputs"].get("policy") in mine]
    shards = [m for m in shards if m["config"].get("dtype") == dtype]
    outcomes = list(_manifests(store / "execute"))
    here = {m["inputs"].get("samples") for m in outcomes if m["config"].get("suite_version") == suite}
    asked = [m for m in shards if m["digest"] in here and (m["config"].get("thinking_tokens") or 0) == thought]
    drawn = [m for m in asked if not m["config"].get("greedy")]
    base = [m for m in asked if m["config"].get("greedy") and m["inputs"]["policy"] == fingerprint]
    alike = [m for m in trained["train"] if (m["config"].get("objective"), m["config"].get("method")) == (objective, method)]
    return History(
        sampled=_sampled(shards),
        warm_start=_trained([m for m in trained["warm-start"] if m["inputs"].get("policy") in mine]),
        train=_trained([m for m in alike if m["inputs"].get("policy") in mine]),
        answer=_length(drawn),
        base_answer=_length(base),
        paired=_paired([m for m in _manifests(store / "pairs") if m["config"].get("suite") == suite]),
        programs=_programs(outcomes),
    )


def _manifests(stage: Path) -> Iterator[Manifest]:
    """Of the newest artifacts of a stage; those that cannot be read are left out: this is no place to mend them."""
    folders = [p for p in stage.iterdir() if p.is_dir()] if stage.is_dir() else []
    for folder in sorted(folders, key=lambda p: (-p.stat().st_mtime_ns, p.name))[:MOST]:
        try:
            told = json.loads((folder / "manifest.json").read_bytes())
            kinds = {"inputs": dict, "config": dict, "facts": dict, "digest": str, "made_at": str}
            if all(isinstance(told[name], kind) for name, kind in kinds.items()):
                yield told
        except UNREADABLE:
            continue


def _root(digest: str, policy_of: dict[str, str]) -> str:
    """The model that a policy was made from, over any number of trainings."""
    seen = set[str]()
    while digest in policy_of and digest not in seen:
        seen.add(digest)
        digest = policy_of[digest]
    return digest


def _numbers(facts: Facts, *names: str) -> list[float] | None:
    values = [float(v) for name in names if isinstance(v := facts.get(name), int | float) and v >= 0]
    return values if len(values) == len(names) else None


def _sampled(shards: Sequence[Manifest]) -> Sampled | None:
    """Shards of one engine overlap, so what is fitted are its whole sessions: a start, prompts, tokens."""
    known = [(m, n) for m in shards if (n := _numbers(m["facts"], "rows", "tokens", "seconds"))]
    start, prompt, token = fit(_sessions(known))
    return Sampled(start, prompt, token) if token else None


def _sessions(shards: Sequence[tuple[Manifest, list[float]]]) -> list[tuple[float, float, float]]:
    """(prompts, tokens, seconds) of each start of an engine. A shard that began when the one before it ended, of the same
    policy, is of the same session."""
    sessions = dict[tuple[str, float], list[float]]()
    ended = dict[str, tuple[float, tuple[str, float]]]()
    for m, (rows, tokens, seconds) in sorted(shards, key=lambda item: _when(item[0])):
        policy, when = m["inputs"]["policy"], _when(m)
        before, session = ended.get(policy, (0.0, ("", 0.0)))
        if abs(when - seconds - before) > SAME_SESSION:
            session = (policy, when)
        ended[policy] = when, session
        prompts = rows / max(1, m["config"].get("k") or 1)
        told = sessions.setdefault(session, [0.0, 0.0, 0.0])
        told[:] = [a + b for a, b in zip(told, (prompts, tokens, seconds), strict=True)]
    return [(p, t, s) for p, t, s in sessions.values() if s > 0]


def _when(m: Manifest) -> float:
    try:
        return datetime.fromisoformat(m["made_at"]).timestamp()
    except ValueError:
        return 0.0


def fit(sessions: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Seconds to start, a prompt, and a token from sessions of (prompts, tokens, seconds): least squares of the relative
    errors, none below 0. What so few sessions do not tell apart is told of the tokens."""
    known = np.array([(1.0, p, t) for p, t, _ in sessions]).reshape(-1, 3)
    seconds = np.array([s for *_, s in sessions])
    kept = [0, 1, 2] if len(sessions) > 2 else [0, 2] if len(sessions) == 2 else [2]
    while kept and len(sessions):
        scaled = known[:, kept] / seconds[:, None]
        found, _, rank, _ = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)
        wrong = [i for i, value in zip(kept, found, strict=True) if value < 0]
        if not wrong and rank == len(kept):
            values = dict(zip(kept, (float(v) for v in found), strict=True))
            return values.get(0, 0.0), values.get(1, 0.0), values.get(2, 0.0)
        kept.remove(wrong[0] if wrong else 1 if 1 in kept else kept[0])
    return 0.0, 0.0, 0.0


def _trained(runs: Sequence[Manifest]) -> Trained | None:
    """Medians over trainings that were not resumed."""
    found, peaks = [], []
    for m in runs:
        facts = m["facts"]
        known = _numbers(facts, "tokens", "tokens_per_second", "seconds", "reference_seconds", "steps", "planned_steps")
        if not known or facts.get("resumed_from_step") or not known[0] * known[1]:
            continue
        tokens, rate, seconds, reference, steps, planned = known
        epochs = m["config"].get("epochs") or 1
        one_pass = tokens / max(1e-9, epochs * steps / max(1.0, planned))
        found.append((max(0.0, seconds - reference - tokens / rate), rate, one_pass / reference if reference else 0.0))
        peaks.append(float(facts.get("peak_memory_gib") or 0) * 2**30)
    if not found:
        return None
    start, rate, reference_rate = (median(values) for values in zip(*found, strict=True))
    return Trained(start, rate, reference_rate, max(peaks))


def _length(shards: Sequence[Manifest]) -> float | None:
    counts = [n for m in shards if (n := _numbers(m["facts"], "rows", "tokens"))]
    rows = sum(r for r, _ in counts)
    return sum(t for _, t in counts) / rows if rows else None


def _paired(made: Sequence[Manifest]) -> float | None:
    shares = []
    for m in made:
        known, per_problem = _numbers(m["facts"], "pairs", "problems"), m["config"].get("per_problem")
        if known and known[1] and isinstance(per_problem, int) and per_problem > 0:
            shares.append(known[0] / known[1] / per_problem)
    return median(shares) if shares else None


def _programs(outcomes: Sequence[Manifest]) -> float | None:
    known = [n for m in outcomes if (n := _numbers(m["facts"], "rows", "busy_seconds"))]
    seconds = sum(s for _, s in known)
    return sum(r for r, _ in known) / seconds if seconds else None
