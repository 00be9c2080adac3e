"""What starter-python is made of: hand-written functions (`library/`) and small pipelines (`pipelines.py`)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

LIBRARY = Path(__file__).parent / "library"


class Function(NamedTuple):
    """What a problem is made from. `inputs` are argument tuples: the prompt shows the first, the others judge."""

    topic: str
    name: str
    asks: str  # what it returns
    source: str  # the reference, whole
    inputs: list[tuple[Any, ...]]

    def program(self) -> Callable[..., Any]:
        """The reference as a function, run in this process: it is our own code."""
        names: dict[str, Any] = {}
        exec(self.source, names)
        return cast(Callable[..., Any], names[self.name])


def library() -> list[Function]:
    """The hand-written functions, file by file."""
    return [
        _written(node, file.stem)
        for file in sorted(LIBRARY.glob("[a-z]*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]


def _written(node: ast.FunctionDef, topic: str) -> Function:
    asks, _, inputs = (ast.get_docstring(node) or "").partition("\n\n")
    del node.body[0]
    return Function(topic, node.name, asks, ast.unparse(node), ast.literal_eval(f"[{inputs}]"))
