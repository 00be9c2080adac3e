"""Keys and values that people give: what is wrong with one, and which known word is nearest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from codelutra.reading.plain_yaml import parse_yaml
from codelutra.reading.text import Unreadable


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" with the known word that is most like this one, or ""."""
    near = get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: object) -> str:
    """A value as messages show it: on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} …"


def lay_over(raw: dict[str, Any], text: str) -> None:
    """Set the value of `section.key=value` in nested mappings. Raises Unreadable."""
    dotted, eq, value = text.partition("=")
    if not eq or not dotted:
        raise Unreadable(f"--set {shown(text)}: write section.key=value, e.g. --set train.beta=0.2")
    node = raw
    *sections, key = dotted.split(".")
    for section in sections:
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise Unreadable(f"--set {shown(text)}: {section!r} is a value, not a section")
    try:
        node[key] = parse_yaml(value)
    except ValueError as e:
        raise Unreadable(
            f"--set {shown(text)}: {shown(value)} is not a YAML value ({e}); lists are [a, b], and text with any of "
            "[]{}:#&*! in it goes in quotes of its own"
        ) from e


def seen_from(folder: Path, suite: Any) -> None:
    """Write out the paths of a suite section that are seen from the config's folder."""
    if not isinstance(suite, dict):
        return
    path, outside = suite.get("path"), suite.get("outside")
    if isinstance(path, str) and path and os.path.exists(folder / path):
        suite["path"] = str(folder / path)
    if isinstance(outside, list):
        suite["outside"] = [str(folder / p) if isinstance(p, str) and p[:1] not in ("~", "$") else p for p in outside]


def printable(text: str) -> str:
    """The text with escapes for what a terminal would act on."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def place(error: Any) -> str:
    """Where in the value one of a ValidationError's errors is."""
    return printable(".".join(map(str, error["loc"])))[:200]


def fault(error: Any, model: Any) -> str:
    """One of a pydantic ValidationError's errors: the key, the value and the rule. `model`: the class that was validated."""
    where = place(error) or model.__name__
    if error["type"] == "missing":
        return f"{where}: required"
    if error["type"] != "extra_forbidden":
        said = error["msg"].removeprefix("Value error, ")
        if error["type"] == "model_type":
            said = "this is a section: give it keys with values, or leave it out"
        if error["type"] == "value_error" and isinstance(error["input"], dict):  # a rule on several keys: it names them
            return f"{place(error)}: {said}" if place(error) else said
        if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
            said = "this is text: put it in quotes"
        if error["type"] in ("tuple_type", "list_type"):
            said = "give a list: [a, b]"
        value = "" if error["type"] == "address" else f" = {shown(error['input'])}"  # it may hold a password
        return f"{where}{value}: {said}"
    for part in error["loc"][:-1]:
        annotation = model.model_fields[part].annotation
        model = next((a for a in (*get_args(annotation), annotation) if hasattr(a, "model_fields")), model)
    known, key = list(model.model_fields), str(error["loc"][-1])
    below = [f"{name}.{key}" for name, field in model.model_fields.items() if key in _keys_of(field.annotation)]
    near = f"; did you mean {' or '.join(below)}?" if below else nearest(key, known)
    return f"{where}: unknown key; known here: {', '.join(known)}{near}"


def _keys_of(annotation: Any) -> set[str]:
    return {key for a in (*get_args(annotation), annotation) for key in getattr(a, "model_fields", ())}
