"""Databases → their perturbed copies, as files named by their content."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.schema import COPIES, check
from codelutra.store.files import sha256_file
from codelutra.suites.base import material
from codelutra.suites.copies.asks import read_asks
from codelutra.suites.copies.perturb import perturbed
from codelutra.suites.copies.tables import names_of, read_tables, same_rows, write_copy

VERSION = 1
TRIES = 3  # for one copy that differs from the original and from the others


def queries_by_database(problems: pl.DataFrame, split: str = "train") -> dict[str, list[str]]:
    """The references of a split's problems, and what else these accept, by the digest of their database, sorted.

    A database without any is left out.
    """
    found: dict[str, set[str]] = {}
    asked = problems.filter(pl.col("split") == split, pl.col("reference") != "").select("reference", "judge")
    for reference, judge in asked.rows():
        judged = material(judge)
        found.setdefault(judged["database"], set()).update([reference, *(o["query"] for o in judged.get("also", ()))])
    return {digest: sorted(queries) for digest, queries in sorted(found.items())}


def make_copies(
    files: Mapping[str, Path],
    queries: Mapping[str, Sequence[str]],
    count: int,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Write `count` copies of every database that is asked `queries` into `out`, each as DIGEST.sqlite.

    files: SQLite files by sha256. Returns COPIES, and by digest why a database has fewer. Nothing that is in a database
    raises.
    """
    rows, fewer = list[dict[str, Any]](), dict[str, str]()
    for place, (digest, asked) in enumerate(queries.items()):
        made, why = _copies_of(files[digest], digest, asked, count, seed, out)
        rows += [{"database": digest, "copy": i, "digest": d, "rows": n} for i, (d, n) in enumerate(made)]
        if why:
            fewer[digest] = why
        if progress:
            progress(place + 1, len(queries))
    return check(pl.DataFrame(rows, schema=COPIES), COPIES), fewer


def _copies_of(
    file: Path, digest: str, queries: Sequence[str], count: int, seed: int, out: Path
) -> tuple[list[tuple[str, int]], str]:
    made = dict[str, int]()
    try:
        asks = read_asks(queries, names_of(file))
        tables = read_tables(file, asks, _chance(seed, digest, "rows"))
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as e:
        return [], f"it cannot be read as plain tables: {e}"
    if not any(table.rows for table in tables.values()):
        return [], "it has no row in a plain table"
    why, target = "", out / "copy.sqlite"
    for number, attempt in product(range(count), range(TRIES)):
        if len(made) > number:
            continue
        chance = _chance(seed, digest, f"{number} {attempt}")
        spare = {name: [row for row in t.rows if chance.random() < 0.7] or t.rows for name, t in tables.items()}
        target.unlink(missing_ok=True)
        try:
            rows = write_copy(file, perturbed(tables, asks, chance, distinct=number % 2 == 0), spare, target)
            is_new = rows > 0 and (content := sha256_file(target)) not in made and not same_rows(target, tables)
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as e:
            why = f"a copy cannot be written: {e}"
            continue
        if is_new:
            target.rename(out / f"{content}.sqlite")
            made[content] = rows
    target.unlink(missing_ok=True)
    return list(made.items()), "" if len(made) == count else why or "its constraints leave nothing to perturb"


def _chance(seed: int, digest: str, what: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{seed} {digest} {what}".encode()).digest())
