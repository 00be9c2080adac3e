"""The methods of `codelutra compare`: what a user could do instead of codelutra, each as overrides of one config.

All start from the same model and (but for `base`) the same warm start, and share through the store whatever they have in
common: the warm start, its samples, their execution.
"""

from __future__ import annotations

from dataclasses import dataclass

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.plan import Arm, Overrides

_NO_TRAINING: Overrides = ("iterations=0", "warm_start=null")


@dataclass(frozen=True)
class Method:
    what: str
    overrides: Overrides
    """What defines it: wins over the user's `--set`."""
    unless_set: Overrides = ()
    """What suits it: wins over the config, not over `--set`."""
    votes: bool = False
    """Its number is that of the answer most samples give, not of the greedy one."""

    @property
    def trained(self) -> bool:
        """Whether iterations train it, so that it has a rate and passes of its own (`tuning.py`)."""
        return not any(text.startswith("iterations=") for text in self.overrides)


_OPEN_RATE: Overrides = ("train.learning_rate=null",)  # by objective and size (training/rates.py)

METHODS = {
    "base": Method("the model as it comes", _NO_TRAINING),
    "base-few-shot": Method("the model as it comes, with worked examples in the prompt", (*_NO_TRAINING, "suite.shots=3")),
    "self-consistency": Method(
        "the model as it comes; of 16 samples a problem the result that most programs give",
        _NO_TRAINING,
        unless_set=("select.samples=16",),
        votes=True,
    ),
    "warm-start": Method("SFT on the references, once", ("iterations=0",)),
    "sft": Method("SFT on the references, again in every iteration", ("train.objective=sft",)),
    "rft": Method("SFT on own right answers alone (STaR, 2203.14465)", ("train.objective=rft", "train.sft_on=chosen")),
    "rft-references": Method(
        "SFT on references and own right answers (RFT, Yuan et al. 2308.01825)",
        ("train.objective=rft", "train.sft_on=right+references"),
    ),
    "dpo": Method(
        "DPO on the same pairs, no SFT term (λ = 0), at a rate of its own",
        ("train.sft_weight=0", "train.sft_on=chosen", "train.replay_references=false"),
        unless_set=_OPEN_RATE,
    ),
    "control": Method("codelutra without its DPO term: the same answers imitated, the same steps", ("train.dpo_weight=0",)),
    "codelutra": Method("DPO + λ·SFT, as the config says", ()),
    "codelutra-no-reference": Method("codelutra, with chosen answers only from own samples", ("pairs.references=false",)),
    "codelutra-replay": Method(
        "codelutra, with all references in the SFT term", ("train.replay_references=true", "train.sft_on=chosen")
    ),
    "codelutra-right": Method(
        "codelutra, with the SFT term on references and all own right answers", ("train.sft_on=right+references",)
    ),
    "grpo": Method("GRPO on all answers, right and wrong (Shao et al. 2402.03300)", ("train.objective=grpo",)),
}


def chosen_methods(names: str) -> list[str]:
    """`names`: comma-separated, or "all"; each once. Raises UserError for one nobody knows."""
    wanted = list(METHODS) if names == "all" else list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    unknown = [n for n in wanted if n not in METHODS]
    if unknown or not wanted:
        raise UserError(f"unknown method {', '.join(unknown) or names!r}; known: {', '.join(METHODS)}, or `all`")
    return wanted


def chosen_seeds(text: str) -> list[int]:
    """`text`: comma-separated integers; each once, so that no run counts as two seeds. Raises UserError for other text."""
    try:
        return list(dict.fromkeys(int(s) for s in text.split(",")))
    except ValueError as e:
        raise UserError(f"--seeds {text!r}: write whole numbers with commas between, e.g. --seeds 0,1,2") from e


def arm(source: str, overrides: Overrides, method: str, seed: int, tuned: Overrides = ()) -> Arm:
    """The run of one method and seed, with the settings that were `tuned` for it. Where a method is defined by a value
    (λ = 0 of `dpo`), it wins over `overrides`; what only suits it (the learning rate of `dpo`) does not. Raises ConfigError,
    and UserError where nothing is left of the method."""
    name = load_config(source, overrides).name
    made = METHODS[method]
    named = f"name={name}-{method}{'-tuned' if tuned else ''}-s{seed}"
    more = (*made.unless_set, *tuned, *overrides, *made.overrides, f"seed={seed}", named)
    planned = Arm.of(method, source, more, seed)
    if made.votes and not planned.config.select.samples:
        raise UserError(f"{method} needs samples to vote on, and select.samples is 0; leave it out, or set it to 16")
    return planned
