"""Commands that go through a policy's answers: failures, diff."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json
from codelutra.cli.completion import run_starting
from codelutra.errors import UserError
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir

Csv = Annotated[bool, typer.Option("--csv", help="Print CSV with whole programs and outputs.")]
Most = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="How many problems to show (default: 10 on a terminal, else all).")
]


def failures(
    name: RunName,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Only answers with this status: wrong, runtime_error, timeout …; repeatable."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", "--db", metavar="GROUP", help="Only problems of this database or library; repeatable."),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="WORD", help="Only where the reference or the answer names this table; repeatable."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Which policy, e.g. policy-1 (default: the chosen one).")
    ] = None,
    most: Most = None,
    csv: Csv = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """List the dev problems that a policy gets wrong.

    Each is shown with the policy's program, what that gave, and what was expected. Answers to test problems are never
    shown: if you changed something after reading them, test would no longer be a test.

    ```
    codelutra failures demo
    codelutra failures demo --status wrong --db shop --csv > wrong.csv
    ```
    """
    from codelutra.cli import cards
    from codelutra.results import answers
    from codelutra.results.findings import policy_row, read_findings
    from codelutra.results.load import run_folder

    _one_of(csv, json_)
    found = read_findings(run_folder(home_dir(home) / "runs", name))
    row = policy_row(found, policy)
    every = answers.answers(found, row)
    failed = answers.failures(every, status or (), group or (), word or ())
    if csv:
        print(_of_a_terminal(answers.as_csv(failed)), end="")
    elif json_:
        print_json(failed.to_dicts())
    else:
        cards.show_failures(failed, every.height, row.name, most)


def diff(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:POLICY]",
            help="The first policy; without :POLICY, the one that the run chose.",
            autocompletion=run_starting,
        ),
    ],
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN[:POLICY]",
            help="The second policy; without it, the run's start is compared with its chosen policy.",
            autocompletion=run_starting,
        ),
    ] = None,
    most: Most = None,
    csv: Csv = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """List the dev problems that change between two policies.

    Problems gained and lost are shown with both programs; p is that of the exact McNemar test. Problems of two runs are
    matched by their prompts or, if these have changed, by what has stayed the same.

    ```
    codelutra diff demo
    codelutra diff demo:policy-0 demo:policy-1
    codelutra diff town-r001 town-r002
    ```
    """
    from codelutra.cli import cards
    from codelutra.results.answers import as_csv
    from codelutra.results.changes import changes

    _one_of(csv, json_)
    c = changes(home_dir(home) / "runs", first, second)
    if csv:
        print(_of_a_terminal(as_csv(c.moved)), end="")
    elif json_:
        told = {"before": c.before, "after": c.after, "only_before": c.only_before, "only_after": c.only_after}
        paired = {"gained": c.paired.gained, "lost": c.paired.lost, "p": c.paired.p, "n": c.paired.n}
        print_json({**told, **paired, "modes": c.modes, "settings": c.settings, "problems": c.moved.to_dicts()})
    else:
        cards.show_changes(c, most)


def _one_of(csv: bool, as_json: bool) -> None:
    if csv and as_json:
        raise UserError("--csv and --json together: give one of them")


def _of_a_terminal(text: str) -> str:
    """As it is, but for a terminal, which could act on it."""
    return visible(text) if sys.stdout.isatty() else text
