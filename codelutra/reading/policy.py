"""What the settings in a model's folder say. Those that no library could use are told with their file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codelutra.reading.text import Unreadable

_NO_WRITERS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises Unreadable where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise Unreadable(f"{file} cannot be read as settings of a model ({e}); fetch the model again") from e
    if not isinstance(found, dict):
        raise Unreadable(f"{file} holds no settings of a model; fetch the model again")
    return found


def require_writer(config: Mapping[str, Any], file: Path) -> None:
    """Raise Unreadable where this is the config of a model that does not write text from left to right."""
    named = config.get("architectures")
    named = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    kind = "an encoder and a decoder" if config.get("is_encoder_decoder") is True else ""
    kind = kind or next((name for name in named if name.endswith(_NO_WRITERS)), "")
    if kind:
        raise Unreadable(
            f"{file} is of no causal language model ({kind}); take one that writes text, an architecture …ForCausalLM"
        )


def texts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The places where sizes of the text model stand, the likeliest first."""
    text = config.get("text_config")
    return [text, config] if isinstance(text, dict) else [config]


def size(places: Sequence[Mapping[str, Any]], default: int, *names: str) -> int:
    """The first size that one of `places` has under one of `names`."""
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, list) and value:
                value = max((v for v in value if isinstance(v, int)), default=None)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
                return value
    return default


def context(config: Mapping[str, Any]) -> int:
    """How many tokens vLLM lets the model attend to; 0 where its config does not say."""
    places = texts(config)
    return round(size(places, 0, "max_position_embeddings", "n_positions") * _stretched(places))


def _stretched(places: Sequence[Mapping[str, Any]]) -> float:
    """How many times more tokens than positions vLLM lets a model attend to: by RoPE that is scaled linearly or dynamically.
    Other kinds of scaling have their positions counted already."""
    for config in places:
        scaling = config.get("rope_parameters") or config.get("rope_scaling")
        if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) in ("linear", "dynamic"):
            factor = scaling.get("factor")
            return max(1.0, min(factor, 2.0**20)) if isinstance(factor, int | float) else 1.0
    return 1.0
