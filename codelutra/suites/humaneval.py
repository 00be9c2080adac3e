"""humaneval: 164 Python functions to complete from their docstring (Chen et al., 2021, arXiv 2107.03374; MIT).

    <suite.path>/HumanEval.jsonl[.gz]

For measuring only: every problem is a test problem. An answer is the whole function; what stands before it in the prompt
(imports, other functions) is run before the answer. The asserts of a problem's `check` are taken apart, so the expected
values never enter the process of an answer. A few checks draw inputs at random or keep names; those run in that process
and are marked (`verdict: in-process`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Set
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


def judging_by_check(test: str, function: str, setup: str, reference: str = "", *, alone: bool = False) -> str:
    """The checks, taken apart. Where `check` does more than assert, it runs whole in the process of the answer.

    reference: a program that says what the function's name stands for, where that is no function. alone: there is no
    reference, so a check is passed that raises nothing, and gives True where it gives something.
    """
    body = statements(test)
    check = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None:
        raise ValueError("its test defines no check(candidate)")
    root = re.split(r"\W", function)[0]
    parameters = [*check.args.posonlyargs, *check.args.args]
    candidate = parameters[0].arg if parameters else root
    binds = {n: _bound(n) for n in body}
    calls = [n for n in body if _acts(n) and {"check", root} & _reached(n, binds)]  # of the check itself
    if not all(map(_is_assert_or_nothing, check.body)):
        call = f"check({function})" if parameters else "check()"
        test = "\n".join(ast.unparse(n) for n in body if n not in calls) if calls else test
        returned = any(isinstance(n, ast.Return) and n.value for n in ast.walk(check))
        return judging([call], [str(returned or None)] if alone else None, setup=setup, after=test, in_process=True)
    asserts = []
    for statement in check.body:
        candidates = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == candidate]
        for name in candidates:
            name.id = function if parameters else root
        if isinstance(statement, ast.Assert) and candidates:
            asserts.append(ast.unparse(statement))
    setup = "\n".join(filter(None, [setup, *_used(check, {n: b for n, b in binds.items() if n not in (check, *calls)})]))
    return judging_by_asserts(asserts, reference=reference or f"def {function}(): ...", setup=setup)


def _is_assert_or_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assert() | ast.Pass() | ast.Expr(value=ast.Constant() | ast.Call(func=ast.Name(id="print"))):
            return True
    return False


def _used(check: ast.stmt, binds: Mapping[ast.stmt, Set[str]]) -> list[str]:
    """Those of a test's other statements that do something, or whose names its check uses, and what these use.

    binds: the statements, and the names that each of them binds.
    """
    acts = [n for n in binds if _acts(n)]
    needed = {name for n in (check, *acts) for name in _reached(n, binds)}
    return [ast.unparse(n) for n, names in binds.items() if n in acts or needed & names]


def _acts(statement: ast.stmt) -> bool:
    """Whether it does more than bind names: it calls, sets attributes or items, or repeats."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return not _bound(statement)
    binds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Pass
    return not isinstance(statement, binds) and not (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _bound(statement: ast.stmt) -> frozenset[str]:
    names = names_of(ast.unparse(statement))
    return names.made | names.imported


def _reached(statement: ast.stmt, binds: Mapping[ast.stmt, Set[str]]) -> set[str]:
    """The names that a statement uses, and those that their definitions use."""
    found, new = set[str](), [statement]
    while new:
        used = {n.id for each in new for n in ast.walk(each) if isinstance(n, ast.Name)} - found
        new = [n for n, names in binds.items() if names & used]
        found |= used
    return found
