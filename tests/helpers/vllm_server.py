"""vLLM's server, scripted, as far as changing what it serves goes: `Scripted` says what it does, `served` where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.http import Asked, Raw, answering


class Scripted:
    """What vLLM's server does with these requests, and which it was asked.

    `missing` has the paths that the server does not have, `broken` the weights and adapters it cannot load. Its answer to a
    completion is the folder of the weights it was drawn from; drawing from half-loaded weights ends it, as it does vLLM.
    """

    def __init__(self, root: Path, *, dev: bool = True, lora: bool = False, broken: tuple[str, ...] = ()) -> None:
        self.root = self.weights = str(root)
        self.adapters: dict[str, str] = {}
        self.dev, self.lora, self.broken = dev, lora, broken
        self.version, self.paused, self.half, self.away = "default", False, False, False
        self.asked: list[str] = []
        self.weights_at_cache_reset = self.weights
        self.after: dict[int, Any] = {}  # what happens before the n-th completion
        self.faults: dict[int, int] = {}  # statuses of completions, by number, from 1
        self.completions = 0

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            cards = [{"id": "base", "root": self.root, "parent": None}]
            return 200, {"data": cards + [{"id": n, "root": r, "parent": "base"} for n, r in self.adapters.items()]}
        if path == "/weight_info" and self.dev:
            return 200, {"weight_version": self.version}
        return 404, {"detail": "Not Found"}

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(path)
        if path == "/v1/completions":
            self.completions += 1
            self.after.pop(self.completions, lambda: None)()
            assert not self.half, "drawn from half-loaded weights"
            assert not self.paused, "asked while it is paused"
            if fault := self.faults.get(self.completions):
                return fault, {"error": {"message": f"fault {fault}"}}
            model = body["model"] or "base"  # as vLLM takes it
            if model != "base" and model not in self.adapters:
                return 404, {"error": {"message": f"The model `{model}` does not exist."}}
            text = self.weights if model == "base" else self.adapters[model]
            choice = {"text": text, "finish_reason": "stop", "index": 0}
            return 200, {"choices": [choice], "usage": {"completion_tokens": 3}}
        if path.startswith("/v1/") and self.lora:
            return self._adapter(path, body)
        return self._change(path, body) if self.dev and not path.startswith("/v1/") else (404, {"detail": "Not Found"})

    def _adapter(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/unload_lora_adapter":
            return (200, "removed") if self.adapters.pop(body["lora_name"], "") else (404, {"error": {"message": "none"}})
        if body["lora_path"] in self.broken:
            return 500, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16"}}
        if not Path(body["lora_path"], "adapter_config.json").exists():
            return 404, {"error": {"message": "No adapter found for <path>"}}
        self.adapters[body["lora_name"]] = body["lora_path"]
        return 200, "Success"

    def _change(self, path: str, body: Any) -> tuple[int, Any]:
        match path:
            case "/pause":
                self.paused = True
            case "/resume":
                self.paused = False
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/reset_prefix_cache":
                self.weights_at_cache_reset = self.weights
            case "/collective_rpc":
                assert self.paused, "weights change under requests"
                to = body["kwargs"]["weights_path"]
                self.half = to in self.broken or not Path(to, "config.json").exists()
                if self.half:
                    return 500, {"error": {"message": f"no weights in {to}"}}
                self.weights = to
        return 200, {}


@contextmanager
def served(script: Scripted) -> Iterator[str]:
    def answer(asked: Asked) -> Raw:
        if script.away:
            return Raw(503, "away")
        status, body = script.get(asked.path) if asked.method == "GET" else script.post(asked.path, asked.body)
        return Raw(status, body, breaks=status == 500)

    with answering(answer) as url:
        yield url
