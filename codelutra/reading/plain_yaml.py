"""YAML, a plain subset of it: no tags, dates stay text, no numbers of base 60 or with a leading 0, no key twice. Aliases and
merge keys work up to MAX_NODES.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from codelutra.reading.text import (
    MAX_DEPTH,
    MAX_DIGITS,
    TOO_DEEP,
    Unreadable,
    parse_json,
    read_text,
    require_characters,
    require_plain,
)

MAX_BYTES = 2**20
MAX_NODES = 100_000  # aliases written out


class _Plain(yaml.SafeLoader):
    """SafeLoader for the subset that the module's docstring names."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0
        self.sizes: dict[str, int] = {}  # nodes below an anchor, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self.nodes
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self.sizes:
                raise _at(event, f"*{event.anchor} stands inside what it names")
            self.nodes += self.sizes.get(str(event.anchor), 0)
        elif event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _at(event, f"the tag {event.tag} is not taken; write the plain value")
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > MAX_NODES:
            raise _at(event, f"more than {MAX_NODES:,} values, aliases written out")
        if self.depth > MAX_DEPTH:
            raise _at(event, TOO_DEEP)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self.sizes[event.anchor] = self.nodes - before
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        try:
            require_characters(node.value)
            if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
                raise ValueError(f"a number of {len(node.value)} digits; at most {MAX_DIGITS} are read")
        except ValueError as e:
            raise _at(node, str(e)) from e
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in first:
                raise _at(key, f"the key {key.value!r} is on line {first[key.value]} already; keep one")
            first[key.value] = key.start_mark.line + 1
        return node


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_KEPT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "null", "merge")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*|0x[0-9a-fA-F]+|0b[01]+)\Z")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|\.inf|\.Inf|\.INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(_NUMBERS[0], _INT, list("-+0123456789"))
_Plain.add_implicit_resolver(_NUMBERS[1], _FLOAT, list("-+0123456789."))


def _at(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, or of a JSON text, which may have tabs. Raises ValueError with line and reason."""
    if "\t" in text and text.lstrip().startswith("{"):
        with suppress(ValueError):
            return parse_json(text)
    try:
        loader = _Plain(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as e:
        raise ValueError(_yaml_problem(e)) from e
    except OverflowError as e:
        raise ValueError(f"no such character in Unicode ({e})") from e
    require_plain(value)  # aliases of aliases may be deep
    return value


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"a character that text does not have: {chr(error.character)!r} at position {error.position}"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    tabs = "; write blanks in the place of tabs" if "'\\t'" in problem else ""
    return where + " ".join(str(problem).split()) + tabs


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises Unreadable with file and line."""
    text = read_text(path, MAX_BYTES)
    try:
        return parse_yaml(text)
    except ValueError as e:
        raise Unreadable(f"{path} is not YAML: {e}") from e


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises Unreadable with file and line."""
    found = read_yaml(path)
    if isinstance(found, dict):
        return found
    raise Unreadable(
        f"{path} {'is empty' if found is None else f'holds {type(found).__name__}'}, not a mapping of keys to values"
    )
