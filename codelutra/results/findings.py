"""A run read back for people: its numbers, the artifacts they came from, and what may be said about them.

Figures, the report page and the model card are made from `Findings`; the numbers are those of summary.json.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig
from codelutra.errors import UserError, redacted
from codelutra.results import text
from codelutra.results.load import read_scores, read_summary
from codelutra.results.summary import PolicyResult, RunSummary, iteration_of
from codelutra.scoring.scores import mcnemar
from codelutra.store.artifacts import Event, Manifest, checked, read_frame, read_manifest
from codelutra.store.files import reading
from codelutra.store.paths import go_on_command
from codelutra.store.run_dir import RunDir

Line = dict[str, Any]  # of a training.jsonl
_WORD = re.compile(r"[^\W\d_]{2,}")
_FEWEST_WORDS = 3  # in a line of prose; "Problem:" is none
_CODE = re.compile(
    r"assert\b.*[=(]|return\b|from [\w.]+ import\b|import [\w.]+(?: as \w+)?$|def \w+\(|class \w+[(:]|\w+ = "
    r"|@\w|>>>|</?\w+>$|```|(?:\"\"\"|\'\'\')$"
    r"|#+ [A-Z ]+$|['\"][^'\"]+['\"] ?:"  # "### BEGIN SOLUTION", an item of a dictionary
)


@dataclass(frozen=True)
class Gain:
    """How a second policy compares with a first on the same dev problems."""

    gained: int  # problems only the second solves
    lost: int  # problems only the first solves
    n: int  # problems both were asked
    p: float  # exact McNemar

    @property
    def points(self) -> float:
        """Difference of pass@1 in percentage points."""
        return 100 * (self.gained - self.lost) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `points`: adjusted Wald for paired proportions (Bonett and Price 2012)."""
        up, down = (self.gained + 1) / (self.n + 2), (self.lost + 1) / (self.n + 2)
        reach = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / (self.n + 2))
        return 100 * max(-1.0, up - down - reach), 100 * min(1.0, up - down + reach)

    @property
    def text(self) -> str:
        low, high = self.interval
        said = text.points(self.points / 100, low / 100, high / 100)
        return f"{said}, {text.p_value(self.p)} ({self.gained} gained, {self.lost} lost)"


@dataclass(frozen=True)
class Findings:
    """One run's directory, read."""

    path: Path
    summary: RunSummary

    @property
    def policies(self) -> list[PolicyResult]:
        return self.summary.policies

    @property
    def best(self) -> PolicyResult | None:
        """The chosen policy; before anything was chosen, the highest dev pass@1."""
        return self.summary.chosen or max(self.policies, key=lambda p: p.dev.value, default=None)

    @property
    def mend(self) -> str:
        """The way out where a file of the run is damaged."""
        return f"`{go_on_command(self.path)}` makes it anew"

    @cached_property
    def config_text(self) -> str:
        assert self.config  # a damaged file is told of
        return redacted((self.path / "run.yaml").read_text(encoding="utf-8"))

    @cached_property
    def config(self) -> RunConfig:
        mend = "put a copy of it back, or remove it and start the run with its own config again"
        if config := RunDir(self.path).config(mend):
            return config
        raise UserError(f"{self.path / 'run.yaml'} is not there; start the run with its own config again")

    @cached_property
    def events(self) -> list[Event]:
        return RunDir(self.path).events()

    @cached_property
    def training(self) -> list[tuple[str, list[Line]]]:
        """(name, lines of training.jsonl) of every policy that was trained here."""
        return [(p.name, lines) for p in self.policies if (lines := self._training(p))]

    def _training(self, row: PolicyResult) -> list[Line]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _json_lines(checked(Path(row.path) / "training.jsonl", self.mend), self.mend)
        return []

    def frame(self, name: str) -> pl.DataFrame | None:
        """A parquet file of the run's directory, None where it is not there. Raises UserError where it is not as it was
        made."""
        with contextlib.suppress(FileNotFoundError):
            return read_frame(self.path / name, self.mend)
        return None

    def dev_scores(self, row: PolicyResult) -> pl.DataFrame | None:
        """SCORES of dev, None where they are gone. Raises UserError where they are not those that the record tells of."""
        with contextlib.suppress(FileNotFoundError):
            return read_scores(self.path, f"{row.folder}/dev-scores", row.dev)
        return None

    def dev_outcomes(self, row: PolicyResult) -> pl.DataFrame | None:
        files = sorted(self.path.glob(f"{row.folder}/dev-outcomes-*/outcomes.parquet"))
        return pl.concat([read_frame(f, self.mend) for f in files]) if files else None

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of the artifact that `name` in the run's directory, or an absolute path, points at."""
        target = Path(os.path.realpath(self.path / name))
        folder = target if target.is_dir() else target.parent
        with contextlib.suppress(FileNotFoundError), reading(folder / "manifest.json", self.mend):
            return read_manifest(folder)
        return None

    @cached_property
    def artifacts(self) -> list[tuple[str, Manifest]]:
        """(where it is seen in the run's directory, manifest) of everything linked there, and of the policies."""
        links = sorted(p for p in self.path.rglob("*") if p.is_symlink())
        named = [(str(p.relative_to(self.path)), self.manifest(str(p))) for p in links]
        named += [(p.name, self.manifest(p.path)) for p in self.policies]
        return [(name, manifest) for name, manifest in named if manifest]

    def gain(self, before: PolicyResult, after: PolicyResult) -> Gain | None:
        """`after` against `before` on dev, problem by problem; None where a score artifact is gone."""
        old, new = self.dev_scores(before), self.dev_scores(after)
        if old is None or new is None or before is after:
            return None
        return Gain(**asdict(mcnemar(old, new)))


