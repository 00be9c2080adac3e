"""`codelutra health`: how the last days' runs and nights went, and what blocks the next one. It only looks."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from codelutra.cli.doctor import Check
from codelutra.cli.shelf import when
from codelutra.errors import UserError
from codelutra.experiments.retrain import UNFINISHED, Record, Retraining
from codelutra.results.load import list_runs
from codelutra.results.summary import RunSummary, policy_name
from codelutra.store.artifacts import Store
from codelutra.store.child import strays
from codelutra.store.files import is_locked, lock_holder
from codelutra.store.paths import accelerator_lock, go_on_command, told_command
from codelutra.store.run_dir import RunDir

QUIET_MINUTES = 60  # without a word from a run that waits for nobody
LOW, FULL = 10, 2  # GiB free
_GIB = 2**30


def health(home: Path, days: float) -> list[Check]:
    """Runs and nights of the last `days`, then what may block: engine, processes, store, disk, Docker, Prefect's server."""
    from codelutra.cli.server_health import server

    found = [*_runs(home, days), *_nights(home), *_engine(), *_left_behind(), *_store(home), _disk(home), *_docker()]
    return [*found, *server(os.environ.get("PREFECT_API_URL", ""), os.environ.get("PREFECT_API_AUTH_STRING", ""))]


def _check(name: str, found: str, how: str = "", *, ok: bool = True, warn: bool = False) -> Check:
    return Check(name, ok, " ".join(found.split()), "", how, warn)


def _runs(home: Path, days: float) -> Iterator[Check]:
    summaries, damaged = list_runs(home / "runs")
    for error in damaged:
        yield _check("run", str(error), "see the message", ok=False)
    quiet = 0
    for s in sorted(summaries, key=lambda s: s.started):
        run = RunDir(home / "runs" / s.run)
        changed = _changed(run)
        if s.state != "running" and time.time() - changed > 86400 * days:
            quiet += 1
        else:
            yield _run(s, run, changed)
    if quiet or not summaries:
        yield _check("runs", f"{quiet} that ended more than {days:g} days ago" if quiet else "none yet")


def _run(s: RunSummary, run: RunDir, changed: float) -> Check:
    name, again = f"run {s.run}", f"`{go_on_command(run.path)}`"
    match s.state:
        case "running":
            doing = f"{s.now.stage} {s.now.done:,}/{s.now.total:,} {s.now.unit}" if s.now else s.reason or "starting"
            idle = (time.time() - changed) / 60
            if idle > QUIET_MINUTES and not s.reason.startswith("waiting"):
                watch = f"look into {run.log}; end it with Ctrl-C where it was started, then {again}"
                return _check(name, f"{doing}; nothing new for {idle:.0f} minutes", watch, warn=True)
            return _check(name, doing)
        case "failed":
            return _check(name, f"failed {when(changed)}: {s.reason.splitlines()[0] if s.reason else ''}", again, ok=False)
        case "interrupted":
            return _check(name, f"interrupted {when(changed)}", again, warn=True)
    dev = f", {s.chosen.name} solves {s.chosen.dev.value:.1%} of dev" if s.chosen and s.chosen.dev.n else ""
    return _check(name, f"finished {when(changed)}{dev}")


def _changed(run: RunDir) -> float:
    """When a run last wrote something, in seconds since 1970."""
    files = [run.path / name for name in ("ledger.jsonl", "progress.json", "summary.json", "run.yaml")]
    return max((f.stat().st_mtime for f in files if f.is_file()), default=0.0)


def _nights(home: Path) -> Iterator[Check]:
    for folder in sorted(p.parent for p in (home / "promoted").glob("*/record.json")):
        record = Record(home, folder.name)
        try:
            rows = record.rows
        except UserError as e:
            yield _check(f"nights of {folder.name}", str(e), "see the message", ok=False)
            continue
        if rows:
            yield _night(home, record, rows)


