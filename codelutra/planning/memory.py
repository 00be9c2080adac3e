"""Memory of the sampler and of the trainer, from a model's shape and the config. Pure arithmetic; bytes.

Where a coefficient was measured, it was on SmolLM2-135M on two cores (tests/planning/test_memory.py has the peaks, and
`python -m benchmarks.planning` compares those of any run); where it was counted, the comment says what was counted. A
trainer's peak is, with P weights:

    full    12 P (weights, two Adam moments, float32) + what is larger:
              activations of one micro-batch (+ 4 P of gradients, if a step has several micro-batches)
              4 P of gradients, at the update
    lora    the frozen base (bfloat16 where the machine multiplies it, else float32) + 16 bytes a weight of the adapter
            + activations
    qlora   as lora, the base's matrices in 4 bits

With `sharding: full` each of N processes has 1/N of weights, Adam and gradients, and its own activations. On top come the
weights that are whole while it computes, and autocast's copy of all that is trained, unless activations are checkpointed.

A reference model is never in memory: its log-probabilities are computed before the first update.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from codelutra.config import EngineSection, RunConfig, TrainSection, WarmStartSection
from codelutra.planning.machine import GIB, Machine
from codelutra.planning.shape import Shape
from codelutra.planning.work import Work, steps

NUMBERS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
TRAINER, SAMPLER = 0.75 * GIB, 1.0 * GIB  # measured: libraries and allocator, without anything of the model
FLOW = 0.5 * GIB  # measured: the run's own process (Prefect, polars)
CONTAINER = 0.06 * GIB  # measured: a sandbox worker at rest; what programs take comes on top, up to its limit
CONTEXT = 1.0 * GIB  # of CUDA, with its libraries' workspaces; not measured
ADAM_FULL, GRADIENTS, ADAPTER = 12, 4, 16  # counted: bytes a weight, float32
FOUR_BITS = 0.53  # counted: NF4 with double quantisation, bytes a weight
# A layer keeps for its backward pass, a token: so many bytes a hidden unit (norms, residuals, queries, values, outputs) and
# a feed-forward unit (gate, up, their product, in the autocast's format). Measured; they are near 34 and 8 of Korthikanti
# et al. (2205.05198), whose norms are not in float32.
HIDDEN = {2: 40, 4: 54}
FEED_FORWARD = {2: 8, 4: 16}
# Every micro-batch has another shape, and on a CPU the allocator keeps what fits no later one. Measured: 50 steps of the
# demo's warm start take twice the activations of its first two (4.97 GiB, 8 steps 4.08, 2 steps 3.91; demo.json has 50).
ALL_SHAPES = 40  # steps
LOGITS = 22  # measured: bytes a word of the vocabulary and predicted token: logits, softmax, gradients in two formats
DECODING = 12  # counted: logits and probabilities of a sequence being decoded, bytes a word


@dataclass(frozen=True)
class Need:
    """Memory that a stage takes."""

    what: str
    parts: dict[str, float] = field(default_factory=dict)
    """Bytes by what takes them."""
    spare: float = 0.0
    """Bytes that it may take on top: longer examples, programs that use their limit."""
    surely: float = 0.0
    """Of `parts`, what no setting of batches makes smaller: weights, and what Adam keeps of them."""

    @property
    def expected(self) -> float:
        return sum(self.parts.values())

    @property
    def at_most(self) -> float:
        return self.expected + self.spare


def sampler(shape: Shape, config: RunConfig, machine: Machine) -> Need:
    """The engine and what works beside it. With servers (`sample.endpoints`) there is none here."""
    e, x = config.engine, config.execute
    beside = {"the run's process": FLOW, "sandbox": x.workers * CONTAINER}
    spare = x.workers * max(0.0, x.memory_mb * 2**20 - CONTAINER)
    if config.sample.endpoints:
        return Need("sampler", beside, spare)
    weights = _number(e.dtype, machine) * shape.parameters
    decoding = DECODING * shape.vocabulary * e.max_batch
    if machine.cuda:
        parts = {
            "weights": weights,
            "CUDA and vLLM": CONTEXT,
            "decoding": decoding,
            "one sequence": _sequence(shape, e, machine),
        }
        return Need("sampler", {k: v / e.tensor_parallel for k, v in parts.items()}, surely=weights / e.tensor_parallel)
    parts = {"weights": weights, "libraries": SAMPLER, "key/value cache": e.cache_gib * GIB, "decoding": decoding}
    return Need("sampler", parts | beside, spare, surely=weights)


def _number(dtype: str, machine: Machine) -> int:
    """Bytes of a number of the sampler's; `auto` as hardware.number_format resolves it, of that machine."""
    return NUMBERS[dtype] if dtype != "auto" else 2 if machine.cuda or machine.bf16 else 4


def _sequence(shape: Shape, engine: EngineSection, machine: Machine) -> int:
    """Keys and values of the longest sequence: vLLM refuses to start with less."""
    number = _number(engine.dtype, machine)
    return 2 * shape.layers * shape.kv_heads * shape.head * number * engine.max_model_len


