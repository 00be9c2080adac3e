"""Commands that show a run or take a policy out of it: status, report, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json, show_run
from codelutra.errors import UserError
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def status(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; none lists all.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """What a run has found so far, and what it is doing now."""
    from codelutra.cli import tables
    from codelutra.results.load import list_runs, read_summary

    root = home_dir(home)
    runs = root / "runs"
    if name is not None:
        show_run(read_summary(runs, name), root, json_)
        return
    found, damaged = list_runs(runs)
    if json_:
        print_json([s.as_json() for s in found])
    elif found:
        tables.show(tables.runs_table(found))
    elif not damaged:
        print("no runs here yet; `codelutra run demo` makes one")
    for error in damaged:
        print(visible(f"codelutra: {error}"), file=sys.stderr)


def report(
    name: RunName,
    beside: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Another run to show it beside; repeatable.")
    ] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Write the run's report page with its figures (runs/RUN/report/index.html)."""
    from codelutra.cli.progress import Here
    from codelutra.reporting.report import write_report

    runs = home_dir(home) / "runs"
    with Here() as progress:
        page = write_report(runs / name, [runs / other for other in beside or ()], progress=progress)
    print(json.dumps({"report": str(page)}) if json_ else visible(f"report: {page}"))


def export(
    name: RunName,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; must not exist or be empty.")],
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Which policy, e.g. policy-1; default the best by dev.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="hf:ORG/NAME", help="Then upload it, private until you say otherwise.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Not a policy but the pairs and outcomes, as a data set with TRL's columns.")
    ] = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Not a policy but its answers to dev, as logs for `inspect view` (inspect_ai).")
    ] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Copy a policy out: weights, tokenizer, model card with the numbers. Loads in transformers and vLLM."""
    if data or logs:
        if data and logs:
            raise UserError("--data and --logs each fill a folder of its own; give one of them")
        _export_answers(home_dir(home) / "runs" / name, directory, policy, push, logs=logs, as_json=json_)
        return
    from codelutra.reporting.export import export as export_policy
    from codelutra.reporting.export import hub_name
    from codelutra.reporting.export import push as push_to_hub

    if push:
        hub_name(push)  # a wrong name is told before anything is copied
    out = export_policy(home_dir(home) / "runs" / name, directory, policy=policy)
    _print_exported(out, push_to_hub(out, push) if push else None, json_)


def _export_answers(run: Path, out: Path, policy: str | None, push: str | None, *, logs: bool, as_json: bool) -> None:
    from codelutra.reporting.dataset import export_data, push_data, require_token
    from codelutra.reporting.inspect_logs import export_logs

    option = "--logs" if logs else "--data"
    if policy:
        raise UserError(
            f"--policy {policy}: {option} takes the answers of all policies, each with its name; leave --policy out"
        )
    if push and logs:
        raise UserError(f"--push {push}: logs are not pushed; leave it out, or give --data")
    if push:
        require_token(push)
    (export_logs if logs else export_data)(run, out)
    _print_exported(out, push_data(out, push) if push else None, as_json)


def _print_exported(out: Path, address: str | None, json_: bool) -> None:
    print(json.dumps({"exported": str(out), "pushed": address}) if json_ else visible(f"exported: {out}"))
    if address and not json_:
        print(visible(f"pushed: {address}"))
