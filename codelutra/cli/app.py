"""The command line: every command, by the groups of `codelutra --help`.

Commands start flows, watch runs and show what they found; they compute nothing themselves. Heavy libraries are imported
inside them, so that `codelutra --help` answers at once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from codelutra import __version__
from codelutra.cli.commands import answers, compare, config, health, maintain, plan, retrain, runs, solve, start, use, watch
from codelutra.cli.streams import prepare
from codelutra.errors import CodelutraError, UserError, of_the_installation, of_the_system
from codelutra.results.escapes import visible

HELP = """Make a small open model better at one code task, from its own right and wrong programs.

See it work, in half an hour on two cores:

    codelutra run demo
    codelutra report demo

With your own database and questions:

    codelutra init sql shop.sqlite questions.csv
    codelutra check shop/config.yaml
    codelutra run shop/config.yaml

`codelutra COMMAND --help` explains a command, `codelutra config explain KEY` a setting."""


class Argument(TyperArgument):
    """An argument, shown without Python's name for its type."""

    def display_type_rich(self, ctx: Any) -> str | None:
        return None


class Flag(TyperOption):
    """An option without a value, shown without one."""

    def display_type_rich(self, ctx: Any) -> str | None:
        return None


def _plain(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperArgument):
            param.__class__ = Argument
        elif isinstance(param, TyperOption) and param.is_flag:
            param.__class__ = Flag
    return params


class Command(TyperCommand):
    """A command with such arguments and flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands with such flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class InOrder(Group):
    """All commands, in the order of `GROUPS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for commands in GROUPS.values() for name in map(_name, commands)]


def _name(command: Any) -> str:
    return str(command.info.name if isinstance(command, typer.Typer) else command.__name__)


class KindFirst(Group):
    """A group of kinds of suites, which names the kind that a file would be of."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first = args[0]
        if first not in self.commands and (first[:3] == "hf:" or _is_file(first)):
            from codelutra.suites.databases import is_database

            named = Path(first).suffix in (".db", ".sqlite", ".sqlite3", ".duckdb") or os.path.isdir(first)
            kind = "sql" if named or any(is_database(Path(arg)) for arg in args[:2]) else "python"
            raise UserError(f"init takes the kind of suite first: codelutra init {kind} {shlex.join(args)}")
        return super().resolve_command(ctx, args)


def _is_file(word: str) -> bool:
    return word[:1] != "-" and (os.path.lexists(word) or bool(Path(word).suffix))


def group(help: str, name: str | None = None, cls: type[TyperGroup] = Group) -> typer.Typer:
    return typer.Typer(
        name=name,
        cls=cls,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help,
    )


app = group(HELP, cls=InOrder)
init = group("Make a suite and a config from your own problems.", "init", KindFirst)
init.command("sql", cls=Command)(start.init_sql)
init.command("python", cls=Command)(start.init_python)
sandbox = group("Build or test the containers that run untrusted programs.", "sandbox")
sandbox.command("build", cls=Command)(maintain.sandbox_build)
sandbox.command("probe", cls=Command)(maintain.sandbox_probe)
runs_ = group("List, show or remove runs on this disk.", "runs")
runs_.command("list", cls=Command)(runs.runs_list)
runs_.command("show", cls=Command)(runs.runs_show)
runs_.command("rm", cls=Command)(runs.runs_rm)
config_ = group("Explain keys, show a config's defaults, print the schema.", "config")
config_.command("explain", cls=Command)(config.config_explain)
config_.command("show", cls=Command)(config.config_show)
config_.command("schema", cls=Command)(config.config_schema)
GROUPS: dict[str, list[Any]] = {
    "Start": [init, start.check, solve.solve, plan.plan, start.run],
    "Look up": [config_, start.presets, start.models, start.suites],
    "Watch": [watch.status, watch.report, answers.failures, answers.diff],
    "Use": [use.ask, use.serve, use.export],
    "Compare": [compare.evaluate, compare.compare, compare.pool, compare.sweep],
    "Retrain": [retrain.retrain, retrain.promoted],
    "Maintain": [maintain.doctor, health.health, runs_, maintain.prune, sandbox],
}
for panel, commands in GROUPS.items():
    for command in commands:  # functions, or groups of them
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel, cls=Command)(command)


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


def _require_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as e:
        raise UserError("the current folder was removed; go to one that exists (`cd`) and give the command again") from e


def _require_words(given: Sequence[str]) -> None:
    """Raises UserError for an empty argument, which a path would take for the current folder."""
    for before, word in zip(["codelutra", *given], given, strict=False):
        if not word or re.fullmatch("--[a-z-]+=", word):
            raise UserError(f"what follows {word[:-1] or before} is empty; is a variable of the shell not set?")


def main() -> None:
    """Entry point: errors raised on purpose become one message and their exit code."""
    from sandbox.errors import SandboxError

    prepare()
    try:
        _require_folder()
        _require_words(sys.argv[1:])
        try:
            app()
        finally:
            sys.stdout.flush()  # a disk that is full for what it holds is told as any other
    except (CodelutraError, SandboxError) as e:
        print(visible(f"codelutra: {e}"), file=sys.stderr)
        sys.exit(e.exit_code if isinstance(e, CodelutraError) else UserError.exit_code)
    except KeyboardInterrupt:  # before typer listens
        sys.exit(130)
    except Exception as e:  # a full disk, a file that may not be read or written, a library of an extra
        known = of_the_system(e) or of_the_installation(e)
        if not known:
            raise
        print(visible(f"codelutra: {known}"), file=sys.stderr)
        sys.exit(known.exit_code)
