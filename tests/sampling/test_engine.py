"""The engine process: whole shards as they finish, the same samples again, nothing left behind. Real vLLM, tiny model."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codelutra.config import EngineSection
from codelutra.errors import StageError, UserError
from codelutra.sampling.engine import Engine, ShardRequest, request_seed, stop_ids
from codelutra.store.files import locked
from tests.helpers.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

CONFIG = EngineSection(max_model_len=128, cache_gib=0.25, max_batch=16)
TRAIN = ShardRequest(
    "train-000", "Write SQL.", ("a", "b", "long", "c"), ("How many?", "Who?", "x " * 200, "When?"), 3, 1.0, 0.95, 12
)
DEV = replace(TRAIN, key="dev-000", samples=1, temperature=0.0)
NOTHING = replace(TRAIN, key="train-001", ids=(), prompts=())
SHARDS = [DEV, TRAIN, NOTHING]

OWNER = """
import sys
from pathlib import Path
from codelutra.config import EngineSection
from codelutra.sampling.engine import Engine
policy, log, lock = map(Path, sys.argv[1:4])
with Engine(policy, EngineSection(max_model_len=128), seed=0, log=log, lock=lock) as engine:
    print(engine.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host") / "accelerator.lock"


@pytest.fixture(scope="module")
def engine(policy: Path, lock: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(policy, CONFIG, seed=7, log=tmp_path_factory.mktemp("log") / "engine.log", lock=lock) as running:
        yield running


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def held(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_each_shard_comes_whole_and_in_the_order_of_its_prompts_and_samples(engine: Engine) -> None:
    told: list[tuple[int, int, int]] = []
    results = {r.key: r.completions for r in engine.generate(SHARDS, lambda *a: told.append(a))}

    assert {key: [(c.prompt, c.sample) for c in found] for key, found in results.items()} == {
        "dev-000": [(p, 0) for p in range(4)],
        "train-000": [(p, k) for p in range(4) for k in range(3)],
        "train-001": [],
    }
    sent = [c for found in results.values() for c in found if c.prompt != 2]
    assert all(c.finish_reason in ("stop", "length") for c in sent)
    assert all(c.completion_tokens <= 12 for c in sent)
    assert all((c.completion_tokens == 12) for c in sent if c.finish_reason == "length")
    assert len({c.text for c in results["train-000"]}) > 5
    assert told[-1] == (16, 16, sum(c.completion_tokens for c in sent))
    assert [t[0] for t in told] == sorted(t[0] for t in told)


def test_a_prompt_that_leaves_no_room_is_dropped_and_counted_not_cut(engine: Engine) -> None:
    (result,) = engine.generate([TRAIN])
    dropped = [c for c in result.completions if c.finish_reason == "dropped"]
    assert [(c.prompt, c.sample, c.text, c.completion_tokens) for c in dropped] == [(2, k, "", 0) for k in range(3)]
    assert dropped[0].prompt_tokens > CONFIG.max_model_len - TRAIN.max_tokens


def test_greedy_samples_are_the_most_probable_tokens_of_the_model_itself(engine: Engine, policy: Path) -> None:
    """Ties the engine's prompts, stop tokens and decoding to transformers' own: same prompt, same continuation.

    The engine computes in bfloat16, so a near tie may fall the other way; the first tokens of most prompts must agree.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from codelutra.prompts import prompt_ids

    tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy)
    prompts = tuple(f"How many singers are older than {age}?" for age in range(20, 30))
    (result,) = engine.generate([replace(DEV, ids=prompts, prompts=prompts)])
    agree = 0
    for prompt, completion in zip(prompts, result.completions, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, DEV.system, prompt)])
        assert completion.prompt_tokens == ids.shape[1]
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)[
            0, ids.shape[1] :
        ]
        agree += completion.text.startswith(tokenizer.decode(answer, skip_special_tokens=True))
    assert agree >= 8


@pytest.mark.parametrize("only_likeliest", [{"min_p": 0.9999, "top_p": 1.0}, {"top_p": 1e-6}])
def test_cutting_all_but_the_likeliest_token_makes_samples_greedy(engine: Engine, only_likeliest: dict[str, float]) -> None:
    """Whatever does not reach vLLM would draw three different answers of this noise model."""
    greedy, drawn = engine.generate([DEV, replace(TRAIN, **only_likeliest)])
    wanted = {c.prompt: c.text for c in greedy.completions}
    assert [c.text for c in drawn.completions] == [wanted[c.prompt] for c in drawn.completions]


def test_a_policy_is_read_as_training_reads_it_whatever_of_mistrals_own_lies_beside(
    engine: Engine, policy: Path, tmp_path: Path
) -> None:
    official = shutil.copytree(policy, tmp_path / "official")
    other = write_tiny_model(tmp_path / "other", seed=1)
    shutil.copyfile(other / "model.safetensors", official / "consolidated.safetensors")
    for name in ("params.json", "tekken.json"):
        (official / name).write_text("{}")
    with Engine(official, CONFIG, seed=7, log=tmp_path / "log", lock=tmp_path / "lock") as same:
        assert list(same.generate([DEV])) == list(engine.generate([DEV]))


def test_two_engines_draw_the_same_and_a_killed_one_keeps_its_finished_shards(
    engine: Engine, policy: Path, tmp_path: Path
) -> None:
    many = tuple(f"problem {i}" for i in range(400))
    endless = replace(TRAIN, key="train-009", ids=many, prompts=many, max_tokens=60)
    log = tmp_path / "engine.log"
    drawn, started = [], list[float]()
    lock, mark = tmp_path / "lock", lambda: started.append(time.monotonic())
    for _ in range(2):
        with Engine(policy, CONFIG, seed=8, log=log, lock=lock, started=mark) as other:
            stream = other.generate([*SHARDS, endless])
            drawn.append([next(stream) for _ in SHARDS])
            os.kill(other.pid, signal.SIGKILL)
            with pytest.raises(StageError, match=r"killed from outside by signal 9, SIGKILL.*memory.*goes on from there"):
                list(stream)
    assert drawn[0] == drawn[1]
    assert len(started) == 2
    (train,) = engine.generate([TRAIN])
    assert train not in drawn[0]  # another seed, other samples


def test_an_engine_that_cannot_load_says_why(policy: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in policy.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    with Engine(broken, CONFIG, seed=0, log=tmp_path / "log", lock=tmp_path / "lock") as engine:  # noqa: SIM117
        with pytest.raises(UserError, match=r"vLLM does not take the model in .*/broken: "):
            list(engine.generate(SHARDS))


def test_kill_9_of_the_owner_takes_the_engine_along_and_frees_the_lock(policy: Path, tmp_path: Path) -> None:
    where = [str(policy), str(tmp_path / "log"), str(tmp_path / "lock")]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *where], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        while not held(tmp_path / "lock"):
            time.sleep(0.1)
        owner.kill()
    assert gone(pid, 10)
    assert not held(tmp_path / "lock")


def test_leaving_the_block_ends_the_process(policy: Path, tmp_path: Path) -> None:
    with Engine(policy, CONFIG, seed=0, log=tmp_path / "log", lock=tmp_path / "lock") as engine:
        pid = engine.pid
    assert gone(pid, 0.1)


def test_a_held_lock_is_told_and_a_stop_is_heard_while_waiting(policy: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    told: list[str] = []

    def stop_when_told(*_: int) -> None:
        if told:
            raise Stop

    with (
        locked(tmp_path / "lock"),
        Engine(
            policy,
            CONFIG,
            seed=0,
            log=tmp_path / "log",
            lock=tmp_path / "lock",
            waiting=told.append,
            started=lambda: told.append("started"),
        ) as engine,
        pytest.raises(Stop),
    ):
        list(engine.generate(SHARDS, stop_when_told))
    assert told == [f"the engine or trainer of another run on this host ({tmp_path / 'lock'})"]


def test_a_policy_that_is_not_there_or_too_short_is_refused_before_anything_starts(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        Engine(tmp_path, CONFIG, seed=0, log=tmp_path / "log", lock=tmp_path / "lock")
    with pytest.raises(UserError, match=r"max_model_len 4096 is more than the 1024"):
        Engine(policy, EngineSection(max_model_len=4096), seed=0, log=tmp_path / "log", lock=tmp_path / "lock")


def test_sample_seeds_differ_by_everything_that_names_a_sample_and_by_nothing_else() -> None:
    seeds = {request_seed(s, p, g, k) for s in (0, 1) for p in ("a", "a0", "0") for g in (False, True) for k in range(20)}
    assert len(seeds) == 2 * 3 * 2 * 20
    assert request_seed(1, "p", False, 3) == 736904885
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_every_end_token_of_the_model_stops_an_answer(policy: Path, tmp_path: Path) -> None:
    assert stop_ids(policy, 2) == [2]
    (tmp_path / "config.json").write_text("{}")
    assert stop_ids(tmp_path, None) == []
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert stop_ids(tmp_path, 5) == [2, 5, 7]
    assert stop_ids(tmp_path, 5, 2, 9) == [2, 5, 7, 9]


def test_a_tokenizer_without_an_end_is_refused_before_a_model_is_loaded(policy: Path, tmp_path: Path) -> None:
    endless = shutil.copytree(policy, tmp_path / "endless")
    (endless / "model.safetensors").unlink()
    (endless / "chat_template.jinja").write_text("{{ messages[0].content }}")
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    with (
        pytest.raises(UserError, match=r"endless names no end token.*set eos_token"),
        Engine(endless, CONFIG, seed=0, log=tmp_path / "log", lock=tmp_path / "lock") as engine,
    ):
        list(engine.generate([DEV]))
