"""Whole programs do what `python3 program.py` does, each run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sandbox import Pool, PythonJob, Result

PROGRAMS = tomllib.loads(Path(__file__).with_name("whole_programs.toml").read_text(encoding="utf-8"))


def python(pool: Pool, program: str, **options: Any) -> Result:
    (result,) = pool.map([PythonJob("p", program, **options)])
    return result


def test_a_script_reads_stdin_and_its_output_is_the_value(pool: Pool) -> None:
    program = (
        "import sys\nif __name__ == '__main__':\n  n = int(input())\n  print(sum(map(int, sys.stdin.read().split())) * n)"
    )
    result = python(pool, program, inputs=("2\n1 2\n3 4",))
    assert (result.status, result.value) == ("ok", [{"value": "20\n"}])


def test_a_script_ends_like_a_script(pool: Pool) -> None:
    exits = "import atexit, threading, time\natexit.register(print, 'bye')\nthreading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')"  # noqa: E501
    assert python(pool, exits, inputs=("",), timeout_seconds=5.0).value == [{"value": "main\nthread\nbye\n"}]


@pytest.mark.parametrize("what", PROGRAMS["like_a_script"])
def test_a_whole_program_does_what_the_interpreter_does(what: str, pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS["like_a_script"][what], encoding="utf-8")
    (tmp_path / "stdin").write_text("1\n2\n")
    env = os.environ | {"PYTHONUTF8": "1", "PYTHONSAFEPATH": ""}
    with (tmp_path / "stdin").open() as stdin:
        done = subprocess.run(
            [sys.executable, "program.py"], stdin=stdin, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60
        )
    result = python(pool, PROGRAMS["like_a_script"][what], inputs=("1\n2\n",), timeout_seconds=10.0)
    assert result.status == "ok", result.error
    (answer,) = result.value
    assert ("value" in answer) == (done.returncode == 0), (answer, done.stderr)
    assert done.returncode or answer["value"] == done.stdout


@pytest.mark.parametrize("what", PROGRAMS["leaks"])
def test_no_run_of_a_program_sees_the_one_before(what: str, pool: Pool) -> None:
    result = python(pool, PROGRAMS["leaks"][what] + "\nprint(n)", inputs=("",) * 3, timeout_seconds=5.0)
    assert result.value == [{"value": "1\n"}] * 3, result


def test_a_program_that_fails_for_one_input_has_an_answer_for_the_others(pool: Pool) -> None:
    result = python(pool, "print(10 // int(input()))", inputs=("5", "0", "x", "2"))
    assert result.status == "ok"
    assert [list(answer) for answer in result.value] == [["value"], ["error"], ["error"], ["value"]]
    assert result.value[1]["error"] == "ZeroDivisionError: integer division or modulo by zero"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", "timeout"),
        ("import os\nif input() == '2': os.kill(os.getpid(), 19)\nprint(1)", "timeout"),
        ("print('x' * 10**6)", "resource_limit"),
        ("x = 'x' * 10**10", "resource_limit"),
        ("import os\nos.setuid(0)", "blocked"),
        ("def f(:", "syntax_error"),
        ("x = '\udcff'", "syntax_error"),
        ("x = 1\0", "syntax_error"),
        ("import os, struct\nos.write(3, struct.pack('>4sBII', b'done', 6, 0, 0))\nos._exit(1)", "blocked"),
    ],
)
def test_an_end_of_one_run_that_says_all_ends_the_job(program: str, status: str, pool: Pool) -> None:
    started = time.monotonic()
    result = python(pool, program, inputs=("1", "2") * 20, timeout_seconds=0.5, max_bytes=20_000)
    assert (result.status, result.value) == (status, None)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("mark", ["done", "nope"])
def test_a_forged_result_does_not_stand_for_an_exit_code(mark: str, pool: Pool) -> None:
    forge = f"import os, struct\nos.write(3, struct.pack('>4sBII', b'{mark}', 0, 2, 0) + b'1\\n')\nos._exit(9)"
    result = python(pool, forge, inputs=("",))
    assert result.status == "blocked" if mark == "nope" else result.value[0]["error"] == "exit code 9"


def test_each_run_has_the_whole_time(pool: Pool) -> None:
    result = python(pool, "import time\ntime.sleep(0.6)\nprint(1)", inputs=("",) * 4, timeout_seconds=1.0)
    assert result.value == [{"value": "1\n"}] * 4
