"""A policy as a GGUF file, in a process of its own: `python -m codelutra.reporting.gguf_worker`, told what to do on stdin.

The names of tensors are those of the `gguf` package, and the metadata is what llama.cpp's own `convert_hf_to_gguf.py` writes
for the same architecture. One tensor at a time is in memory. Llama's rotary halves are interleaved there, so the rows of q
and k change their order; Qwen's keep it.

Matrices are of the kind that is asked for, vectors (norms, biases) float32. A matrix whose rows are no multiple of 32
numbers long cannot be Q8_0 and is float16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from codelutra.errors import UserError
from codelutra.models.made import ROPE, require_room
from codelutra.prompts import end_ids
from codelutra.reporting.modelfile import Wanted, modelfile
from codelutra.store.child import Parent, serve

Done = Callable[[int, int], None]  # tensors written, of how many
KINDS = {
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
_WAY_OUT = "export it without --to: transformers and vLLM load that"
_GPT2 = {"type": "ByteLevel", "use_regex": True}
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp knows a pre-tokenizer by its name; here it is known by what it does.
_PRE: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "qwen2": [{"type": "Split", "pattern": {"Regex": _SPLIT % ""}}, {"type": "ByteLevel", "use_regex": False}],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": _SPLIT % "{1,3}"}}, {"type": "ByteLevel", "use_regex": False}],
}


def write(model: Path, out: Path, kind: str, about: dict[str, str], progress: Done = lambda done, total: None) -> None:
    """Write the model in `model` (a Hugging Face layout) to the file `out`. `about`: its name and licence.

    Raises UserError for an architecture, a scaling of positions or a tokenizer that cannot be written, before anything is.
    """
    config = AutoConfig.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    arch = _architecture(config)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about.get("name", ""))
    writer.add_license(about.get("licence", ""))
    _add_shape(writer, arch, config)
    _add_tokenizer(writer, tokenizer, model, config.vocab_size)
    wanted, file_type = KINDS[kind]
    writer.add_file_type(file_type)
    if wanted is Kind.Q8_0:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with ExitStack() as opened:
        files = [opened.enter_context(safe_open(f, framework="pt")) for f in sorted(model.glob("*.safetensors"))]
        tensors = list(_tensors(files, arch, config))
        kinds = [_kind(shape, wanted) for _, shape, _ in tensors]
        require_room(out, sum(map(_bytes, (s for _, s, _ in tensors), kinds)), f"the model in {kind}")
        for (name, shape, _), of in zip(tensors, kinds, strict=True):
            plain = {Kind.F32: np.float32, Kind.F16: np.float16}.get(of)
            stored = shape if plain else gguf.quant_shape_to_byte_shape(shape, of)
            writer.add_tensor_info(name, stored, np.dtype(plain or np.uint8), _bytes(shape, of), raw_dtype=of)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, ((name, _, read), of) in enumerate(zip(tensors, kinds, strict=True)):
            progress(done, len(tensors))
            writer.write_tensor_data(_stored(name, read(), of))
        progress(len(tensors), len(tensors))
    writer.close()


def _architecture(config: Any) -> gguf.MODEL_ARCH:
    named = (config.architectures or ["none"])[0]
    if named not in _ARCHITECTURES:
        raise UserError(f"a {named} cannot be written as GGUF here, only {', '.join(_ARCHITECTURES)}; {_WAY_OUT}")
    rope, window = config.rope_parameters or {}, getattr(config, "use_sliding_window", False)
    odd = {
        f"hidden_act {config.hidden_act!r}": config.hidden_act != "silu",
        f"rotary scaling {rope.get('rope_type')!r}": rope.get("rope_type", "default") not in ("default", "llama3"),
        "a sliding window": bool(window),
    }
    if found := [what for what, there in odd.items() if there]:
        raise UserError(f"this {named} has {found[0]}, which cannot be written as GGUF here; {_WAY_OUT}")
    return _ARCHITECTURES[named]


def _head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_shape(writer: gguf.GGUFWriter, arch: gguf.MODEL_ARCH, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if arch is gguf.MODEL_ARCH.LLAMA:
        writer.add_rope_dimension_count(_head(config))
    if arch is gguf.MODEL_ARCH.QWEN3 or _head(config) * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(_head(config))
        writer.add_value_length(_head(config))
    if config.rope_parameters.get("rope_type", "default") != "default":
        writer.add_string(ROPE, json.dumps(config.rope_parameters))


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, model: Path, vocabulary: int) -> None:
    """Vocabulary, merges, pre-tokenizer, special tokens and chat template, as llama.cpp reads them."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _pre_tokenizer(backend)
    names = {i: token for token, i in tokenizer.get_vocab().items()}
    if max(names) >= vocabulary:
        raise UserError(f"its tokenizer has token {max(names)} and the model only {vocabulary} embeddings; {_WAY_OUT}")
    kinds = {
        i: gguf.TokenType.CONTROL if t.special else gguf.TokenType.USER_DEFINED
        for i, t in tokenizer.added_tokens_decoder.items()
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(vocabulary)])  # rows that no token has
    normal, unused = gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    writer.add_token_types([kinds.get(i, normal if i in names else unused) for i in range(vocabulary)])
    writer.add_token_merges(gguf.SpecialVocab(model, load_merges=True).merges)
    for of in ("bos", "eos", "unk", "pad"):
        if (token := getattr(tokenizer, f"{of}_token_id")) is not None:
            getattr(writer, f"add_{of}_token_id")(token)
    if (end := end_ids(tokenizer)[0]) != tokenizer.eos_token_id:
        writer.add_eot_token_id(end)  # what the chat template ends an answer with
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def adds_bos(tokenizer: Any) -> bool:
    """Whether it puts BOS before every text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _pre_tokenizer(backend: dict[str, Any]) -> str:
    """llama.cpp's name of what cuts a text before the merges. Raises UserError where none of its names is known to fit."""
    pre, normal = backend.get("pre_tokenizer") or {}, backend.get("normalizer")
    steps = pre.get("pretokenizers", [pre])
    if backend["model"]["type"] == "BPE" and normal in (None, {"type": "NFC"}) and not backend["model"].get("byte_fallback"):
        for name, asked in _PRE.items():
            if len(asked) == len(steps) and all(a.items() <= s.items() for a, s in zip(asked, steps, strict=True)):
                return name
    raise UserError(
        f"its tokenizer cannot be written as GGUF here: only byte-level BPE with the pre-tokenizer of {', '.join(_PRE)}; "
        f"{_WAY_OUT}"
    )


