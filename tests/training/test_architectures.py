"""Training moves exactly the function that is sampled, for every architecture: tiny models with random weights go through
the product's own trainer, and its log-probabilities and gradient are those of a plain forward of transformers' model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from codelutra.training.batches import pair_examples
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import SYSTEM, Train, some_pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other

SHARED, PADDED, SINGLY = "shared prefixes, codelutra_forest", "padded, sdpa", "one by one, eager"
EAGER = "padded, eager"
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 64}
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}
ROPE |= {"original_max_position_embeddings": 32}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
HYBRID = {
    "layer_types": ["mamba", "attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
# Architecture, its settings, how training computes it.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama, tied": ("llama", {"tie_word_embeddings": True}, SHARED),
    "llama, untied": ("llama", {"tie_word_embeddings": False}, SHARED),
    "llama, rope of llama 3": ("llama", {"rope_parameters": ROPE}, SHARED),
    "llama, dropout in attention": ("llama", {"attention_dropout": 0.5}, SHARED),
    "mistral": ("mistral", {"sliding_window": None}, SHARED),
    "mistral, short window": ("mistral", {"sliding_window": 8}, PADDED),
    "mistral, long window": ("mistral", {"sliding_window": 200}, SHARED),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": None}, PADDED),
    "qwen2": ("qwen2", {}, SHARED),
    "qwen3": ("qwen3", {"head_dim": 8}, SHARED),
    "qwen3-moe": ("qwen3_moe", EXPERTS, PADDED),
    "smollm3": ("smollm3", {}, SHARED),
    "gemma": ("gemma", {"head_dim": 8}, SHARED),
    "gemma 2": ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}, EAGER),
    "gemma 2, short window": (
        "gemma2",
        {"head_dim": 8, "attn_logit_softcapping": 2.0, "sliding_window": 8, "final_logit_softcapping": 3.0},
        EAGER,
    ),
    "gemma 3": ("gemma3_text", {"head_dim": 8, "sliding_window": 512}, SHARED),
    "gemma 3, short window": ("gemma3_text", {"head_dim": 8, "sliding_window": 8}, PADDED),
    "phi": ("phi", {}, SHARED),
    "phi-3, long window": ("phi3", {"sliding_window": 2047}, SHARED),
    "phi-3, short window": ("phi3", {"sliding_window": 8}, PADDED),
    "starcoder2": ("starcoder2", {"sliding_window": 8}, PADDED),
    "granite": ("granite", {"logits_scaling": 8.0, "attention_multiplier": 0.3}, SHARED),
    "granite, dropout in attention": ("granite", {"attention_dropout": 0.5}, SHARED),
    "granite, hybrid without experts": ("granitemoehybrid", HYBRID | {"num_local_experts": 0}, PADDED),
    "granite-moe": ("granitemoe", {"num_local_experts": 4}, SHARED),
    "olmo": ("olmo", {}, SHARED),
    "olmo2": ("olmo2", {}, SHARED),
    "gpt-2": ("gpt2", GPT, SHARED),
    "gpt-neox": ("gpt_neox", {"use_parallel_residual": True}, SHARED),
    "gpt-neox-japanese": ("gpt_neox_japanese", {}, EAGER),
    "gpt-j": ("gptj", GPT | {"rotary_dim": 8}, EAGER),
    "gpt-neo": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
        EAGER,
    ),
    "codegen": ("codegen", GPT | {"rotary_dim": 8}, EAGER),
    "gpt-bigcode": ("gpt_bigcode", GPT, SHARED),
    "falcon": ("falcon", {"num_kv_heads": 1}, EAGER),
    "falcon, alibi": ("falcon", {"alibi": True}, EAGER),
    "bloom": ("bloom", {"n_head": 4, "n_layer": 2}, EAGER),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}, EAGER),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "layerdrop": 0.5}, SHARED),
    "xglm": ("xglm", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}, EAGER),
    "stablelm": ("stablelm", {}, EAGER),
    "nemotron": ("nemotron", {}, EAGER),
    "cohere": ("cohere", {"logit_scale": 0.25}, SHARED),
    "cohere2": ("cohere2", {"sliding_window": 8, "logit_scale": 0.25}, PADDED),
    "minicpm3": ("minicpm3", MLA, SHARED),
    "deepseek-v2": (
        "deepseek_v2",
        MLA | {"n_routed_experts": 4, "first_k_dense_replace": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        SHARED,
    ),
    "deepseek-v3": (
        "deepseek_v3",
        MLA | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
        SHARED,
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}, PADDED),
    "gpt-oss": ("gpt_oss", {"num_local_experts": 4, "head_dim": 8, "sliding_window": 8}, EAGER),
    "mamba": ("mamba", {"state_size": 8}, EAGER),
    "mamba 2": ("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8}, EAGER),
    "falcon-mamba": ("falcon_mamba", {"state_size": 8}, EAGER),
    "recurrent gemma": (
        "recurrent_gemma",
        {"logits_soft_cap": 1.0, "attention_window_size": 200, "block_types": ["recurrent", "attention"]},
        SINGLY,
    ),
}
LORA = ("llama, tied", "gemma 2", "gpt-neox", "mixtral", "bloom")
COMMON = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # ordinary initialisation would make every next token about equally likely
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write(name: str, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    known = AutoConfig.for_model(kind)
    common = {key: value for key, value in COMMON.items() if hasattr(known, key)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(common | settings)))
    with torch.no_grad():
        for weights in model.parameters():  # also of what is made as zeros and ones
            weights.add_(0.05 * torch.randn(weights.shape))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def by_definition(folder: Path, pairs: pl.DataFrame) -> tuple[dict[tuple[int, int], torch.Tensor], float]:
    """Log-probabilities of every answer's tokens, and the norm of the gradient of the first step's loss: at the start the
    policy is the reference, so DPO's gradient is that of β/2 (rejected - chosen)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    found, loss = {}, torch.tensor(0.0)
    examples = pair_examples(pairs, AutoTokenizer.from_pretrained(folder), SYSTEM, 256)
    for i, example in enumerate(examples):
        for which, answer in enumerate(example.answers):
            logits = model(torch.tensor([example.prompt + answer])).logits[0, len(example.prompt) - 1 : -1]
            values = logits.log_softmax(-1)[range(len(answer)), answer]
            found[i, which] = values.detach()
            factor = 0.05 if which else -(0.05 + example.weight)
            loss = loss + factor * values.sum() / len(examples)
    loss.backward()
    return found, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()


