"""Several trainings, one after the other, in the same processes: starting these takes longer than what they train.

    python -m tests.helpers.several JOBS.json      in each process, started by torch's launcher; JOBS: [[folder, spec], …]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import TrainSection, WarmStartSection
from codelutra.store.files import write_atomic
from codelutra.training import launch
from tests.helpers.training import SMALL, answers_of, place


def job(at: Path, policy: Path, examples: pl.DataFrame, references: pl.DataFrame | None = None, **settings: Any) -> Any:
    """What `in_processes` trains: examples as the `run` fixture takes them."""
    more = {name: settings.pop(name) for name in ("bf16",) if name in settings}
    here, kind = place(policy, at), "preference" if "chosen" in examples.columns else "supervised"
    here.work.mkdir(parents=True, exist_ok=True)
    section = {"preference": TrainSection, "supervised": WarmStartSection}[kind](**(SMALL | settings))
    spec = launch._spec(kind, here, section) | {"bf16": False} | more
    (examples if kind == "preference" else answers_of(examples)).write_parquet(spec["examples"])
    if references is not None:
        spec["references"] = str(here.work / "references.parquet")
        answers_of(references).write_parquet(spec["references"])
    return [str(at), spec]


def in_processes(processes: int, file: Path, jobs: list[Any]) -> list[list[dict[str, Any]]]:
    """The summaries of each job, by process."""
    file.write_text(json.dumps(jobs))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    more = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, "-m", "tests.helpers.several", str(file)], env=more, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-6000:]
    return [[json.loads((Path(at) / f"summary-{r}.json").read_text()) for r in range(processes)] for at, _ in jobs]


def main(file: str) -> None:
    from codelutra.training.worker.train import train

    for at, spec in json.loads(Path(file).read_text()):
        summary = train(spec, lambda event: None)
        write_atomic(Path(at) / f"summary-{os.environ['RANK']}.json", json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])
