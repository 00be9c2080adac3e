"""What a run starts from, and what an adapter belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import parse_config
from codelutra.errors import NoSandboxError, StageError, UserError
from codelutra.hardware import gpu_capabilities
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.start import adapter_base, base_policy
from codelutra.results.load import read_summary
from codelutra.training.bases import Base
from sandbox import SandboxError
from tests.helpers.example_run import example_run
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def config(model: Path, **more: Any) -> Any:
    suite = {"name": "starter-sql", "train": 6, "dev": 4, "test": 0}
    return parse_config({"name": "r", "suite": suite, "model": f"path:{model}"} | more)


def test_an_adapter_belongs_to_the_policy_it_adds_to_or_to_the_base_model_throughout(model: Path, tmp_path: Path) -> None:
    train, warm = {"method": "lora", "adapter": "continued"}, {"method": "lora"}
    with Run(tmp_path, config(model, train=train, warm_start=warm)) as run:
        start, sections = base_policy(run), (run.config.warm_start, run.config.train)
        later, base = Policy("policy-1", "/store/1", "digest"), Base(model, f"path:{model}", start.digest)
        assert start.label == "base"
        assert all(adapter_base(run, start, section) == base for section in sections)
        assert adapter_base(run, later, run.config.train) == base
        fresh = run.config.train.model_copy(update={"adapter": "fresh"})
        assert adapter_base(run, later, fresh) == Base(Path("/store/1"), "policy-1", "digest")
        assert adapter_base(run, later, fresh.model_copy(update={"method": "full"})) is None


def test_an_adapter_of_a_model_given_by_name_names_the_source_it_was_taken_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path / "cache"))
    named = config(model, train={"method": "lora"}).model_copy(update={"model": "SmolLM2-135M"})
    with Run(tmp_path, named) as run:
        run.dir.write("models.json", {"smollm2-135m-instruct": f"path:{model}"})
        start = base_policy(run)
        assert adapter_base(run, start, run.config.train) == Base(model, f"path:{model}", start.digest)


def test_quantised_weights_are_measured_but_not_trained(model: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(model, tmp_path / "odd")
    said = json.loads((odd / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (odd / "config.json").write_text(json.dumps(said))
    with Run(tmp_path, config(odd)) as run, pytest.raises(UserError, match=r"'gptq'.*Give the model they were made from"):
        base_policy(run)
    shutil.rmtree(tmp_path / "runs")
    with Run(tmp_path, config(odd, iterations=0)) as run:
        assert base_policy(run).path == str(odd)


@pytest.mark.skipif(bool(gpu_capabilities()), reason="a GPU is here")
@pytest.mark.parametrize("section", ["train", "warm_start"])
def test_a_run_that_cannot_quantise_ends_before_it_samples(section: str, model: Path, tmp_path: Path) -> None:
    with (
        Run(tmp_path, config(model, **{section: {"method": "qlora"}})) as run,
        pytest.raises(UserError, match=rf"{section}\.method qlora: bitsandbytes quantises on an NVIDIA GPU"),
        run.refining(),
    ):
        raise AssertionError("it began")


def test_a_model_that_cannot_think_is_refused_before_anything_is_sampled(model: Path, tmp_path: Path) -> None:
    with Run(tmp_path, config(model, prompt={"thinking": True})) as run, pytest.raises(UserError, match="cannot think on"):
        base_policy(run)


def test_a_sandbox_that_failed_leaves_no_container_and_the_next_caller_gets_another(model: Path, tmp_path: Path) -> None:
    with Run(tmp_path, config(model, execute={"workers": 1})) as run:
        with pytest.raises(NoSandboxError, match="no container starts"), run.use_pool() as failed:
            raise SandboxError("no container starts")
        assert failed.closed
        with run.use_pool() as pool:
            assert pool is not failed


def test_no_sandbox_is_started_for_a_run_that_has_ended(model: Path, tmp_path: Path) -> None:
    """By a thread of a flow that failed: nobody would end it."""
    with Run(tmp_path, config(model)) as run:
        pass
    with pytest.raises(StageError, match="the run was ended before this was executed"), run.use_pool():
        pass


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "another config", "no manifest to believe"])
def test_no_run_starts_from_a_policy_that_was_changed_since_it_was_trained(damage: str, model: Path, tmp_path: Path) -> None:
    trained = Path(read_summary(tmp_path / "runs", example_run(tmp_path, weights=model).name).policies[-1].path)
    following = config(model).model_copy(update={"model": "run:example"})
    with Run(tmp_path, following) as run:
        assert base_policy(run).path == str(trained)
    file = trained / {"another config": "config.json", "no manifest to believe": "manifest.json"}.get(
        damage, "model.safetensors"
    )
    content = file.read_bytes()
    file.write_bytes({"flipped": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-99]}.get(damage, b"{}"))
    if damage == "gone":
        file.unlink()
    with (
        Run(tmp_path, following) as run,
        pytest.raises(UserError, match=rf"{trained.name} is damaged .*`codelutra run .*example.* makes it anew"),
    ):
        base_policy(run)
