"""A real Llama-architecture model with random weights, small enough to make, load, sample and train in seconds.

`write_tiny_model` makes the Hugging Face layout on disk, `write_tiny_gguf` the same idea as a GGUF file. What it writes is
noise, but it goes through every real code path: its tokenizer is a byte-level BPE with a chat template, and its head size
is one that vLLM's CPU attention takes.
"""

from __future__ import annotations

import json
from pathlib import Path

_CORPUS = [
    "SELECT name, count(*) FROM singer WHERE age > 30 GROUP BY name ORDER BY count(*) DESC LIMIT 10;",
    "SELECT avg(price) FROM product JOIN orders ON product.id = orders.product_id WHERE city = 'Oslo';",
    "CREATE TABLE concert (concert_id integer, stadium text, year integer);",
    "Write one SQLite query that answers the question. Question: how many singers are there in each country?",
    "def add(a, b):\n    return a + b\n\n\ndef mean(values):\n    return sum(values) / len(values)\n",
    "```sql\nSELECT 1\n```",
]
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 512
HEAD, HEADS, LAYERS, FEED_FORWARD, POSITIONS = 64, 2, 2, 256, 1024


def tiny_tokenizer(*, sentencepiece: bool = False):
    """A byte-level BPE of 512 tokens: 0 <|endoftext|> (padding), 1 <|im_start|>, 2 <|im_end|> (the end token).

    `sentencepiece`: as Llama 2's, which puts a blank before every text and drops it when it decodes.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if sentencepiece:
        blank = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        words = Tokenizer(models.BPE())
        words.normalizer = blank
        words.train_from_iterator("\n".join(_CORPUS).split("\n"), trainers.BpeTrainer(vocab_size=200, show_progress=False))
        learnt = json.loads(words.to_str())["model"]
        names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
        vocabulary = {name: i for i, name in enumerate(names)}
        bpe = Tokenizer(
            models.BPE(vocabulary, [tuple(pair) for pair in learnt["merges"]], byte_fallback=True, fuse_unk=True)
        )
        bpe.normalizer = blank
        drop = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        bpe.decoder = decoders.Sequence(drop)
        bpe.add_special_tokens(_SPECIAL)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
        tokenizer.chat_template = _TEMPLATE
        return tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def write_tiny_model(directory: Path, *, seed: int = 0) -> Path:
    """Write model and tokenizer to `directory` (about 3 MB, float32) and return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HEAD * HEADS,
        head_dim=HEAD,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        num_hidden_layers=LAYERS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # ordinary initialisation would make every next token about equally likely
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_tiny_gguf(file: Path, *, seed: int = 0, pre: str = "smollm", unknown: int | None = 0, output: str = "") -> Path:
    """A GGUF of the same architecture and tokenizer, quantised to Q8_0 as far as the format allows.

    `output`: without an output matrix of its own, with the "same" matrix as the embeddings (coarser there), or "another".
    """
    import gguf
    import numpy as np

    tokenizer = tiny_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HEAD * HEADS)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in _SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    if unknown is not None:
        writer.add_unk_token_id(unknown)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)
    random = np.random.default_rng(seed)
    wide, narrow, deep = HEAD * HEADS, HEAD, FEED_FORWARD

    def write(name: str, weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
        writer.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)

    def drawn(rows: int, columns: int) -> np.ndarray:
        return (0.2 * random.standard_normal((rows, columns))).astype(np.float32)

    def matrix(name: str, rows: int, columns: int) -> None:
        write(name, drawn(rows, columns), gguf.GGMLQuantizationType.Q8_0)

    embeddings = drawn(VOCABULARY, wide)
    if output == "same":
        write("token_embd.weight", embeddings, gguf.GGMLQuantizationType.Q4_0)
        write("output.weight", embeddings, gguf.GGMLQuantizationType.Q8_0)
    else:
        write("token_embd.weight", embeddings, gguf.GGMLQuantizationType.Q8_0)
        if output:
            matrix("output.weight", VOCABULARY, wide)
    writer.add_tensor("output_norm.weight", np.ones(wide, np.float32))
    for i in range(LAYERS):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(wide, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(wide, np.float32))
        matrix(f"blk.{i}.attn_q.weight", wide, wide)
        matrix(f"blk.{i}.attn_k.weight", narrow, wide)
        matrix(f"blk.{i}.attn_v.weight", narrow, wide)
        matrix(f"blk.{i}.attn_output.weight", wide, wide)
        matrix(f"blk.{i}.ffn_gate.weight", deep, wide)
        matrix(f"blk.{i}.ffn_up.weight", deep, wide)
        matrix(f"blk.{i}.ffn_down.weight", wide, deep)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_tiny_adapter(folder: Path, base: Path, reference: str, fingerprint: str) -> Path:
    """A LoRA adapter over a tiny model, as training leaves it: rank 4, alpha 8, random in both matrices."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(3)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            weights.data = 0.1 * torch.randn_like(weights)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    record = {"base": reference, "fingerprint": fingerprint, "method": "lora"}
    (folder / "codelutra-adapter.json").write_text(json.dumps(record))
    return folder
