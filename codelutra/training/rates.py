"""The learning rate where the config leaves it open: by what is trained and how many weights the model has.

A rate that suits 135M breaks 0.5B: at 1e-5, full fine-tuning on pairs moved Qwen2.5-Coder-0.5B by 4.3 nats on chosen and
22.5 nats on rejected answers in eight steps. At 2e-6 the same model gained on dev and test.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TypeVar, cast

from codelutra.config import TrainSection, WarmStartSection

SMALL = 200_000_000  # weights. Measured at 135M and 494M; between them the lower rate is the safe one
# What is trained: rate of small models (`OPEN_RATES`, as it was for all), rate of larger ones; from where we have them.
RATES = {
    "warm start": (1e-4, 1e-5),  # presets of SmolLM2-135M; Qwen2.5-Coder-0.5B: docs/results/spider-qwen.md
    "imitation": (1e-5, 1e-5),  # the same
    "full": (1e-5, 2e-6),  # docs/experiments.md (135M at λ 0.05: better than 4e-5); Qwen2.5-Coder-0.5B, see above
    "dpo": (5e-6, 1e-6),  # λ = 0; not measured, below those with an SFT term: at 4e-5 it broke 135M (docs/experiments.md)
    "lora": (1e-5, 5e-6),  # not measured; what docs/your-own-task.md advised for 7B until this table
    # Not measured: ten times the rate of all weights, as TRL's documentation and "LoRA without regret" advise.
    "warm start, lora": (1e-3, 1e-4),
    "imitation, lora": (1e-4, 1e-4),
    "grpo, lora": (1e-4, 1e-5),
    "grpo": (1e-5, 1e-6),  # `codelutra compare` on 135M; the default of TRL's GRPOConfig
}
Trained = TypeVar("Trained", bound=TrainSection | WarmStartSection)


def settled(config: Trained, policy: Path) -> Trained:
    """The settings with the learning rate that they leave open for this policy."""
    small, larger = RATES[_what(config)]
    rate = config.learning_rate or (small if weights(policy) <= SMALL else larger)
    return cast(Trained, config.model_copy(update={"learning_rate": rate}))


def _what(config: TrainSection | WarmStartSection) -> str:
    adapter = "" if config.method == "full" else ", lora"  # over 4 bits too
    if isinstance(config, WarmStartSection):
        return f"warm start{adapter}"
    match config.objective:
        case "preference" if config.sft_weight == 0 and config.method == "full":
            return "dpo"
        case "preference":
            return "lora" if adapter else "full"
        case "grpo":
            return f"grpo{adapter}"
        case _:
            return f"imitation{adapter}"


def weights(policy: Path) -> int:
    """The number of weights in a model directory, from the headers of its files."""
    from safetensors import safe_open

    total = 0
    for file in sorted(policy.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total
