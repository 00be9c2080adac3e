"""The command line. It starts flows, watches runs and shows what they found; it computes nothing itself.

Heavy libraries are imported inside commands, so that `codelutra --help` answers at once.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from codelutra.errors import CodelutraError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Make a small open LLM good at one code task, from its own right and wrong programs.

    `codelutra run demo` shows it, in half an hour on two cores; then `codelutra status demo`, `codelutra report demo`.
    Bring your own task: `codelutra init`, then `check`, then `run`; or copy a preset (`codelutra presets`).""",
)
sandbox_app = typer.Typer(no_args_is_help=True, help="The containers untrusted programs run in.")
app.add_typer(sandbox_app, name="sandbox")
init_app = typer.Typer(no_args_is_help=True, help="A suite folder and a config for your own problems.")
app.add_typer(init_app, name="init")

Home = Annotated[Path | None, typer.Option(help="Folder of store/ and runs/ (default: $CODELUTRA_HOME, else here).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one config value; repeatable.")]


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A preset's name (`codelutra presets`) or the path of a YAML file.")],
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Refine a model to the end. Interrupted or killed, the same command goes on where it was."""
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config

    parsed = load_config(config, tuple(set_ or ()))
    summary = watch_run(config, tuple(set_ or ()), parsed, home)
    _print_summary(summary, home, json_)


def _list_methods(wanted: bool) -> None:
    from codelutra.cli import tables as show
    from codelutra.experiments.methods import METHODS

    if wanted:
        show.rows_table([{"method": n, "what": m.what} for n, m in METHODS.items()], title="methods")
        raise typer.Exit


@app.command()
def compare(
    config: Annotated[str, typer.Argument(help="A preset's name or the path of a YAML file.")],
    methods: Annotated[
        str, typer.Option(help="Comma-separated, or `all`; `--list` says what each is.")
    ] = "base,warm-start,sft,rft,dpo,codelutra",
    seeds: Annotated[str, typer.Option(help="Comma-separated; every method runs once with each.")] = "0",
    list_: Annotated[
        bool, typer.Option("--list", help="Say what each method is, and stop.", is_eager=True, callback=_list_methods)
    ] = False,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; compare what has finished.")] = False,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Hold methods against each other: same model, warm start, problems; one run each, work they share is done once.

    Interrupted or killed, the same command goes on where it was. Several commands with other --methods or --seeds add up:
    finished runs are reused.
    """
    from codelutra.cli import tables as show
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config
    from codelutra.experiments.method_table import compare as compare_runs
    from codelutra.experiments.method_table import table_rows, write_comparison
    from codelutra.experiments.methods import arm, chosen_methods, chosen_seeds
    from codelutra.pipeline.run import home_dir

    arms, drawn, laid_over = chosen_methods(methods), chosen_seeds(seeds), tuple(set_ or ())
    for seed in () if only_table else drawn:
        for method in arms:
            parsed, more = arm(config, laid_over, method, seed)
            watch_run(config, more, parsed, home)
    result = compare_runs(home_dir(home), config, laid_over, arms, dict.fromkeys(arms, drawn))
    out = home_dir(home) / "comparisons" / load_config(config, laid_over).name
    written = write_comparison(result, out)
    if json_:
        print(json.dumps(result, indent=1))
    else:
        rows = table_rows(result, narrow=show.narrow())
        show.rows_table(rows, title=f"{result['suite']}: test split, policies chosen on dev")
        for name in result["missing"]:
            print(f"not in it: {name}, not finished", file=sys.stderr)
        print(f"written: {written.parent}", file=sys.stderr)


