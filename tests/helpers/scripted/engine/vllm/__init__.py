"""Stands where vLLM stands in an engine's process: it answers `Write f of N.` at once, right or wrong by the request's seed.

Its answers depend on nothing but prompt and seed, as vLLM's do on GPUs. `SCRIPTED_SECONDS`: how long a step takes.
`SCRIPTED_LOG`: a file that gets a line for every answer. Running a program takes a moment, so that it can be disturbed.
"""

import hashlib
import os
import re
import sys
import time
from types import ModuleType, SimpleNamespace


class SamplingParams(SimpleNamespace): ...


class EngineArgs(SimpleNamespace): ...


class LLMEngine:
    def __init__(self, args):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.waiting = []

    @classmethod
    def from_engine_args(cls, args):
        return cls(args)

    def add_request(self, name, ids, params):
        self.waiting.append((name, ids, params))

    def get_num_unfinished_requests(self):
        return len(self.waiting)

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        time.sleep(float(os.environ.get("SCRIPTED_SECONDS", "0")))
        now, self.waiting = self.waiting[:4], self.waiting[4:]
        return [self._answer(*request) for request in now]

    def _answer(self, name, ids, params):
        number = int(re.search(r"Write f of (\d+)", self.tokenizer.decode(ids)).group(1))
        drawn = hashlib.sha256(f"{number} {params.seed}".encode()).digest()[0]
        if log := os.environ.get("SCRIPTED_LOG"):
            with open(log, "a") as told:
                told.write(f"{number} {params.seed}\n")
        text = f"```python\nimport time\ndef f():\n  time.sleep(1.5)\n  return {number + drawn % 2}\n```"
        output = SimpleNamespace(token_ids=self.tokenizer.encode(text, add_special_tokens=False), finish_reason="stop")
        return SimpleNamespace(request_id=name, prompt_token_ids=ids, outputs=[output])


held = {
    "config": {"ReasoningConfig": SimpleNamespace},
    "engine": {},
    "engine.arg_utils": {"EngineArgs": EngineArgs},
    "inputs": {"tokens_input": lambda ids: ids},
    "platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: False)},
    "sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=None), "SamplingParams": SamplingParams},
    "v1": {},
    "v1.engine": {},
    "v1.engine.llm_engine": {"LLMEngine": LLMEngine},
}
for name, content in held.items():
    module = ModuleType(f"vllm.{name}")
    vars(module).update(content)
    sys.modules[f"vllm.{name}"] = module
