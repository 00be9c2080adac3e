"""Commands about configs: config explain, show, schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from codelutra.cli.commands.options import Config, Json, Set, print_json
from codelutra.cli.completion import key_starting, preset_starting
from codelutra.errors import UserError


def config_explain(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="E.g. train.beta, beta, or a section: train.", autocompletion=key_starting),
    ] = None,
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG", help="Say the value it has there: a preset's name or a file.", autocompletion=preset_starting
        ),
    ] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """What a key of a config trades, the values it takes, its default, and what changing it means for a run that exists.

    E.g. `codelutra config explain train.beta`, `codelutra config explain beta demo`, `codelutra config explain train`.
    Without KEY all keys are listed.
    """
    from codelutra.cli import keys
    from codelutra.config import load_config
    from codelutra.config.explain import explain, explained, value_of

    if set_ and not config:
        raise UserError("--set lays values over a config: name one, e.g. `codelutra config explain train.beta demo --set …`")
    found = explain(key) if key is not None else list(explained().values())
    given = load_config(config, tuple(set_ or ())) if config else None
    values: dict[str, Any] = {e.key: value_of(given, e.key) for e in found if not e.section} if given else {}
    if json_:
        print_json([{**vars(e), **({"value": values[e.key]} if e.key in values else {})} for e in found])
    elif len(found) == 1:
        keys.say_key(found[0], values, config or "")
    else:
        keys.show_keys(found, values, config or "")


def config_show(
    config: Config,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not at its default.")] = False,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """A config with every default filled in, as a run keeps it (run.yaml).

    E.g. `codelutra config show demo --changed`, `codelutra config show my/config.yaml --set train.beta=0.2 > new.yaml`.
    """
    from codelutra.cli import tables
    from codelutra.config import load_config, to_yaml

    found = load_config(config, tuple(set_ or ()))
    if json_:
        print_json(found.model_dump(mode="json", exclude_defaults=changed))
    else:
        tables.say(to_yaml(found, changed=changed).rstrip())


def config_schema() -> None:
    """The JSON schema of a config, by which editors complete, explain and check it.

    `codelutra init` writes it beside the config, as config.schema.json, with the line that editors look for. After an
    upgrade, or for a config from elsewhere: `codelutra config schema > config.schema.json`, and as the config's first line
    `# yaml-language-server: $schema=config.schema.json`.
    """
    from codelutra.config.explain import schema

    print_json(schema())
