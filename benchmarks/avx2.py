"""Claim: `make demo` takes at most 45 minutes on two cores without AVX512, set-up included, and `make test` at most 20.

    python -m benchmarks.avx2 [--out docs/results/avx2.json] make demo
    python -m benchmarks.avx2 [--out docs/results/avx2-suite.json] make test

Runs a command as on a CPU with AVX2 alone, where none is at hand. Its processes find a /proc/cpuinfo without AVX512, bf16
and AMX, torch says that it has none of them, and ATen, oneDNN and MKL are held to AVX2. After `make demo` the run
`runs/demo` here is read. Start it in a fresh clone to have the set-up in it. Needs root (a mount of its own) and
util-linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codelutra.results.load import load_summary

_LIBRARIES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
HELD = {"ATEN_CPU_CAPABILITY": "avx2", **dict.fromkeys(_LIBRARIES, "AVX2")}
NEWER = re.compile(r" (?:avx512\w*|avx_vnni|amx\w*|gfni|vaes|vpclmulqdq)")
# Every Python process of the command starts with this: vLLM asks torch.cpu, which asks the processor itself.
SITE = """
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch.cpu":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def run(module):
            load(module)
            for asked in dir(module):
                if asked.startswith(("_is_avx512", "_is_amx", "_is_vnni")):
                    setattr(module, asked, lambda: False)

        spec.loader.exec_module = run
        return spec

sys.meta_path.insert(0, Finder())
"""


def run_held(command: list[str]) -> tuple[float, int]:
    """Run it; the seconds it took, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        cpuinfo, site = Path(folder, "cpuinfo"), Path(folder, "sitecustomize.py")
        cpuinfo.write_text(NEWER.sub("", Path("/proc/cpuinfo").read_text()))
        site.write_text(SITE)
        env = os.environ | HELD | {"PYTHONPATH": os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))}
        inside = 'mount --bind "$0" /proc/cpuinfo && exec "$@"'
        began = time.monotonic()
        done = subprocess.run(["unshare", "-m", "sh", "-c", inside, str(cpuinfo), *command], env=env, check=False)
        return time.monotonic() - began, done.returncode


def about() -> dict[str, object]:
    return {"cores": len(os.sched_getaffinity(0)), "held to": "AVX2", "load average at the end": os.getloadavg()}


def found(run: Path, seconds: float) -> dict[str, object]:
    summary = load_summary(run)
    assert summary
    policies = []
    for p in summary.policies:
        trained = p.training.tokens_per_second if p.training else None
        rate = p.tokens / p.seconds["sample"] if p.seconds.get("sample") else None
        policies.append(
            {
                "policy": p.label,
                "dev": [p.dev.correct, p.dev.n],
                "minutes": round(p.minutes, 1),
                "sampled tokens a second": rate and round(rate),
                "trained tokens a second": trained and round(trained),
            }
        )
    test = summary.test and [summary.test.correct, summary.test.n]
    return {"about": about(), "minutes, set-up included": round(seconds / 60, 1), "policies": policies, "test": test}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="the run's folder, read afterwards")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    command = asked.command or ["make", "demo"]
    seconds, code = run_held(command)
    if "demo" not in command:
        facts = {"about": about(), "command": " ".join(command), "exit": code, "minutes": round(seconds / 60, 1)}
    elif code:
        sys.exit(code)
    else:
        facts = found(asked.run, seconds)
    print(json.dumps(facts, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
