"""What starter-python is made of: hand-written functions (`library/`) and small pipelines (`pipelines.py`)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

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
    """The hand-written functions, file by file: what each returns, its source, and its inputs as Python literals."""
    return [
        _written(file.stem, **entry)
        for file in sorted(LIBRARY.glob("*.yaml"))
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]


def _written(topic: str, asks: str, source: str, inputs: str) -> Function:
    name = source.removeprefix("def ").partition("(")[0]
    return Function(topic, name, asks, source, ast.literal_eval(f"[{inputs}]"))
