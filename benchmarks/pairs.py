"""Claim: a million outcomes become pairs in at most 8 s and 2 GB on two cores, and ten million take ten times as long.

    python -m benchmarks.pairs [--rows 1000000] [--most 10000000] [--out docs/results/pairs.json]

Three versions start from the same parquet file and must give the same pairs, row by row: `codelutra.training.pairs`
(polars), one in pandas and numpy, one in plain Python. "pairing" is the time from outcomes in the version's own form
in memory to pairs; that of polars includes counting the stage's facts. "with reading" adds reading the file. Each is the
best of `--repeats`. Then outcomes are paired a file of half a million at a time, each size in a process of its own, and
the process's peak memory is taken. Outcomes are synthetic: 16 SQL answers a problem from a skewed pool (a few answers
come often, most once), every fifth with a line break, statuses as a small model gives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd  # noqa: TID251  it is what we compare with
import polars as pl
import pyarrow.parquet

from codelutra import schema
from codelutra.config import PairsSection
from codelutra.training.pairs import make_pairs

T = TypeVar("T")
SAMPLES, FILE_PROBLEMS, SEED = 16, 31_250, 7
CONFIG = PairsSection()
NEEDED = ["problem_id", "sample", "greedy", "status", "code", "completion", "finish_reason"]
KNOWN = ["problem_id", "split", "prompt", "reference"]
WRONG = 2**63
# Rank of an answer in its problem's pool, turned by the problem → status
SMALL = ["correct", "wrong", "wrong", "runtime_error", "wrong", "syntax_error"]
SMALL += ["wrong", "timeout", "runtime_error", "wrong", "no_code", "wrong"]


def problems_of(first: int, count: int) -> pl.DataFrame:
    number = pl.int_range(first, first + count, dtype=pl.Int64)
    said = {c: pl.lit("") for c in ("group", "difficulty", "judge")}
    frame = pl.select(
        problem_id=pl.format("train-{}", number.cast(pl.String).str.zfill(8)),
        split=pl.lit("train", schema.SPLIT),
        prompt=pl.format("CREATE TABLE singer (id, name, age);\nHow many singers are older than {}?", number),
        reference=pl.format("SELECT count(*) FROM singer WHERE age > {}", number),
        language=pl.lit("sql"),
        **said,
    )
    return schema.check(frame, schema.PROBLEMS)


def paired(outcomes: pl.DataFrame, problems: pl.DataFrame) -> pl.DataFrame:
    usable = problems.select("problem_id", status=pl.lit("correct", schema.STATUS), expected=pl.lit(""), error=pl.lit(""))
    return make_pairs(outcomes, problems, usable, CONFIG, seed=SEED)[0]


def outcomes_of(first: int, count: int) -> pl.DataFrame:
    """OUTCOMES of `count` problems from number `first` on, in problem order."""
    rng = np.random.default_rng([SEED, first])
    rank = np.minimum(rng.zipf(1.4, count * SAMPLES), len(SMALL)) - 1
    number = np.repeat(np.arange(first, first + count), SAMPLES)
    seeds = {"number": number, "rank": rank, "h": number * 7919 + rank * 104729, "broken": rng.random(len(rank)) < 0.2}
    h, n = pl.col("h"), pl.col("number")
    code = pl.format(
        "SELECT T1.c_{}, count(*){}FROM table_{} AS T1 JOIN other AS T2 ON T1.id = T2.k_{} WHERE T1.n > {} GROUP BY T1.c_{}",
        h % 17,
        pl.when("broken").then(pl.lit("\n")).otherwise(pl.lit(" ")),
        n % 50,
        h % 5,
        h % 1000,
        h % 17,
    )
    status = pl.Series(SMALL, dtype=schema.STATUS).gather((rank + number % 4) % len(SMALL))
    frame = pl.DataFrame(seeds).with_columns(
        status.alias("status"),
        problem_id=pl.format("train-{}", n.cast(pl.String).str.zfill(8)),
        sample=pl.int_range(pl.len(), dtype=pl.Int32) % SAMPLES,
        greedy=False,
        code=code,
        completion=pl.format("{}{}", code, pl.when("broken").then(pl.lit("\n")).otherwise(pl.lit(""))),
        finish_reason=pl.when(h % 16 == 0).then(pl.lit("length")).otherwise(pl.lit("stop")),
        mode=pl.lit("sql-strict/v2"),
        verdict=pl.lit("host"),
        answer=pl.format("{}", h % 1000),
        output=pl.format("[[{}]]", h % 1000),
        seconds=pl.lit(0.01),
        error=pl.lit(""),
    )
    return schema.check(frame, schema.OUTCOMES)


# --- the same in plain Python ---------------------------------------------------------------------------------------


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def in_python(outcomes: list[dict[str, Any]], problems: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    start = mix(SEED)
    ordered = sorted(problems, key=lambda p: p["problem_id"])
    train = {p["problem_id"]: mix((i + start) % 2**64) for i, p in enumerate(ordered) if p["split"] == "train"}
    answers: dict[str, dict[str, tuple[int, dict[str, Any] | None]]] = {i: {} for i in train}
    broken = set()
    for o in outcomes:
        problem, status = o["problem_id"], o["status"]
        if o["greedy"] or problem not in train or status == "infra_error" or o["finish_reason"] == "dropped":
            continue
        if status == "reference_error":
            broken.add(problem)
            continue
        right, ended, blank = status == "correct", o["finish_reason"] == "stop", not o["completion"].strip()
        if (right and (blank or not ended)) or (blank and not ended):
            continue
        order = mix((train[problem] + o["sample"]) % 2**64) // 2 + (0 if right else WRONG)
        norm, mine = " ".join(o["code"].split()), answers[problem]
        if norm not in mine or order < mine[norm][0]:
            mine[norm] = (order, o)
    pairs = []
    for p in ordered:
        mine = answers.get(p["problem_id"], {})
        if not mine or p["problem_id"] in broken:
            continue
        if min(mine.values(), key=lambda a: a[0])[0] >= WRONG and p["reference"].strip():
            mine[" ".join(p["reference"].split())] = (0, None)
        in_order = sorted(mine.values(), key=lambda a: a[0])
        rights, wrongs = [a[1] for a in in_order if a[0] < WRONG], [a[1] for a in in_order if a[0] >= WRONG]
        lap = math.lcm(len(rights), len(wrongs))
        for turn in range(min(CONFIG.per_problem, len(rights) * len(wrongs))):
            c, r = rights[turn % len(rights)], wrongs[(turn + turn // lap) % len(wrongs)]
            assert r is not None
            chosen, rejected = (c["completion"].rstrip() if c else p["reference"].strip()), r["completion"].rstrip()
            if chosen != rejected:
                source, sample = ("sample", c["sample"]) if c else ("reference", -1)
                made = (source, r["status"], sample, r["sample"], r["finish_reason"] == "stop")
                pairs.append((p["problem_id"], p["prompt"], chosen, rejected, *made))
    return pairs


# --- the same in pandas ---------------------------------------------------------------------------------------------


def mix_numpy(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def in_pandas(outcomes: pd.DataFrame, problems: pd.DataFrame) -> pd.DataFrame:
    known = problems.sort_values("problem_id", ignore_index=True)
    known["problem"] = np.arange(len(known))
    known["salt"] = mix_numpy(known["problem"].to_numpy(np.uint64) + mix_numpy(np.array([SEED], np.uint64)))
    train = known.loc[known["split"] == "train", ["problem_id", "problem", "salt"]]
    rows = outcomes.loc[~outcomes["greedy"] & (outcomes["finish_reason"] != "dropped")].merge(train, on="problem_id")
    broken = rows.loc[rows["status"] == "reference_error", "problem"].unique()
    rows = rows[~rows["status"].isin(schema.NOT_THE_MODELS_DOING) & ~rows["problem"].isin(broken)]
    right = rows["status"] == "correct"
    blank, ended = rows["completion"].str.strip() == "", rows["finish_reason"] == "stop"
    rows = rows[(~blank | (ended & ~right)) & (ended | ~right)]
    wrong = (rows["status"] != "correct").to_numpy()
    state = rows["salt"].to_numpy() + rows["sample"].to_numpy().astype(np.uint64)
    rows["order"] = mix_numpy(state) // np.uint64(2) + wrong.astype(np.uint64) * np.uint64(WRONG)
    rows = rows[["problem", "order", "code", "completion", "status", "sample", "finish_reason"]]
    first = rows.groupby("problem")["order"].min()
    bare = known[known["problem"].isin(first.index[first >= WRONG]) & (known["reference"].str.strip() != "")]
    references = pd.DataFrame(
        {"problem": bare["problem"], "code": bare["reference"], "completion": bare["reference"].str.strip()}
    )
    rows = pd.concat([rows, references.assign(order=np.uint64(0), status="", sample=-1)], ignore_index=True)
    rows["norm"] = rows["code"].str.strip().str.replace(r"\s+", " ", regex=True)
    answers = rows.sort_values(["problem", "order"], ignore_index=True).drop_duplicates(
        ["problem", "norm"], ignore_index=True
    )
    is_right = answers["order"] < WRONG
    counts = is_right.groupby(answers["problem"]).agg(["sum", "size"])
    rights, sizes = counts["sum"].to_numpy(np.int64), counts["size"].to_numpy(np.int64)
    starts, wrongs = np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes - rights
    many = np.minimum(CONFIG.per_problem, rights * wrongs)
    at = np.repeat(np.arange(len(many)), many)
    turn = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many)
    lap = np.lcm(np.maximum(rights, 1), np.maximum(wrongs, 1))[at]
    chosen = answers.iloc[starts[at] + turn % rights[at]].reset_index(drop=True)
    rejected = answers.iloc[starts[at] + rights[at] + (turn + turn // lap) % wrongs[at]].reset_index(drop=True)
    asked = known.iloc[chosen["problem"].to_numpy()].reset_index(drop=True)
    pairs = pd.DataFrame(
        {
            "problem_id": asked["problem_id"],
            "prompt": asked["prompt"],
            "chosen": chosen["completion"].str.rstrip(),
            "rejected": rejected["completion"].str.rstrip(),
            "chosen_source": np.where(chosen["sample"] < 0, "reference", "sample"),
            "rejected_status": rejected["status"],
            "chosen_sample": chosen["sample"],
            "rejected_sample": rejected["sample"],
            "rejected_ended": rejected["finish_reason"] == "stop",
        }
    )
    return pairs[pairs["chosen"] != pairs["rejected"]]


# --- measuring ------------------------------------------------------------------------------------------------------


def best_of(repeats: int, what: Callable[[], T]) -> tuple[float, T]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = what()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def same_pairs(rows: int, repeats: int) -> dict[str, Any]:
    """The three versions on one file: seconds, and a refusal to go on where they differ."""
    problems = problems_of(0, rows // SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.parquet"
        outcomes_of(0, rows // SAMPLES).write_parquet(file)
        readers: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "polars": (lambda: pl.read_parquet(file), lambda o: paired(o, problems)),
            "pandas": (lambda: pd.read_parquet(file, columns=NEEDED), lambda o: in_pandas(o, known_pandas)),
            "python": (
                lambda: pyarrow.parquet.read_table(file, columns=NEEDED).to_pylist(),
                lambda o: in_python(o, known_rows),
            ),
        }
        known_pandas, known_rows = problems.select(KNOWN).to_pandas(), problems.select(KNOWN).rows(named=True)
        seconds: dict[str, dict[str, float]] = {}
        pairs: dict[str, pl.DataFrame] = {}
        for name, (read, pair) in readers.items():
            again = repeats if name != "python" else min(repeats, 2)
            reading, outcomes = best_of(again, read)
            pairing, made = best_of(again, partial(pair, outcomes))
            pairs[name] = as_pairs(made)
            seconds[name] = {"pairing": round(pairing, 3), "with_reading": round(reading + pairing, 3)}
            del outcomes, made
    for name, made in pairs.items():
        if not made.equals(pairs["polars"]):
            raise SystemExit(f"{name} gives other pairs than polars: the comparison says nothing")
    times = {
        f"{other}_over_polars": {k: round(seconds[other][k] / seconds["polars"][k], 1) for k in seconds[other]}
        for other in ("pandas", "python")
    }
    return {"rows": rows, "pairs": pairs["polars"].height, "seconds": seconds, **times}


def as_pairs(made: Any) -> pl.DataFrame:
    if isinstance(made, list):
        return pl.DataFrame(made, schema=schema.PAIRS, orient="row")
    if isinstance(made, pd.DataFrame):
        return pl.from_pandas(made).cast(dict(schema.PAIRS))
    return made  # type: ignore[no-any-return]


def alone(rows: int, *, whole: bool) -> dict[str, Any]:
    """Pair `rows` outcomes in a process of its own: in one frame, or a file at a time."""
    count = rows // SAMPLES
    each = count if whole else FILE_PROBLEMS
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, count, each):
            outcomes_of(first, min(each, count - first)).write_parquet(Path(folder) / f"{first:09}.parquet")
        problems_of(0, count).write_parquet(Path(folder) / "problems")
        out = subprocess.check_output([sys.executable, "-m", "benchmarks.pairs", "--child", folder])
    return {"rows": rows, **json.loads(out)}


def child(folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    problems = pl.read_parquet(folder / "problems")
    count = 0
    for file in sorted(folder.glob("*.parquet")):
        made = paired(pl.read_parquet(file), problems)
        made.write_parquet(folder / f"pairs-{file.stem}")
        count += made.height
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # getrusage's survives exec
    assert peak
    return {"pairs": count, "seconds": round(time.perf_counter() - start, 2), "peak_mb": int(peak[1]) // 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--most", type=int, default=10_000_000, help="the largest size paired a file at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/pairs.json"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return
    found = {
        "machine": {
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "polars": pl.__version__,
            "pandas": pd.__version__,
            "python": platform.python_version(),
        },
        "whole": alone(options.rows, whole=True),
        "same_pairs": same_pairs(options.rows, options.repeats),
        "streamed": [alone(options.most * share // 10, whole=False) for share in (1, 2, 5, 10)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    table = as_table(found)
    options.out.with_suffix(".md").write_text(table)
    print(table)


def as_table(found: dict[str, Any]) -> str:
    one, whole, machine = found["same_pairs"], found["whole"], found["machine"]
    head = f"{one['rows']:,} outcomes → {one['pairs']:,} equal pairs"
    lines = [
        f"# Outcomes to pairs ({machine['cpus']} cores, polars {machine['polars']}, pandas {machine['pandas']})",
        "",
        f"Load average when it began: {machine['load']}; near 0 the numbers are the machine's own.",
        "",
        f"{whole['rows']:,} outcomes in one frame: {whole['seconds']} s to read, pair, write; peak {whole['peak_mb']:,} MB.",
        "",
        f"| {head} | pairing, s | with reading, s | pairing, × polars | with reading, × polars |",
        "|---|---|---|---|---|",
    ]
    for name, s in one["seconds"].items():
        times = one.get(f"{name}_over_polars", {"pairing": 1.0, "with_reading": 1.0})
        lines.append(f"| {name} | {s['pairing']} | {s['with_reading']} | {times['pairing']} | {times['with_reading']} |")
    lines += ["", "| outcomes, a file at a time | pairs | s | µs an outcome | peak MB |", "|---|---|---|---|---|"]
    for s in found["streamed"]:
        each = s["seconds"] / s["rows"] * 1e6
        lines.append(f"| {s['rows']:,} | {s['pairs']:,} | {s['seconds']} | {each:.2f} | {s['peak_mb']:,} |")
    return "\n".join([*lines, "", "Made by `python -m benchmarks.pairs`.", ""])


if __name__ == "__main__":
    main()
