"""Settings that nothing in a run reads, such as `grpo.kl` where the objective is another.

They are told when a run starts, and not refused: a sweep over objectives or methods lays its own over a config that has
settings for several. What `iterations: 0` leaves unread is not told; that setting says itself that nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from codelutra.addresses import ApiModel
from codelutra.config.group import GrpoSection
from codelutra.config.run import RunConfig
from codelutra.config.section import Section
from codelutra.config.stages import ApiSection
from codelutra.config.training import BETAS

_PAIRS_ALONE = ("pairs.per_problem", "pairs.order", "pairs.references", "pairs.timeouts")
_PREFERENCE_ALONE = (
    *(f"train.{name}" for name in ("beta", "dpo_weight", "loss_type", "sft_weight", "sft_norm", "stop_on_drift")),
    *("train.min_chosen_drift", "train.min_chosen_drift_per_token"),
)
_SFT_ALONE = ("train.sft_norm", "train.sft_on", "train.sft_earlier", "train.replay_references")
_OF_SAMPLES = ("pairs.accumulate", "train.start", "train.sft_on", "train.sft_earlier", "train.replay_references")
_DRAWING = ("sample.temperature", "sample.top_p", "sample.min_p")
UNREAD = {
    "preference": (),
    "rft": (*_PAIRS_ALONE, *_PREFERENCE_ALONE),
    "sft": (*_PAIRS_ALONE, *_PREFERENCE_ALONE, *_OF_SAMPLES, "sample.samples_per_problem", "sample.more"),
    "grpo": (*_PAIRS_ALONE, *_PREFERENCE_ALONE, *_OF_SAMPLES),
}
READ_BY = {  # of the suite section, what only some suites read
    "protocol": ("spider", "bird"),
    "evidence": ("bird",),
    "descriptions": ("bird",),
    "libraries": ("ds1000",),
    "databases": ("spider", "bird", "starter-sql", "custom"),
    "without": ("spider", "bird", "starter-sql", "custom"),
    "outside": ("custom",),
}


def idle(config: RunConfig) -> dict[str, str]:
    """Dotted names of settings that differ from their default and that this run does not read, each with the reason."""
    found = dict[str, str]()
    for why, names in _unread(config):
        for name in names:
            if _differs(config, name):
                found.setdefault(name, why)
    return found


def idle_lines(config: RunConfig) -> list[str]:
    """The same in sentences, one a reason."""
    by_reason = groupby(sorted(idle(config).items(), key=lambda item: item[1]), key=lambda item: item[1])
    return [f"{', '.join(name for name, _ in items)}: no effect, because {why}" for why, items in by_reason]


def unread(config: RunConfig) -> set[str]:
    """Dotted names of all settings that this run does not read, whatever their values."""
    untrained = () if config.iterations else ("pairs", "train", "grpo")
    whole = {f"{section}.{name}" for section in untrained for name in type(getattr(config, section)).model_fields}
    return whole.union(*(names for _, names in _unread(config)))


def _unread(config: RunConfig) -> Iterator[tuple[str, Iterable[str]]]:
    """(reason, names) that go unread, whatever their values."""
    suite, sample, train = config.suite, config.sample, config.train
    yield f"suite.name is {suite.name}", [f"suite.{key}" for key, readers in READ_BY.items() if suite.name not in readers]
    if suite.name.startswith("starter-"):
        yield f"suite.name is {suite.name}", ["suite.path"]
    if not ApiModel.of(config.model):
        yield "model is no api: model", (f"api.{name}" for name in ApiSection.model_fields)
    if not config.prompt.thinking:
        yield "prompt.thinking is false", ["prompt.thinking_tokens"]
    if not sample.endpoints:
        yield "sample.endpoints is empty", ["sample.follow_minutes"]
    if not config.select.test:
        yield "select.test is false", ["select.samples", "select.verifier"]
    if config.warm_start and config.warm_start.method == "full":
        yield "warm_start.method is full", ["warm_start.lora_rank", "warm_start.lora_alpha"]
    if not config.iterations:
        return
    yield f"train.objective is {train.objective}", UNREAD[train.objective]
    if not sample.more or train.objective == "sft":
        yield "sample.more is 0" if not sample.more else "train.objective is sft", ["sample.more_temperature"]
    if train.objective == "sft" and not (config.select.samples or config.select.held_out):
        yield "train.objective is sft", _DRAWING
    if train.objective != "grpo":
        yield f"train.objective is {train.objective}", (f"grpo.{name}" for name in GrpoSection.model_fields)
    elif config.grpo.advantage != "asymre":
        yield f"grpo.advantage is {config.grpo.advantage}", ["grpo.baseline_shift"]
    if train.method == "full":
        yield "train.method is full", ["train.lora_rank", "train.lora_alpha"]
    if config.iterations == 1:
        yield "there is one iteration", ["train.start", "train.sft_earlier", "pairs.accumulate"]
    yield from _terms(config)


def _terms(config: RunConfig) -> Iterator[tuple[str, Iterable[str]]]:
    """The same of the terms of the loss."""
    train = config.train
    if train.objective == "preference":
        if not train.dpo_weight:
            yield "train.dpo_weight is 0", ["train.beta", "train.loss_type"]
        if not train.sft_weight:
            yield "train.sft_weight is 0", _SFT_ALONE
        if train.sft_on == "chosen":
            yield "train.sft_on is chosen", ["train.sft_earlier"]
    elif train.sft_on == "chosen":  # for rft the same as right, which alone takes references with it
        yield "train.sft_on is chosen", ["train.replay_references"]
    if train.sft_on == "right+references":
        yield "train.sft_on is right+references", ["train.replay_references"]
    if config.pairs.accumulate:
        yield "pairs.accumulate is true", ["train.sft_earlier"]


def _differs(config: RunConfig, name: str) -> bool:
    """Whether somebody set it. What other settings decide where nobody says anything is compared with that."""
    section, _, key = name.partition(".")
    values: Section = getattr(config, section)
    value, default = getattr(values, key), type(values).model_fields[key].default
    if name == "train.beta":
        default = BETAS.get(config.train.loss_type, default)
    if name == "pairs.accumulate" and config.train.start == "first":
        default = True
    return bool(value != default)