def trainer(shape: Shape, section: TrainSection | WarmStartSection, work: Work, machine: Machine, what: str) -> Need:
    """One training process; of several on GPUs, what each takes of its GPU, of several on CPUs all of them."""
    tokens, answers = work.micro_batch(section)
    most_tokens, most_answers = work.largest_micro_batch(section)
    again = checkpointing(section, shape, work, machine)
    activations = _activations(shape, tokens, answers, work.longest, machine, again)
    spare = max(0.0, _activations(shape, most_tokens, most_answers, work.longest, machine, again) - activations)
    number = 2 if machine.bf16 else 4
    parts: dict[str, float] = {"libraries": CONTEXT if machine.cuda else TRAINER}
    surely: float
    times, sharded = section.processes, section.sharding == "full"
    part = 1 / times if sharded else 1.0
    match section.method:
        case "full":
            parts["weights and Adam"] = surely = part * ADAM_FULL * shape.parameters
            cast = 2 * shape.parameters if machine.bf16 else 0  # autocast's copy of the weights, for a forward pass
            cast = 0 if sharded and again else cast
            gradients = part * GRADIENTS * shape.parameters
            several = min(section.batch_size, work.examples(section)) > section.micro_batch
            parts["gradients, activations"] = max(gradients, activations + cast + (gradients if several else 0))
            surely += gradients
        case "qlora":
            table = shape.vocabulary * shape.hidden
            parts["base in 4 bits"] = surely = FOUR_BITS * max(0, shape.parameters - table) + number * table
            parts["adapter"] = ADAPTER * adapter(shape, section)
            parts["activations"] = activations
        case _:
            parts["frozen base"] = surely = part * number * shape.parameters
            parts["adapter"] = part * ADAPTER * adapter(shape, section)
            parts["activations"] = activations
    if not machine.cuda:
        used = min(1.0, steps(work.examples(section), section) / ALL_SHAPES)
        parts["fragmentation"] = used * activations
    if sharded:
        parts["gathered weights"] = _gathered(shape, section, number)
        surely += parts["gathered weights"]
    elif times > 1:  # DistributedDataParallel's buckets are a second copy of the gradients
        parts["buckets"] = GRADIENTS * (shape.parameters if section.method == "full" else adapter(shape, section))
    if not machine.cuda:
        parts, spare, surely = {k: times * v for k, v in parts.items()}, times * spare, times * surely
        parts["the run's process"] = FLOW
    return Need(what, parts, spare, surely)


def _gathered(shape: Shape, section: TrainSection | WarmStartSection, number: int) -> float:
    """Bytes of what is whole meanwhile, counted: the weights outside of layers, and two layers, of which the second is
    fetched ahead; of weights that are trained the gradients too."""
    width, feed_forward, heads = shape.hidden, shape.feed_forward, shape.heads * shape.head
    layer = 2 * width * (heads + shape.kv_heads * shape.head) + 3 * width * feed_forward
    outside = max(0, shape.parameters - shape.layers * layer)
    return (4 + GRADIENTS if section.method == "full" else number) * float(outside + 2 * layer)


def merging(shape: Shape, section: TrainSection | WarmStartSection, what: str) -> Need:
    """The end of a training of an adapter: it is merged into the base in float32, in the machine's own memory."""
    whole = 4 * shape.parameters if section.method != "full" else 0
    return Need(
        f"merging after {what}", {"base in float32": whole, "libraries": TRAINER, "the run's process": FLOW}, surely=whole
    )


def checkpointing(section: TrainSection | WarmStartSection, shape: Shape, work: Work, machine: Machine) -> bool:
    """Whether activations are computed again in the backward pass. Where the section leaves it open: where a GPU would not
    hold those of the largest micro-batch otherwise, as `training.worker.precision.checkpointed` decides."""
    if section.gradient_checkpointing is not None or not machine.cuda:
        return bool(section.gradient_checkpointing)
    if section.sharding == "full":
        return True
    full, (tokens, answers) = section.method == "full", work.largest_micro_batch(section)
    frozen = {"full": 4.0, "lora": 2.0 if machine.bf16 else 4.0, "qlora": FOUR_BITS}[section.method]
    trained = shape.parameters if full else adapter(shape, section)
    free = min(gpu.memory for gpu in machine.gpus) - frozen * shape.parameters - ADAM_FULL * trained
    number = 2 if machine.bf16 else 4
    kept = shape.layers * (number * 4 * (shape.hidden + shape.feed_forward) + 16 * shape.hidden)
    return tokens * kept + 12 * shape.vocabulary * answers > 0.7 * free


def adapter(shape: Shape, section: TrainSection | WarmStartSection) -> int:
    """Weights of a LoRA adapter on all linear layers: rank · (inputs + outputs) of each."""
    h, ff, q, kv = shape.hidden, shape.feed_forward, shape.heads * shape.head, shape.kv_heads * shape.head
    wide = 2 * (h + q) + 2 * (h + kv) + 3 * (h + ff)
    return section.lora_rank * shape.layers * wide


def _activations(shape: Shape, tokens: float, answers: float, keys: float, machine: Machine, again: bool) -> float:
    """Bytes kept for the backward pass of a micro-batch with so many distinct tokens, of which `answers` are predicted; a
    token attends to `keys` others. `again`: with gradient checkpointing."""
    number = 2 if machine.bf16 else 4
    layer = HIDDEN[number] * shape.hidden + FEED_FORWARD[number] * shape.feed_forward + number * shape.heads * keys
    logits = LOGITS * shape.vocabulary * answers
    if again:
        return tokens * (layer + shape.layers * 4 * shape.hidden) + logits
    return tokens * layer * shape.layers + logits
