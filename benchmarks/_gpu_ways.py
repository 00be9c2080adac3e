"""What `benchmarks/gpu.py` measures, each way in a process of its own: `python -m benchmarks._gpu_ways WAY SPEC.json`."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED, COMPARED = 0, 8  # COMPARED: pairs whose log-probabilities are computed in float32
_QWEN = {"model_type": "qwen2", "vocab_size": 151_936, "tie_word_embeddings": True, "num_key_value_heads": 2}
_THETA = {"rope_type": "default", "rope_theta": 1e6}
# From the config.json of Qwen/Qwen2.5-0.5B, Qwen/Qwen2.5-1.5B and meta-llama/Meta-Llama-3-8B; the last is pairs in memory.
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "0.5b": (_QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}, 8),
    "1.5b": (
        _QWEN | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        8,
    ),
    "8b": (
        {"model_type": "llama", "vocab_size": 128_256, "tie_word_embeddings": False, "num_key_value_heads": 8}
        | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
        4,
    ),
}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_model(size: str, cuda: bool, directory: Path) -> None:
    """Random bf16 weights in the shape `size` and a byte-level tokenizer with ChatML's template, unless they are there."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    if (directory / "tokenizer.json").exists():  # written last
        return
    values = SHAPES[size][0] | ({} if cuda else TINY | {"num_key_value_heads": 1})
    config = AutoConfig.for_model(
        **values, rope_parameters=_THETA, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(SEED)
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="4GB")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(directory)


def pairs(count: int, prompt: int, answer: int) -> Any:
    """PAIRS of random words; lengths in characters, which are tokens here."""
    import polars as pl

    from codelutra.schema import PAIRS

    draw = random.Random(SEED)

    def text(length: int) -> str:
        words = ("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(length))
        return " ".join(words)[: length - 1] + "."

    same = {"chosen_source": "reference", "rejected_status": "wrong", "chosen_sample": -1, "rejected_sample": 0}
    rows = [
        {"problem_id": f"p{i}", "prompt": text(prompt), "chosen": text(answer), "rejected": text(answer)} | same
        for i in range(count)
    ]
    return pl.DataFrame([row | {"rejected_ended": True} for row in rows], schema=PAIRS)


def ours(spec: dict[str, Any]) -> dict[str, Any]:
    """The product's worker, killed at step `kill_at` if that is given."""
    import polars as pl
    import torch

    from benchmarks.training import accelerator
    from codelutra.training.worker.train import train

    write_model(spec["size"], spec["cuda"], Path(spec["policy"]))
    if spec["cuda"]:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == spec.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    summary = train(spec, hear)
    rows = pl.read_ndjson(Path(spec["work"]) / "training.jsonl")
    each = summary["reference_seconds"] / rows.height
    told = (
        "log_probs",
        "log_probs_seconds",
        "not_shared",
        "reference_gap",
        "policy_gap",
        "gradient_checkpointing",
        "resumed_from_step",
    )
    told += ("seconds", "reference_seconds")
    found = {name: summary[name] for name in told if name in summary} | {
        "losses": rows["loss"].to_list(),
        "step_tokens": rows["tokens"].to_list(),
    }
    found |= {"step_seconds": [s + each for s in rows["seconds"]], "grad_norms": rows["grad_norm"].to_list()}
    found |= accelerator()
    if "straight" in spec:
        return found | apart(Path(spec["out"]), Path(spec["straight"]), Path(spec["policy"]))
    gc.collect()
    try:
        return found | float32_gap(spec)
    except (RuntimeError, MemoryError) as e:  # torch's out of memory is a RuntimeError
        return found | {"float32_gap_failed": f"{type(e).__name__}: {e}"[:600]}


def float32_gap(spec: dict[str, Any]) -> dict[str, Any]:
    """The worker's reference log-probabilities against a plain forward of transformers' model in float32, of eight pairs.
    For qlora the weights of that forward are the unquantised ones."""
    import polars as pl
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.training import planned

    device = "cuda" if spec["cuda"] else "cpu"
    model = AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=torch.float32, device_map={"": device}).eval()
    examples, _ = planned(spec)
    (file,) = Path(spec["work"]).glob("reference-*.parquet")
    tokens, answers = [0.0], [0.0]
    for i, answer, known in pl.read_parquet(file).filter(pl.col("example") < COMPARED).rows():
        prompt, ids = examples[i].prompt, examples[i].answers[answer]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids], device=device)).logits[0, len(prompt) - 1 : -1].float()
        wanted = logits.log_softmax(-1)[range(len(ids)), ids].cpu()
        off = torch.tensor(known) - wanted
        tokens.append(off.abs().max().item())
        answers.append(abs(off.sum().item()))
    return {"float32_gap_token": max(tokens), "float32_gap_answer": max(answers)}


def apart(resumed: Path, straight: Path, start: Path) -> dict[str, Any]:
    """How far two trainings' weights are apart, as a share of how far training moved them (L2 norms over all weights)."""
    from safetensors import safe_open

    def distance(a: Path, b: Path) -> float:
        with safe_open(a / "model.safetensors", "pt") as one, safe_open(b / "model.safetensors", "pt") as other:
            names = set(one.keys()) & set(other.keys())
            squares = ((one.get_tensor(n).float() - other.get_tensor(n).float()).square().sum().item() for n in names)
            return math.sqrt(sum(squares))

    moved = distance(start, straight)
    return {"weights_moved": moved, "weights_apart_of_moved": distance(resumed, straight) / moved}


def trl(spec: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.training import accelerator, as_it_comes

    write_model(spec["size"], spec["cuda"], Path(spec["policy"]))
    return as_it_comes(spec) | accelerator()


WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"ours": ours, "trl": trl}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    Path(given["result"]).write_text(json.dumps(WAYS[sys.argv[1]](given)))
