"""The command line as a whole: every command helps, is in a group, and is what README and docs say it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from codelutra import __version__
from codelutra.cli.app import GROUPS, app
from codelutra.results.summary import RunSummary
from codelutra.results.table import policies_notes, policies_table
from tests.helpers.commands import codelutra

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
AS_INSTALLED = "import sys; sys.argv[0] = 'codelutra'; from codelutra.cli.app import main; main()"


def commands(under: click.Command | None = None, *path: str) -> dict[tuple[str, ...], click.Command]:
    """Every command by its words; groups are none."""
    here = under or typer.main.get_command(app)
    if not hasattr(here, "commands"):
        return {path: here}
    return {p: c for name, sub in here.commands.items() for p, c in commands(sub, *path, name).items()}


def told() -> list[tuple[str, str]]:
    """(page, command) of all code blocks and marked words of README, docs and the help texts."""
    texts = [command.help or "" for command in commands().values()]
    helps = [("--help", c) for text in texts for c in re.findall(r"^codelutra .+", text, re.MULTILINE)]
    pages = {page.name: page.read_text().replace("\\\n", " ") for page in PAGES}
    return helps + [
        (n, c.strip())
        for n, text in pages.items()
        for c in re.findall(r"(?:^ {4,}(?:\$ )?|`)(codelutra [-a-z][^`\n]*)", text, re.MULTILINE)
    ]


def test_the_version_is_the_packages() -> None:
    done = codelutra("--version")
    assert (done.returncode, done.stdout) == (0, f"codelutra {__version__}\n")


def test_an_interrupt_while_it_is_being_loaded_ends_it_without_a_traceback() -> None:
    interrupted = (
        "import sys\n"
        "class AtTyper:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, AtTyper())\n"
        "from codelutra.cli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_says_what_it_does_and_what_it_takes(words: tuple[str, ...], flag: str) -> None:
    done = CliRunner().invoke(app, [*words, flag], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    assert f"Usage: root {' '.join(words)}" in done.output
    assert "list[" not in done.output
    assert "<bool>" not in done.output
    command = commands()[words]
    assert command.help, "no sentence about it"
    for option in command.params:
        if option.param_type_name == "option" and option.name != "help":
            assert option.opts[0] in done.output
            assert option.help, f"{option.opts[0]} is not explained"


def test_the_help_lists_every_command_under_its_group() -> None:
    done = codelutra("-h", COLUMNS="120", TERM="dumb")
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^╭─ (.+?) ─+╮$", done.stdout, flags=re.MULTILINE)
    shown = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert [panel for panel in shown if panel != "Options"] == list(GROUPS)
    listed = {panel: re.findall(r"^│ ([a-z]+) {2,}\S", text, re.MULTILINE) for panel, text in shown.items()}
    for panel, members in GROUPS.items():
        assert len(listed[panel]) == len(members)
    everything = [name for panel in GROUPS for name in listed[panel]]
    assert sorted(everything) == sorted({words[0] for words in commands()})


def test_no_command_at_all_is_answered_with_the_help() -> None:
    for words in ([], ["init"], ["sandbox"]):
        done = codelutra(*words, TERM="dumb")
        assert "Usage:" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("page", "command"), told(), ids=[f"{page}:{command[:40]}" for page, command in told()])
def test_every_command_that_is_written_down_exists_with_its_options(page: str, command: str) -> None:
    there = commands()
    words = re.split(r"\s+", command.partition("#")[0].strip())[1:]
    if words[0] in ("--help", "--version", "-h", "--install-completion"):
        return
    path = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in there), None)
    if path is None:
        assert words[0] in {p[0] for p in there}  # `codelutra init`: a group
        return
    known = {n for o in there[path].params for n in (*o.opts, *o.secondary_opts)} | {"--help", "-h"}
    asked = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", " ".join(words))
    assert set(asked) <= known


def test_readme_tells_the_commands_of_watching_and_keeping_order() -> None:
    written = {re.split(r"\s+", c)[1] for page, c in told() if page == "README.md"}
    assert written >= {"status", "report", "export", "doctor", "--help"}
    running = {re.split(r"\s+", c)[1] for page, c in told() if page == "running.md"}
    assert running >= {"status", "report", "doctor", "sandbox", "compare", "sweep", "evaluate", "prune"}


def test_readme_shows_the_table_that_the_recorded_demo_ends_with() -> None:
    recorded = json.loads((ROOT / "docs/results/demo.json").read_text())
    demo = RunSummary.model_validate({k: v for k, v in recorded.items() if k not in ("command", "wall_clock_seconds")})
    table = policies_table(demo).without("ends", "tokens")
    page = " ".join((ROOT / "README.md").read_text().split())
    for cells in [table.columns, *table.rows, policies_notes(demo), [demo.reason]]:
        assert " ".join(" ".join(cells).split()) in page


def test_bash_can_complete_commands_and_options() -> None:
    def run(command: list[str], **env: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **env}, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = run(["bash", "-c", f'"{sys.executable}" -c "{AS_INSTALLED}" --show-completion; exit $?'])
    assert "complete -o default -F _codelutra_completion codelutra" in script
    asked = {"_CODELUTRA_COMPLETE": "complete_bash"}
    python = [sys.executable, "-c", AS_INSTALLED]
    assert run(python, COMP_WORDS="codelutra sta", COMP_CWORD="1", **asked).split() == ["status"]
    assert "--policy" in run(python, COMP_WORDS="codelutra export r out --", COMP_CWORD="4", **asked).split()
