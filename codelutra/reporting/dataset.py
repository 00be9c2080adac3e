"""A run's pairs and outcomes as a data set for other trainers: parquet files, with the columns that TRL reads.

DIR/README.md              what it is, and the `configs` by which datasets.load_dataset(DIR, "pairs") finds the files
DIR/pairs/train.parquet    prompt, chosen, rejected (lists of messages): DPOTrainer, RewardTrainer
DIR/outcomes/train.parquet, dev.parquet
                           prompt, completion (lists of messages), label (right or wrong): KTOTrainer; the right ones: SFT

The test split is left out: what is trained on must not be what is measured on.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import yaml

from codelutra.errors import UserError
from codelutra.reporting.export import hub_name
from codelutra.reporting.new_folder import new_folder, require_free
from codelutra.results.escapes import inline
from codelutra.results.findings import Findings, read_findings
from codelutra.schema import NOT_THE_MODELS_DOING
from codelutra.store.artifacts import read_frame
from codelutra.store.files import write_atomic
from codelutra.store.paths import go_on_command

Part = tuple[str, str]  # config ("pairs" | "outcomes"), split
_SPLITS = ("train", "dev")


def export_data(run_path: Path, out: Path) -> Path:
    """Write the data set of a run to `out`, which must be absent or empty; returns `out`, whole.

    Raises UserError where the run has neither pairs nor outcomes yet, a file is damaged or gone, `out` is in use or the
    disk is full.
    """
    found = read_findings(run_path)
    require_free(out)
    parts = _parts(found)
    if not parts:
        go_on = go_on_command(run_path)
        raise UserError(f"run {run_path.name!r} has no pairs and no outcomes yet; `{go_on}` goes on with it")
    with new_folder(out) as part:
        for (config, split), frame in parts.items():
            (part / config).mkdir(exist_ok=True)
            frame.write_parquet(part / config / f"{split}.parquet")
        write_atomic(part / "README.md", _card(found, parts))
    return out


def require_token(target: str) -> None:
    """Raise UserError, before anything is written, where `target` is no hf:org/name or there is no token to push with."""
    from huggingface_hub import get_token

    hub_name(target)
    if not get_token():
        raise UserError(
            f"--push {target}: there is no Hugging Face token here; log in with `hf auth login` or set HF_TOKEN to one with "
            "the right to write, or leave --push out"
        )


def _parts(found: Findings) -> dict[Part, pl.DataFrame]:
    """Every part that has rows."""
    problems = found.frame("problems.parquet")
    if problems is None:
        return {}
    system = system_text(found)
    frames = {("pairs", "train"): _pairs(found, system)}
    frames |= {("outcomes", split): _outcomes(found, problems, split, system) for split in _SPLITS}
    return {part: frame for part, frame in frames.items() if frame is not None and frame.height}


def system_text(found: Findings) -> str:
    """The system text that every prompt of the run has, as its trainings were told it."""
    trained = (found.manifest(p.path) for p in found.policies)
    return next((str(m["config"]["system"]) for m in trained if m and m["config"].get("system")), "")


def _pairs(found: Findings, system: str) -> pl.DataFrame | None:
    frames = [
        frame.with_columns(pl.col("rejected_status").cast(pl.String), policy=pl.lit(p.label))
        for p in found.policies
        if (frame := found.frame(f"{p.folder}/pairs.parquet")) is not None
    ]
    if not frames:
        return None
    messages = (_asked(system), _said("chosen"), _said("rejected"))
    return pl.concat(frames).select(*messages, pl.exclude("prompt", "chosen", "rejected"))


def _outcomes(found: Findings, problems: pl.DataFrame, split: str, system: str) -> pl.DataFrame | None:
    """Of all policies, those that are right or wrong by the model's own doing."""
    frames = [
        frame.with_columns(pl.col("status").cast(pl.String), policy=pl.lit(p.label))
        for p in found.policies
        if (frame := found.dev_outcomes(p) if split == "dev" else _train_outcomes(found, p.label)) is not None
    ]
    if not frames:
        return None
    judged = pl.concat(frames).filter(~pl.col("status").is_in(NOT_THE_MODELS_DOING))
    told = problems.select("problem_id", "prompt", "group", "difficulty")
    rows = judged.join(told, on="problem_id", how="inner", maintain_order="left")
    label = (pl.col("status") == "correct").alias("label")
    return rows.select(_asked(system), _said("completion"), label, pl.exclude("prompt", "completion"))


def _train_outcomes(found: Findings, label: str) -> pl.DataFrame | None:
    """OUTCOMES of the samples of train problems; the ledger tells under which keys the store has them."""
    shards = {
        event["label"]: event["key"]
        for event in found.events
        if event["event"] in ("made", "reused")
        and event.get("stage") == "execute"
        and str(event.get("label")).startswith(f"{label}/train-")
        and re.fullmatch("[0-9a-f]+", str(event.get("key")))
    }
    files = [found.path.parents[1] / "store/execute" / shards[shard] / "outcomes.parquet" for shard in sorted(shards)]
    there = [file for file in files if file.is_file()]
    return pl.concat([read_frame(file, found.mend) for file in there]) if there else None


def _asked(system: str) -> pl.Expr:
    """The prompt as messages: the run's system text, where it has one, and the user's."""
    before = [_message("system", pl.lit(system))] if system else []
    return pl.concat_list(*before, _message("user", pl.col("prompt"))).alias("prompt")


def _said(column: str) -> pl.Expr:
    return pl.concat_list(_message("assistant", pl.col(column))).alias(column)


def _message(role: str, content: pl.Expr) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), content.alias("content"))


def _card(found: Findings, parts: dict[Part, pl.DataFrame]) -> str:
    """README.md: the hub's front matter, by which the parts are found, then what they are."""
    s = found.summary
    configs = [
        {
            "config_name": config,
            **({"default": True} if config == next(iter(parts))[0] else {}),
            "data_files": [{"split": split, "path": f"{c}/{split}.parquet"} for c, split in parts if c == config],
        }
        for config in dict.fromkeys(config for config, _ in parts)
    ]
    front = {"pretty_name": f"{s.run}: {s.suite}", "tags": ["codelutra", "code", s.suite], "configs": configs}
    licence = (found.manifest("problems.parquet") or {}).get("facts", {}).get("licence") or "not recorded"
    rows = "\n".join(f"- {config}, {split}: {frame.height:,} rows" for (config, split), frame in parts.items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# {inline(f"{s.run}: pairs and outcomes on {s.suite}")}

Programs that a language model wrote, and what running them showed. Model {inline(s.model)}, suite
{inline(f"{s.suite}, version {s.suite_version}, licence {licence}")}; judged by {inline(s.mode)}.

{rows}

`pairs`: `chosen` was right (a sample or the reference, `chosen_source`), `rejected` was not (`rejected_status`).
`outcomes`: `label` says whether the `completion` was right, `status` how it failed. `policy`: who wrote the answers.
What failed by the infrastructure or the reference is left out, and so is the test split. `dev` chose the policy: train on it
and its numbers mean nothing.

    from datasets import load_dataset
    pairs = load_dataset("THIS FOLDER", "{configs[0]["config_name"]}")

The prompts may hold what your databases hold: names, columns, values. Look before you pass this on.
"""
