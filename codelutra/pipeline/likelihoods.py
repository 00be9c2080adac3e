"""The stages that ask how likely answers are: pairs of dev problems, which nobody is trained on, under every policy
(`select.held_out`), and drawn answers under a verifier (`select.verifier`).

    samples of dev by the start ─► execute ─► held-out pairs ─► likelihoods (of each policy)
    samples of test ─► execute ─► ranked (by the verifier)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import PairsSection
from codelutra.pipeline.fetched import fetched
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.stages import judged_inputs
from codelutra.pipeline.usable import normalised_codes
from codelutra.prompts import in_keys
from codelutra.schema import LIKELIHOODS, OUTCOMES, SPLIT, check
from codelutra.scoring.rank import preferred
from codelutra.scoring.scores import score_problems
from codelutra.store.artifacts import Artifact, Recipe, Step, write_frame
from codelutra.training.launch import Training
from codelutra.training.likelihood import log_probs
from codelutra.training.pairs import make_pairs

VERSIONS = {"held-out-pairs": 1, "likelihoods": 1, "ranked": 1}
PAIRING = PairsSection(per_problem=4, references=False)  # all by the start policy: what every later one moves away from


def held_out_pairs(run: Run, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact) -> Step:
    """PAIRS of dev problems, which stay out of every training."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        frame = pl.concat([a.frame("outcomes") for a in outcomes])
        dev = problems.frame("problems").filter(pl.col("split") == "dev")
        asked = dev.with_columns(split=pl.lit("train", SPLIT))  # the one split that pairs are made of
        normalised = normalised_codes(run.suite, frame, asked)
        made, facts = make_pairs(
            frame, asked, expected.frame("expected"), PAIRING, seed=run.config.seed, normalised=normalised
        )
        write_frame(made, out / "pairs.parquet")
        return facts

    read = {"seed": run.config.seed, "suite": run.suite.version}
    inputs = judged_inputs(outcomes, problems, expected)
    return Step(Recipe("held-out-pairs", VERSIONS["held-out-pairs"], read, inputs), build)


def likelihoods(run: Run, policy: Policy, pairs: Artifact) -> Step:
    """LIKELIHOODS of both sides of PAIRS under a policy; their means in the facts."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        rows = pairs.frame("pairs")
        sides = [
            rows.select("prompt", completion=side, ended=ended, written=pl.lit(True))
            for side, ended in (("chosen", pl.lit(True)), ("rejected", pl.col("rejected_ended")))
        ]
        found = log_probs(_asking(run, policy, work), pl.concat(sides))
        chosen, rejected = found[: rows.height], found[rows.height :]
        frame = rows.select("problem_id").with_columns(
            chosen=chosen["log_prob"],
            rejected=rejected["log_prob"],
            chosen_tokens=chosen["tokens"],
            rejected_tokens=rejected["tokens"],
        )
        write_frame(check(frame, LIKELIHOODS), out / "likelihoods.parquet")
        return _means(frame)

    inputs = {"policy": policy.digest, "pairs": pairs.digest}
    return Step(Recipe("likelihoods", VERSIONS["likelihoods"], _read(run, policy), inputs), build)


def ranked(
    run: Run, policy: Policy, outcomes: Sequence[Artifact], problems: Artifact, expected: Artifact, split: str
) -> Step:
    """As `vote`, of the answers that the verifier prefers: SCORES. See scoring/rank.py for the rule."""
    model = fetched(run, str(run.config.select.verifier))
    verifier = Policy("verifier", str(model.path), model.fingerprint)

    def build(out: Path, work: Path) -> dict[str, Any]:
        frame = check(pl.concat([a.frame("outcomes") for a in outcomes]), OUTCOMES).filter(~pl.col("greedy"))
        asked = problems.frame("problems")
        said = frame.join(asked.select("problem_id", "prompt"), on="problem_id", how="left", maintain_order="left")
        ended = pl.col("finish_reason") == "stop"
        said = said.select("problem_id", "prompt", "completion", ended=ended, written=pl.lit(True)).unique(
            maintain_order=True
        )
        scored = said.select("problem_id", "completion", "ended").with_columns(
            reward=log_probs(_asking(run, verifier, work / "verifier"), said.drop("problem_id"))["log_prob"]
            - log_probs(_asking(run, policy, work / "policy"), said.drop("problem_id"))["log_prob"]
        )
        best = preferred(frame, scored)
        scores, facts = score_problems(best, asked, expected.frame("expected"), split)
        write_frame(scores, out / "scores.parquet")
        return facts

    inputs = judged_inputs(outcomes, problems, expected) | {"policy": policy.digest, "verifier": verifier.digest}
    return Step(Recipe("ranked", VERSIONS["ranked"], _read(run, policy) | {"split": split}, inputs), build)


def _means(frame: pl.DataFrame) -> dict[str, Any]:
    """Nats: an answer's log-probability by side, a token's, and how often the right side is the likelier one."""
    if frame.is_empty():
        return {"pairs": 0}
    found = frame.select(
        chosen=pl.col("chosen").mean(),
        rejected=pl.col("rejected").mean(),
        chosen_a_token=pl.col("chosen").sum() / pl.col("chosen_tokens").sum(),
        rejected_a_token=pl.col("rejected").sum() / pl.col("rejected_tokens").sum(),
        right_likelier=(pl.col("chosen") > pl.col("rejected")).mean(),
    )
    return {"pairs": frame.height, **{k: round(v, 4) for k, v in found.row(0, named=True).items()}}


def _asking(run: Run, policy: Policy, work: Path) -> Training:
    shown = run.progress(f"likelihoods under {policy.label}", "answers")

    def heard(done: int, total: int, event: dict[str, Any]) -> None:
        if event["doing"] == "waiting":
            run.waiting(f"the engine or trainer of another run on this host ({event.get('for', '')})")
        else:
            shown(done, total)

    about = run.suite.system, run.config.seed, work / "out", work, run.dir.log, run.accelerator_lock
    return Training(Path(policy.path), *about, heard, None, run.config.prompt.thinking, start=run.trainer)


def _read(run: Run, policy: Policy) -> dict[str, Any]:
    return {"system": run.suite.system} | in_keys(Path(policy.path), thinking=run.config.prompt.thinking)
