"""Every architecture people bring, all the way: a tiny random model is sampled by vLLM, trained on its own samples (all
weights, and LoRA), saved, and loaded again by transformers and by vLLM, which write the same.

`test_architectures.py` holds more architectures to the definition of their log-probabilities; vLLM takes no heads as small
as theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from codelutra.prompts import answer_text, end_ids, prompt_ids
from codelutra.sampling.engine import Completion, ShardRequest, stop_ids
from codelutra.schema import PAIRS
from codelutra.training.batches import Example, pair_examples
from tests.helpers.cores import one_core
from tests.helpers.engines import Engines
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import SYSTEM, Train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TRL, transformers and torch warn about each other

ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}
ROPE |= {"original_max_position_embeddings": 32}
SCALES = {"logits_scaling": 8.0, "attention_multiplier": 0.3, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
CAPPED = {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
# Architecture, its settings, and what ends a turn where that is not the tokenizer's own end token.
MATRIX: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama, tied": ("llama", {"tie_word_embeddings": True}, ""),
    "llama, untied, rope of llama 3": ("llama", {"tie_word_embeddings": False, "rope_parameters": ROPE}, "<|im_end|>"),
    "mistral": ("mistral", {"sliding_window": None}, ""),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, ""),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}, ""),
    "gemma 2": ("gemma2", CAPPED | {"sliding_window": 48}, "<|im_end|>"),
    "gemma 3": ("gemma3_text", {"query_pre_attn_scalar": 32, "sliding_window": 48}, "<|im_end|>"),
    "phi-3": ("phi3", {"sliding_window": 48}, "<|im_end|>"),
    "starcoder2": ("starcoder2", {"sliding_window": 48, "use_bias": True}, ""),
    "granite": ("granite", SCALES, ""),
    "olmo2": ("olmo2", {}, ""),
    "qwen3-moe": ("qwen3_moe", EXPERTS, ""),
}
COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "head_dim": 32,  # the smallest that vLLM's CPU attention takes
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # ordinary initialisation would make every next token about equally likely
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ASKED = tuple(f"How many {things} are there?" for things in ("singers", "towns", "shops", "books"))
GREEDY = ShardRequest("greedy", SYSTEM, ASKED, ASKED, 1, 0.0, 1.0, 6)
DRAWN = ShardRequest("drawn", SYSTEM, ASKED, ASKED, 2, 1.0, 1.0, 12)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with one_core(), Engines(tmp_path_factory.mktemp("engines") / "log") as running:
        yield running


def write(name: str, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings, turn_end = MATRIX[name]
    torch.manual_seed(0)
    known = AutoConfig.for_model(kind)
    common = {key: value for key, value in COMMON.items() if key == "head_dim" or hasattr(known, key)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(common | settings)))
    with torch.no_grad():
        for weights in model.parameters():  # also of what is made as zeros and ones
            weights.add_(0.05 * torch.randn(weights.shape))
        if kind.startswith("gemma"):  # which multiplies them, and would repeat the last token for ever
            model.get_input_embeddings().weight.mul_(0.2)
    model.save_pretrained(folder)
    if name == "gemma 3":  # as some are published: then the end tokens are those of config.json
        (folder / "generation_config.json").unlink()
    tokenizer = tiny_tokenizer()
    if turn_end:
        tokenizer.eos_token = "<|endoftext|>"  # as Gemma's <eos> and Llama 3's <|end_of_text|>: answers end otherwise
    tokenizer.save_pretrained(folder)
    return folder


def as_pairs(drawn: list[Completion]) -> pl.DataFrame:
    """Of two samples of each prompt the first as chosen, the second as rejected."""
    both = {c.prompt: (c, next(o for o in drawn if o.prompt == c.prompt and o.sample)) for c in drawn if not c.sample}
    rows = [
        {
            "problem_id": f"p{i}",
            "prompt": ASKED[i],
            "chosen": chosen.text,
            "rejected": rejected.text,
            "chosen_source": "sample",
            "rejected_status": "wrong",
            "chosen_sample": 0,
            "rejected_sample": 1,
            "rejected_ended": rejected.finish_reason == "stop",
        }
        for i, (chosen, rejected) in both.items()
    ]
    return pl.DataFrame(rows, schema=PAIRS)


def by_transformers(policy: Path) -> list[str]:
    """Greedy answers to ASKED, from a plain load and `generate`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32, attn_implementation="eager")
    ends, texts = stop_ids(policy, *end_ids(tokenizer)), []
    for question in ASKED:
        ids = torch.tensor([prompt_ids(tokenizer, SYSTEM, question)])
        answer = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=ends
        )
        texts.append(answer_text(tokenizer, answer[0, ids.shape[1] :].tolist()))
    return texts


@pytest.mark.parametrize("name", MATRIX)
def test_a_policy_is_sampled_trained_saved_and_loaded_again(name: str, engines: Engines, run: Train, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    policy = write(name, tmp_path / "policy")
    greedy, drawn = engines.sample(policy, GREEDY, DRAWN)
    pairs, before = as_pairs(drawn), by_transformers(policy)
    agree(greedy, before)

    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert 2 in stop_ids(policy, *end_ids(tokenizer))
    examples = pair_examples(pairs, tokenizer, SYSTEM, 256)
    assert all(example.answers[0].count(2) == 1 and example.answers[0][-1] == 2 for example in examples)
    wanted = log_probs(policy, examples)
    for method in ("full", "lora"):
        summary = run(
            pairs, start=policy, into=method, bf16=False, method=method, epochs=3, learning_rate=3e-3, checkpoint_steps=9
        )
        assert summary["reference_gap"] < 1e-3
        used = pl.read_parquet(next((tmp_path / method / "work").glob("reference-*.parquet")))
        found = {(i, answer): sum(values) for i, answer, values in used.rows()}
        assert found == pytest.approx(wanted, abs=1e-3)

        trained = tmp_path / method / "out"
        for file in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
            assert kept(trained, file) == kept(policy, file)
        after = by_transformers(trained)
        assert after != before, "training must have changed what it writes"
        agree(engines.sample(trained, GREEDY)[0], after)
        gains = {at: value - wanted[at] for at, value in log_probs(trained, examples).items()}
        assert sum(-gain if answer else gain for (_, answer), gain in gains.items()) > 0


def kept(folder: Path, name: str) -> bytes:
    file = folder / name
    return file.read_bytes() if file.exists() else b""


def log_probs(policy: Path, examples: list[Example]) -> dict[tuple[int, int], float]:
    """Of each example's answers, in all, by a plain forward under the attention that leaves nothing out."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32, attn_implementation="eager")
    found = {}
    with torch.no_grad():
        for i, example in enumerate(examples):
            for which, answer in enumerate(example.answers):
                logits = model(torch.tensor([example.prompt + answer])).logits[0, len(example.prompt) - 1 : -1]
                found[i, which] = logits.log_softmax(-1)[range(len(answer)), answer].sum().item()
    return found


def agree(sampled: list[Completion], texts: list[str]) -> None:
    same = [c.text == text for c, text in zip(sampled, texts, strict=True)]
    assert sum(same) >= len(same) - 1, list(zip([c.text for c in sampled], texts, strict=True))  # one near tie may fall
    assert all(c.finish_reason == "stop" or c.completion_tokens == 6 for c in sampled)