def read_findings(run_path: Path) -> Findings:
    """Raises UserError where there is no run with results."""
    return Findings(run_path, read_summary(run_path.parent, run_path.name, newest=False))


def headline(found: Findings) -> list[str]:
    """What the run shows, in sentences that hold: the gain over the start, then what the iterations added to it."""
    rows, best = found.policies, found.best
    if best is None:
        return ["Nothing is measured yet."]
    first = rows[0]
    if not first.dev.n:
        return [f"The suite has no dev problem: {first.name} is measured on the test split alone."]
    if len(rows) == 1:
        return [f"So far only {first.name} is measured: it solves {text.rate(first.dev)} of the dev problems."]
    if best is first:
        tried = ", ".join(p.name for p in rows[1:])
        return [f"Nothing improved: {first.name} solves {text.rate(first.dev)} of the dev problems, {tried} no more."]
    solves = f"solves {text.rate(best.dev)} of the dev problems at the first try"
    said = f"{text.capital(best.name)} {solves}, {first.name} {text.rate(first.dev)}"
    gain = found.gain(first, best)
    if gain is None:
        return [f"{said}."]
    alpha = found.config.select.alpha
    told = [f"{said}: {gain.text} of {gain.n} problems (in brackets: 95 % intervals)."]
    if gain.p >= alpha:
        told.append(f"At the {alpha:g} level that is within chance: too few problems to tell the two apart.")
    return [*told, *_what_iterations_added(found, alpha), *_dips(found, best)]


def _dips(found: Findings, best: PolicyResult) -> list[str]:
    """What came after the policy that was chosen, is no better and so does not ship (like the paper's fourth)."""
    if not iteration_of(best.label):
        return []  # that the iterations added nothing is said already
    later = found.policies[found.policies.index(best) + 1 :]
    gains = [(p, gain) for p in later if (gain := found.gain(best, p))]
    return [
        f"{text.capital(p.name)} {'dips to' if gain.points < 0 else 'stays at'} {text.rate(p.dev)}: {gain.text} against "
        f"{best.name}, so {best.name} stays the chosen one."
        for p, gain in gains
    ]


def _what_iterations_added(found: Findings, alpha: float) -> list[str]:
    """The best later policy against policy 0 where there was a warm start: what the loop gave beyond fine-tuning."""
    start = found.summary.start
    later = found.policies[found.policies.index(start) + 1 :] if start else []
    if not start or start is found.summary.first or not later:
        return []
    top = max(later, key=lambda p: p.dev.value)
    gain = found.gain(start, top)
    if gain is None:
        return []
    if gain.gained <= gain.lost:
        return [f"The iterations added nothing. The best policy after {start.name} is {top.name}: {gain.text} against it."]
    verdict = "more than chance" if gain.p < alpha else f"within chance at the {alpha:g} level"
    return [f"What the iterations added: {top.name} against {start.name}, {gain.text}: {verdict}."]


def policy_row(found: Findings, policy: str | None) -> PolicyResult:
    """The row of a policy by its label ("policy-1") or name ("policy 1"); None means the chosen one. Raises UserError."""
    if policy is None:
        if best := found.best:
            return best
        raise UserError(f"run {found.path.name!r} has no policy measured yet; `{go_on_command(found.path)}` goes on with it")
    match = found.summary.policy(policy.replace(" ", "-"))
    if not match:
        known = ", ".join(p.label for p in found.policies) or "none yet"
        raise UserError(f"run {found.path.name!r} has no policy {policy!r}; there: {known}")
    return match


def libraries(found: Findings) -> dict[str, list[str]]:
    """Library → versions that the run's artifacts were made with; more than one where the work was shared or resumed."""
    versions: dict[str, set[str]] = {}
    for _, manifest in found.artifacts:
        for name, version in manifest.get("libraries", {}).items():
            versions.setdefault(name, set()).add(version)
    return {name: sorted(vs) for name, vs in sorted(versions.items())}


def spread(frame: pl.DataFrame, n: int) -> pl.DataFrame:
    """`n` rows evenly spaced over the frame: always the same ones, not all of one problem."""
    step = max(1, frame.height // n)
    return frame.gather_every(step).head(n)


def question(prompt: str) -> str:
    """One line of a prompt that says what is asked: the last, which stands under a database's schema; or the first of prose,
    where the last is code or a mark, as in MBPP (an assert), HumanEval (quotes) and DS-1000 (`<code>`)."""
    lines = [line.strip() for line in prompt.strip().splitlines()]
    prose = [line.strip("\"' ") for line in lines if not _CODE.match(line) and len(_WORD.findall(line)) >= _FEWEST_WORDS]
    if lines and (_CODE.match(lines[-1]) or not _WORD.search(lines[-1])) and prose:
        return prose[0]
    return lines[-1] if lines else ""


def _json_lines(path: Path, mend: str) -> list[Line]:
    """Lines of a JSONL file; one cut short by a kill is left out."""
    with reading(path, mend):
        return [dict(json.loads(line)) for line in path.read_text().splitlines() if line.endswith("}")]
