"""starter-python: some 500 small Python functions, hand-written or composed by us, with cases; needs no download.

A prompt names the function, says what it returns and shows one call. The other calls judge; the reference gives their
expected values. The splits are part of the suite; `suite.seed` only chooses what a cap keeps.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache

import polars as pl

from codelutra.config import SuiteSection
from codelutra.schema import PROBLEMS
from codelutra.suites.python import PythonSuite, judging, normalise
from codelutra.suites.splits import cap, divide, draw, normalise_prompt
from codelutra.suites.starter_python.functions import Function, library
from codelutra.suites.starter_python.pipelines import pipelines
from codelutra.suites.starter_python.sources import tables

LICENCE = "Apache-2.0"
SHARES = {"train": 0.6, "test": 0.2, "dev": 0.2}


def load(section: SuiteSection) -> PythonSuite:
    frame = _problems()
    content = hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:12]
    return PythonSuite("starter-python", f"1-{content}", LICENCE, cap(frame, section))


@cache
def _problems() -> pl.DataFrame:
    functions = [*library(), *pipelines()]
    frame = pl.DataFrame(list(map(_row, functions)), schema=PROBLEMS)
    programs = (program_of(f.source) for f in functions)
    return divide(frame, list(zip(programs, map(normalise_prompt, frame["prompt"]), strict=True)), SHARES, 0)


def program_of(source: str) -> str:
    """The normalised program with its function called `f`, so that programs with different names can be equal."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.name = "f"
    return normalise(ast.unparse(tree))


def _row(function: Function) -> dict[str, str]:
    head = function.source.split("\n", 1)[0].removeprefix("def ").removesuffix(":")
    openings = tables()["openings"]
    opening = openings[int(draw(0, "opening", function.topic, function.name) * len(openings))]
    calls = [f"{function.name}({', '.join(map(repr, arguments))})" for arguments in function.inputs]
    shown = f"For example, `{calls[0]}` is `{function.program()(*function.inputs[0])!r}`."
    return {
        "problem_id": f"{function.topic}-{function.name}",
        "split": "train",
        "prompt": f"{opening.format(head, function.asks)}\n{shown}",
        "reference": function.source,
        "language": "python",
        "group": function.topic,
        "difficulty": _difficulty(function.source),
        "judge": judging(calls[1:]),
    }


def _difficulty(source: str) -> str:
    if source.count("\n") > 1:
        return "hard"
    return "medium" if " for " in source and " if " in source else "easy"
