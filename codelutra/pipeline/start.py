"""The model that a run starts from, and the base model of an adapter that is trained over it or over a later policy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from codelutra.addresses import ApiModel
from codelutra.completions.thoughts import Thought
from codelutra.config import TrainSection, WarmStartSection
from codelutra.pipeline.fetched import fetched, source_of
from codelutra.pipeline.run import Policy, Run
from codelutra.policies import load_tokenizer
from codelutra.prompts import thought
from codelutra.training.bases import Base, refuse_quantised


def base_policy(run: Run) -> Policy:
    """The model a run starts from, on disk. Raises UserError for quantised weights that are to be trained, and for a model
    that is to think and cannot."""
    if api := ApiModel.of(run.config.model):
        return Policy("policy-0", run.config.model, api.digest)
    model = fetched(run, run.config.model)
    if run.config.prompt.thinking:
        _require_thoughts(model.path)
    if run.config.warm_start or run.config.iterations:
        refuse_quantised(model.path)
    return Policy(_label(run), str(model.path), model.fingerprint)


def adapter_base(run: Run, policy: Policy, section: TrainSection | WarmStartSection) -> Base | None:
    """What the adapter belongs to that `section` trains over `policy`; None where it trains all weights."""
    if section.method == "full":
        return None
    if policy.label == _label(run):
        return Base(Path(policy.path), _reference(run), policy.digest)
    if isinstance(section, TrainSection) and section.adapter == "continued":
        start = base_policy(run)
        return Base(Path(start.path), _reference(run), start.digest)
    return Base(Path(policy.path), policy.label, policy.digest)


def thought_marks(run: Run) -> Thought | None:
    """How the run's policies mark what they think; None where they do not, or where that is part of their answers."""
    start = Path(base_policy(run).path) if run.config.prompt.thinking and not ApiModel.of(run.config.model) else None
    return thought(load_tokenizer(start)) if start else None


def _require_thoughts(policy: Path) -> None:
    """Raise UserError where the model cannot think on demand: now, not when the engine has loaded it."""
    from transformers import PreTrainedTokenizerFast  # AutoTokenizer would import torch as well: seconds

    with suppress(OSError, ValueError):  # what is wrong with it, whoever loads it tells
        thought(PreTrainedTokenizerFast.from_pretrained(policy))


def _label(run: Run) -> str:
    return "base" if run.config.warm_start else "policy-0"


def _reference(run: Run) -> str:
    """The model of the config; of one given by name, where it was taken from: a name has other weights elsewhere."""
    return source_of(run.dir, run.config.model) or run.config.model
