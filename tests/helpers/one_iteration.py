"""`python -m tests.helpers.one_iteration CONFIG HOME`: an iteration without Prefect. Prints the artifacts."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from codelutra.config import load_config
from codelutra.errors import CodelutraError
from codelutra.pipeline import stages
from codelutra.pipeline.run import open_run
from codelutra.pipeline.sampler import measure_plan
from codelutra.store.artifacts import Artifact


def main(config: str, home: str) -> None:
    with open_run(home, load_config(Path(config))) as run, run.refining():
        asked = run.make(stages.problems(run))
        policy = stages.base_policy(run)
        expected = run.make(stages.references(run, asked))

        def executed(i: int) -> Artifact:
            return run.make(stages.execute(run, sampling.shard(i), asked, expected, f"shard {i}"))

        with measure_plan(run, policy, asked, expected, "dev", train=True) as sampling, ThreadPoolExecutor(16) as threads:
            outcomes = list(threads.map(executed, range(len(sampling.shards))))
        scores = run.make(stages.score(run, outcomes, asked, expected, "dev"))
        pairs = run.make(stages.pairs(run, outcomes, asked, expected))
        trained = run.make(stages.train(run, policy, pairs, asked, expected, "policy 1"))
        found = {"expected": expected, "scores": scores, "pairs": pairs, "trained": trained}
        print(json.dumps({name: asdict(a) for name, a in found.items()} | {"outcomes": [asdict(o) for o in outcomes]}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CodelutraError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
