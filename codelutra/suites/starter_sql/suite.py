"""starter-sql: ten small databases and some 1,200 questions, made by our generator; needs no download.

The databases and problems are written once to `$CODELUTRA_CACHE` (or `~/.cache/codelutra`), in a folder named by a digest
of the generator. `suite.databases` chooses among the worlds. The splits are part of the suite; `suite.seed` only chooses
what a cap keeps.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import polars as pl

from codelutra.config import SuiteSection
from codelutra.schema import PROBLEMS
from codelutra.store.files import locked
from codelutra.store.paths import cache_dir
from codelutra.suites.databases import chosen_databases, database_digest
from codelutra.suites.splits import cap
from codelutra.suites.sql import SqlSuite, judging
from codelutra.suites.starter_sql.build import make_rows, write_database
from codelutra.suites.starter_sql.declare import read_world, world_names
from codelutra.suites.starter_sql.generate import problems

LICENCE = "Apache-2.0"
_SOURCES = Path(__file__).parent


def load(section: SuiteSection) -> SqlSuite:
    folder = ensure_made()
    names = chosen_databases(section, world_names(), "starter-sql")
    frame = pl.read_ndjson(folder / "problems.jsonl", schema=PROBLEMS).filter(pl.col("group").is_in(names))
    files = {database_digest(folder / f"{name}.sqlite"): folder / f"{name}.sqlite" for name in names}
    content = hashlib.sha256((folder / "problems.jsonl").read_bytes()).hexdigest()[:12]
    return SqlSuite("starter-sql", f"2-{content}", LICENCE, cap(frame, section), files)


def ensure_made() -> Path:
    """The folder with `<world>.sqlite` and `problems.jsonl`, made if it is absent; what exists is whole."""
    folder = cache_dir() / "starter-sql" / _made_by()
    if not folder.is_dir():
        with locked(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another process was not first
                scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
                make(scratch)
                scratch.rename(folder)
    return folder


def make(folder: Path) -> None:
    """Write every world's database and all problems into an empty folder; the same bytes every time."""
    lines = []
    for world in map(read_world, world_names()):
        path = folder / f"{world.name}.sqlite"
        write_database(world, make_rows(world), path)
        digest = database_digest(path)
        for p in problems(world):
            row = {**p, "language": "sql", "group": world.name, "judge": judging(p["reference"], digest)}
            lines.append(json.dumps({name: row[name] for name in PROBLEMS}))
    (folder / "problems.jsonl").write_text("\n".join(lines) + "\n")


def _made_by() -> str:
    """Digest of the generator's sources, so that another generator writes another folder."""
    sources = sorted([*_SOURCES.glob("*.py"), *_SOURCES.rglob("*.yaml")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
