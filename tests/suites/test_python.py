"""What Python suites share, and MBPP: the candidate's process never sees what is expected."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.execution.references import judge_references
from codelutra.execution.testgen import defined as functions_of
from codelutra.execution.testgen import proposed_calls
from codelutra.schema import PROBLEMS
from codelutra.suites.asserts import Names, names_of
from codelutra.suites.base import open_suite
from codelutra.suites.ds1000 import piece
from codelutra.suites.mbpp import load
from codelutra.suites.python import WHOLE, PythonSuite, calls_of, judging, judging_by_asserts, normalise, with_calls
from sandbox import Pool
from sandbox.protocol import PythonJob

REAL = Path(os.environ.get("CODELUTRA_DATA", "/nowhere")) / "mbpp"
needs_mbpp = pytest.mark.skipif(not REAL.is_dir(), reason="set CODELUTRA_DATA to the folder that holds mbpp/")


def suite(mode: str = "python-value/v2") -> PythonSuite:
    return PythonSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), mode=mode)


def test_expected_values_are_not_in_the_candidates_job() -> None:
    problem = {"reference": "def f(x): return x + 41", "judge": judging(["f(1)"], ["40 + 2"], setup="import math")}
    answer = suite().answer_job(problem, "def f(x): pass", "a", 2.0)
    expected = suite().expected_job(problem, "e", 2.0)
    assert answer == PythonJob("a", "import math\ndef f(x): pass", ("f(1)",), timeout_seconds=2.0)
    assert expected == PythonJob("e", "import math\ndef f(x): return x + 41", ("40 + 2",), timeout_seconds=2.0)
    assert "40" not in answer.program


def test_every_case_must_agree_in_order_and_number() -> None:
    s, problem = suite(), {"judge": judging(["f(1)", "f(2)"])}
    want = [{"value": 1}, {"value": "a"}]
    assert s.agrees(problem, [{"value": 1.0}, {"value": "a"}], want)
    for got in (
        [{"value": 1}],
        [{"value": "a"}, {"value": 1}],
        [{"value": 1}, {"error": "E: a"}],
        [*want, {"value": 2}],
        [],
    ):
        assert not s.agrees(problem, got, want)
    assert s.agrees(problem, [{"value": True}, {"value": "a"}], want)


def test_asserts_become_calls_with_what_is_expected_and_the_rules_on_the_host() -> None:
    asserts = ["assert math.isclose(f(10), 4188.79, rel_tol=0.001)", "assert f(3) in (9, 27)", "assert not f(0)"]
    problem = {"reference": "def f(x): ...", "judge": judging_by_asserts(asserts, setup="import math", after="y = 1")}
    s = suite()
    job = s.answer_job(problem, "def f(x): pass", "a", 2.0)
    assert job.calls == ("f(10)", "f(3)", "not not (f(0))")
    assert job.program == "import math\ndef f(x): pass\ny = 1"
    assert not job.in_process
    assert s.expected_job(problem, "e", 2.0).calls == ("4188.79", "(9, 27)", "False")
    want = [{"value": 4188.79}, {"value": (9, 27)}, {"value": False}]
    for values, right in (((4190.0, 27, False), True), ((4200.0, 27, False), False), ((4190.0, 8, False), False)):
        assert s.agrees(problem, [{"value": v} for v in values], want) is right


def test_one_assert_that_cannot_be_taken_apart_marks_its_problem() -> None:
    problem = {"reference": "", "judge": judging_by_asserts(["assert f(1) == 2", "assert f(2) != 2"])}
    assert suite().in_process(problem)
    assert suite().answer_job(problem, "", "a", 2.0).calls == ("f(1)", "not not (f(2) != 2)")
    assert calls_of(problem["judge"]) == []


def test_more_calls_are_judged_as_near_as_the_known_ones_and_none_are_made_where_several_values_are_right() -> None:
    judge = judging_by_asserts(["assert math.isclose(f(1), 0.5, rel_tol=0.001)"])
    assert calls_of(judge) == ["f(1)"]
    more = {"reference": "", "judge": with_calls(judge, ["f(2)"])}
    want = [{"value": 0.5}, {"value": 70.0}]
    assert suite().agrees(more, [{"value": 0.5}, {"value": 70.01}], want)
    assert not suite().agrees(more, [{"value": 0.5}, {"value": 70.1}], want)
    instead = {"reference": "", "judge": with_calls(judge, ["f(2)"], instead=True)}
    assert not suite().agrees(instead, [{"value": 70.01}], [{"value": 70.0}])
    assert calls_of(judging_by_asserts(["assert f(3) in (9, 27)"])) == []


def test_a_reference_that_raises_or_has_no_case_cannot_judge() -> None:
    assert "case 2 of the reference raises KeyError: 1" in suite().usable({}, [{"value": 1}, {"error": "KeyError: 1"}])
    assert suite().usable({}, []) == "there is no case to judge by"


@pytest.mark.parametrize(
    ("mode", "judge", "values", "usable"),
    [
        ("python-value/v2", judging(["f(1)", "f(2)"]), [None, None], False),
        ("python-value/v2", judging(["f(1)", "f(2)"]), [None, 0], True),
        ("python-value/v2", judging(["f(1)"]), [""], True),
        ("python-value/v2", judging(["f(1)"], ["None"]), [None], True),  # an assert says that None is right
        ("python-value/v2", judging(["check(f)"], in_process=True), [None], True),
        ("text/v3", judging(["1", "2"], wrap=WHOLE), ["", "\n"], False),
        ("text/v3", judging(["1", "2"], wrap=WHOLE), ["", "3\n"], True),
        ("text/v3", judging(["1"], ["''"], wrap=WHOLE), [""], True),
    ],
)
def test_a_reference_that_gives_nothing_anywhere_judges_nobody(
    mode: str, judge: str, values: list[object], usable: bool
) -> None:
    said = suite(mode).usable({"judge": judge}, [{"value": v} for v in values])
    assert (said == "") is usable
    assert usable or "a program that does nothing would pass" in said


@pytest.mark.parametrize(
    ("setup", "code", "first"),
    [
        ("import math", "from __future__ import annotations\ndef f(x: Nope): return x", True),
        ("import math", '"""Doc."""\nfrom __future__ import annotations; y = 2\ndef f(x: Nope): return x', True),
        ("import math", "# é\nfrom __future__ import (\n    annotations,\n    division,\n)\ndef f(x: Nope): return x", True),
        ("", "from __future__ import annotations\ndef f(x: Nope): return x", True),
        ("from __future__ import annotations", "def f(x: Nope): return x", True),
        ("import math", "def f(x): return x", False),
        ("import math", "text = 'from __future__ import annotations'\ndef f(x): return x", False),
        ("x = 1 +", "from __future__ import annotations\ndef f(x): return x", True),
    ],
)
def test_a_future_import_below_other_code_comes_first(setup: str, code: str, first: bool) -> None:
    program = suite().answer_job({"judge": judging(["f(1)"], setup=setup)}, code, "a", 2.0).program
    assert program.startswith("from __future__") is first
    if "+" not in setup:
        namespace: dict[str, Any] = {}
        exec(compile(program, "<program>", "exec", dont_inherit=True), namespace)
        assert namespace["f"](3) == 3


HOSTILE = {
    "dashes": "-" * 7000 + "1",
    "tildes": "~" * 100_000 + "x",
    "nots": "not " * 50_000 + "x",
    "a long sum": "+".join(["1"] * 100_000),
    "attributes": "a" + ".b" * 50_000,
    "a surrogate": "x = '\ud800'",
    "a NUL": "a\0b",
    "many digits": "x = " + "9" * 6000,
    "many hexadecimal digits": "x = 0x" + "f" * 6000,
    "brackets": "(" * 5000,
    "blocks": "".join(" " * i + "if 1:\n" for i in range(150)),
    "loops of a comprehension": "[" + "1 " + "for x in y " * 5_000 + "]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_that_a_parser_cannot_take_stops_nothing_on_the_host(text: str) -> None:
    assert isinstance(normalise(text), str)
    assert piece(text, "    return 1").strip()
    assert isinstance(names_of(text), Names)
    assert functions_of(text) == set()
    assert proposed_calls(f"f({text})\nf(2)", {"f"})[-1].args == (2,)
    assert isinstance(suite().answer_job({"judge": judging(["f(1)"], setup="import math")}, text, "a", 2.0).program, str)
    with contextlib.suppress(ValueError):  # says that it is no assert
        judging_by_asserts([f"assert {text}"])


def test_a_whole_program_runs_once_for_each_input_and_its_stdouts_are_expected_as_given() -> None:
    problem = {"reference": "print(input())", "judge": judging(["1\n", "2\n"], wrap=WHOLE)}
    assert suite().answer_job(problem, "print(3)", "a", 2.0) == PythonJob(
        "a", "print(3)", inputs=("1\n", "2\n"), timeout_seconds=2.0
    )
    assert suite().expected_job(problem, "e", 2.0) == suite().answer_job(problem, "print(input())", "e", 2.0)
    given = problem | {"judge": judging(["1\n", "2\n"], ["'1\\n'", "'2\\n'"], wrap=WHOLE)}
    assert suite().expected_job(given, "e", 2.0) == PythonJob("e", "pass", ("'1\\n'", "'2\\n'"), timeout_seconds=2.0)


def test_programs_that_mean_the_same_normalise_to_the_same() -> None:
    a = 'def f( x ):\n    """Why."""\n    return x+1  # add\n'
    assert normalise(a) == normalise("def f(x):\n    return (x + 1)")
    assert normalise(a) != normalise("def f(x):\n    return x + 2")
    assert normalise("def f(:") == "def f(:"
    told = "def f():\n    'one'\n    return f.__doc__"
    assert normalise(told) != normalise(told.replace("one", "two"))
    assert normalise("def f():\n    'only this'") == normalise("def f():\n    'only this'")


def test_mbpp_follows_the_official_splits(tmp_path: Path) -> None:
    ids = (1, 10, 11, 510, 511, 600, 601, 974)
    tests = ["assert f(1) == 1", "assert f(2) == 2"]
    lines = [
        json.dumps({"task_id": i, "text": "Do it.", "code": "def f(x):\r\n  return x", "test_list": tests}) for i in ids
    ]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(lines))
    problems = load(SuiteSection(name="mbpp", path=str(tmp_path))).problems()
    assert dict(problems.select("problem_id", "split").rows()) == {
        "11": "test",
        "510": "test",
        "511": "dev",
        "600": "dev",
        "601": "train",
        "974": "train",
    }
    assert problems["prompt"][0] == "Do it.\nYour code should pass these tests:\n\n" + "\n".join(tests)
    assert problems["reference"][0] == "def f(x):\n  return x"


def test_broken_files_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 1}\n{"task_id": \n')
    with pytest.raises(ConfigError, match=r"mbpp\.jsonl, line 2 is not JSON"):
        open_suite(SuiteSection(name="mbpp", path=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"no sanitized-mbpp\.json in "):
        open_suite(SuiteSection(name="mbpp-sanitized", path=str(tmp_path)))
    (tmp_path / "mbpp.jsonl").write_text("")
    with pytest.raises(ConfigError, match="holds no task_id"):
        open_suite(SuiteSection(name="mbpp", path=str(tmp_path)))


@needs_mbpp
@pytest.mark.parametrize(("name", "count"), [("mbpp", 714), ("mbpp-sanitized", 291)])
def test_real_mbpp_loads_whole_and_none_is_judged_in_the_programs_process(name: str, count: int) -> None:
    made = open_suite(SuiteSection(name=name, path=str(REAL)))
    problems = made.problems()
    assert not any(map(made.in_process, problems.rows(named=True)))
    assert problems.height == count
    assert problems["problem_id"].is_unique().all()
    assert set(Counter(problems["split"].to_list())) == {"train", "dev", "test"}


@needs_mbpp
def test_every_real_sanitized_reference_is_correct(pool: Pool) -> None:
    made = open_suite(SuiteSection(name="mbpp-sanitized", path=str(REAL)))
    expected, _ = judge_references(made.problems(), made, pool, timeout_seconds=10)
    assert expected.filter(pl.col("status") != "correct")["problem_id"].to_list() == []
    assert expected.height == 291
