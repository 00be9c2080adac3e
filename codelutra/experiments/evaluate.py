"""Any model on any suite, as a run without iterations; several models, problem by problem against the first."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.cli.tables import paired_text
from codelutra.config import RunConfig, load_config
from codelutra.experiments.methods import Overrides
from codelutra.experiments.retrain import Record
from codelutra.scoring.scores import mcnemar

Row = dict[str, Any]
_NAME = 64  # characters a run's name may have


def arm(config: str, overrides: Overrides, model: str, home: Path) -> tuple[RunConfig, Overrides]:
    """The config that measures `model`, and the overrides that make it of `config`. Raises ConfigError.

    Where the config was retrained, its problems are on the sides they are held on there: else a promoted policy would be
    measured on what it was taught.
    """
    base = load_config(config, overrides)
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")
    digest = hashlib.sha256(model.encode()).hexdigest()[:6]
    name = f"{base.name}-evaluate-{slug}"[: _NAME - 7] + f"-{digest}"
    more = (*overrides, "iterations=0", "warm_start=null", f"model={json.dumps(model)}", f"name={name}")
    if base.suite.name == "custom" and (sides := Record(home, base.name).sides):
        more += (f"suite.splits_of={json.dumps([*base.suite.splits_of, *sides])}",)
    return load_config(config, more), more


def evaluation(home: Path, runs: Mapping[str, str]) -> list[Row]:
    """One row a model, from the finished runs `runs` (model → name): pass@1 of dev and test with intervals, status mix, and
    exact McNemar tests against the first model on the problems both were asked."""
    rows: list[Row] = []
    first: dict[str, pl.DataFrame] = {}
    for model, name in runs.items():
        folder = home / "runs" / name
        summary = json.loads((folder / "summary.json").read_text())
        (policy,) = summary["policies"]
        files = {"dev": folder / policy["folder"] / "dev-scores", "test": folder / "test-scores"}
        scores = {s: pl.read_parquet(f / "scores.parquet") for s, f in files.items() if f.exists()}
        against = {s: asdict(mcnemar(first[s], scores[s])) for s in scores if s in first}
        first = first or scores
        rows.append(
            {
                "model": model,
                "run": name,
                "suite": summary["suite"],
                "mode": summary["mode"],
                "dev": policy["dev"] if policy["dev"]["n"] else None,
                "test": summary["test"],
                "statuses": policy["statuses"]["dev"],
                "executable": policy["executable"],
                "against_first": against,
            }
        )
    return rows


def table_rows(rows: list[Row]) -> list[dict[str, str]]:
    """The same as people read it."""
    split = "test" if rows[0]["test"] else "dev"
    return [
        {
            "model": r["model"],
            "dev pass@1": _share(r["dev"]),
            "test pass@1": _share(r["test"]),
            "runs": f"{r['executable']:.0%}" if r["dev"] else "",
            f"against the first ({split})": paired_text(r["against_first"].get(split)),
        }
        for r in rows
    ]


def _share(estimate: Row | None) -> str:
    return f"{estimate['value']:.1%} [{100 * estimate['low']:.1f} – {100 * estimate['high']:.1f}]" if estimate else ""
