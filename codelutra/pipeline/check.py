"""`codelutra check`: will the numbers of this config mean what they say? Answered before a run spends anything.

Every reference is judged twice through the real path (the run's own `references` stage, which it will find done, and once
more); prompts are counted in tokens; problems that train shares with another split, or with another suite, are leaks; the
same question with two answers is a contradiction.
Not covered: paraphrases of a question, and programs that do the same in other words.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from codelutra import models
from codelutra.config import RunConfig, SuiteSection, load_config
from codelutra.config.idle import idle_lines
from codelutra.errors import UserError
from codelutra.execution.references import judge_references
from codelutra.pipeline import stages
from codelutra.pipeline.copies import copies_notes, told
from codelutra.pipeline.fetched import fetched
from codelutra.pipeline.run import Progress, Run, cache_dir
from codelutra.prompts import prompt_ids
from codelutra.schema import STATUSES
from codelutra.suites import linking
from codelutra.suites.base import SUITES, WHOLE_SCHEMAS, Suite, material, open_suite
from codelutra.suites.determined import tied_limits
from codelutra.suites.splits import digests, same_prompt
from sandbox.protocol import decode

FLAKY = "two runs of it differ"
SHOWN = 5  # contradictions, or problems named in a note
Row = dict[str, Any]


@dataclass(frozen=True)
class Report:
    suite: Row  # name, version, mode
    splits: list[Row]  # split, problems, usable, too_long (None: not counted), reference_errors, flaky, digest
    failures: list[Row]  # problem_id, split, group, kind, why, reference
    leaks: list[Row]  # train_id, shares ("prompt" | "program"), suite, split, problem_id
    notes: list[str]
    contradictions: list[Row] = field(default_factory=list)  # split, problem_id; first_split, first_id: asks the same
    copies: Row = field(default_factory=dict)  # with suite.copies: what pipeline/copies.py:told says of them
    schema: Row = field(default_factory=dict)  # with suite.shown_schema linked: what suites/linking.py:recall says

    @property
    def spoilt(self) -> list[str]:
        """What makes the run's numbers mean something else than they say; empty is fine."""
        found = [
            f"{len({leak['problem_id'] for leak in self.leaks if (leak['suite'], leak['split']) == where})} problems of "
            f"{' '.join(where)} are in train"
            for where in sorted({(leak["suite"], leak["split"]) for leak in self.leaks})
        ]
        if self.contradictions:
            found.append(f"{len(self.contradictions)} problems contradict another that asks the same")
        return found + [f"no reference of {s['split']} is usable" for s in self.splits if s["problems"] and not s["usable"]]


def check(config: RunConfig, home: Path, against: Sequence[str] = (), on_progress: Progress | None = None) -> Report:
    """Judge the references of a run's problems, count its prompts, find its leaks; leaves a run directory nowhere.

    against: suites by name, or configs. Raises UserError as the run itself would, and where `against` names nothing.
    """
    others = [(name, *_other(name)) for name in against]
    notes = idle_lines(config)
    if "train" not in set(open_suite(config.suite).problems()["split"]):
        if config.iterations:
            notes.append("there are no train problems: a run can only measure its model on them, with iterations: 0")
        config = config.model_copy(update={"iterations": 0, "warm_start": None})
    with tempfile.TemporaryDirectory(prefix="codelutra-check-") as scratch, Run(home, config, Path(scratch)) as run:
        run.on_progress = on_progress
        asked = run.make(stages.problems(run))
        judged_once = run.make(stages.references(run, asked))
        expected = judged_once.frame("expected")
        problems = asked.frame("problems")
        (again, _), _ = run.judged(judge_references, problems, heard=run.progress("references, once more", "problems"))
        copies = told(run, asked, judged_once) if config.suite.copies else {}
        plain = run.suite.problems()  # without worked examples, which several prompts share
        failures = reference_failures(problems, expected, again, run.suite)
        leaks = leaks_within(plain, run.suite)
        clashes = contradictions(plain, expected, run.suite)
        for name, suite, theirs in others:
            leaks += leaks_between(plain, run.suite, theirs, suite, name)
        lengths, note = _lengths(problems, run.suite.system, config, run)
    judged = {"name": run.suite.name, "version": run.suite.version, "mode": run.suite.mode}
    rows = _by_split(problems, failures, lengths, config.prompt_room)
    notes += [note] if note else []
    notes += [
        f"contradiction: {c['split']} {c['problem_id']} asks what {c['first_split']} {c['first_id']} asks, and another "
        "answer is right; remove one, or say in the questions how they differ"
        for c in clashes[:SHOWN]
    ]
    if len(clashes) > SHOWN:
        notes.append(f"… and {len(clashes) - SHOWN} more contradictions (--json lists all)")
    if cut := tied_limits(expected):
        named = ", ".join([*cut[:SHOWN], *["…"][: len(cut) > SHOWN]])
        notes.append(
            f"{len(cut)} references have a LIMIT that cuts rows that tie ({named}): any of those rows are right; "
            "add sort keys where one of them is meant"
        )
    notes += copies_notes(copies) if copies else []
    schema = _schema_shown(config.suite, plain, run.suite)
    notes += [_schema_note(schema)] if schema else []
    if "dev" not in asked.facts["splits"]:
        notes.append("there are no dev problems: a run can measure its model on test, but not choose among policies")
    return Report(judged, rows, failures, leaks, notes, clashes, copies, schema)


