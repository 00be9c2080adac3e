"""How fast a run will go: from earlier work in the store, from a calibration, or, where there is neither, from FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

from codelutra.config import RunConfig
from codelutra.planning.calibration import Calibration
from codelutra.planning.history import History, Sampled, Trained
from codelutra.planning.machine import Machine
from codelutra.planning.shape import Shape
from codelutra.planning.work import Work

# Useful FLOP/s in the open, from what the demo reached with 135M weights: two cores that multiply bfloat16 drew 215 tokens/s
# and trained 590 (docs/results/training.json); two AVX2 cores drew 125 in float32. A GPU's is a guess.
CORE = {True: 70e9, False: 30e9}
GPU, BANDWIDTH = 100e12, 1e12  # FLOP/s; bytes/s of its memory
PROGRAMS = {"sql": 1000.0, "python": 200.0}  # a second, two workers: far below docs/results/sandbox.json
STARTS = 15.0  # seconds of an engine or trainer, libraries included: measured, on two cores
EARLIER, MEASURED, GUESSED = "earlier work", "calibration", "guess"


@dataclass(frozen=True)
class Speeds:
    sampled: Sampled
    warm_start: Trained
    train: Trained
    programs: float
    base_answer: float
    """Tokens of an answer of the model as it comes."""
    basis: dict[str, str]
    """Name of a field → EARLIER, MEASURED or GUESSED."""


def speeds(
    config: RunConfig, shape: Shape, machine: Machine, work: Work, history: History, calibration: Calibration | None
) -> Speeds:
    guess, basis = _guessed(config, shape, machine, work), dict[str, str]()
    measured = calibration or Calibration()

    def best(name: str, earlier: object, now: object) -> object:
        basis[name] = EARLIER if earlier else MEASURED if now else GUESSED
        return earlier or now or getattr(guess, name)

    return Speeds(
        **{
            name: best(name, getattr(history, name), getattr(measured, name, None))
            for name in ("sampled", "warm_start", "train", "programs", "base_answer")
        },  # type: ignore[arg-type]
        basis=basis,
    )


def _guessed(config: RunConfig, shape: Shape, machine: Machine, work: Work) -> Speeds:
    """By 2 FLOPs a weight and token forward, 6 with the backward pass; decoding on a GPU also reads all weights a step."""
    flops = GPU if machine.cuda else CORE[machine.bf16] * machine.cores
    forward = 2 * shape.parameters / flops
    token = forward
    if machine.cuda:
        token = max(forward, 2 * shape.parameters / BANDWIDTH / min(64, config.engine.max_batch))
    start = STARTS + shape.parameters / 50e6  # reading and converting the weights
    sampled = Sampled(start, work.prompt * forward, token)
    shared = (work.prompt - work.shared + work.answer) / max(1.0, work.prompt + work.answer)  # of tokens, what is computed
    trained = Trained(start, 1 / (3 * forward * shared), 1 / (forward * shared))
    known = work.answer if not config.warm_start else min(work.max_tokens, 3 * work.answer)
    return Speeds(sampled, trained, trained, PROGRAMS.get(work.language, 200.0), known, {})
