"""Commands that use a policy: export, ask, serve."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from codelutra.cli.commands.options import Home, Json, RunName, print_json
from codelutra.errors import CodelutraError, UserError
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir

_ROWS_SHOWN = 50
Policy = Annotated[
    str | None, typer.Option(metavar="POLICY", help="Which policy, e.g. policy-1 (default: the best on dev).")
]
PolicyOf = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name; or the name of a retrained config, for what is promoted.")
]
Form = Annotated[
    Literal["transformers", "gguf", "adapter"],
    typer.Option(
        metavar="FORM",
        help="transformers: weights for transformers and vLLM; gguf: a GGUF file and Ollama's Modelfile; adapter: the LoRA "
        "adapter alone.",
    ),
]
Numbers = Annotated[
    Literal["q8_0", "f16", "bf16"],
    typer.Option("--type", metavar="TYPE", help="Numbers in a GGUF: q8_0 has 8.5 bits a weight; f16 and bf16 have 16."),
]


def export(
    name: RunName,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must be empty or not exist.")],
    policy: Policy = None,
    to: Form = "transformers",
    type_: Numbers = "q8_0",
    measure: Annotated[
        bool, typer.Option("--measure", help="Then load the export, score it on dev, and put the score into the card.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="hf:ORG/NAME", help="Then upload it to the Hugging Face hub, as a private repository."),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Export the pairs and outcomes instead, as a data set with TRL's columns.")
    ] = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Export the answers to dev instead, as logs for `inspect view` (inspect_ai).")
    ] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Copy a policy out, with a model card that states its numbers.

    --measure loads an engine and answers every dev problem once. That takes about as long as scoring one policy on dev
    took in the run.

    ```
    codelutra export demo ./demo-model
    codelutra export demo ./demo-gguf --to gguf --measure
    ```
    """
    from codelutra.results.load import run_folder

    if data or logs:
        if data and logs:
            raise UserError("--data and --logs each fill a folder of its own; give one of them")
        if measure or to != "transformers":
            raise UserError(f"--{'logs' if logs else 'data'} takes answers out, no policy; leave --to and --measure out")
        _export_answers(run_folder(home_dir(home) / "runs", name), directory, policy, push, logs=logs, as_json=json_)
        return
    from codelutra.cli.progress import Here
    from codelutra.reporting.export import export as export_policy
    from codelutra.reporting.export import hub_name
    from codelutra.reporting.export import push as push_to_hub

    if push:
        hub_name(push)  # a wrong name is told before anything is copied
    root = home_dir(home)
    run = run_folder(root / "runs", name)
    with Here() as progress:
        out = export_policy(run, directory, policy=policy, to=to, kind=type_, progress=progress)
    measured = _measured(root, run, out, policy, to, type_) if measure else None
    address = push_to_hub(out, push) if push else None
    _print_exported(out, address, json_, measured)


def _export_answers(run: Path, out: Path, policy: str | None, push: str | None, *, logs: bool, as_json: bool) -> None:
    from codelutra.reporting.dataset import export_data, require_token
    from codelutra.reporting.export import push as push_to_hub
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
    _print_exported(out, push_to_hub(out, push, data=True) if push else None, as_json)


def _print_exported(out: Path, address: str | None, as_json: bool, measured: dict[str, Any] | None = None) -> None:
    if as_json:
        print(json.dumps({"exported": str(out), "pushed": address} | ({"measured": measured} if measured else {})))
        return
    print(visible(f"exported: {out}"))
    if measured:
        print(visible(measured["said"]))
    if address:
        print(visible(f"pushed: {address}"))


def _measured(root: Path, run: Path, out: Path, policy: str | None, to: Any, kind: Any) -> dict[str, Any]:
    from codelutra.cli.watch import watch_run
    from codelutra.errors import CodelutraError
    from codelutra.experiments import remeasure

    try:
        arm = remeasure.remeasuring(root, run, out, policy, to)
        watch_run(arm.source, arm.overrides, root)
        said = remeasure.tell(root, arm, run, out, policy, to, kind)
    except CodelutraError:
        again = (
            f"codelutra evaluate {shlex.quote(str(run / 'run.yaml'))} --model {shlex.quote(remeasure.reference_of(out, to))}"
        )
        print(visible(f"exported: {out}; it was not measured. To measure it: {again}"), file=sys.stderr)
        raise
    return {"said": said, **remeasure.as_json(root, arm)}


