"""humaneval: 164 Python functions to complete from their docstring (Chen et al., 2021, arXiv 2107.03374; MIT).

    <suite.path>/HumanEval.jsonl[.gz]

For measuring only: every problem is a test problem. An answer is the whole function; what stands before it in the prompt
(imports, other functions) is run before the answer. The asserts of a problem's `check` are taken apart, so the expected
values never enter the process of an answer. A few checks draw inputs at random or keep names; those run in that process
and are marked (`verdict: in-process`).
"""

from __future__ import annotations

import ast
from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.asserts import names_of
from codelutra.suites.folder import find, first_file, read_lines
from codelutra.suites.parsing import statements
from codelutra.suites.python import OFFICIAL, PythonSuite, judging, judging_by_asserts
from codelutra.suites.splits import cap

VERSION = "4"
LICENCE = "MIT"
WAY_OUT = "take the file of the official release"


def load(section: SuiteSection) -> PythonSuite:
    path = first_file(find(section, "humaneval"), "HumanEval.jsonl", "HumanEval.jsonl.gz")
    rows = []
    for number, entry in read_lines(path):
        try:
            rows.append(_row(entry))
        except KeyError as e:
            raise ConfigError(f"{path}, line {number}: no {e}; {WAY_OUT}") from e
        except (TypeError, AttributeError) as e:
            raise ConfigError(f"{path}, line {number} is no problem of HumanEval ({e}); {WAY_OUT}") from e
        except ValueError as e:
            raise ConfigError(f"{path}, line {number} ({entry['task_id']}): {e}; {WAY_OUT}") from e
    if not rows:
        raise ConfigError(f"{path} is empty; {WAY_OUT}")
    return PythonSuite("humaneval", VERSION, LICENCE, cap(pl.DataFrame(rows, schema=PROBLEMS), section), mode=OFFICIAL)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    reference = entry["prompt"] + entry["canonical_solution"]
    return {
        "problem_id": str(entry["task_id"]),
        "split": "test",
        "prompt": f"Complete this function:\n\n```python\n{entry['prompt'].strip()}\n```",
        "reference": reference.strip(),
        "language": "python",
        "group": "humaneval",
        "difficulty": "",
        "judge": judging_by_check(entry["test"], entry["entry_point"], before(reference, entry["entry_point"])),
    }


def before(program: str, function: str) -> str:
    """The lines before the one that defines the function, or the class that it is called as."""
    for node in statements(program):
        if function in names_of(ast.unparse(node)).made:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            return "\n".join(program.splitlines()[: first - 1]).strip()
    raise ValueError(f"its prompt defines no function {function}")


def judging_by_check(test: str, function: str, setup: str, reference: str = "", *, solved: bool = True) -> str:
    """The checks, taken apart. Where `check` does more than assert, it runs whole in the process of the answer.

    reference: a program that says what the function's name stands for, where that is no function.
    solved: whether a reference can run, and so say what `check` gives; else that is None or True.
    """
    body = statements(test)
    check = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None:
        raise ValueError("its test defines no check(candidate)")
    if not all(map(_is_assert_or_nothing, check.body)):
        known: dict[str, Any] = {} if solved else {"expected": ["(None, True)"], "rules": [["among"]]}
        return judging([f"check({function})"], setup=setup, after=test, in_process=True, **known)
    asserts = []
    for statement in check.body:
        candidates = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == "candidate"]
        for name in candidates:
            name.id = function
        if isinstance(statement, ast.Assert) and candidates:
            asserts.append(ast.unparse(statement))
    setup = "\n".join(filter(None, [setup, *_used(check, [n for n in body if n is not check])]))
    return judging_by_asserts(asserts, reference=reference or f"def {function}(): ...", setup=setup)


def _is_assert_or_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assert() | ast.Pass() | ast.Expr(value=ast.Constant() | ast.Call(func=ast.Name(id="print"))):
            return True
    return False


def _used(check: ast.stmt, others: list[ast.stmt]) -> list[str]:
    """Those of a test's other statements whose names its check uses, and what these use."""
    binds = {n: names_of(ast.unparse(n)) for n in others}
    left = {n: names.made | names.imported for n, names in binds.items()}
    found, new = set[ast.stmt](), [check]
    while new:
        used = {n.id for statement in new for n in ast.walk(statement) if isinstance(n, ast.Name)}
        new = [n for n, names in left.items() if n not in found and names & used]
        found |= {*new}
    return [ast.unparse(n) for n in others if n in found]
