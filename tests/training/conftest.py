"""A tiny real model, and training it in this process: importing TRL takes longer than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import GrpoSection, TrainSection, WarmStartSection
from codelutra.errors import StageError
from tests.helpers.cores import one_core
from tests.helpers.tiny_model import write_tiny_model
from tests.helpers.training import SMALL, SYSTEM, Train, answers_of


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def run(policy: Path, tmp_path: Path) -> Train:
    """Train in this process. `into` names the folders, so the same name continues. `stop_at`: the step that is the last one
    before an InterruptedError; `until`: the last step that is kept."""
    from codelutra.training.worker.train import train as in_process

    def go(
        examples: pl.DataFrame,
        *,
        start: Path = policy,
        into: str = "a",
        references: pl.DataFrame | None = None,
        bf16: bool | None = None,
        base: dict[str, str] | None = None,
        stop_at: int = 0,
        grpo: GrpoSection | None = None,
        until: int = 0,
        **settings: Any,
    ) -> dict[str, Any]:
        kinds = {"chosen": "preference", "advantage": "grpo"}
        kind = next((k for column, k in kinds.items() if column in examples.columns), "supervised")
        section = WarmStartSection if kind == "supervised" else TrainSection
        work = tmp_path / into / "work"
        work.mkdir(parents=True, exist_ok=True)
        (answers_of(examples) if kind == "supervised" else examples).write_parquet(work / "examples.parquet")
        spec = {
            "kind": kind,
            "policy": str(start),
            "system": SYSTEM,
            "seed": 0,
            "bf16": bf16,
            "config": section(**(SMALL | settings)).model_dump(mode="json"),
            "out": str(tmp_path / into / "out"),
            "work": str(work),
            "examples": str(work / "examples.parquet"),
            "grpo": (grpo or GrpoSection()).model_dump(mode="json"),
            "max_tokens": 64,
        }
        if references is not None:
            spec["references"] = str(work / "references.parquet")
            answers_of(references).write_parquet(work / "references.parquet")
        if base:
            spec["base"] = base

        def heard(event: dict[str, Any]) -> None:
            if event["event"] == "progress" and event["done"] == stop_at:
                raise InterruptedError
            if until and event["event"] == "progress" and event["done"] > until:
                raise StageError("enough")

        with one_core():
            return in_process(spec, heard)

    return go
