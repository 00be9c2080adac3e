"""Policy t from policy t-1, with TRL, in a process of its own (`python -m codelutra.training.worker`).

    refine      DPO(β; reference = policy t-1) + λ·SFT(chosen), on pairs (Rafailov et al. 2305.18290; 2411.05199)
    warm_start  SFT on the references of train problems
    supervise   SFT on any (prompt, completion) rows
    grpo        GRPO on groups: all answers of a problem, right ones against wrong ones (Shao et al. 2402.03300)

Each writes a policy directory that transformers and vLLM load, and returns the training's summary. Called again with the
same `work` folder, it resumes from the last whole checkpoint.

All raise StageError: nothing to train on, all too long, a loss that is not finite, a reference that is not policy t-1, out
of memory. And UserError for a policy that does not load.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import GrpoSection, TrainSection, WarmStartSection
from codelutra.errors import OutageError, StageError, UserError
from codelutra.hardware import too_few_gpus
from codelutra.schema import GROUPS, PAIRS, PROBLEMS, check
from codelutra.store.child import Child, EndedEarlyError, Process, Start
from codelutra.store.files import UNREADABLE, write_atomic
from codelutra.training import trackers
from codelutra.training.bases import Base, refuse_quantised, require_adapter_of, require_means
from codelutra.training.rates import settled
from codelutra.training.trackers import Report

Progress = Callable[[int, int, dict[str, Any]], None]
SPEC = "spec.json"  # in the work folder: what the process is told
EXAMPLES = pl.Schema({"problem_id": pl.String, "prompt": pl.String, "completion": pl.String})


@dataclass(frozen=True)
class Training:
    """One training: from which policy, into which folders."""

    policy: Path
    system: str
    seed: int
    out: Path
    """Gets float32 safetensors, config, tokenizer, `training.jsonl` (one record a step) and, with LoRA, `adapter/`."""
    work: Path
    """Keeps checkpoints and reference log-probabilities between calls. Remove it once `out` is safe."""
    log: Path
    lock: Path
    """Held while the model is in memory."""
    progress: Progress | None = None
    base: Base | None = None
    """For lora and qlora: what the adapter belongs to; None: `policy`. Another than `policy`: the adapter beside that is
    trained on."""
    thinking: bool = False
    """The policy was sampled with `prompt.thinking` on: its answers begin with what it thought."""
    report: Report | None = None
    """Trackers that hear of every step."""
    start: Start | None = None
    """Starts its processes elsewhere, given `processes` and the folders that they read as well; None: here."""


def refine(
    training: Training,
    pairs: pl.DataFrame,
    config: TrainSection,
    references: pl.DataFrame | None = None,
    answers: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Train on PAIRS. `references` (PROBLEMS) joins the SFT term when `config.replay_references`.

    `answers` (problem_id, prompt, completion) are what the SFT term imitates instead of the chosen ones, where
    `config.sft_on` says so. With answers there may be no pairs: that is SFT.
    """
    check(pairs, PAIRS)
    if answers is not None and not check(answers, EXAMPLES).is_empty():
        return _run(training, _spec("preference", training, config), pairs, answers)
    if pairs.is_empty():
        raise StageError(
            "there are no pairs to train on: every sample was right, or all were wrong and no reference may stand in; more "
            "samples (sample.samples_per_problem) or a higher sample.temperature help"
        )
    replayed = _as_examples(references) if references is not None and config.replay_references else None
    return _run(training, _spec("preference", training, config), pairs, replayed)


def warm_start(training: Training, problems: pl.DataFrame, config: WarmStartSection) -> dict[str, Any]:
    """SFT on the references of `problems` (PROBLEMS, train rows), loss on the answers only."""
    return supervise(training, _as_examples(problems), config, written=False)


def supervise(
    training: Training, examples: pl.DataFrame, config: WarmStartSection, *, written: bool = True
) -> dict[str, Any]:
    """SFT on `examples` (problem_id, prompt, completion); `written`: by the policy, and not references."""
    if check(examples, EXAMPLES).is_empty():
        raise StageError("there are no examples to train on; a train split with usable references is needed")
    return _run(training, _spec("supervised", training, config) | {"written": written}, examples)


def grpo(
    training: Training, groups: pl.DataFrame, config: TrainSection, section: GrpoSection, max_tokens: int
) -> dict[str, Any]:
    """Train on GROUPS. `max_tokens`: `sample.max_tokens`, which `loss: dr_grpo` divides by."""
    if check(groups, GROUPS).is_empty():
        raise StageError(
            "there are no groups to train on: no problem has both right and wrong samples; more samples "
            "(sample.samples_per_problem) or another sample.temperature help"
        )
    spec = _spec("grpo", training, config) | {"grpo": section.model_dump(mode="json"), "max_tokens": max_tokens}
    return _run(training, spec, groups)


def _as_examples(problems: pl.DataFrame) -> pl.DataFrame:
    return check(problems, PROBLEMS).select("problem_id", "prompt", completion="reference")


def _spec(kind: str, training: Training, config: TrainSection | WarmStartSection) -> dict[str, Any]:
    """What the training process is told."""
    paths = {name: str(getattr(training, name)) for name in ("policy", "out", "work")}
    paths["lock"] = "" if training.start else str(training.lock)  # elsewhere who starts it has the lock
    base = training.base or Base(training.policy)
    return paths | {
        "base": {"path": str(base.path), "reference": base.reference, "fingerprint": base.fingerprint},
        "kind": kind,
        "system": training.system,
        "seed": training.seed,
        "thinking": training.thinking,
        "report": asdict(training.report) if training.report else None,
        "config": settled(config, training.policy).model_dump(mode="json"),
        "examples": str(training.work / "examples.parquet"),
    }


