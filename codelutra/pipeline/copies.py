"""The stages that `suite.copies` adds: perturbed copies of the databases, what references give there, outcomes confirmed.

    problems ─► copies ─► references on copies ─┐
                outcomes of train samples ──────┴─► confirmed: the same outcomes, those right by luck `undecided`

Scores stay by the outcomes themselves. `pairs` and `answers` take the confirmed ones. Dev and test have copies of their own,
made for their references; what is right there as well is a second number beside the score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codelutra.execution import lucky
from codelutra.execution.discern import discern
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Artifact, Recipe, Step, digest_of, write_frame
from codelutra.suites.base import material
from codelutra.suites.copies import make

SHOWN = 5  # databases named in the notes
VERSIONS = {"copies": 1, "references-on-copies": 1, "confirmed": 1}


def copies(run: Run, problems: Artifact, split: str = "train") -> Step:
    """For the references of a split: COPIES, and beside it the copies as DIGEST.sqlite. The facts name the databases with
    fewer than asked for, and why."""
    section = run.config.suite
    asked = make.queries_by_database(problems.frame("problems"), split)
    read = {"count": section.copies, "seed": section.seed, "version": make.VERSION}

    def build(out: Path, work: Path) -> dict[str, Any]:
        frame, fewer = make.make_copies(
            run.suite.databases(), asked, section.copies, section.seed, out, run.progress("copies", "databases")
        )
        write_frame(frame, out / "copies.parquet")
        return {"databases": len(asked), "copies": frame.height, "fewer": fewer}

    return Step(Recipe("copies", VERSIONS["copies"], read, {"asked": digest_of(asked)}), build)


def references_on_copies(run: Run, copies: Artifact, problems: Artifact, expected: Artifact, split: str = "train") -> Step:
    """What the usable references of a split's problems give on the copies, as EXPECTED_ON_COPIES."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        frames = copies.frame("copies"), problems.frame("problems"), expected.frame("expected")
        heard = run.progress("references on copies", "runs")
        (frame, facts), _ = run.judged(lucky.expected_on_copies, *frames, heard=heard, databases=files(copies), split=split)
        write_frame(frame, out / "expected.parquet")
        return facts

    inputs = {"copies": copies.digest, "problems": problems.digest, "expected": expected.digest}
    return Step(Recipe("references-on-copies", VERSIONS["references-on-copies"], _of_split(run, split), inputs), build)


def confirmed(
    run: Run,
    outcomes: Artifact,
    copies: Artifact,
    problems: Artifact,
    there: Artifact,
    label: str = "",
    split: str = "train",
) -> Step:
    """A shard of OUTCOMES whose answers that are right by luck are `undecided`; beside it LUCKY."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        (frame, counts, facts), seconds = run.judged(
            lucky.confirm,
            outcomes.frame("outcomes"),
            copies.frame("copies"),
            problems.frame("problems"),
            there.frame("expected"),
            heard=run.progress(f"confirm {label}".strip(), "copies"),
            databases=files(copies),
            max_infra_error=run.config.execute.max_infra_error,
            split=split,
            cache=None if run.judges else run.outcome_cache,  # which stays on this machine
            machine=run.machine,
        )
        write_frame(frame, out / "outcomes.parquet")
        write_frame(counts, out / "lucky.parquet")
        return {**facts, "busy_seconds": round(seconds, 3)}

    inputs = {"outcomes": outcomes.digest, "copies": copies.digest, "problems": problems.digest, "expected": there.digest}
    return Step(Recipe("confirmed", VERSIONS["confirmed"], _of_split(run, split), inputs), build, label)


def told(run: Run, problems: Artifact, expected: Artifact) -> dict[str, Any]:
    """What `codelutra check` says of the copies: how many there are, where they count, what they tell apart (discern.py)."""
    made = run.make(copies(run, problems))
    there = run.make(references_on_copies(run, made, problems, expected))
    asked = problems.frame("problems")
    frames = asked, expected.frame("expected"), made.frame("copies"), there.frame("expected")
    heard = run.progress("changed references", "queries")
    found, _ = run.judged(discern, *frames, heard=heard, databases=files(made), seed=run.config.suite.seed)
    named = {material(judge)["database"]: group for group, judge in asked.select("group", "judge").rows()}
    fewer = [{"database": named[digest], "why": why} for digest, why in made.facts["fewer"].items()]
    return {**made.facts, "of_each": run.config.suite.copies, "fewer": fewer, **there.facts, "mutants": found}


def copies_notes(found: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    tried = found["mutants"]
    first = (
        f"copies: {found['copies']} of {found['databases']} databases, made of train; {found['problems_with_copies']} of "
        f"{found['problems']} usable train problems are judged on them. Of {tried['changed']} references with one thing "
        f"changed, {tried['right']} are right on the database; the copies catch {tried['caught']} of these"
    )
    notes = [first]
    notes += [f"fewer copies of {f['database']}: {f['why']}" for f in found["fewer"][:SHOWN]]
    if len(found["fewer"]) > SHOWN:
        notes.append(f"… and {len(found['fewer']) - SHOWN} more databases with fewer copies (--json lists all)")
    return notes


def files(copies: Artifact) -> dict[str, Path]:
    """The copies by digest, as a sandbox pool takes databases."""
    return {digest: copies.file(f"{digest}.sqlite") for digest in copies.frame("copies")["digest"]}


def _of_split(run: Run, split: str) -> dict[str, Any]:
    return run.judging() | ({} if split == "train" else {"split": split})
