"""`codelutra config explain`: prints what keys of a config mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codelutra.cli import tables
from codelutra.config.explain import Explained
from codelutra.results.table import Table


def say_key(e: Explained, values: Mapping[str, Any], config: str) -> None:
    """One key, in full."""
    tables.say(e.key, "bold")
    lines = {
        "": e.what,
        "takes": e.kind,
        "default": "none: it has to be given" if e.default == "" else as_yaml(e.default),
        **({f"in {config}": as_yaml(values[e.key])} if e.key in values else {}),
        "changing it": e.change,
    }
    width = max(map(len, lines)) + 3
    for label, text in lines.items():
        tables.say_under(f"  {label + ':':<{width}}" if label else "  ", text)


def show_keys(found: Sequence[Explained], values: Mapping[str, Any], config: str) -> None:
    """Several keys, a line each; of the explanation its opening."""
    rows = [
        {
            "key": e.key,
            "default": "" if e.section or e.default == "" else as_yaml(e.default),
            **({f"in {config}": as_yaml(values[e.key]) if e.key in values else ""} if config else {}),
            "what": _opening(e.what),
        }
        for e in found
    ]
    tables.show(Table.of(rows))
    tables.say("`codelutra config explain KEY` says more of one key")


def _opening(text: str, least: int = 30) -> str:
    """The first sentence; where it is a word or two, the next as well."""
    first, _, rest = text.partition(". ")
    return f"{first}. {_opening(rest, 0)}" if rest and len(first) < least else first.rstrip(".")


def as_yaml(value: Any) -> str:
    """A value as it is written in a config, on one line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
