"""The model a run starts from, and what an adapter belongs to that is trained over it or over a later policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from codelutra import models
from codelutra.config import TrainSection, WarmStartSection
from codelutra.pipeline.run import Policy, Run
from codelutra.results.load import chosen_weights
from codelutra.store.paths import cache_dir
from codelutra.training.bases import Base, refuse_quantised


def base_policy(run: Run) -> Policy:
    """The model a run starts from, on disk. Raises UserError for quantised weights that are to be trained."""
    model = model_of(run, run.config.model)
    if run.config.warm_start or run.config.iterations:
        refuse_quantised(model.path)
    return Policy(_label(run), str(model.path), model.fingerprint)


def model_of(run: Run, reference: str) -> models.Model:
    def tell(text: str) -> None:
        run.dir.ledger({"event": "note", "text": text})

    chosen = partial(chosen_weights, run.home / "runs")
    return models.resolve(reference, cache_dir() / "models", policy_of_run=chosen, progress=tell)


def adapter_base(run: Run, policy: Policy, section: TrainSection | WarmStartSection) -> Base | None:
    """What the adapter belongs to that `section` trains over `policy`; None where it trains all weights."""
    if section.method == "full":
        return None
    if policy.label == _label(run):
        return Base(Path(policy.path), run.config.model, policy.digest)
    if isinstance(section, TrainSection) and section.adapter == "continued":
        start = base_policy(run)
        return Base(Path(start.path), run.config.model, start.digest)
    return Base(Path(policy.path), policy.label, policy.digest)


def _label(run: Run) -> str:
    return "base" if run.config.warm_start else "policy-0"
