"""Python text to a tree, for any text: programs and completions that a model wrote are parsed on the host."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal


class Unparsable(ValueError):
    """The text is not Python, or more than Python's own parser takes."""


def parse(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """The tree of a text. Raises Unparsable for whatever Python's parser raises: SyntaxError, ValueError (a lone
    surrogate), MemoryError (7,000 minus signs), RecursionError (a sum of 100,000 terms)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text, mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unparsable(getattr(error, "msg", "") or str(error) or type(error).__name__) from error


def statements(text: str) -> list[ast.stmt]:
    """The statements of a module. Raises Unparsable."""
    tree = parse(text)
    assert isinstance(tree, ast.Module)
    return tree.body


def top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run with a module, those under `if`, `try`, `with`, `for`, `while` and `match` included."""
    left = list(reversed(body))
    while left:  # a chain of `elif` is nested as deep as it is long
        statement = left.pop()
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        parts = [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
        for inner in (*(getattr(statement, name, []) for name in ("body", "orelse", "finalbody")), *(p.body for p in parts)):
            left += reversed(inner)


def joined(*parts: str) -> str:
    """One program of several, one below the other; `from __future__ import` of any of them comes first."""
    kept, first = list[str](), list[str]()
    for part in filter(None, parts):
        rest, futures = _without_futures(part)
        kept.append(rest if kept else part)
        first += futures if len(kept) > 1 else []
    return "\n".join([*dict.fromkeys(first), *kept])


def _without_futures(program: str) -> tuple[str, list[str]]:
    if "__future__" not in program:
        return program, []
    try:
        body = statements(program)
    except Unparsable:
        return program, []
    futures = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    text, starts = program.encode(), [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in reversed(futures):
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        text = text[: starts[node.lineno - 1] + node.col_offset] + b"pass" + text[end:]
    return text.decode(), [ast.unparse(node) for node in futures]
