"""The training process as its parent sees it: the lock, the GPU, too little memory."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codelutra import hardware
from codelutra.config import TrainSection, WarmStartSection
from codelutra.errors import OutageError, StageError, UserError
from codelutra.store.child import OUT_OF_MEMORY, Child, EndedEarlyError
from codelutra.store.files import locked
from codelutra.training import launch as train
from tests.helpers.training import SMALL, child_of, parent, place, some_pairs, some_problems, until_step


def test_no_pairs_end_cleanly(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no pairs to train on"):
        train.refine(place(policy, tmp_path), some_pairs(0), TrainSection())
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_killed_for_memory_is_tried_again_at_half_the_micro_batch(
    processes: int, policy: Path, tmp_path: Path
) -> None:
    """The kernel's answer to too little memory is SIGKILL to the process that asks. (With the SFT term's norm by token the
    micro-batch is part of the loss, so that the second try starts anew.)"""
    process = parent(tmp_path / "o", policy, epochs=6, processes=processes, sft_norm="sequence")
    until_step(process, 2)
    asks = child_of(process.pid)
    os.kill(asks if processes == 1 else child_of(asks), signal.SIGKILL)
    summary = json.loads(process.communicate()[0].splitlines()[-1])
    assert summary["micro_batch"] == SMALL["micro_batch"] // 2
    assert summary["resumed_from_step"] >= 1
    assert summary["steps"] == 18


def test_what_was_done_at_half_the_micro_batch_goes_on_after_a_kill(policy: Path, tmp_path: Path) -> None:
    """By the token a micro-batch is part of the loss: the full one, tried first again, would throw the checkpoints away."""
    tried, ends = list[tuple[int, bool | None]](), [True, False, False]  # out of memory, then killed twice

    class Ends:
        def __init__(self, what: str, module: str, spec: str, *, log: Path, **_: Any) -> None:
            config = json.loads(Path(spec).read_text())["config"]
            tried.append((config["micro_batch"], config["gradient_checkpointing"]))
            self.log = log

        def hear(self) -> Any:
            self.log.touch()
            raise EndedEarlyError("training", OUT_OF_MEMORY, self.log) if ends.pop(0) else KeyboardInterrupt

        def __enter__(self) -> Ends:
            return self

        def __exit__(self, *_: object) -> None: ...

    asked = replace(place(policy, tmp_path), start=Ends), some_pairs(4), TrainSection(batch_size=4, micro_batch=4)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.refine(*asked)
    assert tried == [(4, None), (2, True), (2, True)]


def test_after_a_kernel_failed_it_goes_on_in_another_way_at_once(policy: Path, tmp_path: Path) -> None:
    nan, done = StageError("nan"), {"event": "done", "seconds": 1}
    told: list[Any] = [{"event": "other way", "text": "nan"}, nan, done, nan]
    heard: list[Any] = []

    class Says:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def hear(self) -> Any:
            if isinstance(said := told.pop(0), StageError):
                raise said
            return dict(said)

        def __enter__(self) -> Says:
            return self

        def __exit__(self, *_: object) -> None: ...

    asked = replace(place(policy, tmp_path, lambda *what: heard.append(what)), start=Says), some_pairs(4), TrainSection()
    assert train.refine(*asked) == {"seconds": 1, "busy_seconds": 1}
    assert heard == [(0, 0, {"doing": "other way", "text": "nan"})]
    with pytest.raises(StageError, match="nan"):  # it has not said that there is another way
        train.refine(*asked)


@pytest.mark.parametrize(
    ("held", "error", "says"),
    [
        ("", StageError, r"^out of memory with micro_batch 4, and again with 2; lower micro_batch"),
        ("others hold it", OutageError, r"again with 2: others hold it\. To train beside them, lower micro_batch"),
    ],
)
def test_memory_that_others_hold_is_told_before_what_to_change(
    held: str, error: type[Exception], says: str, policy: Path, tmp_path: Path
) -> None:
    class Ends(Child):
        def __init__(self, what: str, *_: str, log: Path, **__: Any) -> None:
            self.log = log

        def hear(self, timeout: float | None = None) -> Any:
            self.log.touch()
            raise EndedEarlyError("training", OUT_OF_MEMORY, self.log, held)

        def __exit__(self, *_: object) -> None: ...

    with pytest.raises(error, match=says) as told:
        train.refine(replace(place(policy, tmp_path), start=Ends), some_pairs(4), TrainSection(batch_size=4, micro_batch=4))
    assert told.type is error


def test_training_waits_for_the_accelerator_and_says_so(policy: Path, tmp_path: Path) -> None:
    events: list[str] = []
    waiting = threading.Event()

    def progress(done: int, total: int, more: dict[str, Any]) -> None:
        events.append(more["doing"])
        if more["doing"] == "waiting":
            waiting.set()

    with locked(tmp_path / "lock"):
        asked = place(policy, tmp_path, progress), some_problems(4), WarmStartSection(epochs=1)
        thread = threading.Thread(target=train.warm_start, args=asked)
        thread.start()
        assert waiting.wait(60)
        assert events == ["waiting"]
    thread.join(120)
    assert events[-1] == "progress"
    assert (tmp_path / "out/model.safetensors").exists()
    assert textwrap.shorten((tmp_path / "log").read_text(), 20)  # the libraries' noise went there


@pytest.mark.parametrize(
    ("micro", "batch", "half"), [(16, 16, 8), (9, 18, 3), (5, 15, 1), (7, 7, 1), (40, 16, 8), (2, 16, 1)]
)
def test_what_is_tried_after_running_out_of_memory_divides_the_batch_and_is_half_at_most(
    micro: int, batch: int, half: int
) -> None:
    assert train.half_micro_batch(micro, batch) == half
    assert TrainSection(micro_batch=half, batch_size=batch)


def test_more_processes_than_gpus_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpu_capabilities", lambda: (9.0,) * 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match=r"processes 3 takes 3 GPUs and 2 can be used here"):
        train.refine(place(tmp_path, tmp_path), some_pairs(4), TrainSection(processes=3, learning_rate=1e-5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2"), ("", ""), ("GPU-1a,GPU-2b", "GPU-1a")])
def test_one_process_sees_one_gpu(visible: str | None, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two in sight transformers' Trainer makes replicas of a model whose forward is bound to one of them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert train.environment(processes=1)["CUDA_VISIBLE_DEVICES"] == seen
    assert "CUDA_VISIBLE_DEVICES" not in train.environment(processes=2)
