"""A run with servers of its own: they are sent its policies, and hosts that cannot be sent one see which is wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.experiments.in_force import sampled_now
from codelutra.pipeline.run import Policy, open_run
from codelutra.pipeline.sampler import Sampling
from codelutra.pipeline.start import base_policy
from codelutra.sampling.shards import Shard
from codelutra.schema import PROBLEMS
from tests.helpers.commands import codelutra
from tests.helpers.tiny_model import write_tiny_adapter, write_tiny_model
from tests.helpers.vllm_server import Scripted, served


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("start") / "tiny")


def config(start: Path, url: str, **sample: Any) -> Any:
    raw = {"name": "team", "model": f"path:{start}", "suite": {"name": "starter-sql", "train": 8, "dev": 4, "test": 0}}
    return parse_config(raw | {"sample": {"endpoints": [url], "max_tokens": 8, **sample}, "engine": {"max_model_len": 128}})


def shard() -> Shard:
    row = dict.fromkeys(PROBLEMS, "") | {"problem_id": "a", "split": "dev", "prompt": "How many?", "language": "sql"}
    return Shard(0, "dev-000", pl.DataFrame([row], schema=PROBLEMS), greedy=True)


def test_servers_are_sent_the_adapter_of_the_run_s_base_and_other_weights_whole(start: Path, tmp_path: Path) -> None:
    home, script = tmp_path / "home", Scripted(start, lora=True)
    with served(script) as url, open_run(home, config(start, url, follow_minutes=0.2)) as run:
        base = base_policy(run)
        for number, fingerprint in ((1, base.digest), (2, "of policy 1")):
            folder = home / "store" / "train" / f"key-{number}"
            shutil.copytree(start, folder)
            write_tiny_adapter(folder / "adapter", start, "base", fingerprint)
            with Sampling(run, Policy(f"policy-{number}", str(folder), f"digest-{number}"), [shard()]) as sampling:
                (text,) = sampling.shard(0).frame("samples")["completion"]
            assert text == (str(folder / "adapter") if number == 1 else str(folder))
            wanted = sampled_now(home, "team")
            assert wanted
            assert (wanted.label, wanted.path) == (f"policy-{number}", folder)
        (name,) = script.adapters
        assert name.startswith("codelutra-")
        events = [e for e in run.dir.events() if e["event"] in ("note", "waiting")]
        assert {"policy-1", "policy-2"} <= {e.get("label") for e in events}
        assert any("its adapter was loaded" in e.get("text", "") for e in events)
        asked = len(script.asked)
        with Sampling(run, Policy("policy-2", str(folder), "digest-2"), [shard()]) as sampling:
            sampling.shard(0)
        assert len(script.asked) == asked, "what is in the store needs no server"


def test_another_host_finds_what_is_wanted_where_it_sees_the_home(start: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    weights = home / "store" / "train" / "key"
    shutil.copytree(start, weights)
    run = home / "runs" / "team"
    run.mkdir(parents=True)
    assert sampled_now(home, "team") is None
    wanted = run / "sampled-now.json"
    wanted.write_text(json.dumps({"label": "policy-1", "path": f"/mnt/a/store/train/{weights.name}", "home": "/mnt/a"}))
    found = sampled_now(home, "team")
    assert found
    assert (found.label, found.path) == ("policy-1", weights)
    shutil.rmtree(weights)
    with pytest.raises(
        UserError, match=r"policy-1 of run 'team' is not at .*key on this machine: it must see the run's home"
    ):
        sampled_now(home, "team")
    for damage in ("", "[]", "{}", '{"label": 1, "path": 2, "home": 3}', "\xff"):
        wanted.write_text(damage, encoding="latin-1")
        with pytest.raises(UserError, match=r"sampled-now\.json is damaged"):
            sampled_now(home, "team")


def test_serve_follow_takes_a_run_s_name_alone(tmp_path: Path) -> None:
    for args in ((), ("team", "--policy", "base")):
        done = codelutra("serve", *args, "--follow", "--home", str(tmp_path), "--port", "18997")
        assert done.returncode == 2
        assert "--follow serves whatever a run samples: give the run's name" in done.stderr
