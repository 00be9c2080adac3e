"""One vLLM that loads many tiny policies in turn, by the product's own `Sampler`: starting it is what costs.

`Engines` is used by tests; `python -m tests.helpers.engines` is what runs inside.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codelutra.config import EngineSection
from codelutra.sampling.engine import Completion, ShardRequest, environment
from codelutra.store.child import Child, Parent, serve

CONFIG = EngineSection(dtype="float32", max_model_len=256, cache_gib=0.05, max_batch=16)


class Engines(Child):
    def __init__(self, log: Path) -> None:
        super().__init__("engines", "tests.helpers.engines", log=log, more=environment())

    def sample(self, policy: Path, *shards: ShardRequest) -> list[list[Completion]]:
        """The completions of each shard; their texts are decoded as the product does."""
        self.send({"policy": str(policy), "shards": [asdict(shard) for shard in shards]})
        found: dict[str, list[Completion]] = {}
        while len(found) < len(shards):
            event = self.hear()
            if event["event"] == "shard":
                found[event["key"]] = [Completion(*fields) for fields in event["completions"]]
        return [found[shard.key] for shard in shards]


def main(parent: Parent) -> None:
    gc.disable()
    from vllm.distributed import destroy_distributed_environment, destroy_model_parallel
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.platforms import current_platform

    from codelutra.sampling import engine_worker

    # What is imported stays out of garbage collection. vLLM collects seven times a policy and undoes a freeze at the end of
    # each, which would take most of the time here.
    gc.enable()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None
    while True:
        asked: dict[str, Any] = parent.hear()
        # vLLM looks at an architecture it does not know yet in a process of its own, which takes 8 seconds each.
        name = json.loads((Path(asked["policy"]) / "config.json").read_text())["architectures"][0]
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
        spec = {"policy": asked["policy"], "config": CONFIG.model_dump(mode="json"), "seed": 0}
        sampler = engine_worker.Sampler(spec)
        # Once a process is enough: it goes through all that is imported.
        type(current_platform).register_triton_kernel_overrides = staticmethod(lambda: None)
        for event in sampler.sample([ShardRequest(**shard) for shard in asked["shards"]]):
            parent.tell(event)
        del sampler
        destroy_model_parallel()
        destroy_distributed_environment()
        gc.collect()


if __name__ == "__main__":
    serve(main)
