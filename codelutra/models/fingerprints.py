"""What identifies a policy: the files that decide what it writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path

from codelutra.reading.weights import require_model
from codelutra.store.files import refuse_foreign, sha256_file, write_atomic

# What decides what a policy writes. Everything else in the directory (README, licence, training state) does not.
POLICY_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "*.py",
)


def fingerprint(directory: Path, cache: Path) -> str:
    """The policy's identity. File digests are remembered in `cache` under (size, mtime), so 16 GB are hashed once.

    Raises Unreadable when the directory is not a whole model.
    """
    files = sorted(
        p for p in directory.iterdir() if p.is_file() and any(fnmatch(p.name, pattern) for pattern in POLICY_FILES)
    )
    for file in files:
        if file.suffix != ".safetensors":  # weights may lie on another disk; they are never copied by name
            refuse_foreign(file, directory)
    names = [p.name for p in files]
    require_model(directory, names)
    memory = cache / "fingerprints" / f"{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]}.json"
    known = _remembered(memory)
    stats = {p.name: f"{p.stat().st_size} {p.stat().st_mtime_ns}" for p in files}
    digests = {p.name: known[k] if (k := f"{p.name} {stats[p.name]}") in known else sha256_file(p) for p in files}
    with contextlib.suppress(PermissionError):  # a cache of another user: it is hashed again the next time
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps({f"{name} {stats[name]}": digest for name, digest in digests.items()}))
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in names).encode()).hexdigest()


def _remembered(memory: Path) -> dict[str, str]:
    """Digests in a file of `fingerprint`; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(known := json.loads(memory.read_bytes()), dict):
            return known
    return {}
