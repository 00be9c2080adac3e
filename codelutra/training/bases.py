"""Which model an adapter belongs to (the one whose frozen weights it was trained over), and what a training method needs.

A policy that was trained with LoRA has its adapter beside the merged weights: `adapter/`, as PEFT loads it, and in it
`codelutra-adapter.json`, which names that model. Nothing here loads a model.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codelutra.errors import UserError
from codelutra.hardware import gpu_capabilities
from codelutra.models.adapters import RECORD as RECORD
from codelutra.store.files import UNREADABLE, require_plain_file


@dataclass(frozen=True)
class Base:
    """The model an adapter belongs to."""

    path: Path
    """Its directory: unquantised weights."""
    reference: str = ""
    """As the config has it (`hf:org/name@revision`; of a model given by name, its source), or the label of a policy of the
    run; "" where nobody said."""
    fingerprint: str = ""
    """Of its files, as `models.fingerprint`; of a policy that a run made, the digest of its artifact."""


def record_of(policy: Path) -> dict[str, str]:
    """What the record beside a policy's adapter says: `base`, `fingerprint`, `method`. Empty where there is none."""
    file = policy / "adapter" / RECORD
    with contextlib.suppress(*UNREADABLE):
        require_plain_file(file)
        said: dict[str, Any] = json.loads(file.read_bytes())
        return {name: value for name, value in said.items() if isinstance(value, str)}
    return {}


def require_adapter_of(policy: Path, base: Base) -> None:
    """Raise UserError where the adapter beside `policy` is not one over the weights of `base`."""
    said, wanted = record_of(policy), f"{base.reference or base.path} (fingerprint {base.fingerprint[:12]})"
    if not (policy / "adapter" / "adapter_config.json").is_file():
        raise UserError(
            f"{policy} has no adapter to go on with, as train.adapter continued asks: its weights were trained without one. "
            "Set train.adapter to fresh"
        )
    if said.get("fingerprint") != base.fingerprint:
        there = (
            f"{said['base']!r} (fingerprint {said.get('fingerprint', '')[:12]!r})" if "base" in said else "nobody knows what"
        )
        raise UserError(
            f"the adapter in {policy / 'adapter'} belongs to {there}, not to {wanted}: over other weights it is another "
            "function. Start from the model it belongs to, or set train.adapter to fresh"
        )


def require_means(method: str, named: str = "method") -> None:
    """Raise UserError where this machine cannot train by `method`; `named` is the field that asks for it."""
    if method != "qlora":
        return
    instead = "take lora (its base is in bfloat16 where the hardware multiplies that)"
    if not gpu_capabilities():
        raise UserError(
            f"{named} qlora: bitsandbytes quantises on an NVIDIA GPU, and none is to be seen here (`codelutra doctor`); "
            f"{instead}, or run this where a GPU is (`codelutra plan CONFIG --gpu-memory 24` plans for such a machine)"
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{named} qlora: bitsandbytes is not installed; `pip install bitsandbytes`, or {instead}")


def refuse_quantised(policy: Path) -> None:
    """Raise UserError where the weights in `policy` are quantised: they can be sampled from, not trained or merged into."""
    try:
        config: dict[str, Any] = json.loads((policy / "config.json").read_bytes())
        found = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    except UNREADABLE:
        return  # what is wrong with it, whoever loads it tells
    if found:
        how = str(found.get("quant_method", ""))[:40] if isinstance(found, dict) else ""
        raise UserError(
            f"the weights in {policy} are quantised (quantization_config: {how!r}): updates round away in them, and no "
            "adapter can be merged into them. Give the model they were made from; train.method qlora quantises it by itself"
        )
