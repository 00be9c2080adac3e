"""New policies reach servers that are running: vLLM's protocol against a scripted server, and against vLLM itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codelutra.errors import OutageError, UserError
from codelutra.models.merge_worker import merge
from codelutra.sampling.endpoints import sample_endpoints
from codelutra.sampling.engine import ShardRequest, ShardResult
from codelutra.sampling.following import Follow
from tests.helpers.ports import free_port
from tests.helpers.tiny_model import write_tiny_adapter, write_tiny_model
from tests.helpers.vllm_server import Scripted, served

GREEDY = ShardRequest("s0", "Write SQL.", ("p0", "p1"), ("How many?", "Who?"), 1, 0.0, 1.0, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`start`; `one`, full weights; `lora` and `lora-2`, adapters of start with the merged weights beside."""
    folder = tmp_path_factory.mktemp("policies")
    start = write_tiny_model(folder / "start", seed=0)
    write_tiny_model(folder / "one", seed=1)
    for name in ("lora", "lora-2"):
        write_tiny_adapter(folder / name / "adapter", start, "start", "f")
        merge(start, folder / name / "adapter", folder / name)
    return folder


def sample(
    urls: list[str],
    policy: Path,
    follow: Follow | None,
    shards: int = 1,
    patience: float = 0.3,
    connections: int = 1,
    waiting: Callable[[str], None] | None = None,
) -> list[ShardResult]:
    asked = [replace(GREEDY, key=f"s{i}") for i in range(shards)]
    return list(
        sample_endpoints(
            urls,
            policy,
            asked,
            max_model_len=128,
            connections=connections,
            patience_seconds=patience,
            timeout_seconds=20,
            follow=follow,
            waiting=waiting,
        )
    )


def texts(results: list[ShardResult]) -> set[str]:
    return {completion.text for result in results for completion in result.completions}


class Told:
    def __init__(self) -> None:
        self.waited: list[str] = []
        self.noted: list[str] = []

    def follow(self, folder: Path, seconds: float = 5.0, *, adapter: bool = False, owner: str = "codelutra-a") -> Follow:
        return Follow(seconds, folder / "start", adapter, owner, self.noted.append)


def test_weights_are_reloaded_between_requests_and_what_was_computed_with_the_old_ones_is_dropped(folder: Path) -> None:
    script, told = Scripted(folder / "start"), Told()
    with served(script) as url:
        for name in ("one", "lora", "start"):
            assert texts(sample([url], folder / name, told.follow(folder), waiting=told.waited.append)) == {
                str(folder / name)
            }
            assert script.weights_at_cache_reset == str(folder / name)
            assert not script.paused
        script.asked.clear()
        sample([url], folder / "start", told.follow(folder))
        assert set(script.asked) == {"/v1/completions"}, "what it serves is left alone"
    assert [note.split(" was sent ")[1].split(" in ")[0] for note in told.noted] == [
        f"{name}: its weights were reloaded" for name in ("one", "lora", "start")
    ]
    assert "to serve one; it serves" in told.waited[0]


def test_a_server_with_other_weights_than_it_was_started_on_passes_for_none_of_both_without_being_asked(
    folder: Path,
) -> None:
    """/v1/models goes on naming what it was started on: without the version, samples of `one` would pass for start's."""
    script = Scripted(folder / "start")
    with served(script) as url:
        sample([url], folder / "one", Told().follow(folder))
        assert script.root == str(folder / "start")
        with pytest.raises(UserError, match=r"serves .*one, and it is .*start that is to be sampled.*sample.follow_minutes"):
            sample([url], folder / "start", None)
        assert texts(sample([url], folder / "one", None)) == {str(folder / "one")}


def test_a_run_that_was_killed_while_weights_changed_leaves_a_server_that_is_brought_on(folder: Path) -> None:
    script = Scripted(folder / "start")
    script.paused, script.version = True, "codelutra 00000000 "
    with served(script) as url:
        with pytest.raises(UserError, match="serves weights that were being changed"):
            sample([url], folder / "start", None)
        assert texts(sample([url], folder / "start", Told().follow(folder))) == {str(folder / "start")}


