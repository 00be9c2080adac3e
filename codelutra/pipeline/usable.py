"""Which problems of a suite a run can learn from and be measured on."""

from __future__ import annotations

import polars as pl

from codelutra.config import RunConfig, SuiteSection
from codelutra.errors import UserError
from codelutra.schema import usable
from codelutra.suites.base import Suite
from codelutra.suites.splits import shown


def require_enough(problems: pl.DataFrame, config: RunConfig, suite: str) -> None:
    """Raise UserError where PROBLEMS are too few for what the config does with them."""
    train, dev, test = (problems.filter(pl.col("split") == split).height for split in ("train", "dev", "test"))
    tested = config.select.test
    if config.iterations and train < 2:
        raise UserError(
            f"suite {suite!r} gives {train} train problem(s); at least 2 are needed, see the `suite` section; or set "
            "iterations to 0, to measure the model alone"
        )
    if config.iterations and not dev:
        raise UserError(
            f"suite {suite!r} gives 0 dev problems ({train} train, {test} test) and iterations is {config.iterations}: "
            "policies are chosen on dev, so at least 1 is needed. Choose another protocol, other databases or shares (the "
            "`suite` section); or set iterations to 0, to measure the model on test alone"
        )
    if not dev and not (test and tested):
        raise UserError(
            f"suite {suite!r} gives 0 dev and {test} test problems, and select.test is {str(tested).lower()}: there is "
            "nothing to measure on; see the `suite` section, or set select.test to true"
        )
    _require_references(problems, config)


def _require_references(problems: pl.DataFrame, config: RunConfig) -> None:
    """Raise UserError where the config learns from references, there are train problems, and no reference is shown."""
    train = shown(problems, config.suite).filter(pl.col("split") == "train")
    imitates = {
        "warm_start": config.warm_start is not None,
        "train.objective sft": config.train.objective == "sft" and config.iterations > 0,
        "train.replay_references": config.train.replay_references
        and (config.train.has_sft_term or config.train.imitates_references)
        and config.iterations > 0,
        "train.sft_on": config.train.sft_on == "right+references"
        and config.train.imitates_samples
        and config.iterations > 0,
        "suite.shots": config.suite.shots > 0,
    }
    seen = int((train["reference"] != "").sum())
    if train.height and config.folds > seen > 0:
        raise UserError(
            f"sample.folds is {config.folds} and {seen} references are shown: each fold needs one; lower sample.folds"
        )
    wanting = [name for name, does in imitates.items() if does]
    if train.height and wanting and not seen:
        raise UserError(
            f"{' and '.join(wanting)} learn{'s' if len(wanting) == 1 else ''} from references, and of {train.height} train "
            f"problems none has one that is shown (suite.references: {config.suite.references}); leave it out, or show some"
        )


def teachable(problems: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Train problems that can be judged: rows of PROBLEMS whose reference is not a `reference_error` in EXPECTED."""
    return usable(problems.filter(pl.col("split") == "train"), expected)


def to_imitate(problems: pl.DataFrame, expected: pl.DataFrame, section: SuiteSection) -> pl.DataFrame:
    """Those of `teachable` whose reference the model may see."""
    seen = shown(problems, section).filter(pl.col("reference") != "")
    return teachable(problems, expected).join(seen, on="problem_id", how="semi", maintain_order="left")


def normalised_codes(suite: Suite, outcomes: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """(problem_id, code, normalised) of all programs in OUTCOMES and all references of the problems asked: what tells which
    programs are the same."""
    codes = (
        outcomes.select("problem_id", "code")
        .vstack(asked.filter(pl.col("reference") != "").select("problem_id", code="reference"))
        .unique(maintain_order=True)
    )
    return codes.with_columns(normalised=pl.Series([suite.normalise(c) for c in codes["code"]], dtype=pl.String))