def _schema_shown(section: SuiteSection, shown: pl.DataFrame, suite: Suite) -> Row:
    if section.shown_schema == "full":
        return {}
    full = open_suite(section.model_copy(update=WHOLE_SCHEMAS)).problems()
    return linking.recall(full, shown, suite.databases())


def _schema_note(found: Row) -> str:
    return (
        f"schema: linked shows {found['shown']:.1%} of a schema's columns on average. Of what references read it shows "
        f"{found['tables']:.1%} of the tables and {found['columns']:.1%} of the columns; all of it in {found['whole']} of "
        f"{found['references']} prompts"
    )


def reference_failures(problems: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame, suite: Suite) -> list[Row]:
    """The problems whose reference is no use, in their order; those that came out differently twice are `FLAKY`."""
    joined = problems.join(first, on="problem_id", how="left", maintain_order="left")
    joined = joined.join(second, on="problem_id", how="left", suffix="_again", maintain_order="left")
    rows = []
    for row in joined.rows(named=True):
        statuses = {row["status"], row["status_again"]}
        if statuses == {"correct"}:
            outputs = {suite.answer_digest(row, decode(json.loads(row[c]))) for c in ("expected", "expected_again")}
            why = FLAKY if len(outputs) > 1 else ""
        else:
            why = FLAKY if "correct" in statuses else row["error"]
        if why:
            kept = {c: row[c] for c in ("problem_id", "split", "group")}
            rows.append({**kept, "kind": _kind(why), "why": why, "reference": row["reference"]})
    return rows


def leaks_within(problems: pl.DataFrame, suite: Suite) -> list[Row]:
    """Problems of dev and test that train has too."""
    keys = _keys(problems, suite)
    return _shared(keys.filter(pl.col("split") == "train"), keys.filter(pl.col("split") != "train"), suite.name)


def leaks_between(ours: pl.DataFrame, suite: Suite, theirs: pl.DataFrame, other: Suite, name: str) -> list[Row]:
    """Problems of another suite, whatever their split, that our train has too."""
    return _shared(_keys(ours.filter(pl.col("split") == "train"), suite), _keys(theirs, other), name)


def contradictions(problems: pl.DataFrame, expected: pl.DataFrame, suite: Suite) -> list[Row]:
    """Problems that ask what an earlier one asks, of the same database or by the same calls, and expect another answer.

    expected: EXPECTED. Problems whose reference cannot judge are left out.
    """
    first, found = dict[Any, Row](), list[Row]()
    answers = dict(expected.filter(pl.col("status") == "correct").select("problem_id", "expected").rows())
    for row in problems.rows(named=True):
        if row["problem_id"] not in answers:
            continue
        judged = material(row["judge"])
        asked = (same_prompt(row["prompt"]), judged.get("database"), *judged.get("calls", ()))
        answer = suite.answer_digest(row, decode(json.loads(answers[row["problem_id"]])))
        before = first.setdefault(asked, row | {"answer": answer})
        if before["answer"] != answer:
            kept = {c: row[c] for c in ("split", "problem_id")}
            found.append({**kept, "first_split": before["split"], "first_id": before["problem_id"]})
    return found


