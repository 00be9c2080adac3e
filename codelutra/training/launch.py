"""Policy t from policy t-1, with TRL, in a process of its own.

    refine      DPO(β; reference = policy t-1) + λ·SFT(chosen), on pairs (Rafailov et al. 2305.18290; 2411.05199)
    warm_start  SFT on the references of train problems
    supervise   SFT on any (prompt, completion) rows
    grpo        policy gradient on rewards that the caller gives while it runs

Each writes a policy directory that transformers and vLLM load, and resumes from its last whole checkpoint when it is
called again with the same `work` folder. `trainer.py` is what runs inside the process; a process, because its end is the
one sure way to get the memory back, and because nothing of it may outlive us: it holds one end of a pipe whose other
end only we hold, and ends when that closes, however we died.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SampleSection, TrainSection, WarmStartSection
from codelutra.errors import CodelutraError, StageError, UserError
from codelutra.schema import PAIRS, PROBLEMS, check
from codelutra.store.child import our_modules

Progress = Callable[[int, int, dict[str, Any]], None]
Judge = Callable[[list[str], list[str]], list[float]]
OUT_OF_MEMORY = 77  # exit code of the training process
EXAMPLES = pl.Schema({"problem_id": pl.String, "prompt": pl.String, "completion": pl.String})


def refine(
    policy: Path,
    pairs: pl.DataFrame,
    *,
    system: str,
    config: TrainSection,
    seed: int,
    out: Path,
    work: Path,
    log: Path,
    lock: Path,
    references: pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the policy in directory `policy` on PAIRS into directory `out`; returns the summary.

    `out` gets float32 safetensors, config, tokenizer, `training.jsonl` (one record a step) and, with LoRA, `adapter/`.
    `work` keeps checkpoints and reference log-probabilities between calls; remove it once `out` is safe. `references`
    (PROBLEMS) joins the SFT term when `config.replay_references`. `lock` is held while the model is in memory.

    Raises StageError: no pairs, all too long, a loss that is not finite, a reference that is not policy t-1, out of memory.
    """
    pairs = check(pairs, PAIRS)
    if pairs.is_empty():
        raise StageError(
            "there are no pairs to train on: every sample was right, or all were wrong and no reference may stand in; more "
            "samples (sample.samples_per_problem) or a higher sample.temperature help"
        )
    spec = _spec("preference", policy, system, config, seed, out)
    replayed = _as_examples(references) if references is not None and config.replay_references else None
    return _run(spec, pairs, replayed, work, log, lock, progress)


