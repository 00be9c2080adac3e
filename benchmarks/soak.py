"""Run two hundred thousand programs, one in ten hostile: what breaks, what grows, what is left?

    python benchmarks/soak.py --programs 200000 --out docs/results/sandbox-soak.json

The host knows the answers of honest programs and queries. Hostile ones are those of the attack list; attacks that run into a
limit of time or memory are rarer, so that the soak does not only wait.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker

from sandbox import Pool, PythonJob, SqlJob, ensure_image
from sandbox.attacks import CALLS, RIGHT, RIGHT_QUERY, WRONG, Attack, attacks
from sandbox.owner import POOL
from sandbox.probe import fixture_database, is_correct

HOSTILE = 0.1
SLOW = 0.004  # of the hostile ones, those that run into a limit of time or memory


def plan(count: int, database: str, seed: int) -> Iterator[tuple[str, Any]]:
    """(what must come of it, job): "right", "wrong" or "hostile"."""
    dice = random.Random(seed)
    slow = [a for a in attacks() if is_slow(a)]
    quick = [a for a in attacks() if not is_slow(a)]
    for number in range(count):
        name = str(number)
        if dice.random() < HOSTILE:
            attack = dice.choice(slow if dice.random() < SLOW else quick)
            if attack.kind == "sql":
                yield "hostile", SqlJob(f"{name} {attack.name}", database, attack.source, timeout_seconds=1.0)
            else:
                yield "hostile", PythonJob(f"{name} {attack.name}", attack.source, CALLS, timeout_seconds=1.0)
        elif dice.random() < 0.5:
            right = dice.random() < 0.5
            yield ("right" if right else "wrong"), PythonJob(name, RIGHT if right else WRONG, CALLS, timeout_seconds=10.0)
        else:
            right = dice.random() < 0.5
            query = RIGHT_QUERY if right else f"select {number}"
            yield ("right" if right else "wrong"), SqlJob(name, database, query, timeout_seconds=10.0)


def is_slow(attack: Attack) -> bool:
    waits = {"timeout", "resource_limit"} & set(attack.statuses) or "without end" in attack.name
    return bool(waits) or attack.name == "leave a thread"


def host_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def container_mb(client: docker.DockerClient, pool: str) -> float:
    """Resident memory of every process in the pool's containers."""
    total = 0
    for listed in client.api.containers(filters={"label": f"{POOL}={pool}"}):
        with suppress(docker.errors.APIError):  # it was replaced between the two calls
            total += sum(int(rss) for _, rss in client.api.top(listed["Id"], "-eo pid,rss")["Processes"])
    return total / 2**10


def soak(count: int, workers: int, minutes: float, seed: int) -> dict[str, Any]:
    client = docker.from_env()
    outcomes, off = Counter[str](), []
    growth: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        databases = fixture_database(Path(scratch))
        (database,) = databases
        with Pool(image=ensure_image(), workers=workers, databases=databases, run="soak") as pool:
            expectations: list[str] = []

            def jobs() -> Iterator[Any]:
                for what, job in plan(count, database, seed):
                    expectations.append(what)
                    yield job

            started, done = time.monotonic(), 0
            for result in pool.map(jobs()):
                what, got = expectations[done], "correct" if is_correct(result) else result.status
                expectations[done] = ""
                done += 1
                outcomes[f"{what}: {'wrong' if got == 'ok' else got}"] += 1
                if (what == "right") != (got == "correct") or got == "infra_error" or result.attempts > 1:
                    off.append(f"{what} {result.id}: {got} ({result.attempts}) {result.error}"[:300])
                if done % max(1, count // 100) == 0:
                    seconds = time.monotonic() - started
                    growth.append(
                        {
                            "programs": done,
                            "seconds": round(seconds, 1),
                            "host_mb": round(host_mb(), 1),
                            "containers_mb": round(container_mb(client, pool.settings.pool), 1),
                        }
                    )
                    print(growth[-1], len(off), flush=True)
                if time.monotonic() - started > 60 * minutes:
                    break
            seconds, replaced, name = time.monotonic() - started, Counter(pool.replaced), pool.settings.pool
    left = client.api.containers(all=True, filters={"label": f"{POOL}={name}"})
    client.close()
    return {
        "programs": done,
        "asked_for": count,
        "seconds": round(seconds, 1),
        "per_second": round(done / seconds, 1),
        "hostile_share": HOSTILE,
        "workers": workers,
        "seed": seed,
        "cpus": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "outcomes": dict(sorted(outcomes.items())),
        "not_as_they_must_be": off[:50],
        "off": len(off),
        "containers_replaced": dict(replaced),
        "containers_left": len(left),
        "growth": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long, and say so")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/sandbox-soak.json"))
    options = parser.parse_args()
    report = soak(options.programs, options.workers, options.minutes, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "growth"}, indent=1))


if __name__ == "__main__":
    main()
