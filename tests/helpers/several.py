"""Several trainings, one after the other, in the same processes: starting these takes longer than what they train.

python -m tests.helpers.several JOBS.json      in each process, started by torch's launcher; JOBS: [[folder, spec], …]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import GrpoSection, TrainSection, WarmStartSection
from codelutra.store.files import write_atomic
from codelutra.training import launch
from tests.helpers.training import SMALL, answers_of, place


def job(
    at: Path, policy: Path, examples: pl.DataFrame, references: pl.DataFrame | None = None, *, bf16: bool, **settings: Any
) -> Any:
    """A training in folder `at` for `start`. The arguments are what the `run` fixture takes."""
    here, kinds = place(policy, at), {"chosen": "preference", "advantage": "grpo"}
    here.work.mkdir(parents=True, exist_ok=True)
    kind = next((k for column, k in kinds.items() if column in examples.columns), "supervised")
    section = (WarmStartSection if kind == "supervised" else TrainSection)(**(SMALL | settings))
    more = {"bf16": bf16, "grpo": GrpoSection().model_dump(mode="json"), "max_tokens": 64}
    spec = launch._spec(kind, here, section) | more
    (answers_of(examples) if kind == "supervised" else examples).write_parquet(spec["examples"])
    if references is not None:
        spec["references"] = str(here.work / "references.parquet")
        answers_of(references).write_parquet(spec["references"])
    return [str(at), spec]


def start(processes: int, file: Path, jobs: list[Any]) -> subprocess.Popen[str]:
    """Train the jobs; `file` keeps them, and its neighbour `.log` what the processes say."""
    file.write_text(json.dumps(jobs))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    more = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with file.with_suffix(".log").open("w") as log:
        command = [*launcher, "-m", "tests.helpers.several", str(file)]
        return subprocess.Popen(command, env=more, stdout=log, stderr=log, text=True)


def kill_at(step: int, work: Path, launcher: subprocess.Popen[str], log: Path) -> None:
    """kill -9 the launcher and its processes once `work` has the record of this step."""
    records = work / "training.jsonl"
    while not records.exists() or len(records.read_text().splitlines()) < step:
        assert launcher.poll() is None, log.read_text()[-6000:]
        time.sleep(0.02)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for pid in (launcher.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        time.sleep(0.02)


def summaries(at: Path) -> list[dict[str, Any]]:
    """What each process said at the end of a training."""
    return [json.loads(file.read_text()) for file in sorted(at.glob("summary-*.json"))]


def main(file: str) -> None:
    from codelutra.training.worker.train import train

    for at, spec in json.loads(Path(file).read_text()):
        summary = train(spec, lambda event: None)
        write_atomic(Path(at) / f"summary-{os.environ['RANK']}.json", json.dumps(summary))


if __name__ == "__main__":
    main(*sys.argv[1:])
