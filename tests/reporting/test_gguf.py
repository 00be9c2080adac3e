"""A GGUF file holds the model: read back by our own dequantiser and by transformers it says what it said before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.helpers.tiny_model import FEED_FORWARD, HEAD, HEADS, LAYERS, POSITIONS, VOCABULARY, tiny_tokenizer

TEXTS = [
    "SELECT name, count(*) FROM singer WHERE age > 30;",
    "<|im_start|>user\nHow many in 1234?<|im_end|>\n",
    "  Zoë  \t’s 12 ½\n\n",
]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# In one process: the file, read by transformers and by our dequantiser, against the model with its matrices rounded as the
# kind rounds them (a change of rows' order changes no row); the largest difference of logits; ids of texts.
READ = """
import gguf, json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from codelutra.models.dequantise import dequantise
from codelutra.reporting.gguf_worker import write
model, work, kinds, texts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), json.loads(sys.argv[4])
ids = torch.arange(3, 203)[None]
def logits(where, kind="", **how):
    loaded = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **how).eval()
    for weights in loaded.parameters() if kind else ():
        if weights.ndim > 1:
            of = gguf.GGMLQuantizationType[kind.upper()]
            weights.data = torch.from_numpy(gguf.dequantize(gguf.quantize(weights.detach().numpy(), of), of).copy())
    with torch.no_grad():
        return loaded(ids).logits
found = {}
for kind in kinds:
    folder = work / kind
    (folder / "ours").mkdir(parents=True)
    counts = []
    write(model, folder / "m.gguf", kind, {"name": "tiny", "licence": "apache-2.0"}, lambda *n: counts.append(n))
    licence = dequantise(folder / "m.gguf", folder / "ours")
    before = logits(model, kind)
    found[kind] = {
        "transformers": (logits(folder, gguf_file="m.gguf") - before).abs().max().item(),
        "ours": (logits(folder / "ours") - before).abs().max().item(),
        "quantised": (logits(model) - before).abs().max().item(),
        "licence": licence, "counts": counts,
    }
had, ours = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(folder / "ours")
theirs = AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
for name, tokenizer in {"had": had, "ours": ours, "theirs": theirs}.items():
    found[name] = {"ids": [tokenizer(text)["input_ids"] for text in texts], "template": tokenizer.chat_template,
        "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id,
        "text": tokenizer.decode(tokenizer(texts[2])["input_ids"])}
print(json.dumps(found))
"""


def write_model(directory: Path, kind: str, *, tied: bool = True, pre: str = "gpt-2", **more: Any) -> Path:
    """A tiny random model of another architecture or tokenizer, every weight of it random: biases and norms, too."""
    import torch
    from tokenizers import Regex, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    classes: dict[str, Any] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    made, model_of = classes[kind]
    shape = {
        "vocab_size": VOCABULARY + 32,  # more rows than tokens, as Qwen has
        "hidden_size": HEAD * HEADS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "num_hidden_layers": LAYERS,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(1)
    model = model_of(made(**shape | ({"head_dim": 128} if kind == "qwen3" else {}) | more)).to(torch.float32)
    for name, weights in model.named_parameters():
        if weights.ndim == 1:
            weights.data = torch.randn_like(weights) * 0.2 + (1.0 if "norm" in name else 0.0)
    model.save_pretrained(directory)
    tokenizer = tiny_tokenizer()
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    first = {
        "smollm": pre_tokenizers.Digits(individual_digits=True),
        "qwen2": pre_tokenizers.Split(Regex(split % ""), "isolated"),
        "llama-bpe": pre_tokenizers.Split(Regex(split % "{1,3}"), "isolated"),
        "other": pre_tokenizers.Split(Regex(r"\s+"), "isolated"),
    }
    if pre != "gpt-2":
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "smollm")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first[pre], level])
    if pre == "qwen2":
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.save_pretrained(directory)
    return directory


def read(model: Path, work: Path, kinds: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ, model, work, kinds, json.dumps(TEXTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pre", "tied"),
    [("llama", "gpt-2", True), ("llama", "smollm", False), ("qwen2", "qwen2", True), ("qwen3", "qwen2", False)],
)
def test_read_back_the_model_and_its_tokenizer_say_what_they_said(kind: str, pre: str, tied: bool, tmp_path: Path) -> None:
    """Rows of q and k that kept another order, a bias that was lost or a norm would change every logit by much more."""
    model = write_model(tmp_path / "model", kind, pre=pre, tied=tied)
    kinds = ("f16", "q8_0") if kind != "qwen3" else ("bf16",)
    found = read(model, tmp_path, ",".join(kinds))
    for written in kinds:
        assert found[written]["ours"] < 1e-3, written
        assert found[written]["transformers"] < 1e-3, written
        assert found[written]["quantised"] > 1e-2, "rounding shows: so would another kind of it"
    assert found[kinds[0]]["licence"] == "apache-2.0"
    total = found[kinds[0]]["counts"][-1][0]
    assert found[kinds[0]]["counts"] == [[done, total] for done in range(total + 1)]
    assert found["ours"] == found["had"]
    assert found["theirs"]["template"] == found["had"]["template"]
    if pre == "gpt-2":  # what transformers' reader loses of the others, ours puts back
        assert found["theirs"]["ids"] == found["had"]["ids"]


@pytest.mark.slow
def test_scaled_rotary_frequencies_are_in_the_file_for_llama_cpp_and_for_us(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model = write_model(tmp_path / "model", "llama", pre="llama-bpe", rope_parameters=LLAMA3)
    found = read(model, tmp_path, "f16")
    assert found["f16"]["ours"] < 1e-3
    assert found["f16"]["transformers"] > 1e-1, "transformers' reader drops the scaling: the test can fail"
    assert found["ours"] == found["had"]
    from transformers import AutoConfig

    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(model), "cpu")
    plain = 10000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "f16" / "m.gguf").tensors}
    np.testing.assert_allclose(plain / tensors["rope_freqs.weight"].data, wanted.numpy(), rtol=1e-5)


WRITE = """
import sys
from pathlib import Path
from codelutra.errors import UserError
from codelutra.reporting.gguf_worker import write
for model in sys.argv[2:]:
    try:
        write(Path(model), Path(sys.argv[1]), "q8_0", {})
    except UserError as e:
        print(e)
"""


@pytest.mark.slow
def test_what_cannot_be_written_is_refused_with_what_can_and_nothing_is_left(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
    write_model(tmp_path / "yarn", "qwen2", rope_parameters=yarn)
    write_model(tmp_path / "split", "llama", pre="other")
    write_model(tmp_path / "pieces", "llama")
    tiny_tokenizer(sentencepiece=True).save_pretrained(tmp_path / "pieces")
    models = [str(tmp_path / name) for name in ("gpt2", "yarn", "split", "pieces")]
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path / "m.gguf", *models], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4, said
    assert "a GPT2LMHeadModel cannot be written as GGUF here, only LlamaForCausalLM, Qwen2ForCausalLM" in said[0]
    assert "rotary scaling 'yarn'" in said[1]
    assert all("only byte-level BPE with the pre-tokenizer of gpt-2, smollm, qwen2, llama-bpe" in line for line in said[2:])
    assert all(line.endswith("export it without --to: transformers and vLLM load that") for line in said)
    assert not (tmp_path / "m.gguf").exists()
