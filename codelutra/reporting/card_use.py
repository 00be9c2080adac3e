"""How the model card shows that an export is used: per form, with an example that runs, and the prompt of training in it."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from codelutra.errors import CodelutraError
from codelutra.prompts import TODAY, as_messages, as_text, closing, template_of, thought
from codelutra.results.escapes import code, one_line, visible
from codelutra.results.findings import Findings
from codelutra.results.summary import PolicyResult
from codelutra.suites.base import open_suite
from codelutra.training.bases import record_of

To = Literal["transformers", "gguf", "adapter"]
Kind = Literal["q8_0", "f16", "bf16"]

_FORM = "Answers come in the form it was trained on: the system message, then the prompt as the suite writes it."
_EXAMPLE = """```python
{load}
{prompt}
answer = model.generate(**prompt, max_new_tokens={max_tokens}, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
_LOAD = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")"""
_LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "PATH")
tokenizer = AutoTokenizer.from_pretrained("{base}")"""
_MERGED = """ The weights are merged: `adapter/` is in them already. It is
an adapter (LoRA) of {base} (fingerprint `{fingerprint}`) and of no other model.
So that base model with it is this policy too:
`vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules NAME=adapter`.
"""
_ADAPTER = """An adapter (LoRA, in PEFT's format) of {base} (fingerprint `{fingerprint}`) and of no other model:
over other weights it is another function.{where}
`vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules NAME=PATH` serves it, and
`codelutra evaluate CONFIG --model adapter:PATH` checks the base's fingerprint, merges and measures it.
"""
_GGUF = """`{file}` ({what}) loads with llama.cpp, Ollama and what is built on them. The `Modelfile` has the prompt that the
policy was trained on: system message, template, where answers end. It answers greedily, as it was scored, and without
Ollama's penalty for repetition. Ask with the prompt as the suite writes it (a schema, a blank line, the question):

```
ollama create {name} -f Modelfile
ollama run {name} "$(cat prompt.txt)"
```

In codelutra it is `--model gguf:PATH/{file}`."""
_KINDS = {
    "q8_0": "matrices in Q8_0: 8 bits a weight and a scale for 32 of them; vectors in float32",
    "f16": "matrices in float16, vectors in float32",
    "bf16": "matrices in bfloat16, vectors in float32",
}


@dataclass(frozen=True)
class Form:
    """What an export is for."""

    to: To = "transformers"
    kind: Kind = "q8_0"
    """Of a GGUF file's matrices."""
    file: str = ""
    """Name of the GGUF file."""

    @property
    def library(self) -> str:
        """As the hub names it."""
        return {"transformers": "transformers", "gguf": "gguf", "adapter": "peft"}[self.to]


def use(found: Findings, row: PolicyResult, form: Form) -> str:
    """The section "Use" of the card."""
    drawn, budget = found.config.sample, found.config.prompt.budget
    if form.to == "gguf":
        name = re.sub(r"[^a-z0-9_.-]+", "-", found.summary.run.lower()).strip("-.") or "policy"
        return _GGUF.format(file=form.file, what=_KINDS[form.kind], name=name)
    parts = {"prompt": _prompt(found, row), "max_tokens": drawn.max_tokens + budget}
    if form.to == "adapter":
        said = record_of(Path(row.path))["base"]
        hub = said.removeprefix("hf:").partition("@")[0] if said.startswith("hf:") else ""
        where = "" if hub else " In the example BASE is its folder, unquantised, in the layout of transformers."
        load = _LOAD_ADAPTER.format(base=visible(hub) or "BASE")
        return f"{_ADAPTER.format(**_known(found, row), where=where)}{_FORM}\n\n{_EXAMPLE.format(load=load, **parts)}"
    merged = _MERGED.format(**_known(found, row)) if has_adapter_of_base(found, row) else "\n"
    return f"Loads with transformers and vLLM.{merged}{_FORM}\n\n{_EXAMPLE.format(load=_LOAD, **parts)}"


def has_adapter_of_base(found: Findings, row: PolicyResult) -> bool:
    """Whether the adapter beside this policy belongs to the model the run started from. What a later iteration added to the
    policy before it is of use to nobody who has not that policy."""
    return record_of(Path(row.path)).get("base") in (found.config.model, found.summary.model_taken)


def system_of(found: Findings, row: PolicyResult) -> str:
    """The system text that the policy was trained with; of one that was not trained here, the suite's, where that is to be
    had."""
    if trained := found.manifest(row.path):
        return str(trained["config"].get("system", ""))
    with contextlib.suppress(CodelutraError, OSError):
        return open_suite(found.config.suite).system
    return ""


def asked_on_dev(found: Findings) -> str:
    """The prompt of a dev problem."""
    problems = found.frame("problems.parquet")
    dev = None if problems is None else problems.filter(pl.col("split") == "dev")
    return str(dev["prompt"][0]) if dev is not None and dev.height else "…"


def _known(found: Findings, row: PolicyResult) -> dict[str, Any]:
    """What is known of the adapter beside the policy."""
    said, rank = record_of(Path(row.path)), max(8, found.config.train.lora_rank)
    return {
        "base": code(said["base"]),
        "fingerprint": one_line(said.get("fingerprint", ""))[:64],
        "rank": 1 << (rank - 1).bit_length(),
    }


def _prompt(found: Findings, row: PolicyResult) -> str:
    """Lines of Python that make `prompt`, of a dev problem, as the policy was trained on it; some have no chat template."""
    policy, system, asked = Path(row.path), system_of(found, row), asked_on_dev(found)
    template = template_of(policy)
    if not template and (policy / "tokenizer_config.json").is_file():
        text = visible(json.dumps(as_text(system, asked), ensure_ascii=False))
        return f'text = {text}\nprompt = tokenizer(text, return_tensors="pt")'
    start = [{"role": "system", "content": system}] if system else []
    messages: Any = [*start, {"role": "user", "content": asked}]
    thinking, behind, note = found.config.prompt.thinking, "", ""
    with contextlib.suppress(Exception):  # without transformers, or without a tokenizer that it can read
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(policy)
        messages = as_messages(tokenizer, system, asked, thinking=thinking)
        behind = closing(tokenizer, thinking=thinking)
        note = f"  # it thinks first: its answer is what stands behind {thought(tokenizer).closes}" if thinking else ""
    options = {"enable_thinking": thinking, "thinking": thinking, "date_string": f'"{TODAY:%d %b %Y}"'}
    more = "".join(f", {name}={value}" for name, value in options.items() if re.search(rf"\b{name}\b", template))
    shown = visible(json.dumps(messages, indent=4, ensure_ascii=False))
    if behind:  # the template opens a thought that the policy was trained without
        text = f"tokenizer.apply_chat_template(messages, add_generation_prompt=True{more}, tokenize=False)"
        ready = 'prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")'
        return f"messages = {shown}\ntext = {text} + {json.dumps(behind)}\n{ready}"
    apply = (
        f'tokenizer.apply_chat_template(messages, add_generation_prompt=True{more}, return_tensors="pt", return_dict=True)'
    )
    return f"messages = {shown}\nprompt = {apply}{note}"