def _run(
    training: Training, spec: dict[str, Any], examples: pl.DataFrame, references: pl.DataFrame | None = None
) -> dict[str, Any]:
    """Run the process; once more at half the micro-batch (the same effective batch) and with gradient checkpointing, unless
    that is off, when memory did not suffice. Where that was found out before a kill, so at once: what was done goes on."""
    if not training.start:
        if wrong := too_few_gpus(processes := spec["config"]["processes"]):
            raise UserError(f"processes {processes} {wrong}")
        require_means(spec["config"]["method"])
    refuse_quantised(training.policy)
    if training.base and training.base.path != training.policy:
        require_adapter_of(training.policy, training.base)
    training.work.mkdir(parents=True, exist_ok=True)
    examples.write_parquet(spec["examples"])
    if references is not None:
        spec["references"] = str(training.work / "references.parquet")
        references.write_parquet(spec["references"])
    micro_batch = spec["config"]["micro_batch"]
    smaller = half_micro_batch(micro_batch, spec["config"]["batch_size"])
    asked = spec["config"]["gradient_checkpointing"]
    less = True if asked is None else asked
    tries, held = list(dict.fromkeys(((micro_batch, asked), (smaller, less)))), ""
    for size, checkpointing in tries[-1:] if _last_tried(training) == tries[-1] else tries:
        spec["config"] |= {"micro_batch": size, "gradient_checkpointing": checkpointing}
        try:
            facts = _process(training, spec)
        except EndedEarlyError as e:
            if not e.out_of_memory:
                raise
            held = e.held
        else:
            return facts | {"busy_seconds": facts["seconds"]}  # without waiting for the accelerator
    ways = ", or ".join([f"lower micro_batch or max_length ({spec['config']['max_length']})", *_less_memory(spec["config"])])
    tried = f"out of memory with micro_batch {micro_batch}, and again with {smaller}"
    kept = f"What was done is kept; see {training.log}"
    if held:
        raise OutageError(f"{tried}: {held}. To train beside them, {ways}. {kept}")
    raise StageError(f"{tried}; {ways}. {kept}")


def _last_tried(training: Training) -> tuple[int, bool | None] | None:
    """Micro-batch and gradient checkpointing of the process that an earlier start began last; None where there was none."""
    with contextlib.suppress(*UNREADABLE):
        config = json.loads((training.work / SPEC).read_bytes())["config"]
        return config["micro_batch"], config["gradient_checkpointing"]
    return None


def _less_memory(config: dict[str, Any]) -> list[str]:
    """The knobs that are left when memory does not suffice."""
    ways = [] if config["gradient_checkpointing"] else ["set gradient_checkpointing true"]
    if config["processes"] > 1 and config["sharding"] == "none" and config["method"] != "qlora":
        ways += ["set sharding full: each process has a part of the model"]
    match config["method"]:
        case "full":
            ways += ["set method lora (or qlora, on a GPU): all weights are trained here, 16 bytes each"]
        case "lora":
            ways += ["set method qlora (on a GPU): the frozen weights in half a byte each"]
    return [*ways, "take a smaller model"]


def half_micro_batch(micro_batch: int, batch_size: int) -> int:
    """The largest divisor of `batch_size` that is at most half of what was in memory at once; at least 1."""
    half = min(micro_batch, batch_size) // 2
    return next((n for n in range(half, 1, -1) if batch_size % n == 0), 1)


def _process(training: Training, spec: dict[str, Any]) -> dict[str, Any]:
    """One training process from start to end, or several: they share our pipe, so the spec comes to them in a file. Where a
    kernel has failed it and another way is left, a second one goes on."""
    file = training.work / SPEC
    write_atomic(file, json.dumps(spec))
    (training.work / "may-load").unlink(missing_ok=True)
    another = False
    try:
        with started(training, "training", file, spec["config"]["processes"]) as child:
            while True:
                event = child.hear()
                if event["event"] == "done":
                    return {name: value for name, value in event.items() if name != "event"}
                another = another or event["event"] == "other way"
                if training.progress:
                    kind, done, total = event.pop("event"), event.pop("done", 0), event.pop("total", 0)
                    training.progress(done, total, {"doing": kind, **event})
    except StageError:
        if not another:
            raise
    return _process(training, spec)


def started(training: Training, what: str, spec: Path, processes: int) -> Process:
    """The process, or processes, that do what the file `spec` says."""
    more = environment(processes) | trackers.environment(training.report)
    given: dict[str, Any] = {"log": training.log, "more": more}
    if not training.start:
        return Child(what, "codelutra.training.worker", str(spec), **given)
    needs = {training.policy, training.work, training.base.path if training.base else training.policy}
    return training.start(what, "codelutra.training.worker", str(spec), **given, processes=processes, needs=sorted(needs))


def environment(processes: int) -> dict[str, str]:
    """What the libraries in the training process read."""
    more = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that spin at barriers starve the sandbox beside us
    }
    if processes == 1:  # of several GPUs in sight transformers' Trainer would make DataParallel replicas
        more["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return more
