"""Claim: the minutes of an iteration go into sampling and training; orchestration and I/O take under 3 % of them, and
execution is hidden behind sampling: its own share of the wall clock is under 5 %.

    python -m benchmarks.loop [--home DIR] [--run NAME] [--out docs/results/loop.json]

Read from a run's ledger: every second between its first and its last event belongs to what went on in it, to the first of
PARTS where several things did. What no stage claims is orchestration and I/O: Prefect, store, locks, engines that end.
Engine and trainer start, and waiting for those of another run, count as sampling and training. Of a run that was started
several times, the process that made most is looked at. What happened before the ledger's first event (imports, Prefect's
server) is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from codelutra.errors import UserError
from codelutra.results.load import load_summary
from codelutra.store.artifacts import Event
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir

PARTS = {
    "training": ("train", "warm-start"),
    "sampling": ("sample",),
    "execution in the open": ("execute",),
    "pairs": ("pairs", "answers"),
    "scoring": ("score",),
    "reference check": ("references",),
    "problems": ("problems",),
    "model": ("model",),
}
REST = "orchestration and I/O"
CLAIMS = {REST: 0.03, "execution in the open": 0.05}  # at most this share of the wall clock


@dataclass(frozen=True)
class Work:
    stage: str
    start: float  # seconds since the epoch
    end: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="folder of runs/ and store/")
    parser.add_argument("--run", default="demo")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = account(RunDir(home_dir(asked.home) / "runs" / asked.run))
    show(found)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


def account(run: RunDir) -> dict[str, Any]:
    """Where the time of a run went, as a whole and by iteration. Raises UserError where the ledger tells of no work."""
    events = of_one_process(run.events())
    work = list(intervals(events))
    if not work:
        raise UserError(f"{run.path} holds no ledger of work done; `codelutra run {run.path.name}` makes one")
    first, last = min(w.start for w in work), max(events[-1]["at"], max(w.end for w in work))
    cuts = [e["at"] for e in events if e["event"] == "made" and e["stage"] in PARTS["training"]]
    names = [e["label"] or "base and warm start" for e in events if e["event"] == "made" and e["stage"] in PARTS["training"]]
    windows = dict(zip([*names, "last measurement and test"], zip([first, *cuts], [*cuts, last], strict=True), strict=True))
    summary = load_summary(run.path)
    counts = Counter(e["event"] for e in events)
    return {
        "run": run.path.name,
        "suite": summary.suite if summary else None,
        "model": summary.model if summary else None,
        "about": {"cores": len(os.sched_getaffinity(0)), "machine": platform.processor() or platform.machine()},
        "artifacts": {"made": counts["made"], "reused": counts["reused"]},
        "whole": shares(work, first, last),
        "windows": {name: shares(work, *window) for name, window in windows.items()},
        "claims": {name: shares(work, first, last)["share"][name] <= bound for name, bound in CLAIMS.items()},
    }


def of_one_process(events: list[Event]) -> list[Event]:
    """Those of the process whose work took longest."""
    spent: Counter[int] = Counter()
    for e in events:
        spent[e["pid"]] += e.get("seconds", 0) + e.get("facts", {}).get("seconds", 0) if e["event"] == "made" else 0
    chosen = spent.most_common(1)[0][0] if spent else 0
    return [e for e in events if e["pid"] == chosen]


def intervals(events: list[Event]) -> list[Work]:
    """What each stage was busy with, and when."""
    starts: dict[tuple[str, str], float] = {}
    found: list[Work] = []
    for e in events:
        match e["event"]:
            case "start":
                starts[e["stage"], e["key"]] = e["at"]
            case "made" if (began := starts.get((e["stage"], e["key"]))) is not None:
                if e["stage"] == "sample":  # its step only writes the shard; drawing it came before, engine start included
                    began -= e["facts"]["seconds"]
                found.append(Work(e["stage"], began, e["at"]))
    busy = sorted(w.start for w in found)
    first_sample = min((w.start for w in found if w.stage == "sample"), default=0.0)
    for e in events:
        if e["event"] == "note" and e["at"] < first_sample:  # the model is fetched and converted, once a machine
            found.append(Work("model", e["at"], next(b for b in busy if b >= e["at"])))
    return found


def shares(work: list[Work], start: float, end: float) -> dict[str, Any]:
    """Seconds and share of the time from `start` to `end` by part, and how much of execution other work hid."""
    inside = [Work(w.stage, max(w.start, start), min(w.end, end)) for w in work if w.end > start and w.start < end]
    edges = sorted({start, end, *(t for w in inside for t in (w.start, w.end))})
    part_of = {stage: part for part, stages in PARTS.items() for stage in stages}
    seconds = dict.fromkeys([*PARTS, REST], 0.0)
    executing = 0.0
    for a, b in pairwise(edges):
        going_on = {part_of[w.stage] for w in inside if w.start <= a and w.end >= b}
        seconds[next((p for p in PARTS if p in going_on), REST)] += b - a
        executing += (b - a) * ("execution in the open" in going_on)
    wall = end - start
    return {
        "wall_seconds": round(wall, 1),
        "seconds": {part: round(s, 1) for part, s in seconds.items()},
        "share": {part: round(s / max(wall, 1e-9), 4) for part, s in seconds.items()},
        "execution_seconds": round(executing, 1),
        "execution_hidden": round(1 - seconds["execution in the open"] / executing, 3) if executing else None,
    }


def show(found: dict[str, Any]) -> None:
    columns = {"whole run": found["whole"], **found["windows"]}
    print(f"{found['run']}: {found['artifacts']['made']} artifacts made, {found['artifacts']['reused']} reused")
    print(f"{'':<30}" + "".join(f"{name:>27}" for name in columns))
    print(f"{'wall clock, minutes':<30}" + "".join(f"{c['wall_seconds'] / 60:>27.1f}" for c in columns.values()))
    for part in [*PARTS, REST]:
        if any(c["seconds"][part] for c in columns.values()):
            print(f"{part:<30}" + "".join(f"{c['share'][part]:>27.1%}" for c in columns.values()))
    hidden = [c["execution_hidden"] for c in columns.values()]
    print(
        f"{'execution hidden by other work':<30}" + "".join(f"{'' if h is None else format(h, '.1%'):>27}" for h in hidden)
    )
    for part, holds in found["claims"].items():
        print(f"{part} at most {CLAIMS[part]:.0%} of the whole run: {'holds' if holds else 'does NOT hold'}")


if __name__ == "__main__":
    main()
