"""Claim: `codelutra plan` tells within 25 % what a run then takes, and its formulas what memory a stage takes.

    codelutra plan demo --json > plan.json; codelutra run demo
    python -m benchmarks.planning --plan plan.json --run demo [--home DIR] [--out docs/results/planning.json]
    python -m benchmarks.planning --memory [--out docs/results/planning.json]

A run is compared stage by stage with the plan that was made before it, on the same machine; what else ran there meanwhile
is in both or the comparison says little (the load is noted). A stage that every iteration has is planned for all of them
and compared for those the run did. --memory measures the peaks of the sampler and of trainers under some settings, by
calibrations of the demo, and compares them with the formulas. Results of both are added to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.loop import of_one_process
from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.planning.machine import GIB
from codelutra.planning.plan import plan_of
from codelutra.store.artifacts import Event
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir

WITHIN = 0.25
SETTINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("train.micro_batch=1", "warm_start.micro_batch=4", "engine.cache_gib=1", "engine.max_batch=32"),
    ("train.micro_batch=16", "warm_start.micro_batch=1", "engine.dtype=float32"),
)
# Parts of a need that other processes take, and what only the many steps of a whole training bring.
BESIDE = ("the run's process", "sandbox", "fragmentation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="what `codelutra plan --json` printed before the run")
    parser.add_argument("--run", help="a run's name")
    parser.add_argument("--home", type=Path, help="folder of runs/ and store/")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if asked.plan and asked.run:
        run = RunDir(home_dir(asked.home) / "runs" / asked.run)
        found["runs"] = {asked.run: compared(json.loads(asked.plan.read_text()), run)}
        show(asked.run, found["runs"][asked.run])
    if asked.memory:
        found["memory"] = peaks()
    if not found:
        parser.error("give --plan and --run, or --memory")
    if asked.out:
        before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
        found["runs"] = before.get("runs", {}) | found.get("runs", {})
        asked.out.write_text(json.dumps(before | found, indent=1) + "\n")


def compared(plan: dict[str, Any], run: RunDir) -> dict[str, Any]:
    """Planned and taken seconds by stage. Raises UserError where the ledger tells of no work."""
    events = [e for e in of_one_process(run.events()) if e["event"] == "made"]
    if not events:
        raise UserError(f"{run.path} holds no ledger of work done; `codelutra run {run.path.name}` makes one")
    done, took = taken(events)
    stages: dict[str, Any] = {}
    for stage in plan["stages"]:
        share = min(1.0, done / stage["times"]) if stage["times"] > 1 else 1.0
        name, planned = stage["name"].partition(",")[0] if stage["times"] > 1 else stage["name"], stage["seconds"] * share
        real = took.get(name, 0.0)
        stages[name] = {"planned": round(planned, 1), "taken": round(real, 1), "basis": stage["basis"]}
        stages[name]["planned / taken"] = round(planned / real, 2) if real else None
    planned, real = (sum(s[which] for s in stages.values()) for which in ("planned", "taken"))
    return {
        "about": {"cores": len(os.sched_getaffinity(0)), "machine": platform.processor() or platform.machine()},
        "load": [round(v, 1) for v in os.getloadavg()],
        "model": plan["model"],
        "iterations": done,
        "stages": stages,
        "whole": {"planned": round(planned, 1), "taken": round(real, 1), "planned / taken": round(planned / real, 2)},
        "tokens": {s["name"]: round(s["tokens"]) for s in plan["stages"]},
        "within_25_percent": abs(planned / real - 1) <= WITHIN,
    }


def taken(events: list[Event]) -> tuple[int, dict[str, float]]:
    """(iterations done, seconds by the plan's names of stages), of "made" events."""
    trained = [e for e in events if e["stage"] == "train"]
    last, took = len(trained), dict[str, float]()
    for e in events:
        match e["stage"]:
            case "references":
                name = "references"
            case "warm-start":
                name = "warm start"
            case "train":
                name = "training"
            case "sample":
                policy, _, shard = e["label"].partition("/")
                at = last if shard.startswith("test") else int(policy.rpartition("-")[2]) if policy != "base" else -1
                name = "test" if shard.startswith("test") else "base, on dev" if at < 0 else "sampling"
                name = "last policy, on dev" if name == "sampling" and at == last else name
            case _:
                continue
        took[name] = took.get(name, 0.0) + (e["facts"]["seconds"] if e["stage"] == "sample" else e["seconds"])
    return len(trained), took


def peaks() -> list[dict[str, Any]]:
    """Rows (settings, stage, GiB by the formula, GiB measured)."""
    rows = []
    for settings in SETTINGS:
        with tempfile.TemporaryDirectory() as home:
            plan = plan_of(load_config("demo", settings), Path(home), measure=True)
        for need in plan.needs:
            formula = sum(size for name, size in need.parts.items() if name not in BESIDE) / GIB
            if measured := plan.peaks.get(need.what, 0.0) / GIB:
                ratio = round(formula / measured, 2)
                row = {
                    "settings": settings,
                    "stage": need.what,
                    "formula": round(formula, 2),
                    "measured": round(measured, 2),
                }
                rows.append(row | {"formula / measured": ratio})
                print(f"{' '.join(settings) or 'demo':<60} {need.what:<12} {formula:6.2f} {measured:6.2f} {ratio:6.2f}")
    return rows


def show(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: {found['model']}, {found['iterations']} iterations; load {found['load'][0]}")
    print(f"{'seconds':<22}{'planned':>10}{'taken':>10}{'ratio':>8}  based on")
    for stage, row in [*found["stages"].items(), ("whole", found["whole"] | {"basis": ""})]:
        ratio = row["planned / taken"]
        print(f"{stage:<22}{row['planned']:>10.1f}{row['taken']:>10.1f}{ratio or 0:>8.2f}  {row['basis']}")


if __name__ == "__main__":
    main()
