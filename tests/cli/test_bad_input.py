"""Bad input gets one clear message with the value, the rule and the way out; exit code 2; nothing half-written."""

from __future__ import annotations

import gc
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra import hardware
from codelutra.cli.streams import Output
from codelutra.config import load_config, parse_config
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, open_run
from codelutra.pipeline.sampler import measure_plan
from codelutra.schema import STATUS
from codelutra.store.artifacts import Recipe, Step, write_frame
from tests.helpers.commands import codelutra
from tests.helpers.runs import without_dev

ROOT = str(Path(__file__).parents[2])


def config(**changes: Any) -> Any:
    return parse_config({"name": "bad", "suite": {"name": "starter-sql", "train": 8, "dev": 4, "test": 0}} | changes)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "nope"), "neither a file nor a preset"),
        (("run", "demo", "--set", "train.beta=-1"), "train.beta = -1"),
        (("run", "demo", "--set", "train.bta=1"), "unknown key"),
        (("run", "demo", "--set", "suite.name=spidr"), "unknown suite 'spidr'; known:"),
        (("status", "nope"), "no run 'nope'"),
        (("report", "nope"), "no run 'nope'"),
        (("run", "demo", "--set", "iteration=1"), "did you mean iterations?"),
        (("run", "demo", "--set", "beta=1"), "did you mean train.beta?"),
        (("run", "demo", "--set", "seed=-1"), "seed = -1"),
        (("run", "demo", "--set", "seed=18446744073709551616"), "seed = 18446744073709551616"),
        (("run", "demo", "--set", "train.beta=.inf"), "train.beta = inf"),
        (("run", "demo", "--set", "execute.timeout_seconds=.nan"), "execute.timeout_seconds = nan"),
        (("run", "demo", "--set", "x=" + "[" * 999), "nested more than 100 deep"),
        (("run", "demo", "--set", "model=qwen2.5-coder-0.6b"), "did you mean qwen2.5-coder-0.5b?"),
        (("run", "demo", "--set", "model='pypi:a{1..3}==1'"), "in several wheels: add #sha256="),
        (("run", "demo", "--set", "model=run:nope"), "run:nope: no run 'nope' under"),
        (("run", "demo", "--set", "model=path:/nope"), "'path:/nope' is not there"),
        (("run", "demo", "--set", "model=path:/dev"), "'path:/dev' is no model: the folder holds no config.json"),
        (("run", "demo", "--set", "model=gguf:/etc/passwd"), "'gguf:/etc/passwd' is no GGUF file"),
        (("run", "demo", "--set", "name=a/b"), "name = 'a/b': the name of a folder: letters, digits"),
        (("run", "demo", "--set", "train=3"), "train = 3: this is a section: give it keys with values, or leave it out"),
        (("run", "/dev"), "'/dev' is a folder without config.yaml; `codelutra init` makes one, or name a preset"),
        (("plan", "demo", "--price", "inf"), "--price"),
        (("init", "sql", "", "questions.csv"), "what follows sql is empty; is a variable of the shell not set?"),
        (("run", ""), "what follows run is empty"),
        (("runs", "list", "--home="), "what follows --home is empty"),
        (("run", "demo", "--home", "", "--json"), "what follows --home is empty"),
        (("run", "demo", "--set", "model=gguf:/nope.gguf"), "'gguf:/nope.gguf' is not there"),
        (("run", "demo", "--set", "train.sft_weight=0", "--set", "train.dpo_weight=0"), "  train: dpo_weight 0 and"),
        (("run", "demo", "--set", "sample.max_tokens=512"), "yaml:\n  sample.max_tokens 512 leaves no room"),
        (("run", "dmo"), "did you mean demo?"),
        (("run", "."), "'.' is a folder without config.yaml"),
        (("run", "/dev/null"), "neither a file nor a preset"),
        (("run", "x" * 5000), "neither a file nor a preset"),
        (("check", "demo", "--against", "nope"), "neither a file nor a preset"),
    ],
)
def test_the_command_line_says_what_is_wrong_and_exits_2(args: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = codelutra(*args, "--home", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(hardware.gpu_capabilities()), reason="a GPU is here")
@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("section", ["train", "warm_start"])
def test_a_way_of_training_that_is_not_to_be_had_is_told_before_anything_is_made(
    command: str, section: str, tmp_path: Path
) -> None:
    done = codelutra(command, "demo", "--set", f"{section}.method=qlora", "--home", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert f"{section}.method qlora: bitsandbytes quantises on an NVIDIA GPU" in done.stderr
    assert not list(tmp_path.iterdir())


# Docker's SDK leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_no_docker_says_what_to_do_before_anything_is_spent(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
        asked = run.make(stages.problems(run))
        with pytest.raises(UserError, match=r"(?s)Docker.*codelutra doctor"):
            run.make(stages.references(run, asked))
        assert run.store.find(stages.references(run, asked).recipe) is None
    gc.collect()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path, config(model=f"path:{tmp_path}/nope")) as run, pytest.raises(UserError, match="nope"):
        stages.base_policy(run)


def test_a_suite_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        open_run(tmp_path, config(suite={"name": "spider", "path": f"{tmp_path}/nowhere"}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train": {"processes": 3}}, r"train\.processes 3 takes 3 GPUs and 2 can be used here \(nvidia-smi -L"),
        ({"warm_start": {"processes": 4}}, r"warm_start\.processes 4 takes 4 GPUs and 2"),
        ({"engine": {"replicas": 3}}, r"engine\.replicas 3 takes 3 GPUs and 2"),
        ({"engine": {"replicas": 2, "tensor_parallel": 2}}, r"replicas 2 with engine\.tensor_parallel 2 takes 4 GPUs and 2"),
    ],
)
def test_more_gpus_than_there_are_are_refused_before_anything_is_written(
    settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpu_capabilities", lambda: (9.0,) * 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match=says):
        open_run(tmp_path, config(**settings))
    assert list(tmp_path.iterdir()) == []


def test_a_train_split_of_one_problem_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        run.__dict__["all_problems"] = (
            run.suite.problems()
            .filter(pl.col("split") != "train")
            .vstack(run.suite.problems().filter(pl.col("split") == "train").head(1))
        )
        with pytest.raises(UserError, match=r"1 train problem.*at least 2"):
            stages.problems(run)


def test_a_train_split_that_nothing_can_judge_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        asked = run.make(stages.problems(run))
        expected = asked.frame("problems").select(
            "problem_id", status=pl.lit("reference_error", STATUS), expected=pl.lit(""), error=pl.lit("")
        )
        judged = run.make(
            Step(Recipe("references", 0, {}, {}), lambda out, _: {"n": write_frame(expected, out / "expected.parquet")})
        )
        policy = Policy("policy-0", str(tmp_path), "x")
        with pytest.raises(UserError, match="no reference of the 8 train problems is usable"):
            measure_plan(run, policy, asked, judged, "dev", train=True)


@pytest.mark.parametrize("command", ["run", "check"])
def test_iterations_without_a_dev_problem_are_refused_before_anything_is_spent(command: str, tmp_path: Path) -> None:
    done = codelutra(
        command, str(without_dev(tmp_path, "train", "train", "test")), "--home", str(tmp_path / "home"), COLUMNS="999"
    )
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "gives 0 dev problems (2 train, 1 test) and iterations is 4: policies are chosen on dev" in said
    assert "set iterations to 0, to measure the model on test alone" in said
    assert "ValueError" not in done.stderr
    assert list((tmp_path / "home").glob("store/[!.]*/*")) == []


def test_nothing_to_measure_on_is_refused(tmp_path: Path) -> None:
    closed: dict[str, Any] = {"iterations": 0, "select": {"test": False}}
    config = load_config(without_dev(tmp_path, "train", "test", **closed))
    refused = pytest.raises(UserError, match=r"0 dev and 1 test problems, and select\.test is false")
    with open_run(tmp_path, config) as run, refused:
        stages.problems(run)


@pytest.mark.parametrize(("code", "why"), [("reference", "correct"), ("SELECT 1 WHERE 0", "wrong")])
def test_all_right_or_all_wrong_is_an_empty_artifact_that_tells_why(tmp_path: Path, code: str, why: str) -> None:
    with open_run(tmp_path, config(pairs={"references": False})) as run:
        asked = run.make(stages.problems(run))
        expected = run.make(stages.references(run, asked))
        train = asked.frame("problems").filter(pl.col("split") == "train")
        outcomes = _outcomes(train, why, code)
        made = run.make(stages.pairs(run, [_artifact(run, outcomes)], asked, expected))
        assert made.facts["pairs"] == 0
        assert why in made.facts["why"]


def _outcomes(train: pl.DataFrame, status: str, code: str) -> pl.DataFrame:
    program = pl.col("reference") if code == "reference" else pl.lit(code)
    return train.select(
        "problem_id",
        sample=pl.lit(0, pl.Int32),
        greedy=pl.lit(False),
        completion=program,
        code=program,
        finish_reason=pl.lit("stop"),
        status=pl.lit(status, STATUS),
        mode=pl.lit("sql-strict/v1"),
        verdict=pl.lit("host"),
        answer=pl.lit("x"),
        output=pl.lit(""),
        seconds=pl.lit(0.0),
        error=pl.lit(""),
    )


def _artifact(run: Any, outcomes: pl.DataFrame) -> Any:
    def build(out: Path, work: Path) -> dict[str, Any]:
        return {"rows": write_frame(outcomes, out / "outcomes.parquet")}

    return run.make(Step(Recipe("execute", 1, {}, {"content": str(outcomes["status"][0])}), build))


def test_status_of_nothing_is_not_an_error(tmp_path: Path) -> None:
    done = codelutra("status", "--home", str(tmp_path), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_suite_in_the_place_of_a_config_is_answered_with_the_config(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/suite.yaml").write_text("kind: sql\n")
    (tmp_path / "shop/config.yaml").write_text("name: shop\n")
    for source in (tmp_path / "shop", tmp_path / "shop/suite.yaml"):
        done = codelutra("run", str(source), "--home", str(tmp_path), COLUMNS="999")
        assert done.returncode == 2, done.stderr
        assert f"{tmp_path}/shop/config.yaml" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("home", ["file", "file/below/it"])
def test_a_home_that_is_a_file_is_named(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("mine")
    for args in (("status",), ("check", "demo"), ("run", "demo"), ("prune",)):
        done = codelutra(*args, "--home", str(tmp_path / home))
        assert done.returncode == 2, done.stderr
        assert f"because {tmp_path}/file is a file; give another --home" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_removed_current_folder_is_named(tmp_path: Path) -> None:
    for args in ("status", "run demo", "--help"):
        script = f"mkdir gone && cd gone && rmdir ../gone && {sys.executable} -m codelutra.cli {args}"
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}
        )
        assert done.returncode == 2, done.stderr
        assert "the current folder was removed" in done.stderr
        assert "Traceback" not in done.stderr


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, ASCII, ASCII | {"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONUTF8": "0"}]
)
def test_a_terminal_that_is_not_utf8_gets_every_message(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "grün.yaml").write_text("name: grün\n", "utf-8")
    for args, code in (
        (("suites",), 0),
        (("presets",), 0),
        (("run", "--help"), 0),
        (("run", str(tmp_path / "grün.yaml")), 2),
    ):
        done = codelutra(*args, "--home", str(tmp_path), **env) if args[0] == "run" else codelutra(*args, **env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    assert "name = 'gr" in done.stderr
    assert json.loads(codelutra("status", "--home", str(tmp_path), "--json", **env).stdout) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that nobody has")
def test_a_home_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    home = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    for args in (("status",), ("prune",), ("check", "demo")):
        done = codelutra(*args, "--home", home)
        assert done.returncode == 2
        assert "bytes in its name that are not UTF-8; give another --home" in " ".join(done.stderr.split())


def test_without_a_home_folder_the_variable_to_set_is_named() -> None:
    """A user number that nobody has, as in containers."""
    program = (
        "import os\nfrom codelutra.errors import UserError\nfrom codelutra.store.paths import cache_dir\n"
        "os.setuid(54321); os.environ.pop('HOME', None); os.environ.pop('CODELUTRA_CACHE', None)\n"
        "try: cache_dir()\nexcept UserError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert "Set HOME, or CODELUTRA_CACHE" in done.stdout, done.stderr


@pytest.mark.parametrize(("args", "code"), [("presets --json", 0), ("run nope", 2)])
def test_whoever_does_not_read_what_is_said_gets_no_more_of_it(args: str, code: int) -> None:
    """An output that is closed from the start is no fault; a reader that has gone ends a command as SIGPIPE would."""
    command = [sys.executable, "-m", "codelutra.cli", *args.split()]
    closed = subprocess.run(f"{shlex.join(command)} <&- >&- 2>&-", shell=True)
    assert closed.returncode == code
    reader, gone = os.pipe()
    os.close(reader)
    told = subprocess.run(command, stdout=gone, stderr=gone)
    os.close(gone)
    assert told.returncode == 141


@pytest.mark.parametrize("write_through", [False, True])
def test_an_output_that_takes_nothing_fails_once(write_through: bool) -> None:
    """Python tries again at its end, and would tell of it."""
    full, for_reading = os.open("/dev/full", os.O_WRONLY), os.open("/dev/null", os.O_RDONLY)
    with Output(io.BufferedWriter(io.FileIO(full, "w")), "utf-8", write_through=write_through) as told:
        with pytest.raises(OSError, match="No space left"):
            print("told", file=told, flush=True)
        print("more", file=told, flush=True)
    # bash leaves such an error output to a script for which it was closed
    with Output(io.BufferedWriter(io.FileIO(for_reading, "w")), "utf-8", write_through=write_through) as told:
        print("told", file=told, flush=True)


def test_a_full_disk_is_told_of_what_only_the_end_writes() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "codelutra.cli", "--version"]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env, text=True)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
    assert told.stderr.startswith("codelutra: disk full at ")
