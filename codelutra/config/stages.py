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
    layout. The starter suites need none. `$CODELUTRA_DATA` and `~` are expanded. A relative path starts at the config's
    folder, else at the current one."""
    outside: Annotated[tuple[str, ...], SAME_RESULT] = ()
    """custom: files or folders that `suite.yaml` may name outside its own folder. Relative paths start at the config's
    folder."""
    protocol: Literal["cross-domain", "in-domain"] = "cross-domain"
    """Spider and BIRD: how problems are split. cross-domain: the official splits. in-domain: the questions over `databases`,
    split by their SQL."""
    databases: tuple[str, ...] = ()
    """Use only problems over these databases; empty means all. The in-domain protocol requires it."""
    without: tuple[str, ...] = ()
    """Databases held out for another run: no problem over them is used."""
    evidence: bool = True
    """BIRD: put each question's hint into the prompt. Most published numbers use it; questions are much harder without."""
    descriptions: bool = False
    """BIRD: put its column descriptions into the prompt. Helps with cryptic names, costs hundreds of tokens."""
    libraries: tuple[str, ...] = ()
    """DS-1000: use only problems of these libraries; empty means all. For example [Pandas, Numpy]."""
    train: int | None = Field(None, ge=2, le=MANY)
    """Largest number of train problems (a seeded, stratified choice). null: all."""
    dev: int | None = Field(None, ge=1, le=MANY)
    """Largest number of dev problems. Fewer are quicker to score and give wider intervals."""
    test: int | None = Field(None, ge=0, le=MANY)
    """Largest number of test problems. They are scored once, with the chosen policy."""
    seed: int = Field(0, ge=0)
    """Seed of the splits and of the choice of train, dev and test problems."""
    splits_of: tuple[str, ...] = ()
    """custom: `problems.parquet` files of earlier runs, whose problems keep their split. `codelutra retrain` sets it."""
    references: int | None = Field(None, ge=0, le=MANY)
    """Number of train problems whose reference the model may see (warm start, `sft`, chosen answers, worked examples). The
    other references only judge answers. null: all are shown. For tasks where tests are cheaper to write than solutions."""
    shots: int = Field(0, ge=0, le=64)
    """Worked examples in every prompt: train problems of the same group, with their references."""
    generated_cases: int = Field(0, ge=0, le=100)
    """Python functions: add up to this many test cases per problem, with the reference's results. Fewer wrong programs pass.
    Now and then a right one fails, if the problem leaves open what an input should give."""
    copies: Annotated[int, ADDED] = Field(0, ge=0, le=16)
    """SQL: judge train samples on this many changed copies of each database as well. Those that are right on the database
    alone are not learned from. More copies catch more lucky answers and run more queries; 6 is a good number. Scores on dev
    and test use the database itself."""
    shown_schema: Annotated[Literal["full", "linked"], ADDED] = "full"
    """SQL: how much of a schema prompts show. full: all of it. linked: the tables and columns that the question seems to
    need, by their names, values and foreign keys. That saves tokens if schemas are wide, but no answer can use what is left
    out. `codelutra check` says how much of what references read is shown."""
    sample_rows: Annotated[int, ADDED] = Field(0, ge=0, le=20)
    """SQL: number of rows of each table that prompts show below its columns. They tell how values are written, and cost
    tokens: `codelutra check` counts the prompts that are too long."""
    value_hints: Annotated[bool, ADDED] = False
    """SQL: prompts name the values that the question mentions, with their columns: `city.name = 'Paris'`. That costs few
    tokens and helps if a question names a value but not its column. At most eight, of texts up to 60 characters."""
    proposals: str | None = None
    """A model (written like `model`) that proposes further calls for `generated_cases`. A small one adds little."""

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
    have no thoughts, so `warm_start` and `sft` teach it not to think. `rft` and pairs keep its own thoughts."""
    thinking_tokens: int = Field(512, ge=1, le=TOKENS)
    """Largest number of tokens of a thought, beside `sample.max_tokens` for the answer. The engine ends a longer thought
    there, and the model has to answer. More tokens solve more, and cost time and memory."""

    @property
    def budget(self) -> int:
        """Tokens that a thought may have; 0 where nothing is thought."""
        return self.thinking_tokens if self.thinking else 0


class EngineSection(Section):
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the sampler's weights; training has its own. auto: bfloat16 if the hardware supports it, else float16
    on a GPU and float32 on a CPU."""
    max_model_len: int = Field(1024, ge=64, le=TOKENS)
    """Largest number of tokens of prompt and answer together. Problems with longer prompts are left out and counted; prompts
    are never cut."""
    gpu_memory: Annotated[float, SAME_RESULT] = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take. More memory decodes more sequences at once."""
    cache_gib: Annotated[float, SAME_RESULT] = Field(2.0, gt=0, le=16384)
    """CPU only: GiB of key/value cache. A larger cache decodes more sequences at once."""
    eager: Annotated[bool | None, SAME_RESULT] = None
    """true: vLLM runs without compilation. null: true on a CPU, where compiling takes a minute and gains 5-10 %; false on a
    GPU."""
    tensor_parallel: Annotated[int, SAME_RESULT] = Field(1, ge=1, le=1024)
    """GPUs that one engine is spread over, for models that do not fit one."""
    replicas: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=1024)
    """Engines that share the shards, each on `tensor_parallel` GPUs of its own. null: as many as the visible GPUs allow, and
    one on a CPU, where each more takes its own memory and the same cores."""
    max_batch: Annotated[int, SAME_RESULT] = Field(256, ge=1, le=65536)
    """Sequences decoded at once. More are faster until memory runs out."""


class SampleSection(Section):
    samples_per_problem: int = Field(16, ge=1, le=1024)
    """K: answers drawn for each train problem. More find rarer right answers; sampling time grows in proportion."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Temperature of sampling: higher gives more varied answers and fewer right ones."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling: drops the unlikely tail, which is mostly nonsense at high temperature. 1 turns it off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Drops tokens that are less likely than this share of the likeliest one. 0.05 with top_p 1 is a third faster on a CPU
    than top_p."""
    max_tokens: int = Field(256, ge=1, le=TOKENS)
    """Largest number of tokens of an answer. A longer one is cut off there and scored as it is."""
    more: Annotated[int, ADDED] = Field(0, ge=0, le=1024)
    """Draw this many further answers to each train problem that none of the first `samples_per_problem` solved. They find
    rare right answers, and cost another start of the engine in each iteration."""
    more_temperature: Annotated[float, ADDED] = Field(1.2, gt=0, le=2)
    """Temperature of the answers that `more` draws. Above `temperature` a policy repeats its wrong answers less."""
    folds: Annotated[int, ADDED] = Field(1, ge=1, le=32)
    """Above 1, in the first iteration nobody samples a problem whose reference it was taught: the references are dealt into
    so many folds, and for each another warm start leaves it out and samples it. Its mistakes there are like those at new
    problems. Costs so many trainings and starts of the engine."""
    shard_problems: int = Field(100, ge=1, le=MANY)
    """Problems in a shard: a portion that is sampled and executed as a unit. A kill loses at most one shard per engine;
    execution starts when the first shard is sampled."""
    endpoints: Annotated[tuple[Address, ...], SAME_RESULT] = ()
    """URLs of OpenAI-compatible servers that sample instead of an engine here; empty for an engine. They have to serve the
    current policy; the run stops at any other."""
    follow_minutes: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=10_000)
    """Above 0, each new policy is sent to the servers of `endpoints` by vLLM's API, or the run waits so many minutes until
    they serve it. A server with VLLM_SERVER_DEV_MODE gets other weights that way, so it should serve this run only."""


class ApiSection(Section):
    """For `model: api:URL#NAME`."""

    connections: Annotated[int, SAME_RESULT] = Field(8, ge=1, le=256)
    """Requests to the server at once. More are faster until its rate limit answers 429."""
    price_in: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=1e9)
    """Price of a million tokens of prompts, in any currency. Tables then show what the answers cost."""
    price_out: Annotated[float, SAME_RESULT] = Field(0.0, ge=0, le=1e9)
    """Price of a million tokens of answers, in the currency of `price_in`."""


class ExecuteSection(Section):
    workers: Annotated[int, SAME_RESULT] = Field(2, ge=1, le=1024)
    """Containers that run programs at the same time. One per core is best."""
    timeout_seconds: float = Field(5.0, gt=0, le=3600)
    """Time limit of one program; of each of its tests, if it reads stdin. A timeout counts as a wrong answer."""
    memory_mb: int = Field(512, ge=64, le=2**20)
    """Memory limit of a container, swap included."""
    max_infra_error: Annotated[float, SAME_RESULT] = Field(0.02, ge=0, le=1)
    """Largest share of outcomes that may be infrastructure failures (infra_error); above it the iteration stops."""
    runtime: str | None = None
    """Docker's container runtime, such as `runsc` for gVisor. null: Docker's default."""


class ClusterSection(Section):
    """A Ray cluster that exists already. What it is changes no result and no key of the store."""

    address: Annotated[str, SAME_RESULT, Field(pattern=r"^(auto|[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5})$")]
    """HOST:PORT as `ray start --head` tells it, or `auto`: the cluster that this machine is a node of."""
    engines: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Engines that share the shards, wherever Ray has room. null: as many as fit. Fewer leave room for other runs."""
    cpus: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Cores that an engine or a training process takes on a cluster without GPUs. null: each takes a GPU."""
    executors: Annotated[int | None, SAME_RESULT] = Field(None, ge=1, le=4096)
    """Nodes that execute programs, each with `execute.workers` containers. null: all that offer the resource `docker`."""


class PairsSection(Section):
    per_problem: int = Field(4, ge=1, le=4096)
    """Largest number of pairs per problem. More pairs give the same few problems more weight."""
    order: Literal["round-robin", "random", "nearest", "farthest", "error-balanced"] = "round-robin"
    """How chosen and rejected answers are matched. nearest, farthest: by edit distance. error-balanced: the statuses of
    rejected answers take turns."""
    references: bool = True
    """If no sample of a problem is right, take its reference as the chosen answer. Off-policy, but covers hard problems."""
    timeouts: bool = True
    """Allow programs that ran out of time as rejected answers."""
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
    """Draw this many answers to each dev problem from policy 0, and pair right with wrong ones. No policy is trained on
    these pairs; the report shows how likely both sides are under every policy. That shows smaller effects of a training than
    pass@1 does. It costs about as much as sampling dev that often."""
    verifier: Annotated[str | None, ADDED] = None
    """A model (written like `model`), trained by DPO on right and wrong programs, that ranks the `samples` answers to each
    test problem. Its choice is scored beside the majority vote."""
    samples: int = Field(0, ge=0, le=1024)
    """Also draw this many answers to each test problem, at `sample.temperature`. Their mean has less noise than one greedy
    answer, and their majority vote is scored too (self-consistency). 8 take about eight times as long as scoring test."""
