"""`adapter:DIR`: an exported LoRA adapter over the base that its record names, merged once into a directory of the cache.

The merge is PEFT's, in float32, in a process of its own: `python -m codelutra.models.merge_worker`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from codelutra.errors import UserError
from codelutra.models.made import Here, Model, made_here
from codelutra.models.references import check_reference, place, require_there, shown
from codelutra.reading.weights import MERGE
from codelutra.store.child import Child
from codelutra.store.files import UNREADABLE, require_plain_file, sha256_file

RECORD = "codelutra-adapter.json"
"""In an adapter's folder: `base` (a reference), its `fingerprint`, and the `method` of training."""
_FILES = (RECORD, "adapter_config.json", "adapter_model.safetensors")


def from_adapter(rest: str, here: Here, resolve_base: Callable[[str], Model]) -> Model:
    """Raises UserError where the folder is no whole adapter, or its base cannot be had or has other weights."""
    directory, named, fingerprint = base_of(rest)
    base = resolve_base(named)
    if base.fingerprint != fingerprint:
        raise UserError(
            f"model {shown(f'adapter:{rest}')} belongs to {shown(named)} with fingerprint {shown(fingerprint[:12])}, and "
            f"{base.path} has {base.fingerprint[:12]}: over other weights it is another function. Get the base it was "
            "trained over"
        )
    files = hashlib.sha256("".join(sha256_file(directory / name) for name in _FILES).encode()).hexdigest()
    name = f"adapter-{files[:12]}-{base.fingerprint[:12]}"
    return made_here(f"adapter:{rest}", name, here, lambda out: _merge(base, directory, out, here))


def base_of(rest: str) -> tuple[Path, str, str]:
    """The adapter's folder, its base's reference and fingerprint. Raises UserError where it is no whole adapter."""
    require_there(f"adapter:{rest}")
    directory = place(f"adapter:{rest}", rest).resolve()
    if not (directory / RECORD).exists() and (directory / "adapter_config.json").exists():
        raise UserError(f"model {shown(f'adapter:{rest}')} is not an adapter that codelutra exported; {MERGE}")
    try:
        for name in _FILES:
            require_plain_file(directory / name)
            (directory / name).stat()
        said = json.loads((directory / RECORD).read_bytes())
        named, fingerprint = str(said["base"]), str(said["fingerprint"])
    except (*UNREADABLE, LookupError, TypeError) as e:
        raise UserError(
            f"model {shown(f'adapter:{rest}')} is not an adapter that codelutra exported ({e}): it takes {', '.join(_FILES)}"
        ) from e
    if named.startswith("adapter:"):
        raise UserError(f"model {shown(f'adapter:{rest}')} names an adapter as its base; export the merged weights instead")
    check_reference(named)
    return directory, named, fingerprint


def _merge(base: Model, adapter: Path, out: Path, here: Here) -> str:
    here.say(f"merging {adapter.name} into {base.reference}, once")
    arguments = (str(base.path), str(adapter), str(out))
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("merging", "codelutra.models.merge_worker", *arguments, log=Path(scratch) / "log") as child,
    ):
        while child.hear()["event"] != "done":
            pass
    return base.licence