@app.command()
def sweep(
    config: Annotated[str, typer.Argument(help="A preset's name or the path of a YAML file.")],
    vary: Annotated[list[str], typer.Option(metavar="a.b=v,w", help="Values to try; repeatable, then all combinations.")],
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Try settings against each other on dev: one run each, sharing all that they leave alone; test stays closed.

    E.g. --vary train.learning_rate=1e-5,4e-5 --vary train.beta=0.1,0.3. Interrupted, the same command goes on.
    """
    from codelutra.cli import tables as show
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config
    from codelutra.experiments.sweep import grid, results, table_rows, write_sweep
    from codelutra.pipeline.run import home_dir

    laid_over = tuple(set_ or ())
    points = grid(config, laid_over, vary)
    for point in points:
        watch_run(config, point.overrides, point.config, home)
    rows = results(home_dir(home), points)
    out = home_dir(home) / "comparisons" / f"{load_config(config, laid_over).name}-sweep"
    write_sweep(rows, out)
    if json_:
        print(json.dumps([{k: v for k, v in r.items() if k != "summary"} for r in rows], indent=1))
    else:
        show.rows_table(table_rows(rows), title="dev split, best first")
        print(f"written: {out}", file=sys.stderr)


@app.command()
def evaluate(
    config: Annotated[str, typer.Argument(help="Whose suite and sampling: a preset's name or the path of a YAML file.")],
    model: Annotated[list[str], typer.Option(help="path:DIR, hf:org/name@revision, gguf:FILE, run:NAME …; repeatable.")],
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Score models on a suite, greedy: dev and test pass@1 with intervals, and a paired test against the first.

    Each is a run without iterations, so what was measured before is reused. --set select.test=false leaves test closed.
    """
    from codelutra.cli import tables as show
    from codelutra.cli.watch import watch_run
    from codelutra.experiments.evaluate import arm, evaluation, table_rows
    from codelutra.pipeline.run import home_dir

    arms = {m: arm(config, tuple(set_ or ()), m, home_dir(home)) for m in model}
    for parsed, more in arms.values():
        watch_run(config, more, parsed, home)
    rows = evaluation(home_dir(home), {m: parsed.name for m, (parsed, _) in arms.items()})
    print(json.dumps(rows, indent=1)) if json_ else show.rows_table(table_rows(rows), title=f"{config}: greedy pass@1")


@app.command()
def retrain(
    config: Annotated[str, typer.Argument(help="A preset's name or the path of a YAML file; its name is the policy's.")],
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Promote only with a paired p of at most this on dev; 1 takes any gain.")
    ] = 1.0,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Where problems or settings are new: refine the promoted policy on them, promote the result if it is better.

    Problems stay on the split they were on as yours grow. What is promoted is at promoted/NAME/model. Nothing new costs
    nothing; interrupted, the same command goes on.
    """
    from codelutra.cli.watch import watch_run
    from codelutra.config import load_config
    from codelutra.experiments.retrain import conclude, next_retraining
    from codelutra.pipeline.run import home_dir

    root, laid_over = home_dir(home), tuple(set_ or ())
    if due := next_retraining(root, config, laid_over):
        conclude(root, due, watch_run(config, due.overrides, due.config, home), alpha=alpha)
    else:
        print("nothing new since the last retraining", file=sys.stderr)
    _print_record(root, load_config(config, laid_over).name, json_)


@app.command()
def promoted(
    name: Annotated[str, typer.Argument(help="The name in a retrained config.")],
    to: Annotated[str | None, typer.Option(metavar="RUN", help="Promote this retraining instead: the way back.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """The retrainings of a config and which policy is promoted now; --to goes back to an earlier one."""
    from codelutra.experiments.retrain import promote
    from codelutra.pipeline.run import home_dir

    if to:
        promote(home_dir(home), name, to)
    _print_record(home_dir(home), name, json_)


@app.command()
def check(
    config: Annotated[str, typer.Argument(help="A preset's name or the path of a YAML file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Another suite's name, or a config: train must share no problem with it; repeatable."),
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Judge every reference twice in the sandbox, count prompts, find leaks: before a run spends anything.

    Exit 1 where something spoils the run's numbers. What was judged is in the store; the run will not judge it again.
    """
    from codelutra.cli import tables as show
    from codelutra.config import load_config
    from codelutra.pipeline.check import check as check_config
    from codelutra.pipeline.run import home_dir

    report = check_config(load_config(config, tuple(set_ or ())), home_dir(home), against or (), show.progress_line)
    print(json.dumps(show.check_rows(report), indent=1)) if json_ else show.check_table(report)
    if report.spoilt:
        raise typer.Exit(1)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A run; none lists all.")] = None, home: Home = None, json_: Json = False
) -> None:
    """What a run has found so far, and what it is doing now."""
    from codelutra.cli import tables as show
    from codelutra.pipeline.run import home_dir

    runs = home_dir(home) / "runs"
    if name is None:
        rows = show.list_runs(runs)
        print(json.dumps(rows, indent=1)) if json_ else show.runs_table(rows)
        return
    _print_summary(show.read_summary(runs, name), home, json_)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A run.")],
    beside: Annotated[list[str] | None, typer.Option(help="Another run to show it beside; repeatable.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Write the run's report page with its figures (runs/NAME/report/index.html)."""
    from codelutra.cli import tables as show
    from codelutra.pipeline.run import home_dir
    from codelutra.reporting.report import write_report

    runs = home_dir(home) / "runs"
    for each in (name, *(beside or ())):
        show.read_summary(runs, each)
    page = write_report(runs / name, [runs / other for other in beside or ()])
    print(json.dumps({"report": str(page)}) if json_ else f"report: {page}")


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A run.")],
    directory: Annotated[Path, typer.Argument(help="Where to; must not exist or be empty.")],
    policy: Annotated[str | None, typer.Option(help="Which policy, e.g. policy-1; default the best by dev.")] = None,
    push: Annotated[str | None, typer.Option(help="Then upload it: hf:org/name, private until you say otherwise.")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Copy a policy out: weights, tokenizer, model card with the numbers. Loads in transformers and vLLM."""
    from codelutra.cli import tables as show
    from codelutra.pipeline.run import home_dir
    from codelutra.reporting.export import export as export_policy
    from codelutra.reporting.export import hub_name
    from codelutra.reporting.export import push as push_to_hub

    runs = home_dir(home) / "runs"
    show.read_summary(runs, name)
    if push:
        hub_name(push)  # a wrong name is told before anything is copied
    out = export_policy(runs / name, directory, policy=policy)
    address = push_to_hub(out, push) if push else None
    print(json.dumps({"exported": str(out), "pushed": address}) if json_ else f"exported: {out}")
    if address and not json_:
        print(f"pushed: {address}")


@app.command()
def prune(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs to remove, with all that only they use.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only told.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Free disk space: remove what no run here uses any more, and the runs named. Promoted ones stay."""
    from codelutra.cli import tables as show
    from codelutra.experiments.prune import remove, unused
    from codelutra.pipeline.run import home_dir

    found = unused(home_dir(home), runs or ())
    if yes:
        remove(found)
    rows = [{"path": str(path), "bytes": size} for path, size in found.artifacts]
    if json_:
        print(json.dumps({"removed": yes, "bytes": found.size, "runs": [str(r) for r in found.runs], "artifacts": rows}))
        return
    if rows:
        show.rows_table(show.by_stage(found.artifacts), title="used by no other run" if runs else "used by no run")
    print(f"{'freed' if yes else 'would free'} {found.size / 2**30:.2f} GiB" + ("" if yes else "; --yes removes it"))


@app.command()
def doctor(json_: Json = False) -> None:
    """What is here, what is missing, and how to get it. Exit 1 if something needed is missing."""
    from dataclasses import asdict

    from codelutra.cli import tables as show
    from codelutra.cli.doctor import checks

    found = [asdict(c) for c in checks()]
    print(json.dumps(found, indent=1)) if json_ else show.doctor_table(found)
    if not all(c["ok"] for c in found):
        raise typer.Exit(1)


@app.command()
def presets(json_: Json = False) -> None:
    """The configs that ship with the package: copy one and change it."""
    from codelutra.cli import tables as show
    from codelutra.config import PRESETS, preset_names

    rows = [
        {"name": n, "path": str(PRESETS / f"{n}.yaml"), "purpose": show.purpose(PRESETS / f"{n}.yaml")}
        for n in preset_names()
    ]
    if json_:
        print(json.dumps(rows, indent=1))
        return
    show.rows_table([{"name": r["name"], "purpose": r["purpose"]} for r in rows], title="presets")
    print(f"copy one from {PRESETS} and change it, or `codelutra run NAME --set section.key=value`")


@app.command()
def suites(json_: Json = False) -> None:
    """The suites a config can name."""

    from codelutra.cli import tables as show
    from codelutra.suites.base import SUITES

    rows = [
        {"name": n, "what": (importlib.import_module(m).__doc__ or "").strip().split("\n")[0]}
        for n, m in sorted(SUITES.items())
    ]
    print(json.dumps(rows, indent=1)) if json_ else show.rows_table(rows, title="suites")


Folder = Annotated[Path | None, typer.Argument(help="Where to; default a folder here, named after the file.")]


@init_app.command("sql")
def init_sql(
    database: Annotated[Path, typer.Argument(help="A SQLite file. It is read where it lies, not copied.")],
    questions: Annotated[Path, typer.Argument(help='JSONL: {"question": …, "query": …} a line.')],
    folder: Folder = None,
    json_: Json = False,
) -> None:
    """Your own database and questions. Every line is checked first; what is there already is not overwritten."""
    from codelutra.cli import init as newsuite

    _print_made(newsuite.init_sql(database, questions, folder), json_)


@init_app.command("python")
def init_python(
    problems: Annotated[Path, typer.Argument(help="JSONL of functions or programs; docs/your-own-task.md has the fields.")],
    folder: Folder = None,
    json_: Json = False,
) -> None:
    """Your own Python problems. Every line is checked first; what is there already is not overwritten."""
    from codelutra.cli import init as newsuite

    _print_made(newsuite.init_python(problems, folder), json_)


@sandbox_app.command("build")
def sandbox_build(
    kind: Annotated[str, typer.Argument(help="python or datascience")] = "python", json_: Json = False
) -> None:
    """Build the sandbox image, unless it is there."""
    from sandbox.image import ensure_image

    tag = ensure_image(kind, progress=lambda line: print(line, file=sys.stderr))
    print(json.dumps({"image": tag}) if json_ else tag)


@sandbox_app.command("probe")
def sandbox_probe(
    kind: Annotated[str, typer.Argument(help="python or datascience")] = "python", json_: Json = False
) -> None:
    """Run honest programs and known attacks through the real sandbox. Exit 1 if any verdict is not as expected."""
    from codelutra.cli import tables as show
    from sandbox.image import ensure_image
    from sandbox.pool import Pool
    from sandbox.probe import probe

    with Pool(image=ensure_image(kind), workers=1, run="probe") as pool:
        rows = probe(pool)
    print(json.dumps(rows, indent=1)) if json_ else show.rows_table(rows, title="sandbox probe")
    if not all(r["ok"] for r in rows):
        raise typer.Exit(1)


def _print_made(made: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"suite": str(made.suite), "config": str(made.config), "splits": dict(made.splits)}))
        return
    splits = ", ".join(f"{n} {split}" for split, n in made.splits.items())
    print(f"wrote {made.suite} and {made.config}: {splits}")
    print(f"next:  codelutra check {made.config}\n       codelutra run {made.config}")


def _print_record(root: Path, name: str, as_json: bool) -> None:
    from codelutra.cli import tables as show
    from codelutra.experiments.retrain import read_record, table_rows

    record = read_record(root, name)
    if as_json:
        print(json.dumps({"name": name, "promoted": record.promoted, "retrainings": record.rows}, indent=1))
        return
    show.rows_table(table_rows(record), title=f"{name}: retrainings")
    print(f"promoted: {record.folder / 'model'}" if record.promoted else "promoted: none yet")


def _print_summary(summary: dict[str, Any], home: Path | None, as_json: bool) -> None:
    from codelutra.cli import tables as show

    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        show.summary_table(summary, home)


def main() -> None:
    """Entry point: errors raised on purpose become one message and their exit code."""
    from sandbox.errors import SandboxError

    try:
        app()
    except CodelutraError as e:
        print(f"codelutra: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except SandboxError as e:
        print(f"codelutra: {e}", file=sys.stderr)
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