def test_weights_that_do_not_load_leave_the_old_ones_and_the_other_server_does_the_work(folder: Path) -> None:
    bad, good, told = Scripted(folder / "start", broken=(str(folder / "one"),)), Scripted(folder / "start"), Told()
    with served(bad) as one, served(good) as two:
        assert texts(sample([one, two], folder / "one", told.follow(folder), shards=3)) == {str(folder / "one")}
        assert (bad.weights, bad.paused, bad.half) == (str(folder / "start"), False, False)
        assert any(f"{one} cannot be sent one (it did not load the weights" in note for note in told.noted)
        assert texts(sample([one], folder / "start", None)) == {str(folder / "start")}, "it still serves what it served"
        with pytest.raises(UserError, match=r"(?s)no sampling endpoint is left:.*did not load the weights.*no weights in"):
            sample([one], folder / "one", told.follow(folder, 0.5))
    assert bad.asked.count("/collective_rpc") == 4, "tried once each time, and restored"


def test_old_weights_that_do_not_load_either_leave_it_paused_and_say_so(folder: Path) -> None:
    script = Scripted(folder / "start", broken=(str(folder / "one"), str(folder / "start")))
    with served(script) as url, pytest.raises(UserError, match=r"nor the old ones again.*restart it"):
        sample([url], folder / "one", Told().follow(folder, 0.5))
    assert script.paused, "half-loaded weights would answer"


def test_adapters_are_loaded_over_the_model_they_belong_to_and_those_of_other_runs_left_alone(folder: Path) -> None:
    script, told = Scripted(folder / "start", dev=False, lora=True), Told()
    with served(script) as url:
        other = told.follow(folder, adapter=True, owner="codelutra-b")
        sample([url], folder / "lora-2", other)
        for name in ("lora", "lora-2", "start"):
            expected = str(folder / name / "adapter") if name != "start" else str(folder / "start")
            assert texts(sample([url], folder / name, told.follow(folder, adapter=name != "start"))) == {expected}
        mine = [name for name in script.adapters if name.startswith("codelutra-a-")]
        assert len(mine) <= 1, "the one before is unloaded"
        assert "codelutra-b-lora-2" in script.adapters
        script.root = script.weights = str(folder / "one")  # started anew, on another model, with the adapters still listed
        with pytest.raises(UserError, match=r"it serves .*one"):
            sample([url], folder / "lora", told.follow(folder, 0.3, adapter=True))


@pytest.mark.parametrize(
    ("script", "adapter", "said"),
    [
        ({"dev": False}, False, "started with VLLM_SERVER_DEV_MODE=1 in its environment"),
        (
            {"dev": False},
            True,
            r"loads no adapters while it runs; .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 .*--max-lora-rank 8, on",
        ),
        ({"dev": False, "lora": True, "broken": ("lora/adapter",)}, True, r"500 .*max_lora_rank 16.*--max-lora-rank 8"),
        ({"root": "one"}, False, "was started on .*one, and only weights are replaced while it runs: start it on .*start"),
        ({"version": "step 7"}, False, "somebody else changes its weights of version 'step 7'"),
    ],
)
def test_a_server_that_cannot_be_sent_a_policy_says_what_to_set(
    script: dict[str, Any], adapter: bool, said: str, folder: Path
) -> None:
    given = {"root": folder / script.get("root", "start"), **{k: v for k, v in script.items() if k in ("dev", "lora")}}
    made = Scripted(**given, broken=tuple(str(folder / b) for b in script.get("broken", ())))
    made.version = script.get("version", "default")
    if "root" in script:  # another model: its config differs
        config = json.loads((folder / "one/config.json").read_text()) | {"rope_theta": 1.0, "rope_parameters": {}}
        made.root = made.weights = str(folder / "other" / "one")
        Path(made.root).mkdir(parents=True, exist_ok=True)
        Path(made.root, "config.json").write_text(json.dumps(config))
    policy = folder / ("one" if "root" not in script and not adapter else "lora")
    with served(made) as url, pytest.raises(UserError, match=f"(?s)no sampling endpoint is left.*{said}"):
        sample([url], policy, Told().follow(folder, 0.3, adapter=adapter))
    assert not made.completions


def test_an_adapter_that_cannot_be_loaded_comes_as_whole_weights_where_that_is_possible(folder: Path) -> None:
    script = Scripted(folder / "start", lora=True, broken=(str(folder / "lora/adapter"),))
    with served(script) as url:
        assert texts(sample([url], folder / "lora", Told().follow(folder, adapter=True))) == {str(folder / "lora")}


