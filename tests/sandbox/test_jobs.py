"""What jobs give, case by case, in a real container."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest

from sandbox import Pool, PythonJob, Result, SqlJob
from sandbox.protocol import MAX_ERROR_CHARS


def run(pool: Pool, job: PythonJob | SqlJob) -> Result:
    (result,) = pool.map([job])
    assert result.id == job.id
    return result


def python(pool: Pool, program: str, *calls: str, **options: Any) -> Result:
    return run(pool, PythonJob("p", program, calls, **options))


def test_each_call_has_its_own_answer(pool: Pool) -> None:
    result = python(pool, "def f(x): return 10 // x", "f(3)", "f(0)", "g()", "f(", "print", "{1: (2, {3})}")
    assert result.status == "ok"
    values = result.value
    assert values[0] == {"value": 3}
    assert values[1] == {"error": "ZeroDivisionError: integer division or modulo by zero"}
    assert values[2]["error"].startswith("NameError")
    assert values[3]["error"].startswith("SyntaxError")
    assert values[4]["error"].startswith("NotRepresentable")
    assert values[5] == {"value": {1: (2, {3})}}


def test_a_call_is_an_expression_unless_the_check_is_in_process(pool: Pool) -> None:
    assert python(pool, "x = 1", "assert x == 1").value[0]["error"].startswith("SyntaxError")
    good, bad = python(pool, "x = 1", "assert x == 1", "assert x == 2", in_process=True).value
    assert good == {"value": None}
    assert bad["error"].startswith("AssertionError")


def test_special_floats_cross(pool: Pool) -> None:
    nan, zero, inf = (item["value"] for item in python(pool, "pass", "float('nan')", "-0.0", "1e999").value)
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1
    assert inf == math.inf


def test_programs_may_define_dataclasses_and_pickle_them(pool: Pool) -> None:
    program = "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n  x: 'int'\n"
    program += "def f(): return pickle.loads(pickle.dumps(P(1))).x"
    assert python(pool, program, "f()").value == [{"value": 1}]


def test_a_call_recurses_as_deep_as_in_a_script(pool: Pool) -> None:
    assert python(pool, "def f(n): return n and f(n - 1)", "f(990)", "f(996)").value == [{"value": 0}] * 2


def test_stdout_is_kept_beside_the_value(pool: Pool) -> None:
    result = python(pool, "import os\nprint('héllo', flush=True)\nos.system('echo from a shell')", "1")
    assert (result.value, result.stdout) == ([{"value": 1}], "héllo\nfrom a shell\n")


def test_errors_are_a_tail_with_the_programs_own_lines(pool: Pool) -> None:
    result = python(pool, "def f():\n    raise ValueError('no' * 5000)\nf()")
    assert result.status == "runtime_error"
    assert result.error is not None
    assert len(result.error) <= MAX_ERROR_CHARS
    short = python(pool, "def f():\n    raise ValueError('no')\nf()").error
    assert short is not None
    assert "ValueError: no" in short
    assert "raise ValueError('no')" in short
    assert "/opt/codelutra" not in short


@pytest.mark.parametrize("source", ["", "  \n", "def f(:", "x = 1\0", "'\udcff'", "\x0c\ufeffx = ="])
def test_what_does_not_compile_is_a_syntax_error(pool: Pool, source: str) -> None:
    assert python(pool, source, "1").status == "syntax_error"


def test_a_program_of_ten_megabytes_is_refused_and_the_next_one_runs(pool: Pool) -> None:
    big, small = pool.map([PythonJob("big", "x = 1\n" * 1_700_000), PythonJob("small", "pass", ("1",))])
    assert big.status == "resource_limit"
    assert small.status == "ok"


def test_a_program_of_a_megabyte_runs(pool: Pool) -> None:
    assert python(pool, "x = 1\n" * 150_000, "x", timeout_seconds=20.0).value == [{"value": 1}]


def test_each_program_gets_its_own_random_numbers_and_the_same_hashes(pool: Pool) -> None:
    jobs = [
        PythonJob(str(i), "import random", ("random.random()", "hash('a')", "list({'x', 'y', 'z', 'w'})")) for i in range(4)
    ]
    answers = [[item["value"] for item in result.value] for result in pool.map(jobs)]
    assert len({answer[0] for answer in answers}) == 4
    assert len({str(answer[1:]) for answer in answers}) == 1


def test_deadlines_are_kept_within_a_second(pool: Pool) -> None:
    result = python(pool, "import time\ntime.sleep(60)", timeout_seconds=0.5)
    assert result.status == "timeout"
    assert 0.5 <= result.seconds < 1.5


def query(pool: Pool, database: str, text: str, **options: Any) -> Result:
    return run(pool, SqlJob("q", database, text, **options))


def test_cells_are_what_sqlite_has(pool: Pool, database: str) -> None:
    result = query(pool, database, "select null n, 1 i, 1.5 f, 'a' t, x'00ff' b, 9e999 inf, cast(x'61ff' as text) bad")
    assert result.value == {
        "columns": ["n", "i", "f", "t", "b", "inf", "bad"],
        "rows": [[None, 1, 1.5, "a", b"\x00\xff", math.inf, "a\udcff"]],
        "truncated": False,
    }
    assert [type(cell) for cell in result.value["rows"][0]][1:3] == [int, float]


def test_no_rows_is_a_result(pool: Pool, database: str) -> None:
    assert query(pool, database, "select id from singer where 0;").value == {
        "columns": ["id"],
        "rows": [],
        "truncated": False,
    }


def test_row_and_byte_caps_are_exact(pool: Pool, database: str) -> None:
    assert query(pool, database, "select id from singer", max_rows=4).status == "ok"
    assert query(pool, database, "select id from singer", max_rows=3).status == "resource_limit"
    assert query(pool, database, "select hex(zeroblob(500))", max_bytes=1100).status == "ok"
    assert query(pool, database, "select hex(zeroblob(500))", max_bytes=1000).status == "resource_limit"


def test_unknown_tables_are_runtime_errors_and_bad_grammar_is_a_syntax_error(pool: Pool, database: str) -> None:
    assert query(pool, database, "select * from absent").status == "runtime_error"
    assert query(pool, database, "selec 1").status == "syntax_error"
    assert query(pool, database, "select 1 +").status == "syntax_error"


def test_many_rows_arrive_whole(pool: Pool, database: str) -> None:
    text = "with recursive c(x) as (select 1 union all select x + 1 from c limit 9999) select x, 'text ' || x from c"
    rows = query(pool, database, text).value["rows"]
    assert rows == [[x, f"text {x}"] for x in range(1, 10_000)]


def test_an_endless_query_costs_only_itself(pool: Pool, database: str) -> None:
    endless = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c"
    stuck = "select instr(hex(zeroblob(1900000)), hex(zeroblob(950000)) || '1')"
    texts = ["select 1", endless, "select 2", stuck, "select 3"]
    results = list(pool.map(SqlJob(str(i), database, text, timeout_seconds=0.5) for i, text in enumerate(texts)))
    assert [result.status for result in results] == ["ok", "timeout", "ok", "timeout", "ok"]
    assert [result.value["rows"] for result in results[::2]] == [[[1]], [[2]], [[3]]]


def test_a_database_nobody_announced_is_ours_to_answer_for(pool: Pool) -> None:
    result = query(pool, "0" * 64, "select 1")
    assert result.status == "infra_error"
    assert result.error is not None
    assert "announced" in result.error


def test_waiting_for_a_cpu_is_not_the_programs_time(pool: Pool) -> None:
    if os.getloadavg()[0] > 3 * (os.cpu_count() or 1):
        pytest.skip("others keep this machine so busy that no deadline could be stretched far enough")
    work = "import time\ndef f():\n  while time.process_time() < 0.8: pass\n  return 'done'"
    busy: list[subprocess.Popen[bytes]] = []
    try:
        while len(busy) < 64:  # sessions of their own: the kernel shares the CPU between sessions, not processes
            more = max(4, len(busy))
            busy += [
                subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(more)
            ]
            result = python(pool, work, "f()", timeout_seconds=1.0)
            assert result.value == [{"value": "done"}], f"after {result.seconds} s beside {len(busy)} busy processes"
            if result.seconds > 1.0:
                break
        assert result.seconds > 1.0, "the machine was not busy enough to tell"
    finally:
        for process in busy:
            process.kill()
            process.wait()