Tensor = tuple[str, tuple[int, ...], Callable[[], np.ndarray]]


def _tensors(files: list[Any], arch: gguf.MODEL_ARCH, config: Any) -> Iterator[Tensor]:
    """Name in the GGUF, shape, and what reads it as float32, in the order of the model's own names."""
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    where = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - it is no dict
    for name in sorted(where):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise UserError(f"its weight {name} has no place in a GGUF file of this architecture; {_WAY_OUT}")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2], 0)
        yield (
            written,
            tuple(where[name].get_slice(name).get_shape()),
            _reader(where[name], name, heads if arch is gguf.MODEL_ARCH.LLAMA else 0),
        )
    if config.rope_parameters.get("rope_type") == "llama3":
        factors = _rope_factors(config)
        yield "rope_freqs.weight", factors.shape, lambda: factors


def _reader(file: Any, name: str, heads: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        weights: np.ndarray = file.get_tensor(name).to(torch.float32).numpy()
        if not heads:
            return weights
        # From halves (the first of every pair, then the second) to pairs: llama.cpp's rotary embedding turns neighbours.
        return weights.reshape(heads, 2, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)

    return read


def _rope_factors(config: Any) -> np.ndarray:
    """What llama.cpp divides rotary frequencies by, as Llama 3.1 scales them (`_compute_llama3_parameters`)."""
    rope, head = config.rope_parameters, _head(config)
    factor, low, high = (rope[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    before = rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, head, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (i / head)
        smooth = min(1.0, max(0.0, (before / length - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _kind(shape: tuple[int, ...], wanted: Kind) -> Kind:
    if len(shape) == 1:
        return Kind.F32
    return Kind.F16 if wanted is Kind.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _bytes(shape: tuple[int, ...], kind: Kind) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


def _stored(name: str, weights: np.ndarray, kind: Kind) -> np.ndarray:
    largest = float(np.abs(weights).max(initial=0.0))
    if not largest < (65504 if kind is Kind.F16 else math.inf):
        raise UserError(f"{name} holds {largest:g}, which {kind.name.lower()} cannot; {_WAY_OUT}")
    return gguf.quantize(np.ascontiguousarray(weights), kind)


def main(parent: Parent) -> None:
    """Told: model, out (a .gguf file), kind, about, and what the Modelfile beside it is to say."""
    asked = parent.hear()
    model, out = Path(asked["model"]), Path(asked["out"])
    write(
        model,
        out,
        asked["kind"],
        asked["about"],
        lambda done, total: parent.tell({"event": "progress", "done": done, "total": total}),
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    wanted = Wanted(file=out.name, adds_bos=adds_bos(tokenizer), **asked["modelfile"])
    (out.parent / "Modelfile").write_text(modelfile(tokenizer, model, wanted), encoding="utf-8")
    parent.tell({"event": "done"})


if __name__ == "__main__":
    serve(main)