def ask(
    name: PolicyOf,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes; for Python the task.")],
    db: Annotated[
        str, typer.Option("--db", metavar="FILE", help="A SQLite file, or the name of a database of the suite.")
    ] = "",
    policy: Policy = None,
    server: Annotated[
        str, typer.Option(metavar="URL", help="Ask this server of the policy (default: load an engine here).")
    ] = "",
    home: Home = None,
    json_: Json = False,
) -> None:
    """Ask a policy one question: shows its query and the rows.

    The query runs in the sandbox; a Python program is shown and not run. Exit code 1: the query fails. Most of the time is
    spent loading the model, so --server with a server of `codelutra serve` is quicker.

    ```
    codelutra ask shop "How many orders are there?"
    codelutra ask shop "How many orders?" --server http://127.0.0.1:8000
    ```
    """
    from dataclasses import asdict

    from codelutra.experiments.in_force import in_force
    from codelutra.pipeline.ask import ask as ask_policy

    found = in_force(home_dir(home), name, policy)
    try:
        answer = ask_policy(found.config, found.path, question, database=db, server=server)
    except CodelutraError as e:
        e.exit_code = 2  # 1 says that the query failed
        raise
    if json_:
        print_json({"run": found.run.name, "policy": found.label, **asdict(answer), "rows": answer.plain_rows})
    else:
        _show_answer(answer)
    if answer.failed:
        raise typer.Exit(1)


def _show_answer(answer: Any) -> None:
    from codelutra.cli import tables
    from codelutra.results.table import Table

    print(visible(answer.code or answer.completion))
    if answer.failed:
        cut = " (the answer was cut off at sample.max_tokens)" if answer.finish_reason == "length" else ""
        print(visible(f"codelutra: {answer.status}{cut}: {answer.error}"), file=sys.stderr)
    elif answer.status == "ok":
        cells = [["NULL" if cell is None else str(cell) for cell in row] for row in answer.plain_rows[:_ROWS_SHOWN]]
        more = f", {_ROWS_SHOWN} shown (--json has all)" if len(answer.rows) > _ROWS_SHOWN else ""
        tables.show(Table(tuple(answer.columns), cells))
        print(f"{len(answer.rows):,} row{'' if len(answer.rows) == 1 else 's'}{more}")


def serve(
    name: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run's or a retrained config's name (default: the only promoted one)."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen on this address; one that other machines reach needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Listen on this port.")] = 8000,
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Ask for a key; it is in this environment variable.")
    ] = "",
    policy: Policy = None,
    sampled: Annotated[
        bool, typer.Option("--follow", help="Serve what a run with sample.endpoints samples, now and later.")
    ] = False,
    home: Home = None,
) -> None:
    """Serve a policy through vLLM's OpenAI-compatible API.

    With the name of a retrained config it serves what is promoted, now and later. When the policy changes, the server
    answers the requests it has, then starts again with the new one. Ctrl-C ends it.

    ```
    codelutra serve demo
    codelutra serve demo --host 0.0.0.0 --api-key-env MY_KEY
    ```
    """
    from codelutra.experiments.in_force import in_force
    from codelutra.reporting.request import example
    from codelutra.sampling.serving import Served, Where, follow, key_from, require_usable
    from codelutra.store.paths import cache_dir

    root, where = home_dir(home), Where(host, port, key_from(api_key_env) if api_key_env else "")
    require_usable(where)

    def say(text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)

    if sampled:
        _serve_sampled(root, name, policy, where, say)
        return

    def current() -> Served:
        found = in_force(root, name, policy)
        return Served(name or found.run.name, f"{found.label} of run {found.run.name}", found.path, found.config)

    def ready(served: Served) -> None:
        found = in_force(root, name, policy)
        say(f"serving {served.label} as {served.name!r} at {where.url}/v1; weights: {served.path}")
        print(visible(example(found.run, found.label, served.name, where.url, api_key_env)), flush=True)

    in_force(root, name, policy)  # what is not there is told at once
    log = cache_dir() / f"serve-{port}.log"
    say(f"loading; the log is {log}")
    try:
        follow(current, where, log, say, ready=ready)
    except KeyboardInterrupt:
        say("stopped")


def _serve_sampled(root: Path, name: str | None, policy: str | None, where: Any, say: Any) -> None:
    """What a run samples now, and each later policy, until Ctrl-C; waits for a run that has not come so far."""
    from codelutra.experiments.in_force import sampled_now
    from codelutra.sampling.serving import Served, follow
    from codelutra.store.paths import cache_dir

    if not name or policy:
        raise UserError("--follow serves whatever a run samples: give the run's name, and leave --policy out")

    def current() -> Served:
        while not (found := sampled_now(root, name)):
            say(f"run {name!r} asks no server for a policy so far (sample.follow_minutes, under {root}); waiting for it")
            while not sampled_now(root, name):
                time.sleep(2)
        return Served(name, f"{found.label} of run {name}", found.path, found.config)

    log = cache_dir() / f"serve-{where.port}.log"
    say(f"the log is {log}")

    def ready(served: Served) -> None:
        say(f"serving {served.label} at {where.url}/v1; weights: {served.path}")

    try:
        follow(current, where, log, say, ready=ready, what="is sampled next")
    except KeyboardInterrupt:
        say("stopped")
