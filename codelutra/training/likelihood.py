"""How likely answers are under a policy, in a process of its own (`codelutra.training.worker`, kind "likelihood").

It tells what a training did to answers nobody was trained on (`select.held_out`), and which of several answers a verifier
prefers (`select.verifier`).
"""

from __future__ import annotations

import json

import polars as pl

from codelutra.schema import check
from codelutra.store.files import write_atomic
from codelutra.training.launch import Training, started

ANSWERS = pl.Schema({"prompt": pl.String, "completion": pl.String, "ended": pl.Boolean, "written": pl.Boolean})
FOUND = pl.Schema({"log_prob": pl.Float64, "tokens": pl.Int32})
MICRO_BATCH = 8


def log_probs(training: Training, answers: pl.DataFrame) -> pl.DataFrame:
    """FOUND, a row each of ANSWERS: the answer's log-probability given its prompt (nats, all tokens and, where `ended`, the
    end token) under `training.policy`, and the number of those tokens. `written`: by a policy, not a reference.

    Of `training` the policy, system prompt, thinking, work folder, log, lock and progress are used. Raises StageError as
    training does.
    """
    if check(answers, ANSWERS).is_empty():
        return pl.DataFrame(schema=FOUND)
    training.work.mkdir(parents=True, exist_ok=True)
    given, found = training.work / "answers.parquet", training.work / "found.parquet"
    answers.write_parquet(given)
    spec = {
        "kind": "likelihood",
        "policy": str(training.policy),
        "system": training.system,
        "thinking": training.thinking,
        "work": str(training.work),
        "lock": "" if training.start else str(training.lock),
        "answers": str(given),
        "found": str(found),
        "micro_batch": MICRO_BATCH,
        "config": {"processes": 1},
    }
    file = training.work / "spec.json"
    write_atomic(file, json.dumps(spec))
    with started(training, "likelihood", file, 1) as child:
        while True:
            match child.hear():
                case {"event": "done"}:
                    return check(pl.read_parquet(found, glob=False), FOUND)
                case {"event": "progress", "done": done, "total": total} if training.progress:
                    training.progress(done, total, {"doing": "training"})
                case {"event": "waiting", **said} if training.progress:
                    training.progress(0, 0, {"doing": "waiting", **said})