def _night(home: Path, record: Record, rows: Sequence[Retraining]) -> Check:
    last, now, name = rows[-1], record.promoted, f"nights of {record.name}"
    if now and not (record.folder / "model" / "config.json").is_file():
        how = f"`{go_on_command(home / 'runs' / now.run)}` makes them anew"
        return _check(name, f"the weights of {now.run}, which is promoted, are gone", how, ok=False)
    if last.verdict != UNFINISHED:
        said = f"{last.run} of {when(last.began_at)}: {last.verdict}, {policy_name(last.policy)}"
        return _check(name, said + (f"; promoted is {now.run}" if now and now.run != last.run else ""))
    if RunDir(home / "runs" / last.run).held:
        return _check(name, f"{last.run} goes on since {when(last.began_at)}")
    if last.failed:
        how = "put right what it says, or give it other data; `codelutra retrain CONFIG` tries again"
        return _check(name, f"{last.run}, begun {when(last.began_at)}, failed: {last.failed}", how, ok=False)
    how = "`codelutra retrain CONFIG`, or the next night, goes on with it"
    return _check(name, f"{last.run}, begun {when(last.began_at)}, has not finished", how, ok=False)


def _engine() -> Iterator[Check]:
    lock = accelerator_lock()
    if not is_locked(lock):
        yield _check("engine", "free")
        return
    holders, left = _holders(lock), set(strays())
    said = f"held by {lock_holder(lock) or 'a process that does not say which'}"
    said += f" (engine or trainer: {', '.join(map(str, holders))})" if holders else ""
    if left.intersection(holders):
        how = f"the next run ends it; now: kill {' '.join(map(str, holders))}"
        yield _check("engine", f"{said}, left behind by a run that was killed", how, ok=False)
    else:
        yield _check("engine", said)


def _holders(lock: Path) -> list[int]:
    """Processes that hold an flock on a file, as far as this process table shows them."""
    with contextlib.suppress(OSError):
        inode = str(lock.stat().st_ino)
        fields = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " FLOCK " in line]
        held = [f for f in fields if "->" not in f and f[5].rpartition(":")[2] == inode]
        return sorted({int(f[4]) for f in held if f[3] == "WRITE" and int(f[4]) > 0})
    return []


def _left_behind() -> Iterator[Check]:
    if left := strays():
        how = f"the next run ends them; now: kill {' '.join(map(str, left))}"
        yield _check("processes", f"{len(left)} left behind by killed runs", how, warn=True)
    else:
        yield _check("processes", "none left behind")


def _store(home: Path) -> Iterator[Check]:
    store = Store(home / "store")
    damaged = len(list(store.root.glob(".damaged/*")))
    halves = [p for p in store.root.glob(".partial/*") if not store.is_making(p.name)]
    if is_locked(store.root / ".locks" / "in-use"):  # those who share it do not lock it out
        yield _check("store", "`codelutra prune` is at work; runs wait for its end")
    prune = f"`{told_command('codelutra prune', home / 'runs' / 'x')}` shows what may go"
    if damaged:
        said = f"{damaged} damaged artifacts were set aside and made again"
        yield _check("store", said, f"check the disk; {prune}", warn=True)
    said = f"{len(halves)} unfinished artifacts; the same commands go on from them" if halves else "nothing unfinished"
    yield _check("store", said)


def _disk(home: Path) -> Check:
    there = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(there).free / _GIB
    how = f"`{told_command('codelutra prune', home / 'runs' / 'x')}` shows what no run uses"
    return _check("disk", f"{free:.1f} GiB free at {there}", how, ok=free >= FULL, warn=FULL <= free < LOW)


def _docker() -> Iterator[Check]:
    from sandbox.client import connect
    from sandbox.errors import SandboxError
    from sandbox.owner import POOL, is_orphan

    try:
        client = connect(timeout_seconds=10)
    except SandboxError as e:
        yield _check("docker", str(e).partition("\n")[0], "`codelutra doctor` says what is missing", ok=False)
        return
    with contextlib.closing(client):
        containers = client.api.containers(all=True, filters={"label": POOL})
    left = [c["Id"][:12] for c in containers if is_orphan(c["Labels"])]
    if left:
        how = f"the next run removes them; now: docker rm -f {' '.join(left)}"
        yield _check("docker", f"{len(left)} containers left behind by killed runs", how, warn=True)
    else:
        yield _check("docker", f"answers; {len(containers)} of our containers at work")
