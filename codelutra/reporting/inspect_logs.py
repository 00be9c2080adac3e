"""A run's dev answers as evaluation logs of inspect_ai (its JSON format, version 2), for `inspect view --log-dir DIR`.

DIR/TIME_SUITE_RUN-POLICY_ID.json    one log a policy: every greedy answer with prompt, reference, verdict and output
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codelutra import __version__
from codelutra.errors import UserError
from codelutra.reporting.answers import Answered, answered, readable
from codelutra.reporting.dataset import system_text
from codelutra.reporting.new_folder import new_folder, require_free
from codelutra.results.findings import Findings, libraries, read_findings
from codelutra.results.summary import PolicyResult
from codelutra.store.files import write_atomic
from codelutra.store.paths import go_on_command

_VERSION = 2
_SCORER = "execution"
_STOPPED = {"stop": "stop", "length": "max_tokens"}  # our finish_reason → inspect's stop_reason


def export_logs(run_path: Path, out: Path) -> Path:
    """Write one log a policy to `out`, which must be absent or empty; returns `out`, whole.

    Raises UserError where nothing is measured on dev yet, a file is damaged, `out` is in use or the disk is full.
    """
    found = read_findings(run_path)
    require_free(out)
    answers = answered(found)
    if answers is None:
        raise UserError(f"run {run_path.name!r} has no answers to dev problems; `{go_on_command(run_path)}` goes on with it")
    with new_folder(out) as part:
        for policy in found.policies:
            if policy.name in answers.policies:
                name, log = eval_log(found, answers, policy)
                write_atomic(part / name, json.dumps(log, indent=1))
    return out


def eval_log(found: Findings, answers: Answered, policy: PolicyResult) -> tuple[str, dict[str, Any]]:
    """The log's file name, from which the viewer reads time, task and id; and the log."""
    s = found.summary
    made = (found.manifest(f"{policy.folder}/dev-scores") or {}).get("made_at", "1970-01-01T00:00:00Z")
    created = made.replace("Z", "+00:00")
    identity = hashlib.sha256(f"{s.run} {policy.label} {created}".encode()).hexdigest()[:22]
    model = f"codelutra/{s.run}/{policy.label}"
    index, system = answers.policies.index(policy.name), system_text(found)
    samples = [
        _sample(problem, answer, model, system) for problem in answers.problems if (answer := problem["answers"][index])
    ]
    spec = {
        "eval_id": f"e{identity}",
        "run_id": f"r{identity}",
        "created": created,
        "task": s.suite,
        "task_id": identity,
        "task_version": s.suite_version,
        "dataset": {"name": f"{s.suite} dev", "samples": len(samples), "sample_ids": [x["id"] for x in samples]},
        "model": model,
        "config": {},
        "packages": {"codelutra": __version__} | {name: versions[-1] for name, versions in libraries(found).items()},
        "metadata": {"run": s.run, "policy": policy.name, "base model": s.model, "comparison mode": s.mode},
    }
    log = {
        "version": _VERSION,
        "status": "success",
        "eval": spec,
        "plan": {"name": "greedy", "steps": []},
        "results": _results(policy, len(samples)),
        "stats": {"started_at": created, "completed_at": created},
        "samples": samples,
    }
    file = f"{created.replace(':', '-')}_{_plain(s.suite)}_{_plain(f'{s.run}-{policy.label}')}_{identity}.json"
    return file, log


def _plain(name: str) -> str:
    """Without the mark that parts the fields of a log's name."""
    return name.replace("_", "-")


def _results(policy: PolicyResult, n: int) -> dict[str, Any]:
    e = policy.dev
    metrics = {"accuracy": e.value, "stderr": math.sqrt(e.value * (1 - e.value) / max(1, e.n)), "low": e.low, "high": e.high}
    score = {
        "name": _SCORER,
        "scorer": _SCORER,
        "scored_samples": n,
        "metrics": {name: {"name": name, "value": value} for name, value in metrics.items()},
    }
    return {"total_samples": n, "completed_samples": n, "scores": [score]}


def _sample(problem: Mapping[str, Any], answer: Mapping[str, Any], model: str, system: str) -> dict[str, Any]:
    asked = [{"role": "system", "content": system}] if system else []
    asked = [*asked, {"role": "user", "content": problem["prompt"]}]
    said = {"role": "assistant", "content": answer["completion"], "source": "generate", "model": model}
    told = {"gave": readable(answer["gave"]), "error": answer["error"], "expected": readable(problem["expected"])}
    why = "\n\n".join([answer["status"].replace("_", " "), *(f"{kind}: {text}" for kind, text in told.items() if text)])
    right = "C" if answer["status"] == "correct" else "I"
    stopped = _STOPPED.get(answer["finish_reason"], "unknown")
    return {
        "id": problem["problem_id"],
        "epoch": 1,
        "input": asked,
        "target": problem["reference"],
        "messages": [*asked, said],
        "output": {"model": model, "choices": [{"message": said, "stop_reason": stopped}]},
        "scores": {_SCORER: {"value": right, "answer": answer["program"], "explanation": why}},
        "metadata": {
            **{name: problem[name] for name in ("group", "difficulty") if problem[name]},
            "status": answer["status"],
            "seconds in the sandbox": answer["seconds"],
        },
    }
