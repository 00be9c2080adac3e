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
        typer.Argument(
            metavar="KEY", help="For example train.beta, beta, or a section: train.", autocompletion=key_starting
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="Also say the value in this preset or file.", autocompletion=preset_starting),
    ] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Say what a key trades, which values it takes, and its default.

    It also says whether an existing run may be continued after the key has changed. Without KEY it lists all keys.

    ```
    codelutra config explain train.beta
    codelutra config explain beta demo
    codelutra config explain train
    ```
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
    changed: Annotated[bool, typer.Option("--changed", help="Only the values that differ from the defaults.")] = False,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Print a config with every default filled in, as in a run's run.yaml.

    ```
    codelutra config show demo --changed
    codelutra config show my/config.yaml --set train.beta=0.2 > new.yaml
    ```
    """
    from codelutra.cli import tables
    from codelutra.config import load_config, to_yaml

    found = load_config(config, tuple(set_ or ()))
    if json_:
        print_json(found.model_dump(mode="json", exclude_defaults=changed))
    else:
        tables.say(to_yaml(found, changed=changed).rstrip())


def config_schema() -> None:
    """Print the JSON schema of configs, with which editors complete and check them.

    Put it beside the config, and make this the config's first line: `# yaml-language-server:
    $schema=config.schema.json`. `codelutra init` does both for a new config.

    ```
    codelutra config schema > config.schema.json
    ```
    """
    from codelutra.config.explain import schema

    print_json(schema())
