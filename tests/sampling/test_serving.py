"""A server follows what is promoted: one server at a time, requests answered first, and no promotion takes it down."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import polars as pl
import pytest

from codelutra.config import SampleSection, parse_config
from codelutra.errors import UserError
from codelutra.experiments.in_force import in_force
from codelutra.experiments.retrain import Record, Retraining
from codelutra.sampling.endpoints import sample_endpoints
from codelutra.sampling.engine import ShardRequest
from codelutra.sampling.serving import Served, Where, arguments, follow, key_from, require_usable
from codelutra.sampling.shards import plan_shards, sample_shards
from codelutra.schema import PROBLEMS
from codelutra.store.child import EndedEarlyError
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.ports import free_port
from tests.helpers.tiny_model import write_tiny_model

CONFIG = parse_config({"name": "shop", "suite": {"name": "starter-sql", "train": 8, "dev": 4, "test": 0}})


def policy(name: str) -> Served:
    return Served("shop", name, Path("/store") / name, CONFIG)


class Script:
    """What is in force at every look, and servers that write down what happens to them."""

    def __init__(self, log: Path, *looks: str, broken: str = "", dies: str = "") -> None:
        log.write_text("the end of it\n")
        self.log, self.looks, self.broken, self.dies = log, list(looks), broken, dies
        self.happened: list[str] = []

    def current(self) -> Served:
        if not self.looks:
            raise KeyboardInterrupt
        look = self.looks.pop(0)
        if look == "damaged":
            raise UserError("record.json is damaged")
        return policy(look)

    def start(self, served: Served, where: Where, log: Path) -> Any:
        script = self

        class Server:
            def __enter__(self) -> Self:
                script.happened.append(f"start {served.label}")
                return self

            def __exit__(self, *_: object) -> None:
                script.happened.append(f"end {served.label}")

            def wait(self, where: Where) -> None:
                if served.label == script.broken:
                    raise EndedEarlyError("server", 1, script.log)

            def hear(self, timeout: float) -> dict[str, Any]:
                if served.label == script.dies:
                    raise EndedEarlyError("server", 1, script.log)
                return {}

            def stop(self) -> None:
                script.happened.append(f"stop {served.label}")

        return Server()

    def run(self) -> list[str]:
        with pytest.raises(KeyboardInterrupt):
            self.follow()
        return self.happened

    def follow(self) -> None:
        def say(text: str) -> None:
            self.happened.append(f"say {text.split(';')[0].split(':')[0]}")

        def ready(served: Served) -> None:
            self.happened.append(f"ready {served.label}")

        where = Where("127.0.0.1", 8000)
        follow(self.current, where, self.log, say, ready=ready, start=self.start, look_seconds=0)


def test_the_next_policy_is_served_when_the_one_before_has_answered(tmp_path: Path) -> None:
    assert Script(tmp_path / "log", "a", "a", "a", "b", "b").run() == [
        *("start a", "ready a", "say b is promoted", "stop a", "end a"),
        *("start b", "ready b", "end b"),
    ]


def test_a_policy_that_does_not_load_is_left_out_and_the_one_before_served_on(tmp_path: Path) -> None:
    assert Script(tmp_path / "log", "a", "b", "b", "b", "c", broken="b").run() == [
        *("start a", "ready a", "say b is promoted", "stop a", "end a"),
        *("start b", "say b does not load, so a is served on", "end b"),
        *("start a", "ready a", "say c is promoted", "stop a", "end a", "start c", "ready c", "end c"),
    ]


def test_a_damaged_record_ends_nothing_but_a_start(tmp_path: Path) -> None:
    happened = Script(tmp_path / "log", "a", "damaged", "a").run()
    assert happened == ["start a", "ready a", "say still serving as before", "end a"]
    with pytest.raises(UserError, match="damaged"):
        Script(tmp_path / "log", "damaged").follow()


def test_a_first_policy_that_does_not_load_and_a_server_that_dies_are_told(tmp_path: Path) -> None:
    for script in (Script(tmp_path / "log", "a", broken="a"), Script(tmp_path / "log", "a", "a", dies="a")):
        with pytest.raises(EndedEarlyError, match="the end of it"):
            script.follow()
        assert script.happened[-1] == "end a"


def test_it_listens_on_this_machine_alone_unless_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1 port {port} cannot be used .*--port"):
            require_usable(Where("127.0.0.1", port))
    port = free_port()
    require_usable(Where("127.0.0.1", port))
    with pytest.raises(UserError, match=r"--host 0.0.0.0 lets other machines ask without a key.*--api-key-env"):
        require_usable(Where("0.0.0.0", port))
    monkeypatch.setenv("SHOP_KEY", " s3cret ")
    require_usable(Where("0.0.0.0", port, key_from("SHOP_KEY")))
    given = arguments(policy("a"), Where("0.0.0.0", port, key_from("SHOP_KEY")))
    assert "s3cret" not in " ".join(given), "the list of processes shows arguments to everybody"
    for value in ("", "a\nb", "ü"):
        monkeypatch.setenv("SHOP_KEY", value)
        with pytest.raises(UserError, match="--api-key-env SHOP_KEY"):
            key_from("SHOP_KEY")


def test_vllm_is_told_the_run_s_limits_the_policy_s_folder_and_how_it_was_scored() -> None:
    given = arguments(policy("a"), Where("127.0.0.1", 8123))
    options = dict(zip(given[0::2], given[1::2], strict=False))
    assert options["--model"] == "/store/a"
    assert options["--host"] == "127.0.0.1"
    assert options["--served-model-name"] == "shop"
    assert options["--max-model-len"] == str(CONFIG.engine.max_model_len)
    assert json.loads(options["--override-generation-config"]) == {"temperature": 0.0}
    assert json.loads(options["--default-chat-template-kwargs"])["enable_thinking"] is False


def promote(home: Path, run: Path, number: int) -> None:
    best = json.loads((run / "summary.json").read_text())
    path = next(p["path"] for p in best["policies"] if p["label"] == best["best"])
    with Record(home, "shop").changing() as rows:
        row = Retraining(run=run.name, made_of="", base_model="m", model="m", verdict="promoted", policy=best["best"])
        row.path, row.promoted_at, row.promotion = path, time.time(), number
        rows.append(row)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the config `shop` with different weights; the first is promoted."""
    folder = tmp_path_factory.mktemp("home")
    engine = {"engine": {"max_model_len": 512, "cache_gib": 0.05, "dtype": "float32"}, "sample": {"max_tokens": 8}}
    for number, skills in ((1, (0.1, 0.3)), (2, (0.1, 0.3, 0.9))):
        weights = write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny", seed=number)
        example_run(folder, weights=weights, name=f"shop-r00{number}", skills=skills, **engine)
    promote(folder, folder / "runs/shop-r001", 1)
    return folder


