"""Claim: `codelutra plan` tells within 25 % how long a run takes, and its formulas tell the memory that a trainer takes.

    codelutra plan demo --json > plan.json; codelutra run demo
    python -m benchmarks.planning --plan plan.json --run demo [--home DIR] [--out docs/results/planning.json]

A run is compared stage by stage with the plan that was made before it, on the same machine. What else ran there has to be
the same in both, or the comparison says little: give the load averages at the plan, at the start and at the end of the run
with --load. A stage that every iteration has is planned for all of them and compared for those the run did. Results of
several runs add up in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.loop import of_one_process
from codelutra.errors import UserError
from codelutra.planning.machine import GIB
from codelutra.store.artifacts import Event
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir

WITHIN = 0.25
TRAININGS = {"warm-start": "warm start", "train": "training"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="what `codelutra plan --json` printed before the run")
    parser.add_argument("--run", required=True, help="a run's name")
    parser.add_argument("--load", type=float, nargs="*", default=[], help="load averages meanwhile")
    parser.add_argument("--home", type=Path, help="folder of runs/ and store/")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    run = RunDir(home_dir(asked.home) / "runs" / asked.run)
    found = compared(json.loads(asked.plan.read_text()), run) | {"load": asked.load}
    show(asked.run, found)
    if asked.out:
        before = json.loads(asked.out.read_text()) if asked.out.exists() else {"command": __doc__.split("\n\n")[1].strip()}
        asked.out.write_text(json.dumps(before | {asked.run: found}, indent=1) + "\n")


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
        "model": plan["model"],
        "iterations": done,
        "stages": stages,
        "whole": {"planned": round(planned, 1), "taken": round(real, 1), "planned / taken": round(planned / real, 2)},
        "planned_tokens": {s["name"]: round(s["tokens"]) for s in plan["stages"]},
        "peak_gib": peaks(plan, events),
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


def peaks(plan: dict[str, Any], events: list[Event]) -> dict[str, dict[str, float]]:
    """GiB of each training process by the formula, and as it said itself (the largest of several)."""
    found: dict[str, dict[str, float]] = {}
    for stage, what in TRAININGS.items():
        measured = [e["facts"]["peak_memory_gib"] for e in events if e["stage"] == stage]
        parts = next((need["parts"] for need in plan["needs"] if need["what"] == what), None)
        if measured and parts:
            formula = sum(size for name, size in parts.items() if name != "the run's process") / GIB
            found[what] = {"formula": round(formula, 2), "measured": max(measured)}
    return found


def show(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: {found['model']}, {found['iterations']} iterations")
    print(f"{'seconds':<22}{'planned':>10}{'taken':>10}{'ratio':>8}  based on")
    for stage, row in [*found["stages"].items(), ("whole", found["whole"] | {"basis": ""})]:
        ratio = row["planned / taken"]
        print(f"{stage:<22}{row['planned']:>10.1f}{row['taken']:>10.1f}{ratio or 0:>8.2f}  {row['basis']}")
    for what, sizes in found["peak_gib"].items():
        print(f"peak of the {what}: {sizes['formula']} GiB by the formula, {sizes['measured']} measured")


if __name__ == "__main__":
    main()
