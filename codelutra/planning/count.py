"""The size of a model from the little there is, in a process of its own: `python -m codelutra.planning.count KIND WHERE`.

config DIR    config.json alone: the model is made on torch's meta device, which takes no memory
gguf FILE     the header of a GGUF file
"""

from __future__ import annotations

import math
import sys
from typing import Any

from codelutra.store.child import serve


def from_config(directory: str) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, trust_remote_code=False))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def from_gguf(file: str) -> dict[str, Any]:
    """The names are those of config.json. Output and input embeddings of one shape count once, as `models` ties them."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    sizes = {str(t.name): [int(n) for n in t.shape] for t in reader.tensors}
    if sizes.get("output.weight") == sizes.get("token_embd.weight"):
        sizes.pop("output.weight", None)
    family = str(reader.fields["general.architecture"].contents())

    def told(key: str) -> Any:
        field = reader.fields.get(f"{family}.{key}")
        return field.contents() if field else None

    return {
        "parameters": sum(map(math.prod, sizes.values())),
        "hidden_size": told("embedding_length"),
        "num_hidden_layers": told("block_count"),
        "num_attention_heads": told("attention.head_count"),
        "num_key_value_heads": told("attention.head_count_kv"),
        "head_dim": told("attention.key_length"),
        "intermediate_size": told("feed_forward_length"),
        "vocab_size": max(sizes.get("token_embd.weight", [0])),
        "max_position_embeddings": told("context_length"),
    }


if __name__ == "__main__":
    count = {"config": from_config, "gguf": from_gguf}[sys.argv[1]]
    serve(lambda parent: parent.tell({"event": "done", **count(sys.argv[2])}))