def test_a_name_stands_for_what_is_promoted_or_for_what_a_run_chose(home: Path, tmp_path: Path) -> None:
    best = json.loads((home / "runs/shop-r001/summary.json").read_text())["best"]
    found = in_force(home, "shop")
    assert (found.run.name, found.label) == ("shop-r001", best)
    assert in_force(home) == found
    assert in_force(home, "shop-r001") == found
    assert in_force(home, "shop-r002").path != found.path
    assert in_force(home, "shop-r001", "base").label == "base"
    assert found.config.name == "shop-r001"
    with pytest.raises(UserError, match="no run 'nope' with results"):
        in_force(home, "nope")
    with pytest.raises(UserError, match=r"promoted under .*: nothing"):
        in_force(tmp_path)
    for args in (("serve", "nope"), ("serve",)):
        done = codelutra(*args, "--home", str(tmp_path), "--port", "18999")
        assert done.returncode == 2
        assert done.stderr.count("\n") <= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_server_answers_its_own_example_and_serves_what_is_promoted_next(home: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "codelutra.cli", "serve", "shop", "--home", str(home), "--port", str(port)]
    env = os.environ | {"SHOP_KEY": "s3cret"}
    with subprocess.Popen(
        [*command, "--api-key-env", "SHOP_KEY"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as server:
        try:
            lines: list[str] = []
            assert server.stdout
            told = server.stdout
            threading.Thread(target=lambda: lines.extend(iter(told.readline, "")), daemon=True).start()

            def wait(said: str) -> str:
                until = time.monotonic() + 400
                while said not in (text := "".join(lines)):
                    assert server.poll() is None, text
                    assert time.monotonic() < until, text
                    time.sleep(0.2)
                return text

            shown = wait("curl -s")
            time.sleep(1)
            curl = "curl -s" + "".join(lines).split("curl -s")[1]
            assert "s3cret" not in shown + curl
            answer = subprocess.run(["bash", "-c", curl], env=env, capture_output=True, text=True, check=True)
            assert json.loads(answer.stdout)["usage"]["completion_tokens"] <= 8
            refused = subprocess.run(["bash", "-c", curl], env=env | {"SHOP_KEY": "x"}, capture_output=True, text=True)
            assert "nauthorized" in refused.stdout
            first = in_force(home, "shop").path
            assert root(port) == str(first)
            shard = ShardRequest("s", "", ("p",), ("q",), 1, 0.0, 1.0, 4)
            os.environ["CODELUTRA_ENDPOINT_KEY"] = "s3cret"
            url = f"http://127.0.0.1:{port}"
            require_what_the_engine_gives(url, home, tmp_path)
            promote(home, home / "runs/shop-r002", 2)
            second = in_force(home, "shop").path
            wait("is promoted; answering what was asked")
            until = time.monotonic() + 400
            while "".join(lines).count("as 'shop' at") < 2:
                assert server.poll() is None, "".join(lines)
                assert time.monotonic() < until
                time.sleep(0.5)
            assert root(port) == str(second) != str(first)
            with pytest.raises(UserError, match=r"it is .* that is to be sampled"):
                list(sample_endpoints([url], first, [shard], max_model_len=64, connections=1))
        finally:
            os.environ.pop("CODELUTRA_ENDPOINT_KEY", None)
            server.send_signal(signal.SIGINT)
            server.wait(60)
    assert re.search("stopped", "".join(lines))
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", port)) != 0, "nobody is left"


def require_what_the_engine_gives(url: str, home: Path, at: Path) -> None:
    """Greedy answers of vLLM's server and of our own engine agree: same prompts, same end, same decoding."""
    same = {"split": "dev", "language": "sql", "group": "", "difficulty": "", "judge": "", "reference": ""}
    rows = [{"problem_id": f"dev-{i}", "prompt": f"How many {i}?"} | same for i in range(6)]
    plan, frames, served = plan_shards(pl.DataFrame(rows, schema=PROBLEMS), SampleSection()), [], in_force(home, "shop")
    for endpoints in ((url,), ()):
        stream = sample_shards(
            served.path,
            "Write SQL.",
            plan,
            sample=SampleSection(max_tokens=10, endpoints=endpoints),
            engine=served.config.engine,
            seed=0,
            log=at / "log",
            lock=at / "lock",
        )
        frames.append(pl.concat([frame for _, frame in stream]).sort("problem_id"))
    server, engine = frames
    assert (server["completion"] == engine["completion"]).sum() >= 3  # near ties, which another batch rounds the other way
    columns = ["problem_id", "greedy", "prompt_tokens"]
    assert server.select(columns).equals(engine.select(columns))


def root(port: int) -> str:
    asked = Request(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": "Bearer s3cret"})
    return str(json.loads(urlopen(asked, timeout=10).read())["data"][0]["root"])
