"""Asks a policy one question: with the prompt of its run, for a greedy answer. A query runs in the sandbox for its rows."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig
from codelutra.errors import UserError
from codelutra.sampling.shards import Shard, sample_shards
from codelutra.schema import PROBLEMS
from codelutra.store.paths import accelerator_lock, cache_dir
from codelutra.suites.base import WHOLE_SCHEMAS, Suite, material, open_suite, shown_as
from codelutra.suites.databases import database_digest, read_schema, require_settled
from codelutra.suites.dialects import SQLITE
from codelutra.suites.duck.files import Reader, duckdb_digest, is_duckdb, require_whole
from codelutra.suites.examples import shared_lines, with_examples
from codelutra.suites.splits import shown
from codelutra.suites.sql import SqlSuite
from codelutra.suites.sql_text import bare
from sandbox import SandboxError
from sandbox.image import ensure_image
from sandbox.pool import Pool
from sandbox.protocol import SqlJob

_ID = "asked"


@dataclass(frozen=True)
class Answer:
    """What a policy answered, and what came of it."""

    question: str
    prompt: str
    completion: str
    code: str
    language: str
    finish_reason: str
    """ "stop", or "length" where it was cut off."""
    status: str
    """Of the sandbox: "ok" or why there are no rows; "not run" for Python; "no_code"."""
    columns: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "not run")

    @property
    def plain_rows(self) -> list[list[Any]]:
        """The rows with bytes written in hex, as SQLite writes them: x'00ff'."""
        return [[f"x'{cell.hex()}'" if isinstance(cell, bytes) else cell for cell in row] for row in self.rows]


def ask(config: RunConfig, policy: Path, question: str, *, database: str = "", server: str = "") -> Answer:
    """Ask the policy, trained as `config` says, by an engine of its own or, where it is given, by a `server` of it.

    database: a file of the kind the suite has, or the name of one of the suite's; may be left out where that has only one.
    Raises UserError for an empty question, a database that is none or is needed, a prompt that is too long, or where there
    is no sandbox.
    """
    if not question.strip():
        raise UserError('the question is empty; give it in quotes: codelutra ask RUN "How many …?"')
    suite = open_suite(config.suite.model_copy(update=WHOLE_SCHEMAS))  # the question's prompt is made from whole ones
    if not isinstance(suite, SqlSuite):
        if database:
            raise UserError(f"--db {database}: suite {suite.name} asks for Python programs, which have no database")
        return _answered(config, policy, suite, question, question, "python", server)
    file, digest = _database(suite, database)
    prompt = _prompt(config, suite, file, digest, question)
    answer = _answered(config, policy, suite, question, prompt, "sql", server)
    return answer if answer.status == "no_code" else _run(config, suite, file, digest, answer)


def _database(suite: SqlSuite, named: str) -> tuple[Path, str]:
    """The file and its digest."""
    files = {path.stem: (path, digest) for digest, path in suite.databases().items()}
    if not named:
        if len(files) == 1:
            return next(iter(files.values()))
        raise UserError(f"suite {suite.name} has {len(files)} databases; give one with --db: {', '.join(sorted(files))}")
    if named in files:
        return files[named]
    file = Path(os.path.expandvars(named)).expanduser()
    if not file.is_file():
        raise UserError(f"--db {named!r} is no file and no database of the suite; there: {', '.join(sorted(files))}")
    if is_duckdb(file) != (suite.speaks is not SQLITE):
        raise UserError(f"--db {named}: the policy writes {suite.speaks.title}; give a database of that kind")
    if suite.speaks is SQLITE:
        require_settled(file)
        return file, database_digest(file)
    require_whole(file)
    return file, duckdb_digest(file)


def _schema(suite: SqlSuite, file: Path) -> str:
    if suite.speaks is SQLITE:
        return read_schema(file)
    with Reader() as reader:
        return reader.schema(file)


def _prompt(config: RunConfig, suite: SqlSuite, file: Path, digest: str, question: str) -> str:
    """As the suite writes one over this database, with worked examples where the run's prompts have them."""
    section, schema = config.suite, _schema(suite, file)
    over = pl.Series([material(judge).get("database") == digest for judge in suite.problems()["judge"]], dtype=pl.Boolean)
    others = suite.problems().filter(over)
    prompts, context = others["prompt"].to_list(), schema
    if not all(prompt.startswith(schema) for prompt in prompts) and len(prompts) > 1:
        context = "\n".join(prompts[0].split("\n")[: shared_lines(prompts)]).strip()
    asked = {"problem_id": _ID, "split": "dev", "prompt": f"{context}\n\n{question}", "reference": ""}
    asked |= {"judge": json.dumps({"database": digest}), "group": next(iter(others["group"]), "")}
    row = pl.DataFrame([{name: asked.get(name, "") for name in PROBLEMS}], schema=PROBLEMS)
    problems = open_suite(section).problems()
    every = pl.concat([problems, shown_as(section, row, {digest: file})])
    extended = with_examples(every, section.shots, section.seed, shown(problems, section)) if prompts else every
    return str(extended.filter(pl.col("problem_id") == _ID)["prompt"][0])


def _answered(
    config: RunConfig, policy: Path, suite: Suite, question: str, prompt: str, language: str, server: str
) -> Answer:
    rows = {"problem_id": _ID, "split": "dev", "prompt": prompt, "language": language, "judge": "{}"}
    frame = pl.DataFrame([{name: rows.get(name, "") for name in PROBLEMS}], schema=PROBLEMS)
    engine = {"replicas": 1, "max_batch": 1, "cache_gib": min(0.5, config.engine.cache_gib)}  # for one answer
    samples = sample_shards(
        policy,
        suite.system,
        [Shard(0, _ID, frame, greedy=True)],
        sample=config.sample.model_copy(update={"endpoints": (server,) if server else ()}),
        engine=config.engine.model_copy(update=engine),
        seed=config.seed,
        log=cache_dir() / "ask.log",
        lock=accelerator_lock(),
        thinking=config.prompt.budget,
        waiting=lambda what: print(f"waiting for {what}", file=sys.stderr),
    )
    ((_, found),) = samples
    row = found.row(0, named=True)
    if row["finish_reason"] == "dropped":
        raise UserError(
            f"the prompt has {row['prompt_tokens']} tokens, and the run's engine.max_model_len leaves {config.prompt_room} "
            "for it: ask shorter, or over a smaller database"
        )
    given = (question, prompt, row["completion"], row["code"], language, row["finish_reason"])
    if not row["code"].strip():
        return Answer(*given, "no_code", error="the answer holds no program")
    return Answer(*given, "not run")


def _run(config: RunConfig, suite: SqlSuite, file: Path, digest: str, answer: Answer) -> Answer:
    limits = config.execute
    try:
        with Pool(
            image=ensure_image(suite.image),
            workers=1,
            databases={digest: file},
            run="ask",
            memory_mb=limits.memory_mb,
            runtime=limits.runtime,
        ) as pool:
            (result,) = pool.map([SqlJob(_ID, digest, bare(answer.code, suite.speaks), limits.timeout_seconds)])
    except SandboxError as e:
        raise UserError(f"{e}\n(`codelutra doctor` shows what is missing). The answer was: {answer.code}") from e
    if result.status != "ok":
        return replace(answer, status=result.status, error=result.error or "")
    value = result.value
    return replace(answer, status="ok", columns=value["columns"], rows=value["rows"])
