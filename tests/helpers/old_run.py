"""A home as version 0.1.0 left it (commit 4f5f425), unpacked where a test wants it.

home/runs        old-r001, old-warm-start-s0, old-codelutra-s0 have finished; `old`, the same config with two iterations,
                 was killed while it trained policy 2
home/store, home/promoted/old, home/comparisons/old
model/           the model they all start from
old.yaml         the config
"""

from __future__ import annotations

import tarfile
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures/run-of-0.1.0.tar.xz"
MADE_AT = "/codelutra-old-run"  # where it was made; its files name this folder


def unpack_old_run(folder: Path, *, moved: bool = True) -> Path:
    """Unpack it into `folder` and return that. `moved`: its files name `folder`, as if it had been made there."""
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(folder, filter="data")
    names = ("summary.json", "run.yaml", "record.json", "log.txt", "old.yaml", "comparison.json")
    for file in folder.rglob("*") if moved else ():
        if file.name in names:
            file.write_text(file.read_text().replace(MADE_AT, str(folder)))
    return folder
