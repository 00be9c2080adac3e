"""The command line: every command, by the groups of `codelutra --help`.

Commands start flows, watch runs and show what they found; they compute nothing themselves. Heavy libraries are imported
inside them, so that `codelutra --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from codelutra import __version__
from codelutra.cli.commands import compare, maintain, retrain, start, watch
from codelutra.errors import CodelutraError, UserError
from codelutra.results.escapes import visible

HELP = """Make a small open LLM good at one code task, from its own right and wrong programs.

`codelutra run demo` shows it, in half an hour on two cores; then `codelutra status demo`, `codelutra report demo`.
Bring your own task: `codelutra init`, then `check`, then `run`; or copy a preset (`codelutra presets`)."""


def group(help: str, name: str | None = None) -> typer.Typer:
    return typer.Typer(
        name=name,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help,
    )


app = group(HELP)
init = group("A suite folder and a config for your own problems.", "init")
init.command("sql")(start.init_sql)
init.command("python")(start.init_python)
sandbox = group("The containers untrusted programs run in.", "sandbox")
sandbox.command("build")(maintain.sandbox_build)
sandbox.command("probe")(maintain.sandbox_probe)
GROUPS: dict[str, list[Any]] = {
    "Start": [start.run, start.check, init, start.presets, start.suites],
    "Watch and take away": [watch.status, watch.report, watch.export],
    "Compare": [compare.compare, compare.sweep, compare.evaluate],
    "Retrain": [retrain.retrain, retrain.promoted],
    "Maintain": [maintain.doctor, maintain.prune, sandbox],
}
for panel, commands in GROUPS.items():
    for command in commands:  # functions, or groups of them
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"codelutra {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point: errors raised on purpose become one message and their exit code."""
    from sandbox.errors import SandboxError

    try:
        app()
    except (CodelutraError, SandboxError) as e:
        print(visible(f"codelutra: {e}"), file=sys.stderr)
        sys.exit(e.exit_code if isinstance(e, CodelutraError) else UserError.exit_code)
