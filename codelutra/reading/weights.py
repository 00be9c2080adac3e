"""Whether a folder holds a whole model in Hugging Face's layout; nothing but the beginning of the weights is read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from codelutra.reading.policy import require_writer, settings
from codelutra.reading.text import Unreadable

_LONGEST = 100 << 20  # bytes of a header; safetensors itself takes no longer one

MERGE = "merge it into its base (`merge_and_unload` of peft, then `save_pretrained`) and give path: and that folder"
_SETTINGS = {"generation_config.json", "tokenizer_config.json", "tokenizer.json"}
# What a tokenizer is in: transformers' own form, sentencepiece's, or the lists of older ones.
_TOKENIZERS = ("tokenizer.json", "*.model*", "vocab.*", "merges.txt", "*.py")


def require_model(directory: Path, names: Sequence[str]) -> None:
    """Raise Unreadable, with the way out, where `directory`, which holds the files `names`, is no whole model."""
    if (directory / "adapter_config.json").exists():
        raise Unreadable(
            f"{directory} holds an adapter (adapter_config.json), not a whole model; give adapter:DIR if codelutra exported "
            f"it, else {MERGE}"
        )
    parts = {"config.json": ("config.json",), "*.safetensors": ("*.safetensors",), "tokenizer": _TOKENIZERS}
    for what, patterns in parts.items():
        if not any(fnmatch(name, pattern) for name in names for pattern in patterns):
            raise Unreadable(
                f"{directory} holds no {what}; a model directory has config.json, *.safetensors and tokenizer files "
                "(`save_pretrained` of the model and of its tokenizer writes them)"
            )
    require_writer(settings(directory / "config.json"), directory / "config.json")
    for name in _SETTINGS & {*names}:
        settings(directory / name)
    for name in names:
        part = re.fullmatch(r"(.+)-\d+-of-(\d+)\.safetensors", name)
        if part and int(part[2]) > 1 and (index := f"{part[1]}.safetensors.index.json") not in names:
            raise Unreadable(f"{directory} holds parts of the weights ({name}) and no {index}; fetch the model again")
    for name in names:
        if name.endswith(".safetensors.index.json"):
            if missing := sorted(_listed(directory / name) - set(names)):
                raise Unreadable(f"{directory} holds no {missing[0]}, which its {name} names; fetch the model again")
        elif name.endswith(".safetensors") and (why := _broken(directory / name)):
            raise Unreadable(f"{directory / name} {why}; fetch it again")


def _listed(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise Unreadable(f"{index} is not the index of a model's weights; fetch it again") from e


def _broken(file: Path) -> str:
    """Why a safetensors file is not whole, or ""."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size >= 8 and 8 + length > size and not opened.read(40).startswith(b"{"):
            return "is a pointer of Git LFS" if file.read_bytes()[:8] == b"version " else "is no safetensors file"
        if size < 8 + length or length > _LONGEST:
            return f"is cut short or damaged: it has {size:,} bytes"
        try:
            tensors = json.loads(opened.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
            want = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "is no safetensors file, or damaged"
    return "" if want == size else f"is cut short or damaged: it has {size:,} of {want:,} bytes"
