"""A GGUF file into a Hugging Face layout, in a process of its own: `python -m codelutra.dequantise FILE.gguf DIR`.

What converting to GGUF or reading it loses is put back: tied embeddings, the tokenizer's normal form and digits, and end
tokens beside the first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from codelutra.store.child import serve

# Tokenizers that bring text into normal form C first; that reader leaves it out as well.
_NORMALISED = {"qwen2"}
# Pre-tokenizers that put every digit on its own before GPT-2's rule; transformers' GGUF reader leaves that part out.
_SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}
# A GGUF names one end token. These control tokens end an answer as well, where a model has them (llama.cpp's list).
_ENDS = {
    "<|endoftext|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
}
_TIED = 0.95  # cosine. Q5_0 against Q8_0 of one matrix: .999; two matrices that were trained apart: near 0


def dequantise(gguf: Path, out: Path) -> str:
    """Write a GGUF file as float32 safetensors with tokenizer and chat template; return the licence it names."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields  # before the slow imports: a file of another kind is refused at once

    import torch
    from tokenizers import normalizers, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    pre = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else ""
    if pre in _NORMALISED:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    if pre in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, quantization_config=GgufConfig(gguf_file=name, dequantize=True), dtype=torch.float32
    )
    _tie(model)
    unknown = fields["tokenizer.ggml.unknown_token_id"].contents() if "tokenizer.ggml.unknown_token_id" in fields else None
    more = [i for i in tokenizer.convert_tokens_to_ids(sorted(_ENDS & tokenizer.get_vocab().keys())) if i != unknown]
    if set(more) - {tokenizer.eos_token_id}:
        model.generation_config.eos_token_id = sorted({tokenizer.eos_token_id, *more})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return str(fields["general.license"].contents()) if "general.license" in fields else ""


def _tie(model: Any) -> None:
    """Tie input and output embeddings that are two quantisations of one matrix; the output's, the finer one, is kept."""
    into, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if into is out or into.shape != out.shape:
        return
    a, b = into.detach().flatten(), out.detach().flatten()
    if a @ b > _TIED * a.norm() * b.norm():
        into.data = out.data
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = True
        model.tie_weights()


if __name__ == "__main__":
    serve(lambda parent: parent.tell({"event": "done", "licence": dequantise(Path(sys.argv[1]), Path(sys.argv[2]))}))
