"""Claim: on one NVIDIA card training gives the losses of TRL's DPOTrainer, faster and in no more memory; the reference
model is policy t-1 there too, and a killed training resumes.

    scripts/gpu-check.sh [--wheels DIR] [--minutes M] [--rows A,B] [--out FILE]     (it calls python -m benchmarks.gpu)

Weights are random, in the real shapes, made on the card. Pairs are random text: prompts of about 600 tokens, answers of 60,
nothing shared but a pair's own prompt. Every way runs in a process of its own; "ours" is the product's training worker.
tokens/s count prompt + answer of every sequence and include the reference model's part; the first quarter of the steps warms
up. Without CUDA the same code runs on tiny shapes, which tries the script and measures nothing. The JSON is written after
every way, so a kill loses nothing; a way that fails, or that no time is left for, says so in its row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks._gpu_ways import SEED, SHAPES, WAYS, pairs

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "polars", "pydantic", "yaml")
VERSIONS = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes")
STEPS, BATCH, RATE = 6, 16, 1e-5
PROMPT, ANSWER = 560, 60  # tokens, one a character; the template adds some 40 to the prompt
TOLERANCE = {True: 0.02, False: 1e-3}  # nats, of the first loss (about 12) in bf16 and in float32
SECONDS_AT_LEAST = 20.0  # a way that has less left is not begun
# In order of worth, for a card that is there for minutes.
ROWS = (
    "0.5b-full",
    "0.5b-lora",
    "1.5b-lora",
    "8b-lora",
    "8b-qlora",
    "1.5b-full",
    "resume",  # 0.5b-full killed, and its weights after the second start
    "0.5b-full-float32",
    "1.5b-qlora",
    "0.5b-qlora",
)


class Check:
    """One run of this script: its scratch folder, its budget, and the JSON that is written again after every way."""

    def __init__(self, given: argparse.Namespace, scratch: Path, cuda: bool, bf16: bool) -> None:
        self.scratch, self.cuda, self.bf16, self.file = scratch, cuda, bf16, given.out
        self.began, self.end = time.monotonic(), time.monotonic() + 60 * given.minutes
        self.result: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
            "real_shapes": cuda,
            "versions": {name: version(name) for name in VERSIONS} | {"python": sys.version.split()[0]},
            "bf16": bf16,
            "steps": STEPS,
            "batch_size": BATCH,
            "minutes": given.minutes,
            "rows": [],
            "no_time_for": [],
        }
        if self.file and self.file.exists():  # rows of an earlier hour on a card
            earlier = json.loads(self.file.read_text())
            if earlier["versions"] == self.result["versions"] and earlier["real_shapes"] == cuda:
                self.result["rows"] = earlier["rows"]
        pairs(STEPS * BATCH, *((PROMPT, ANSWER) if cuda else (40, 20))).write_parquet(scratch / "pairs.parquet")

    def write(self) -> None:
        self.result["seconds"] = round(time.monotonic() - self.began)
        if self.file:
            part = self.file.with_suffix(".part")
            part.write_text(json.dumps(self.result, indent=1) + "\n")
            part.replace(self.file)

    def way(self, name: str, way: str, spec: dict[str, Any]) -> dict[str, Any]:
        """One way in a process of its own; {"failed": why} where it ends in an error."""
        if (left := self.end - time.monotonic()) < SECONDS_AT_LEAST:
            return self.no_time(f"{name} {way}")
        file, log = self.scratch / "spec.json", self.scratch / "log"
        file.write_text(json.dumps(spec | {"result": str(self.scratch / "found.json")}))
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        one = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
        command = [sys.executable, "-m", "benchmarks._gpu_ways", way, str(file)]
        began = time.monotonic()
        with log.open("wb") as noise:
            try:
                code = subprocess.run(
                    command, cwd=ROOT, env=os.environ | quiet | one, stdout=noise, stderr=noise, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                return self.no_time(f"{name} {way}") | left_behind(Path(spec["work"]))
        if code:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = f"exit code {code}: " + "\n".join(said[-3:])[-1200:]
            return {"failed": why} | left_behind(Path(spec["work"]))
        found: dict[str, Any] = json.loads((self.scratch / "found.json").read_text())
        return rated(found) | {"process_seconds": round(time.monotonic() - began, 1)}

    def no_time(self, what: str) -> dict[str, Any]:
        self.result["no_time_for"].append(what)
        return {"failed": "no time left"}

    def new(self, name: str, **more: Any) -> dict[str, Any]:
        """A row of this name, in place of an earlier one."""
        made = {"row": name, **more}
        self.result["rows"] = [row for row in self.result["rows"] if row["row"] != name] + [made]
        return made

    def run(self, name: str) -> dict[str, Any]:
        if self.end - time.monotonic() < SECONDS_AT_LEAST:
            return {"row": name} | {way: self.no_time(f"{name} {way}") for way in WAYS}
        return self.resume() if name == "resume" else self.row(name)

    def spec(self, size: str, method: str, bf16: bool, at: str) -> dict[str, Any]:
        from codelutra.config import TrainSection

        micro, work = SHAPES[size][1], self.scratch / at
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        settings = TrainSection(
            batch_size=BATCH, micro_batch=micro, learning_rate=RATE, warmup=0, sft_norm="token", checkpoint_steps=1000
        )
        return {
            "kind": "preference",
            "size": size,
            "cuda": self.cuda,
            "bf16": bf16,
            "policy": str(self.scratch / f"model-{size}"),
            "system": "",
            "seed": SEED,
            "config": settings.model_dump(mode="json") | {"method": method},
            "examples": str(self.scratch / "pairs.parquet"),
            "work": str(work),
            "out": str(work / "out"),
        }

    def row(self, name: str) -> dict[str, Any]:
        """ "0.5b-full-float32": the shape, the method, and float32 where it is not to be what the hardware multiplies."""
        size, method, *exact = name.split("-")
        bf16 = self.bf16 and not exact
        made = self.new(name, micro_batch=SHAPES[size][1], bf16=bf16)
        for way in WAYS:
            made[way] = self.way(name, way, self.spec(size, method, bf16, f"{name}-{way}"))
            if name != "0.5b-full":  # which "resume" is compared with
                shutil.rmtree(self.scratch / f"{name}-{way}")
            self.write()
        if "failed" not in made["ours"] | made["trl"]:
            made |= compared(made["ours"], made["trl"], TOLERANCE[bf16])
        self.write()
        return made

    def resume(self) -> dict[str, Any]:
        """0.5b-full once more, killed at step 3 and started again."""
        if not (straight := self.scratch / "0.5b-full-ours/out").exists():
            self.row("0.5b-full")
        spec = self.spec("0.5b", "full", self.bf16, "resume")
        spec["config"]["checkpoint_steps"] = 2
        made = self.new("resume", bf16=self.bf16)
        made["first_start"] = self.way("resume", "ours", spec | {"kill_at": 3}).get("failed", "not killed").partition(":")[0]
        made["ours"] = self.way("resume", "ours", spec | {"straight": str(straight)})
        self.write()
        return made


def rated(found: dict[str, Any]) -> dict[str, Any]:
    """Seconds and tokens of every step into tokens/s after the first quarter of them."""
    tokens, seconds = found.pop("step_tokens"), found.pop("step_seconds")
    warm = len(seconds) // 4
    rate = sum(tokens[warm:]) / sum(seconds[warm:])
    return {"tokens_per_second": round(rate, 1), "step_seconds": [round(s, 3) for s in seconds]} | found


def compared(ours: dict[str, Any], trl: dict[str, Any], tolerance: float) -> dict[str, Any]:
    gaps = [abs(a - b) for a, b in zip(ours["losses"], trl["losses"], strict=True)]
    ratio: dict[str, Any] = {"times_trl": round(ours["tokens_per_second"] / trl["tokens_per_second"], 2)}
    if "peak_gpu_gib" in ours:
        ratio["memory_of_trl"] = round(ours["peak_gpu_gib"] / trl["peak_gpu_gib"], 2)
    return ratio | {"loss_gaps": gaps, "first_loss_agrees": gaps[0] < tolerance}


def left_behind(work: Path) -> dict[str, Any]:
    """Of a training that failed later, in saving for one: its steps, without the reference model's part."""
    file = work / "training.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    if not (rows := [json.loads(line) for line in lines if line.endswith("\n")]):  # the last may be cut off
        return {}
    warm = rows[len(rows) // 4 :]
    rate = sum(r["tokens"] for r in warm) / sum(r["seconds"] for r in warm)
    return {"losses": [r["loss"] for r in rows], "tokens_per_second_of_steps": round(rate, 1)}


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def roomiest() -> str:
    """Disk or memory, where more is free: the 8B rows write 48 GB."""
    places = [tempfile.gettempdir(), *(["/dev/shm"] if Path("/dev/shm").is_dir() else [])]
    return max(places, key=lambda place: shutil.disk_usage(place).free)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="of: %(default)s; in the order they are run")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all; what does not fit is named (%(default)s)")
    parser.add_argument("--out", type=Path, help="default: docs/results/gpu.json where there is a card, else nothing")
    parser.add_argument("--scratch", help="folder for weights; the 8B row writes 48 GB")
    given = parser.parse_args()
    if unknown := sorted(set(given.rows.split(",")) - set(ROWS)):
        parser.error(f"unknown rows {', '.join(unknown)}; known: {', '.join(ROWS)}")
    if missing := [name for name in NEEDED if not importlib.util.find_spec(name)]:
        parser.error(
            f"{sys.executable} has no {', '.join(missing)}; install them, or give their wheels to scripts/gpu-check.sh"
        )
    from codelutra.hardware import gpu_capabilities, multiplies_bf16

    cuda = bool(gpu_capabilities())
    if not cuda:
        print("no CUDA here: tiny shapes on the CPU, which tries this script and measures nothing", flush=True)
    elif not given.out:
        given.out = ROOT / "docs/results/gpu.json"
    with tempfile.TemporaryDirectory(dir=given.scratch or roomiest()) as folder:
        check = Check(given, Path(folder), cuda, multiplies_bf16())
        for name in (rows := given.rows.split(",")):
            print(line(check.run(name)), flush=True)
            size = name.split("-")[0]
            if not any(other.startswith(size) for other in rows[rows.index(name) + 1 :]) and size != "0.5b":
                shutil.rmtree(Path(folder) / f"model-{size}", ignore_errors=True)
        check.write()
    print(json.dumps({k: v for k, v in check.result.items() if k != "rows"}))


def line(row: dict[str, Any]) -> str:
    """What a person watching reads of a row."""
    parts = [f"{row['row']:18}"]
    for way in ("ours", "trl"):
        if found := row.get(way):
            fine = "failed" not in found
            peak = f", {found['peak_gpu_gib']} GiB" if "peak_gpu_gib" in found else ""
            parts.append(
                f"{way} {found['tokens_per_second']:,.0f} tokens/s{peak}" if fine else f"{way} {found['failed'][-200:]!r}"
            )
    shown = ("times_trl", "memory_of_trl", "loss_gaps", "first_loss_agrees")
    return "   ".join(parts + [f"{name} {row[name]}" for name in shown if name in row])


if __name__ == "__main__":
    main()
