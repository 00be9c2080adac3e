"""A GGUF file into a Hugging Face layout, in a process of its own: `python -m codelutra.models.dequantise FILE.gguf DIR`.

Tensors are dequantised one by one and written where they belong in the safetensors file, so that memory is needed for the
largest tensor, not for the model. Names and permutations are those of transformers' GGUF reader. Where a tensor of that
reader's does not become one tensor of the model (mixtures of experts), transformers loads the whole model instead.

What converting to GGUF or reading it loses is put back: tied embeddings, the tokenizer's normal form and digits, end
tokens beside the first, and the scaled rotary frequencies of a model that `reporting/gguf_worker.py` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.gguf.utils import is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    load_gguf_checkpoint,
)

from codelutra.hardware import cores
from codelutra.models.made import ROPE, require_room
from codelutra.store.child import serve

Done = Callable[[int, int], None]  # tensors written, of how many
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
_CHUNK = 1 << 23  # numbers dequantised at once by a thread

# transformers reads all of the file's tokens anew for tokenizer, config and weights, and makes the table of names once for
# each module of the model: three quarters of the time that a model of 0.5 B takes. Both are the same every time.
gguf.GGUFReader = cache(gguf.GGUFReader)
gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)


def dequantise(file: Path, out: Path, progress: Done = lambda done, total: None) -> str:
    """Write a GGUF file as float32 safetensors with tokenizer and chat template; return the licence it names."""
    reader = gguf.GGUFReader(str(file))
    fields = reader.fields
    where, name = str(file.parent), file.name
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
    unknown = fields["tokenizer.ggml.unknown_token_id"].contents() if "tokenizer.ggml.unknown_token_id" in fields else None
    more = [i for i in tokenizer.convert_tokens_to_ids(sorted(_ENDS & tokenizer.get_vocab().keys())) if i != unknown]
    ends = sorted({tokenizer.eos_token_id, *more}) if set(more) - {tokenizer.eos_token_id} else None

    model = _streamed(reader, file, out, progress)
    if model is None:
        model = _whole(file, ends)
        model.save_pretrained(out)
    else:
        if ends:
            model.generation_config.eos_token_id = ends
        if ROPE in fields:
            model.config.rope_parameters = json.loads(fields[ROPE].contents())
        model.config.save_pretrained(out)
        model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return str(fields["general.license"].contents()) if "general.license" in fields else ""


def _whole(file: Path, ends: list[int] | None) -> Any:
    """The model as transformers loads it, all of it in memory."""
    as_float = GgufConfig(gguf_file=file.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, quantization_config=as_float, dtype=torch.float32
    )
    into, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if into is not out and into.shape == out.shape and _same(lambda i, j: (into[i:j].detach(), out[i:j].detach()), len(out)):
        into.data = out.data
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = True
        model.tie_weights()
    if ends:
        model.generation_config.eos_token_id = ends
    return model


def _streamed(reader: gguf.GGUFReader, file: Path, out: Path, progress: Done) -> Any:
    """Write the weights tensor by tensor. Returns the model without weights, or None where they cannot be had so."""
    architecture = reader.fields["general.architecture"].contents()
    if is_gguf_arch_supported(architecture):  # read by transformers' newer reader, which has its own names
        return None
    config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    parsed = load_gguf_checkpoint(str(file))["config"]
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed)
    names = get_gguf_hf_weights_map(model, processor)
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    mapped = [t for t in reader.tensors if t.name in names]
    sources = {names[t.name]: t for t in mapped}
    if len(sources) < len(mapped):  # several tensors become one
        return None
    into, output = _embeddings(model)
    if config.tie_word_embeddings:
        wanted.pop(output)
        sources.pop(output, None)
    elif wanted[into] == wanted[output] and {into, output} <= sources.keys():
        a, b = sources[into], sources[output]
        if _same(lambda i, j: (_rows(a, i, j), _rows(b, i, j)), len(a.data)):
            sources[into] = sources.pop(output)  # the output's is the finer quantisation
            del wanted[output]
            config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = True
    if sources.keys() != wanted.keys():
        return None

    def tensor(name: str) -> np.ndarray | None:
        """The model's weight of this name; None where that reader does more than permute one tensor."""
        source = sources[name]
        others: dict[str, Any] = {"tensors": {}}
        processed = processor.process(
            weights=_dequantised(source), name=source.name, tensor_key_mapping=names, parsed_parameters=others
        )
        whole = not others["tensors"] and processed.name == source.name and processed.weights.shape == wanted[name]
        return processed.weights if whole else None

    if not _write(out / "model.safetensors", wanted, tensor, progress):
        return None
    config.architectures = [type(model).__name__]
    return model


def _embeddings(model: Any) -> tuple[str, str]:
    """The names of the input and output embeddings in the state dict."""
    modules = {id(module): name for name, module in model.named_modules()}
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    return f"{modules[id(into)]}.weight", f"{modules[id(out)]}.weight"


def _rows(source: Any, first: int, last: int) -> torch.Tensor:
    """Rows of a matrix in the file, as float32."""
    return torch.from_numpy(np.ascontiguousarray(gguf.dequantize(source.data[first:last], source.tensor_type)))


def _same(rows: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]], height: int) -> bool:
    """Whether two matrices are two quantisations of one, by the cosine; `rows` gives lines first to last of both."""
    both = a_squared = b_squared = 0.0
    for first in range(0, height, 4096):
        a, b = (part.flatten() for part in rows(first, first + 4096))
        both += float(a @ b)
        a_squared += float(a @ a)
        b_squared += float(b @ b)
    return both > _TIED * (a_squared * b_squared) ** 0.5


def _dequantised(source: Any) -> np.ndarray:
    """A tensor of the file as float32: a range of rows at a time, all cores at once. The bits are gguf's own."""
    data = source.data
    step = max(1, _CHUNK // max(1, int(np.prod(source.shape[:-1])))) if data.ndim > 1 else 0
    if not step or len(data) <= step:
        return gguf.dequantize(data, source.tensor_type)
    first = gguf.dequantize(data[:1], source.tensor_type)
    out = np.empty((len(data), *first.shape[1:]), first.dtype)

    def fill(begin: int) -> None:
        out[begin : begin + step] = gguf.dequantize(data[begin : begin + step], source.tensor_type)

    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(fill, range(0, len(data), step)))
    return out


def _write(
    file: Path, shapes: dict[str, tuple[int, ...]], tensor: Callable[[str], np.ndarray | None], progress: Done
) -> bool:
    """A safetensors file of float32 tensors, byte for byte as `safetensors` writes it, which wants all of them at once.
    False where a tensor is not to be had.

    Format: 8 bytes of length, little-endian; a JSON header padded with blanks to a multiple of 8; the data, by name.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        begin, end = end, end + 4 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    require_room(file, end, "the model in float32")
    with file.open("wb") as opened:
        opened.write(len(head).to_bytes(8, "little") + head)
        for done, name in enumerate(sorted(shapes)):
            progress(done, len(shapes))
            weights = tensor(name)
            if weights is None:
                break
            np.ascontiguousarray(weights, np.float32).tofile(opened)
        else:
            progress(len(shapes), len(shapes))
            return True
    file.unlink()
    return False


if __name__ == "__main__":
    serve(
        lambda parent: parent.tell(
            {
                "event": "done",
                "licence": dequantise(
                    Path(sys.argv[1]),
                    Path(sys.argv[2]),
                    lambda done, total: parent.tell({"event": "progress", "done": done, "total": total}),
                ),
            }
        )
    )
