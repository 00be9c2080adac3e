"""The sections of a config but for training: one a stage. The docstring below each field says what its value trades."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codelutra.addresses import Address
from codelutra.config.section import ADDED, MANY, SAME_RESULT, TOKENS, Section


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
    train: int | None = Field(None, ge=2, le=MANY)
    """Largest number of train problems (a seeded, stratified choice); none means all."""
    dev: int | None = Field(None, ge=1, le=MANY)
    """Largest number of dev problems. Fewer are quicker to score and give wider intervals."""
    test: int | None = Field(None, ge=0, le=MANY)
    """Largest number of test problems. They are scored once, with the chosen policy."""
    seed: int = Field(0, ge=0)
    """Seed of the splits and of the choices above."""
    splits_of: tuple[str, ...] = ()
    """custom: `problems.parquet` files of earlier runs, whose problems keep their split. `codelutra retrain` sets it."""
    references: int | None = Field(None, ge=0, le=MANY)
    """Number of train problems whose reference the model may see (warm start, `sft`, chosen answers, worked examples); the
    other references only judge. None shows all. Use it when tests are cheaper to write than solutions."""
    shots: int = Field(0, ge=0, le=64)
    """Worked examples in every prompt: train problems of the same group, with their references."""
    generated_cases: int = Field(0, ge=0, le=100)
    """Python functions: add up to this many cases a problem, judged by its reference. Fewer wrong programs pass; now and
    then a right one fails, where the problem leaves open what an input should give."""
    copies: Annotated[int, ADDED] = Field(0, ge=0, le=16)
    """SQL: judge train samples on this many perturbed copies of each database as well, and learn nothing from those that are
    right on the database alone. More copies catch more lucky answers and run more queries; 6 is a good number. Scores stay
    by the database itself."""
    shown_schema: Annotated[Literal["full", "linked"], ADDED] = "full"
    """SQL: what prompts show of a schema. full: all of it. linked: the tables and columns that the question seems to need,
    by their names, values and foreign keys. That saves tokens where schemas are wide; what is left out no answer can use.
    `codelutra check` says how much of what references read is shown."""
    sample_rows: Annotated[int, ADDED] = Field(0, ge=0, le=20)
    """SQL: rows of each table that prompts show below its columns. They tell how values are written, and cost tokens:
    `codelutra check` counts the prompts that are too long."""
    value_hints: Annotated[bool, ADDED] = False
    """SQL: name in the prompt the values that the question mentions, with their columns: `city.name = 'Paris'`. Few tokens;
    helps where a question says a value and not its column. At most eight, of texts up to 60 characters."""
    proposals: str | None = None
    """A model (written like `model`) that proposes cases before mutation does. A small one adds little to mutation alone."""

    @model_validator(mode="after")
    def _fits(self) -> SuiteSection:
        if self.splits_of and self.name != "custom":
            raise ValueError(f"splits_of is for suite custom; {self.name} has splits of its own")
        if self.proposals and not self.generated_cases:
            raise ValueError(f"proposals {self.proposals!r}: generated_cases is 0; set it to 20, or leave proposals out")
        return self


class PromptSection(Section):
    thinking: bool = False
    """Let a thinking model think before it answers. It solves harder problems and writes many times the tokens. References
    have no thoughts, so `warm_start` and `sft` teach it not to think; `rft` and pairs keep its own thoughts."""
    thinking_tokens: int = Field(512, ge=1, le=TOKENS)
    """Tokens of a thought, beside `sample.max_tokens` for the answer. The engine ends a longer thought there, and the model
    has to answer. More solve more, and cost time and memory."""

    @property
    def budget(self) -> int:
        """Tokens that a thought may have; 0 where nothing is thought."""
        return self.thinking_tokens if self.thinking else 0


class EngineSection(Section):
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the sampler's weights; training has its own. auto: what this machine multiplies (hardware.py)."""
    max_model_len: int = Field(1024, ge=64, le=TOKENS)
    """Tokens of prompt and completion together. Longer prompts are dropped with a reason, never cut."""
    gpu_memory: Annotated[float, SAME_RESULT] = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take. More memory decodes more sequences at once."""
    cache_gib: Annotated[float, SAME_RESULT] = Field(2.0, gt=0, le=16384)
    """CPU only: GiB of key/value cache. A larger cache decodes more sequences at once."""
    eager: Annotated[bool | None, SAME_RESULT] = None
    """Skip compilation. None: eager on a CPU (compiling takes a minute and gains 5-10 %), compiled on a GPU."""
    tensor_parallel: Annotated[int, SAME_RESULT] = Field(1, ge=1, le=1024)
    """GPUs that one engine is spread over, for models that do not fit one."""
    replicas: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=1024)
    """Engines that share the shards, each on `tensor_parallel` GPUs of its own. None: as many as the visible GPUs allow, and
    one on a CPU, where each more takes its own memory and the same cores."""
    max_batch: Annotated[int, SAME_RESULT] = Field(256, ge=1, le=65536)
    """Sequences decoded at once. More are faster until memory runs out."""


class SampleSection(Section):
    samples_per_problem: int = Field(16, ge=1, le=1024)
    """K. More samples find rarer right answers; sampling time grows in proportion."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Higher gives more varied answers and fewer right ones."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling: drops the unlikely tail, which is mostly nonsense at high temperature. 1 turns it off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Drops tokens below this share of the likeliest one, e.g. 0.05 with top_p 1. On a CPU a third faster than top_p."""
    max_tokens: int = Field(256, ge=1, le=TOKENS)
    """Tokens of a completion. A longer one is cut off there and scored as it is."""
    more: Annotated[int, ADDED] = Field(0, ge=0, le=1024)
    """Draw this many answers more to each train problem that none of the first solved. It costs another start of the engine;
    a right answer there is the rarest lesson. What was solved at once gets no more."""
    more_temperature: Annotated[float, ADDED] = Field(1.2, gt=0, le=2)
    """Temperature of those: above the first, because a policy that repeats a wrong answer does so at its own temperature."""
    shard_problems: int = Field(100, ge=1, le=MANY)
    """Problems in a shard. A kill loses at most one shard; execution starts when the first shard is sampled."""
    endpoints: Annotated[tuple[Address, ...], SAME_RESULT] = ()
    """URLs of OpenAI-compatible servers of the *current* policy (the run stops at any other); none: vLLM here, no server."""
    follow_minutes: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=10_000)
    """Above 0 each new policy is sent to these servers by vLLM's API, or waited for so long while they are started on it. A
    server with VLLM_SERVER_DEV_MODE is given other weights that way, so it should be the run's alone."""