def _keys(problems: pl.DataFrame, suite: Suite) -> pl.DataFrame:
    """(problem_id, split, shares, key), two rows a problem (one where there is no reference): equal keys, equal problems.

    A query is the same only over the same database; the same question over another schema is another prompt. `group` does
    not count: in a custom suite it is whatever its author says.
    """
    rows = [each for row in problems.rows(named=True) for each in (row, *suite.accepted(row)) if row["reference"]]
    solved = pl.DataFrame(rows, schema=problems.schema)
    databases = map(_database, *solved.select("language", "judge"))
    programs = map(suite.alike, solved["reference"])
    same_program = map("\0".join, zip(solved["language"], databases, programs, strict=True))
    keyed = {"prompt": (problems, map(same_prompt, problems["prompt"])), "program": (solved, same_program)}
    return pl.concat(
        frame.select("problem_id", "split", pl.lit(shares).alias("shares"), key=pl.Series(keys, dtype=pl.String))
        for shares, (frame, keys) in keyed.items()
    )


def _database(language: str, judge: str) -> str:
    """Digest of the file that a query is asked of; "" where programs need none."""
    return str(json.loads(judge)["database"]) if language == "sql" else ""


def _shared(train: pl.DataFrame, others: pl.DataFrame, suite: str) -> list[Row]:
    first = train.group_by("shares", "key").agg(train_id=pl.col("problem_id").min())
    found = others.join(first, on=["shares", "key"], how="inner").sort("split", "problem_id", "shares", "train_id")
    found = found.unique(["shares", "split", "problem_id", "train_id"], maintain_order=True)  # of several accepted programs
    named = found.with_columns(pl.col("split").cast(pl.String), suite=pl.lit(suite))
    return named.select("train_id", "shares", "suite", "split", "problem_id").to_dicts()


def _other(name: str) -> tuple[Suite, pl.DataFrame]:
    suite = open_suite(SuiteSection(name=name) if name in SUITES else load_config(name).suite)
    return suite, suite.problems()


def _kind(why: str) -> str:
    """A reason without what differs from problem to problem, for counting."""
    head = why.split(":", 1)[0]
    return head if head in STATUSES else re.sub(r"\d+", "N", head.split(";", 1)[0])[:80]  # without the way out


def _lengths(problems: pl.DataFrame, system: str, config: RunConfig, run: Run) -> tuple[pl.Series | None, str]:
    """Tokens of each prompt, as sampling counts them; or None and why not."""
    try:
        tokenizer = _tokenizer(config.model, run)
    except (ImportError, OSError, UserError) as e:
        return None, f"prompts were not counted: no tokenizer of {config.model} ({str(e).splitlines()[0]})"
    return pl.Series(
        [len(prompt_ids(tokenizer, system, p, thinking=config.prompt.thinking)) for p in problems["prompt"]], dtype=pl.Int64
    ), ""


def _tokenizer(model: str, run: Run) -> Any:
    """A model's tokenizer. Of one on the hub only its files are fetched, not the weights."""
    from transformers import PreTrainedTokenizerFast  # AutoTokenizer would import torch as well: seconds

    known = models.find(model)
    scheme, _, rest = models.source_of(model, cache_dir() / "models").partition(":")
    if scheme == "hf":
        where, _, revision = rest.partition("@")
        try:
            return PreTrainedTokenizerFast.from_pretrained(where, revision=revision or "main")
        except OSError:
            if not known or len(known.sources) == 1:
                raise
    return PreTrainedTokenizerFast.from_pretrained(str(fetched(run, model).path))


def _by_split(problems: pl.DataFrame, failures: list[Row], lengths: pl.Series | None, room: int) -> list[Row]:
    failed = {f["problem_id"]: f["why"] for f in failures}
    rows = []
    for split, digest in digests(problems).items():
        chosen = problems["split"] == split
        whys = [failed[i] for i in problems.filter(chosen)["problem_id"] if i in failed]
        flaky, total = whys.count(FLAKY), int(chosen.sum())
        too_long = None if lengths is None else int((lengths.filter(chosen) > room).sum())
        counts = {"problems": total, "usable": total - len(whys), "too_long": too_long}
        broken = {"reference_errors": len(whys) - flaky, "flaky": flaky}
        rows.append({"split": split, **counts, **broken, "digest": digest})
    return rows