def warm_start(
    policy: Path,
    problems: pl.DataFrame,
    *,
    system: str,
    config: WarmStartSection,
    seed: int,
    out: Path,
    work: Path,
    log: Path,
    lock: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """SFT on the references of `problems` (PROBLEMS, train rows), loss on the answers only. Otherwise as `refine`."""
    return supervise(
        policy,
        _as_examples(problems),
        system=system,
        config=config,
        seed=seed,
        out=out,
        work=work,
        log=log,
        lock=lock,
        progress=progress,
    )


def supervise(
    policy: Path,
    examples: pl.DataFrame,
    *,
    system: str,
    config: WarmStartSection,
    seed: int,
    out: Path,
    work: Path,
    log: Path,
    lock: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """SFT on `examples` (problem_id, prompt, completion)."""
    examples = check(examples, EXAMPLES)
    if examples.is_empty():
        raise StageError("there are no examples to train on; a train split with usable references is needed")
    return _run(_spec("supervised", policy, system, config, seed, out), examples, None, work, log, lock, progress)


def grpo(
    policy: Path,
    problems: pl.DataFrame,
    judge: Judge,
    *,
    system: str,
    config: TrainSection,
    sample: SampleSection,
    seed: int,
    out: Path,
    work: Path,
    log: Path,
    lock: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """GRPO on `problems` (PROBLEMS, train rows). `judge` (problem ids, completions) → rewards is called in this process
    while the training process waits. Otherwise as `refine`."""
    spec = _spec("grpo", policy, system, config, seed, out) | {"sample": sample.model_dump(mode="json")}
    return _run(spec, _as_examples(problems), None, work, log, lock, progress, judge)


def _as_examples(problems: pl.DataFrame) -> pl.DataFrame:
    return check(problems, PROBLEMS).select("problem_id", "prompt", completion="reference")


def _spec(
    kind: str, policy: Path, system: str, config: TrainSection | WarmStartSection, seed: int, out: Path
) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    return {"kind": kind, "policy": str(policy), "system": system, "config": settings, "seed": seed, "out": str(out)}


def _run(
    spec: dict[str, Any],
    examples: pl.DataFrame,
    references: pl.DataFrame | None,
    work: Path,
    log: Path,
    lock: Path,
    progress: Progress | None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Run the process; once more at half the micro-batch (the same effective batch) when memory did not suffice."""
    work.mkdir(parents=True, exist_ok=True)
    spec |= {"work": str(work), "lock": str(lock), "examples": str(work / "examples.parquet")}
    examples.write_parquet(spec["examples"])
    if references is not None:
        spec["references"] = str(work / "references.parquet")
        references.write_parquet(spec["references"])
    micro_batch = spec["config"]["micro_batch"]
    summary = _process(spec, log, progress, judge)
    smaller = half_micro_batch(micro_batch, spec["config"]["batch_size"])
    if summary is None and smaller < micro_batch:
        spec["config"]["micro_batch"] = smaller
        summary = _process(spec, log, progress, judge)
    if summary is None:
        lora = spec["kind"] == "preference" and spec["config"]["method"] != "lora"
        raise StageError(
            f"out of memory with micro_batch {micro_batch}, and again with {smaller}; lower micro_batch or max_length "
            f"({spec['config']['max_length']})"
            + (
                ", or use train.method lora"
                if lora
                else ", or take a smaller model: all weights are trained here, 16 bytes each"
                if spec["kind"] != "preference"
                else ""
            )
            + f". What was done is kept; see {log}"
        )
    return summary | {"busy_seconds": summary["seconds"]}  # without waiting for the accelerator


def half_micro_batch(micro_batch: int, batch_size: int) -> int:
    """The largest divisor of `batch_size` that is at most half of what was in memory at once; at least 1."""
    half = min(micro_batch, batch_size) // 2
    return next((n for n in range(half, 1, -1) if batch_size % n == 0), 1)


def _process(spec: dict[str, Any], log: Path, progress: Progress | None, judge: Judge | None) -> dict[str, Any] | None:
    """One training process from start to end; None when it ran out of memory."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as noise:
        child = subprocess.Popen(
            _command(spec),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env=os.environ | environment(spec["config"]["processes"]),
            start_new_session=True,
        )
    assert child.stdin is not None
    assert child.stdout is not None
    summary: dict[str, Any] | None = None
    try:
        if spec["config"]["processes"] == 1:
            with suppress(BrokenPipeError):  # it died at once: its exit code says more
                child.stdin.write(json.dumps(spec).encode() + b"\n")
                child.stdin.flush()  # and it stays open: its end of file is our death
        for line in child.stdout:
            event = json.loads(line)
            match event.pop("event"):
                case "done":
                    summary = event
                case "out_of_memory":
                    return None
                case "error":
                    raise (UserError if event["kind"] == "user" else StageError)(event["message"])
                case "judge":
                    assert judge is not None
                    rewards = judge(event["problem_ids"], event["completions"])
                    child.stdin.write(json.dumps(rewards).encode() + b"\n")
                    child.stdin.flush()
                case kind if progress:
                    progress(event.pop("done", 0), event.pop("total", 0), {"doing": kind, **event})
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    if summary is None and code not in (OUT_OF_MEMORY, -9):  # -9: the kernel's own answer to too little memory
        raise StageError(f"the training process ended with exit code {code}; the end of {log} says why")
    return summary


def environment(processes: int) -> dict[str, str]:
    """What the training process gets beside ours."""
    more = our_modules() | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that spin at barriers starve the sandbox beside us
    }
    if processes == 1:  # of several GPUs in sight transformers' Trainer would make DataParallel replicas
        more["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return more


def _command(spec: dict[str, Any]) -> list[str]:
    """What starts the training. Of several processes torch's launcher starts each, as `accelerate launch` has it do on
    GPUs (on CPUs that would need MPI). They all hold our pipe, so the spec comes to them in a file."""
    run, processes = [sys.executable, "-m", "codelutra.training.launch"], spec["config"]["processes"]
    if processes == 1:
        return run
    file = Path(spec["work"]) / "spec.json"
    file.write_text(json.dumps(spec))
    _may_load(spec).unlink(missing_ok=True)
    return [*run, str(file), str(processes)]


def _launch(file: str, processes: str) -> None:
    """Start the processes and wait for them. One that the kernel kills is out of memory, as where there is one alone."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as launch

    try:
        launch(["--standalone", f"--nproc-per-node={processes}", "-m", "codelutra.training.launch", file])
    except ChildFailedError as e:
        killed = any(failure.exitcode == -signal.SIGKILL for failure in e.failures.values())
        sys.exit(OUT_OF_MEMORY if killed else 1)


def _may_load(spec: dict[str, Any]) -> Path:
    """Is there once the first of several processes holds the accelerator for all of them."""
    return Path(spec["work"]) / "may-load"


def main() -> None:
    """The training process: a spec on stdin (of several processes: in a file), events as JSON lines on stdout, all other
    output to stderr (the log)."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else sys.stdin.readline())
    first = os.environ.get("RANK", "0") == "0"
    answers: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_hear_parent, args=(answers,), daemon=True).start()

    def emit(event: dict[str, Any]) -> None:
        if first or event["event"] in ("error", "out_of_memory"):
            events.write(json.dumps(event) + "\n")

    def ask(problem_ids: list[str], completions: list[str]) -> list[float]:
        emit({"event": "judge", "problem_ids": problem_ids, "completions": completions})
        rewards: list[float] = json.loads(answers.get())
        return rewards

    with Path(spec["lock"]).open("a") as held:
        try:
            if first:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            emit({"event": "waiting", "for": spec["lock"]})
            fcntl.flock(held, fcntl.LOCK_EX)
        if first:
            _may_load(spec).touch()
        while not _may_load(spec).exists():
            time.sleep(0.05)
        from codelutra.training.worker import train as trainer

        try:
            emit({"event": "done", **trainer.train(spec, emit, ask)})
        except CodelutraError as e:
            emit({"event": "error", "kind": "user" if isinstance(e, UserError) else "stage", "message": str(e)})
            if spec["config"]["processes"] > 1:
                os._exit(1)  # at once: the others wait for this one
        except (MemoryError, RuntimeError) as e:
            if not trainer.is_out_of_memory(e):
                raise
            sys.stderr.write(f"out of memory: {e}\n")
            emit({"event": "out_of_memory"})
            os._exit(OUT_OF_MEMORY)


def _hear_parent(answers: queue.Queue[str]) -> None:
    """What the parent writes. stdin ends when it does, for whatever reason. (A parent-death signal would follow its
    *thread*.)"""
    for line in sys.stdin:
        answers.put(line)
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _launch(*sys.argv[1:])
    else:
        main()
