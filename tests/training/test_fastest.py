"""Where two ways of computing log-probabilities are equal, the faster is taken, once for a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from codelutra.errors import StageError
from codelutra.training.worker import fastest
from codelutra.training.worker.log_probs import Way
from tests.helpers.training import Train, distance, some_groups, some_pairs, some_problems, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other
SHARED, PADDED = "shared prefixes", "padded"
WAYS = [Way(SHARED, "codelutra_forest"), Way(PADDED, "sdpa")]


def by_name(seconds: dict[str, float]) -> Callable[[Way], float]:
    return lambda way: seconds[way.name]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The seconds that each way takes, by its name, on what is then a device where ways are timed."""
    took = {SHARED: 3.0, PADDED: 1.0}
    monkeypatch.setattr("codelutra.training.worker.steps.TIMED", {"cpu"})
    monkeypatch.setattr(fastest, "seconds", lambda trainer, way, micros: took[way.name])
    return took


def test_the_faster_way_is_taken_and_remembered(tmp_path: Path) -> None:
    file = tmp_path / "way.json"
    first = fastest.choose(file, WAYS, by_name({SHARED: 3.0, PADDED: 1.0}))
    assert first == {"way": PADDED, "seconds": {SHARED: 3.0, PADDED: 1.0}}
    assert fastest.choose(file, WAYS, by_name({SHARED: 1.0, PADDED: 3.0})) == first
    file.write_text('{"way": "by hand"}')
    assert fastest.choose(file, WAYS, by_name({SHARED: 1.0, PADDED: 3.0}))["way"] == SHARED
    file.unlink()
    assert fastest.choose(file, WAYS, by_name({SHARED: 1.0, PADDED: 0.95}))["way"] == SHARED, "no lottery"


def test_a_way_that_does_not_fit_or_has_no_gradient_is_not_taken(tmp_path: Path) -> None:
    def full(way: Way) -> float:
        if way.name == PADDED or tight:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    tight = False
    assert fastest.choose(tmp_path / "a", WAYS, full) == {"way": SHARED, "seconds": {SHARED: 1.0}}
    tight = True
    with pytest.raises(torch.OutOfMemoryError):  # half the micro-batch is tried next
        fastest.choose(tmp_path / "b", WAYS, full)
    assert fastest.choose(tmp_path / "c", WAYS, by_name({SHARED: math.inf, PADDED: 9.0}))["way"] == PADDED
    with pytest.raises(StageError, match=r"no way .* gives finite gradients on this device"):
        fastest.choose(tmp_path / "d", WAYS, lambda way: math.inf)
    assert {f.name for f in tmp_path.iterdir()} == {"a", "c"}


@pytest.mark.parametrize("kind", ["preference", "lora", "grpo", "supervised", "right"])
def test_either_way_trains_the_same_weights(
    kind: str, slow: dict[str, float], policy: Path, run: Train, tmp_path: Path
) -> None:
    lesson, more = {
        "preference": (some_pairs(8), {"replay_references": True}),
        "lora": (some_pairs(8), {"method": "lora"}),
        "grpo": (some_groups(3), {}),
        "supervised": (some_problems(8), {}),
        "right": (some_pairs(8).clear(), {"sft_on": "right"}),
    }[kind]
    more |= {"references": some_problems(4)} if kind in ("preference", "right") else {}
    made = {}
    for name, way in (("a", PADDED), ("b", SHARED)):
        slow[PADDED] = 1.0 if way == PADDED else 9.0
        made[name] = run(lesson, into=name, bf16=False, epochs=1, learning_rate=1e-4, **more)
        assert made[name]["log_probs"].startswith(way)
        assert made[name]["log_probs_seconds"] == slow
        assert ("slower here" in made[name]["not_shared"]) is (way == PADDED)
    ours, theirs, start = weights(tmp_path / "a/out"), weights(tmp_path / "b/out"), weights(policy)
    assert distance(ours, theirs) < 0.02 * distance(start, theirs)


def test_a_training_goes_on_by_the_way_it_began_with(slow: dict[str, float], run: Train, tmp_path: Path) -> None:
    run(some_pairs(12), into="whole")
    with pytest.raises(StageError, match="enough"):
        run(some_pairs(12), until=2)
    before = {f.name for f in (tmp_path / "a/work").glob("reference-*")}
    slow |= {SHARED: 1.0, PADDED: 3.0}  # the card is shared with another today
    again = run(some_pairs(12))
    assert (again["resumed_from_step"], again["log_probs"]) == (2, "padded, sdpa")
    assert {f.name for f in (tmp_path / "a/work").glob("reference-*")} == before
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "whole/out/model.safetensors").read_bytes()


def test_a_way_whose_gradient_breaks_is_left_for_the_other(
    slow: dict[str, float], monkeypatch: pytest.MonkeyPatch, run: Train
) -> None:
    real, steps = Accelerator.clip_grad_norm_, list[int]()

    def broken(self: Accelerator, *given: Any, **more: Any) -> Any:
        steps.append(len(steps) + 1)
        norm = real(self, *given, **more)
        return norm * math.nan if steps[-1] == 3 else norm

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", broken)
    with pytest.raises(StageError, match=r"norm of the gradient is nan at step 3 .* \(padded, sdpa\)"):
        run(some_pairs(12), checkpoint_steps=1)
    made = run(some_pairs(12), checkpoint_steps=1)
    assert (made["log_probs"], made["log_probs_seconds"]) == ("shared prefixes, codelutra_forest", {SHARED: 3.0})
    assert made["resumed_from_step"] == 2
    for alone in (None, WAYS[0], Way(PADDED, "sdpa", seconds={PADDED: 1.0})):
        assert not fastest.give_up(SimpleNamespace(), alone), "there is no other"


@pytest.mark.parametrize("settings", [{}, {"method": "lora", "gradient_checkpointing": True}])
def test_timing_leaves_nothing_behind(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, run: Train, tmp_path: Path
) -> None:
    """Both ways are timed by a real clock, shared prefixes are taken: the weights are those without timing, to the bit."""
    real, took = fastest.seconds, dict[str, float]()

    def timed(trainer: Any, way: Way, micros: list[Any]) -> float:
        assert len(micros) == 2
        took[way.name] = real(trainer, way, micros)
        return took[way.name] if way.name == SHARED else 1e6

    run(some_pairs(8), into="plain", bf16=False, **settings)
    monkeypatch.setattr("codelutra.training.worker.steps.TIMED", {"cpu"})
    monkeypatch.setattr(fastest, "seconds", timed)
    made = run(some_pairs(8), bf16=False, **settings)
    assert set(took) == {SHARED, PADDED}
    assert all(0 < s < 60 for s in took.values())
    assert (made["log_probs"], made["not_shared"]) == ("shared prefixes, codelutra_forest", "")
    assert made["reference_gap"] == 0
    ours, theirs = weights(tmp_path / "a/out"), weights(tmp_path / "plain/out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
