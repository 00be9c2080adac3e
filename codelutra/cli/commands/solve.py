"""The command that has a model write missing solutions: solve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, print_json
from codelutra.store.paths import home_dir


def solve(
    config: Config,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Which model is asked: api:URL#NAME (its key in $CODELUTRA_API_KEY), a name, run:NAME …"
        ),
    ],
    samples: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="Answers drawn for each problem.")] = 4,
    unsolved_by: Annotated[
        str, typer.Option(metavar="RUN", help="Leave out the problems that this run solved by itself.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the new suite there, with copies of the databases (default: beside the old one)."
        ),
    ] = None,
    price_in: Annotated[
        float, typer.Option(metavar="X", min=0, help="Price of a million prompt tokens of an api: model.")
    ] = 0.0,
    price_out: Annotated[float, typer.Option(metavar="X", min=0, help="The same for a million tokens of answers.")] = 0.0,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Have a model write the solutions that train problems lack.

    It asks about problems that have no solution, or one that fails. The answers run in the sandbox. Those that are right by
    the problem's rows, asserts or outputs go into a new suite, marked with their source. Your files stay as they are. If it
    is interrupted, give the same command again.

    ```
    codelutra solve my/config.yaml --model api:https://host/v1#name
    ```
    """
    from codelutra.cli import tables
    from codelutra.cli.progress import Here
    from codelutra.experiments.solve import solutions

    prices = [f"api.{name}={value!r}" for name, value in (("price_in", price_in), ("price_out", price_out)) if value]
    overrides = (*(set_ or ()), *prices)
    with Here() as progress:
        found = solutions(
            config, overrides, model, home_dir(home), samples=samples, unsolved_by=unsolved_by, out=out, on_progress=progress
        ).data
    if json_:
        print_json(found)
        return
    tables.say(f"{found['without_solution']} train problems have no usable solution; {found['asked']} of them can be judged")
    tables.say(f"{found['solved']} of {found['asked']} were solved by {model}")
    used = "" if found["tokens_in"] is None else f"{found['tokens_in']:,} tokens in, "
    price = "" if found["price"] is None else f", price {found['price']:,.4f}"
    tables.say(f"{used}{found['tokens_out']:,} tokens out{price}")
    if found["suite"]:
        tables.say(f"written: {found['suite']}   use it: --set suite.path={found['suite']}")
