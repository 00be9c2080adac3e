"""What a key of a config means, and the JSON schema by which editors complete and check it; both from the fields alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from codelutra.config.run import RunConfig
from codelutra.config.section import Mark, Section
from codelutra.errors import ConfigError
from codelutra.reading.keys import nearest, shown

SCHEMA_FILE = "config.schema.json"  # beside a config that `codelutra init` wrote
ANOTHER_RUN = "another value makes another run: it needs a name of its own, or --fresh"
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Explained:
    """One key of a config."""

    key: str
    """With its section: "train.beta"."""
    what: str
    kind: str
    """The values it takes, in words."""
    default: Any
    """As JSON; "" where the key has to be given."""
    change: str
    """What another value means for a run that is there already."""
    section: bool
    """Whether there are keys below it."""


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a config."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "codelutra: the config of a run"}
    return RunConfig.model_json_schema() | about


def explained() -> dict[str, Explained]:
    """Every key by its dotted name, in the order of a written config."""
    return {e.key: e for e in _of(RunConfig, schema(), "", None)}


def explain(key: str) -> list[Explained]:
    """The key, and those below it where it is a section. A key without its section is found where one section has it.

    Raises ConfigError naming the nearest, or all sections that have it.
    """
    known = explained()
    if key not in known:
        having = [name for name in known if name.endswith(f".{key}")]
        if len(having) != 1:
            near = f"; did you mean {' or '.join(having)}?" if having else nearest(key, [*known, *_last(known)])
            raise ConfigError(f"no key {shown(key)} in a config; `codelutra config explain` lists all{near}")
        key = having[0]
    return [e for name, e in known.items() if name == key or name.startswith(f"{key}.")]


def value_of(config: RunConfig, key: str) -> Any:
    """A key's value in a config, as JSON; None for those of a section that is absent."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else None
    return value


def _last(known: Mapping[str, Explained]) -> list[str]:
    return [name.rpartition(".")[2] for name in known]


def _of(section: type[Section], schema: Mapping[str, Any], before: str, mark: Mark | None) -> Iterator[Explained]:
    properties = (schema["$defs"][section.__name__] if before else schema)["properties"]
    for name, field in section.model_fields.items():
        own = next((m for m in field.metadata if isinstance(m, Mark)), mark)
        part, told = _section(field), properties[name]
        change = f"may change between two starts of a run ({own.value})" if own else ANOTHER_RUN
        yield Explained(
            key=f"{before}{name}",
            what=" ".join((field.description or told.get("description", "")).split()),
            kind="section" if part else _kind(told),
            default="" if field.is_required() else None if part else told.get("default"),
            change="makes another run" if f"{before}{name}" == "name" else change,
            section=bool(part),
        )
        if part:
            yield from _of(part, schema, f"{name}.", own)


def _section(field: FieldInfo) -> type[Section] | None:
    """The section that a field is, or may be."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((a for a in kinds if isinstance(a, type) and issubclass(a, Section)), None)


def _kind(told: Mapping[str, Any]) -> str:
    """The values that a part of a JSON schema takes."""
    if "anyOf" in told:
        return " or ".join(_kind(t) for t in told["anyOf"])
    if "enum" in told:
        return "one of " + ", ".join(map(str, told["enum"]))
    if told.get("type") == "array":
        return f"list of {_kind(told['items'])}s"
    bounds = [f"{sign} {told[name]}" for name, sign in _SIGNS.items() if name in told]
    word = {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(told["type"], told["type"])
    return " ".join([str(word), " and ".join(bounds)]).strip() + (f" like {told['pattern']}" if "pattern" in told else "")