def check(name: str, run: Train, tmp_path: Path, **settings: Any) -> pl.DataFrame:
    policy, pairs = write(name, tmp_path / "policy"), some_pairs(4)
    summary = run(pairs, start=policy, bf16=False, warmup=0, sft_norm="sequence", **settings)
    wanted, norm = by_definition(policy, pairs)
    used = pl.read_parquet(next((tmp_path / "a/work").glob("reference-*.parquet")))
    for example, answer, values in used.rows():
        assert (torch.tensor(values) - wanted[example, answer]).abs().max() < 1e-4
    assert summary["reference_gap"] < 1e-3  # and training's own are those
    print(f"{name}: {summary['log_probs']} {summary['not_shared']}")
    assert summary["log_probs"] == ARCHITECTURES[name][2]
    assert bool(summary["not_shared"]) == (ARCHITECTURES[name][2] != SHARED)
    rows = pl.read_ndjson(tmp_path / "a/out/training.jsonl")
    return rows.with_columns(wanted=pl.lit(norm))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_computes_what_transformers_computes(name: str, run: Train, tmp_path: Path) -> None:
    rows = check(name, run, tmp_path).to_dicts()
    if ARCHITECTURES[name][0] not in ("mixtral", "qwen3_moe", "granitemoe", "gpt_oss"):  # a router's loss is added
        assert rows[0]["grad_norm"] == pytest.approx(rows[0]["wanted"], rel=1e-3)


@pytest.mark.parametrize("name", LORA)
def test_so_it_does_with_an_adapter(name: str, run: Train, tmp_path: Path) -> None:
    check(name, run, tmp_path, method="lora")
