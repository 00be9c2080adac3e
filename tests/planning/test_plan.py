"""`codelutra plan`, and what `codelutra run` asks before it starts."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codelutra.config import load_config, parse_config
from codelutra.errors import UserError
from codelutra.planning.misfits import misfits
from codelutra.planning.plan import plan_of
from codelutra.planning.refusal import first_lines, require_room
from codelutra.planning.shape import shape_of
from codelutra.planning.speeds import MEASURED
from tests.helpers.commands import codelutra
from tests.helpers.terminal import on_terminal
from tests.helpers.tiny_model import write_tiny_model

SMALL = {"name": "starter-sql", "train": 12, "dev": 6, "test": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def huge(tiny: Path, tmp_path: Path) -> Path:
    """A whole model of 300 billion weights, as far as anybody sees who does not read them: a file with a hole."""
    at = tmp_path / "huge"
    at.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (at / file.name).write_bytes(file.read_bytes())
    size = 300_000_000_000
    header = json.dumps({"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    with (at / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        out.truncate(8 + len(header) + 4 * size)
    return at


def config(model: Path, **changes: object) -> dict[str, object]:
    return {"name": "r", "model": f"path:{model}", "suite": SMALL, "iterations": 1, "warm_start": {}, **changes}


def written(at: Path, values: dict[str, object]) -> str:
    (at / "config.yaml").write_text(json.dumps(values))
    return str(at / "config.yaml")


def test_a_plan_fits_80_columns(tiny: Path, tmp_path: Path) -> None:
    asked = written(tmp_path, config(tiny))
    lines = on_terminal("plan", asked, "--no-calibrate", "--home", str(tmp_path), "--price", "3", columns=80)
    assert max(len(line) for line in lines[1:]) <= 80, "the first has the model's name"
    text = "\n".join(lines)
    for word in ("base, on dev", "warm start", "sampling", "training", "test", "all", "memory:", "disk:", "time:", "cost"):
        assert word in text
    assert not (tmp_path / "runs").exists()


def test_in_json_the_stages_add_up(tiny: Path, tmp_path: Path) -> None:
    done = codelutra(
        "plan", written(tmp_path, config(tiny)), "--no-calibrate", "--home", str(tmp_path), "--price", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["total"]["seconds"] == pytest.approx(sum(s["seconds"] for s in told["stages"]))
    assert told["total"]["cost"] == pytest.approx(2 * told["total"]["seconds"] / 3600)
    assert told["total"]["memory"] == max(n["expected"] for n in told["needs"])
    assert (told["fits"], told["total"]["basis"]) == (True, "guess")
    assert told["programs"] == sum(s["programs"] for s in told["stages"]) == 22 + 6 + (6 + 12 * 16) + 6 + 4


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        (["--gpu-memory", "24"], ""),
        (
            ["--gpu-memory", "24", "--set", "train.processes=2"],
            "processes 2 is more than the GPUs of the machine described (1)",
        ),
        (["--gpu-memory", "24", "--gpus", "2", "--set", "train.processes=2"], ""),
        (["--gpu-memory", "1"], "its GPU has 1.0 GiB"),
        (["--memory", "1"], "the machine described has 1.0 GiB"),
        (["--memory", "8"], "train.method qlora needs a GPU, and the machine described has none"),
        (["--gpus", "2"], "--gpus 2: say how much memory each has"),
    ],
)
def test_a_plan_for_another_machine_asks_nothing_of_this_one(
    more: list[str], refused: str, tiny: Path, tmp_path: Path
) -> None:
    asked = written(tmp_path, config(tiny, train={"method": "qlora"}))
    done = codelutra("plan", asked, "--home", str(tmp_path / "home"), *more)
    assert (done.returncode, "Traceback" in done.stderr) == (2 if refused else 0, False), done.stderr
    assert refused in done.stderr
    assert not (tmp_path / "home").exists()


def test_programs_on_copies_are_counted(tiny: Path, tmp_path: Path) -> None:
    plain, copied = (plan_of(parse_config(config(tiny, suite=SMALL | {"copies": n})), tmp_path) for n in (0, 6))
    by_name = {stage.name: stage.programs for stage in copied.stages}
    assert by_name["references on copies"] == 6 * (12 + 6 + 4)
    for stage in plain.stages[1:]:  # of the answers half is assumed to be right, and runs on every copy
        assert by_name[stage.name] == pytest.approx(stage.programs * (1 + 0.5 * 6))
    assert copied.programs > 3 * plain.programs
    assert copied.disk_peak > plain.disk_peak
    assert copied.seconds > plain.seconds


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "engine.cache_gib=10000"], "It fits with --set engine.cache_gib=2"),
        (["--set", "engine.max_model_len=2000"], "--set engine.max_model_len=1024"),
        (["--set", "model=path:/nowhere"], "model 'path:/nowhere' is not there"),
        (["--set", "model=what"], "model"),
        (["--price", "-1"], "--price"),
    ],
)
def test_what_cannot_be_planned_or_does_not_fit_exits_with_2(more: list[str], said: str, tiny: Path, tmp_path: Path) -> None:
    done = codelutra("plan", written(tmp_path, config(tiny)), "--no-calibrate", "--home", str(tmp_path), *more)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_surely_does_not_fit_is_refused_before_anything_is_made(huge: Path, tmp_path: Path) -> None:
    asked = written(tmp_path, config(huge))
    for command in (("plan", asked), ("run", asked)):
        done = codelutra(*command, "--home", str(tmp_path / "home"))
        assert done.returncode == 2, done.stderr
        assert "sampler: needs about" in done.stderr
        assert "a model of at most about" in done.stderr
        assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["train.method=lora", "train.lora_rank=999"], "train.lora_rank 999 is more than this model's width of 128"),
        (["warm_start.method=lora", "warm_start.lora_rank=129"], "warm_start.lora_rank 129 is more than this model's width"),
        (["engine.max_model_len=2000"], "engine.max_model_len 2000 is more than the 1024 tokens"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(more: list[str], said: str, tiny: Path, tmp_path: Path) -> None:
    asked = load_config(written(tmp_path, config(tiny)), tuple(more))
    with pytest.raises(UserError, match=said):
        require_room(asked, tmp_path)
    with pytest.raises(UserError, match=said):
        require_room(asked.model_copy(update={"model": "pypi:no-such-model==1.0"}), tmp_path, tiny)
    assert said in "".join(plan_of(asked, tmp_path).fit.refusals)


def test_no_run_of_an_experiment_begins_before_all_can(tiny: Path, tmp_path: Path) -> None:
    asked, home = written(tmp_path, config(tiny)), tmp_path / "home"
    done = codelutra("sweep", asked, "--vary", "train.lora_rank=8,999", "--set", "train.method=lora", "--home", str(home))
    assert (done.returncode, done.stderr.count("train.lora_rank 999 is more than")) == (2, 1), done.stderr
    assert not (home / "runs").exists()


def test_an_engine_is_spread_over_a_divisor_of_the_heads(tiny: Path) -> None:
    asked, shape = parse_config(config(tiny, engine={"tensor_parallel": 8})), shape_of(f"path:{tiny}", tiny)
    assert misfits(asked, replace(shape, heads=14)) == [
        "engine.tensor_parallel 8 does not divide the 14 attention heads of this model; --set engine.tensor_parallel=7"
    ]
    assert misfits(asked, replace(shape, heads=32)) == []


def test_the_flow_refuses_as_well_and_says_nothing_of_what_it_does_not_know(huge: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fit this machine"):
        require_room(parse_config(config(huge)), tmp_path)
    unknown = parse_config(config(huge) | {"model": "pypi:no-such-model==1.0"})
    require_room(unknown, tmp_path)
    with pytest.raises(UserError, match="cannot fit this machine"):
        require_room(unknown, tmp_path, huge)
    require_room(parse_config(config(tiny)), tmp_path, tiny)
    require_room(parse_config(config(tmp_path / "not there")), tmp_path)


def test_what_others_do_is_neither_refused_nor_measured_here_and_said(huge: Path, tiny: Path, tmp_path: Path) -> None:
    """With room for the policies on the disk, the same config without the cluster is refused for its memory alone."""
    far = parse_config(config(huge, cluster={"address": "host:6379"}, iterations=0, warm_start=None))
    plan = plan_of(far, tmp_path, measure=True)
    assert not plan.fit.refusals
    assert "cluster: its nodes are not known here; memory and minutes are those of one machine" in plan.fit.warnings[-1]
    assert plan.basis == "guess", "no engine was started here"
    assert plan_of(far.model_copy(update={"cluster": None}), tmp_path).fit.refusals
    served = parse_config(config(tiny, sample={"endpoints": ["http://gpu:8000"]}))
    said = first_lines(served, tmp_path)
    assert [line for line in said if "sample.endpoints" in line] == [
        "! sample.endpoints: how fast the servers are is not known yet; minutes are as if this machine sampled"
    ]


def test_the_line_of_a_run_needs_neither_torch_nor_transformers(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from codelutra.config import load_config; "
        "from codelutra.planning.refusal import first_lines; "
        "print(*first_lines(load_config(sys.argv[1]), Path(sys.argv[2])), sep='\\n'); "
        "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, written(tmp_path, config(tiny)), str(tmp_path)]
    line, loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert line.startswith("plan: ")
    assert "GiB" in line
    assert "minutes" in line
    assert loaded == "[]"
    assert first_lines(parse_config(config(tmp_path / "not there")), tmp_path) == []


def test_what_may_not_fit_is_said_when_a_run_starts(tiny: Path, tmp_path: Path) -> None:
    lines = first_lines(parse_config(config(tiny, engine={"cache_gib": 10_000.0})), tmp_path)
    assert any(line.startswith("! sampler: needs about 100") for line in lines)


def test_settings_without_effect_are_said_when_a_run_starts_and_in_its_plan(tiny: Path, tmp_path: Path) -> None:
    said = "grpo.kl: no effect, because train.objective is preference"
    for model in (tiny, tmp_path / "not there"):
        assert f"! {said}" in first_lines(parse_config(config(model, grpo={"kl": 0.1})), tmp_path)
    assert plan_of(parse_config(config(tiny, grpo={"kl": 0.1})), tmp_path).idle == (said,)


def test_a_calibration_measures_every_stage_and_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real vLLM and TRL, on a model that is nothing but quick."""
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    asked = config(
        tiny, sample={"samples_per_problem": 4, "max_tokens": 16}, engine={"cache_gib": 0.5, "max_model_len": 1000}
    )
    plan = plan_of(parse_config(asked), tmp_path / "home", measure=True, say=said.append)
    assert {s.basis for s in plan.stages if s.kind != "references"} == {MEASURED}
    assert all(s.seconds > 0 for s in plan.stages)
    assert set(plan.peaks) == {"sampler", "warm start", "training"}
    assert all(peak > 2**28 for peak in plan.peaks.values()), "libraries alone take more"
    assert said == ["measuring the sampler", "measuring the warm start", "measuring the training"]
    assert not (tmp_path / "home").exists()
