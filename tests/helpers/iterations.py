"""An iteration in a process of its own, and what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import yaml

Event = dict[str, Any]


class Iteration:
    """An iteration in a process of its own, which is a driver of Ray where the config names a cluster."""

    def __init__(self, place: Path, name: str, environment: dict[str, str], config: dict[str, Any]) -> None:
        self.home = place / name
        file = place / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.one_iteration", str(file), str(self.home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def events(self) -> list[Event]:
        ledger = self.home / "runs/one/ledger.jsonl"
        lines = ledger.read_text().splitlines(keepends=True) if ledger.exists() else []
        return [json.loads(x) for x in lines if x.endswith("\n")]

    def made(self, stage: str) -> list[str]:
        return [e["label"] for e in self.events() if e["event"] == "made" and e["stage"] == stage]

    def executing(self) -> int:
        """Shards that are being executed, or wait for it."""
        kinds = Counter(e["event"] for e in self.events() if e.get("stage") == "execute")
        return kinds["start"] - kinds["made"]

    def notes(self) -> list[str]:
        return [e["text"] for e in self.events() if e["event"] == "note"]

    def wait_until(self, reached: Callable[[], object], seconds: float = 600) -> Any:
        end = time.monotonic() + seconds
        while not (found := reached()):
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[1])
            assert time.monotonic() < end, self.events()[-3:]
            time.sleep(0.02)
        return found

    def found(self) -> dict[str, Any]:
        """What it made: paths by name."""
        out, err = self.process.communicate(timeout=1200)
        assert self.process.returncode == 0, err
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        return told

    def __enter__(self) -> Iteration:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def frame(artifact: dict[str, Any], name: str) -> pl.DataFrame:
    """Without how long programs took."""
    return pl.read_parquet(Path(artifact["path"]) / f"{name}.parquet").drop("seconds", strict=False)


def weights(trained: dict[str, Any]) -> list[float]:
    """The mean size of every tensor."""
    from safetensors.torch import load_file

    found = load_file(Path(trained["path"]) / "model.safetensors")
    return [found[name].abs().mean().item() for name in sorted(found)]