class ApiSection(Section):
    """For `model: api:URL#NAME`."""

    connections: Annotated[int, SAME_RESULT] = Field(8, ge=1, le=256)
    """Requests to the server at once. More are faster until its rate limit answers 429."""
    price_in: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=1e9)
    """Price of a million tokens of prompts, in whatever currency: tables then show what the answers cost."""
    price_out: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=1e9)
    """Price of a million tokens of answers."""


class ExecuteSection(Section):
    workers: Annotated[int, SAME_RESULT] = Field(2, ge=1, le=1024)
    """Containers at the same time. One a core is best."""
    timeout_seconds: float = Field(5.0, gt=0, le=3600)
    """Time limit of one program; of each of its tests, where it reads stdin. A timeout counts as the model's mistake."""
    memory_mb: int = Field(512, ge=64, le=2**20)
    """Memory limit of a container, swap included."""
    max_infra_error: Annotated[float, SAME_RESULT] = Field(0.02, ge=0, le=1)
    """Largest share of outcomes that may be infrastructure failures (infra_error); above it the iteration stops."""
    runtime: str | None = None
    """Container runtime, e.g. `runsc` for gVisor; none means Docker's default."""


class ClusterSection(Section):
    """A Ray cluster that exists already. What it is changes no result and no key of the store."""

    address: Annotated[str, SAME_RESULT, Field(pattern=r"^(auto|[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5})$")]
    """HOST:PORT as `ray start --head` tells it, or `auto`: the cluster that this machine is a node of."""
    engines: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Engines that share the shards, wherever Ray has room; None: as many as fit. Fewer leave room for other runs."""
    cpus: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Cores that an engine or a training process takes on a cluster without GPUs. None: each takes a GPU."""
    executors: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Nodes that execute programs, each with `execute.workers` containers. None: all that offer the resource `docker`."""


class PairsSection(Section):
    per_problem: int = Field(4, ge=1, le=4096)
    """Largest number of pairs a problem. More pairs give the same few problems more weight."""
    order: Literal["round-robin", "random", "nearest", "farthest", "error-balanced"] = "round-robin"
    """How chosen and rejected are matched. nearest/farthest: by edit distance. error-balanced: the statuses take turns."""
    references: bool = True
    """Where no sample is correct, take the reference as the chosen answer. Off-policy, but covers hard problems."""
    timeouts: bool = True
    """Allow timeouts as rejected answers."""
    accumulate: bool = False
    """Also pair the outcomes of earlier iterations: more data, but older and more off-policy."""


class SelectSection(Section):
    patience: int = Field(1, ge=0, le=1000)
    """Stop after this many iterations in a row without a new best on dev. 2 finds more, for about one iteration more."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Significance level of the paired tests in the report."""
    test: bool = True
    """Score the chosen policy on the test split at the end. Turn it off while you try settings: use test once."""
    held_out: Annotated[int, ADDED] = Field(0, ge=0, le=1024)
    """Draw this many answers to each dev problem from the start policy, pair right and wrong ones, and tell how likely both
    sides are under every policy. Nobody is trained on them: they show what a training does to answers it has not seen, and
    sooner than pass@1. Costs about as much as sampling dev that often."""
    verifier: Annotated[str | None, ADDED] = None
    """A model (written like `model`), trained by DPO on right and wrong programs, that ranks the answers drawn to each test
    problem (`samples`): its choice is scored beside the vote."""
    samples: int = Field(0, ge=0, le=1024)
    """Also draw this many answers to each test problem at sample.temperature: their mean has half the noise of one greedy
    answer, and their vote is self-consistency. 8 take about as long as the greedy answers of eight splits."""
