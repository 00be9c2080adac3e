"""Settings that contradict the model's own sizes, whatever the machine: what no library could do, or what makes no sense."""

from __future__ import annotations

import os

from codelutra.config import RunConfig
from codelutra.planning.shape import Shape


def misfits(config: RunConfig, shape: Shape) -> list[str]:
    """A sentence each, with the way out; empty where all is well."""
    found, engine = list[str](), config.engine
    if shape.context and engine.max_model_len > shape.context and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        found.append(
            f"engine.max_model_len {engine.max_model_len} is more than the {shape.context} tokens this model can attend to; "
            f"--set engine.max_model_len={shape.context}"
        )
    if not config.sample.endpoints and shape.heads % engine.tensor_parallel:
        fewer = max(n for n in range(1, engine.tensor_parallel) if not shape.heads % n)
        found.append(
            f"engine.tensor_parallel {engine.tensor_parallel} does not divide the {shape.heads} attention heads of this "
            f"model; --set engine.tensor_parallel={fewer}"
        )
    for name, section in config.trainings.items():
        if section.method != "full" and section.lora_rank > shape.hidden:
            found.append(
                f"{name}.lora_rank {section.lora_rank} is more than this model's width of {shape.hidden}: an adapter of "
                f"that rank is larger than the matrices it changes; 8 to 64 are usual, or --set {name}.method=full"
            )
    return found