def test_what_failed_is_asked_again_of_the_adapter_and_not_of_the_model_below_it(folder: Path) -> None:
    """Another connection of the server takes the request up while nobody knows the server's name for the policy: vLLM takes
    an empty one for the base model's."""
    script = Scripted(folder / "start", lora=True)
    script.faults = {1: 503}
    with served(script) as url:
        found = sample([url], folder / "lora", Told().follow(folder, adapter=True), connections=3, patience=5)
    assert texts(found) == {str(folder / "lora/adapter")}
    assert script.completions == 3


def test_a_server_that_is_restarted_by_somebody_is_waited_for(folder: Path) -> None:
    script, told = Scripted(folder / "start", dev=False), Told()

    def restart() -> None:
        while not told.noted:  # that it was found
            time.sleep(0.01)
        script.away = True
        time.sleep(0.6)
        script.root = script.weights = str(folder / "one")
        script.away = False

    with served(script) as url:
        threading.Thread(target=restart, daemon=True).start()
        assert texts(sample([url], folder / "one", told.follow(folder, 20))) == {str(folder / "one")}
        assert any("VLLM_SERVER_DEV_MODE=1" in note for note in told.noted)


def test_a_server_that_comes_back_with_another_policy_is_brought_on_again_before_it_is_asked(folder: Path) -> None:
    script = Scripted(folder / "start")

    def crash() -> None:  # back after a while, on what it was started on
        script.away = True
        threading.Timer(0.7, comes_back).start()

    def comes_back() -> None:
        script.weights, script.version, script.away = script.root, "default", False

    script.after = {3: crash}
    with served(script) as url:
        assert texts(sample([url], folder / "one", Told().follow(folder, 20), shards=4)) == {str(folder / "one")}
        script.away = True
        with pytest.raises(OutageError, match="503"):
            sample([url], folder / "one", Told().follow(folder, 0.5))


def test_a_shard_that_another_run_has_changed_the_weights_under_is_not_kept(folder: Path) -> None:
    script = Scripted(folder / "start")

    def another_run() -> None:
        script.weights = str(folder / "lora")
        script.version = f"codelutra 12345678 {folder / 'lora'}"

    script.after = {4: another_run}
    kept = list[str]()
    with served(script) as url, pytest.raises(UserError, match=r"was given other weights while one .*it serves .*lora now"):
        kept += [r.key for r in sample([url], folder / "one", Told().follow(folder), shards=2)]
    assert not kept


@pytest.fixture(scope="module")
def vllm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "start")]
    command += ["--port", str(port), "--max-model-len", "128", "--enforce-eager", "--dtype", "float32"]
    command += ["--kv-cache-memory-bytes", str(2**26), "--max-num-seqs", "8", "--enable-lora", "--max-lora-rank", "8"]
    env = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_API_KEY": "s3cret"}
    with ExitStack() as ends, log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env | {"VLLM_NO_USAGE_STATS": "1"})
        ends.callback(server.wait)
        ends.callback(server.terminate)
        yield f"http://127.0.0.1:{port}", log


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.extended
def test_a_real_vllm_server_takes_adapters_and_weights_and_answers_as_they_do(
    vllm: tuple[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, in float32: the adapter over its base answers as the merged weights do, and a server that was sent away and
    back answers as before. Weights that are not there leave it as it was."""
    monkeypatch.setenv("CODELUTRA_ENDPOINT_KEY", "s3cret")
    url, told = vllm[0], Told()
    start = texts(sample([url], folder / "start", told.follow(folder, 600)))
    adapted = texts(sample([url], folder / "lora", told.follow(folder, adapter=True)))
    merged = texts(sample([url], folder / "lora", told.follow(folder)))  # as if the adapter belonged to another model
    one = texts(sample([url], folder / "one", told.follow(folder)))
    assert [note.partition(": ")[2].partition(" in ")[0] for note in told.noted] == [
        "its adapter was loaded",
        "its weights were reloaded",
        "its weights were reloaded",
    ], vllm[1].read_text()[-3000:]
    assert adapted == merged
    assert len({frozenset(texts) for texts in (start, adapted, one)}) == 3
    gone = folder / "gone"
    gone.mkdir()
    for file in (folder / "one").iterdir():
        if file.suffix != ".safetensors":
            (gone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"did not load the weights of .*gone.*those from before again"):
        sample([url], gone, told.follow(folder, 1))
    assert texts(sample([url], folder / "one", None)) == one
    assert texts(sample([url], folder / "start", told.follow(folder))) == start
    assert "s3cret" not in "".join(told.noted + told.waited)
