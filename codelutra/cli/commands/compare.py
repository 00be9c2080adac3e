"""Commands that refine several runs and compare them: compare, sweep, evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, listed, print_json
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir

if TYPE_CHECKING:
    from codelutra.experiments.plan import Experiment


def _list_methods(wanted: bool) -> None:
    if wanted:
        from codelutra.cli import tables
        from codelutra.experiments.methods import METHODS

        tables.show(listed({n: m.what for n, m in METHODS.items()}, "method", "what"), "methods")
        raise typer.Exit


def compare(
    config: Config,
    methods: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Comma-separated, or `all`; `--list` says what each is.")
    ] = "base,warm-start,sft,rft,dpo,codelutra",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Comma-separated; every method runs once with each.")] = "0",
    list_: Annotated[
        bool, typer.Option("--list", help="Say what each method is, and stop.", is_eager=True, callback=_list_methods)
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="First choose learning rate and passes for every method, on dev with one seed.")
    ] = False,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; compare what has finished.")] = False,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Compare methods: same model, warm start, problems; one run each, work they share is done once.

    Interrupted or killed, the same command goes on where it was. Several commands with other --methods or --seeds add up:
    finished runs are reused.
    """
    from codelutra.experiments.method_table import comparison
    from codelutra.experiments.methods import chosen_methods, chosen_seeds

    overrides, wanted, numbers = tuple(set_ or ()), chosen_methods(methods), chosen_seeds(seeds)
    experiment = comparison(config, overrides, wanted, numbers)
    if not only_table:
        from codelutra.experiments.power import foresight

        print(visible(foresight(experiment.arms[0].config, len(numbers))), file=sys.stderr)
    if tune:
        from codelutra.experiments.tuning import chosen, tuning

        trials = tuning(config, overrides, wanted, numbers[0])
        _run_experiment(trials, home, json_, only_table=only_table, last=False)
        experiment = comparison(config, overrides, wanted, numbers, chosen(home_dir(home), trials, wanted))
    _run_experiment(experiment, home, json_, only_table=only_table)


def sweep(
    config: Config,
    vary: Annotated[list[str], typer.Option(metavar="a.b=v,w", help="Values to try; repeatable, then all combinations.")],
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Compare settings on dev: one run each, sharing all that they leave alone; test stays closed.

    E.g. --vary train.learning_rate=1e-5,4e-5 --vary train.beta=0.1,0.3. Interrupted, the same command goes on.
    """
    from codelutra.experiments.sweep import sweep as plan

    _run_experiment(plan(config, tuple(set_ or ()), vary), home, json_)


def evaluate(
    config: Config,
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            help="A name of `codelutra models`, path:DIR, hf:org/name@revision, gguf:FILE, run:NAME, or api:URL#NAME, a "
            "model behind a server's chat completions ($CODELUTRA_API_KEY); repeatable.",
        ),
    ],
    best_of: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Also draw N answers to each test problem, and score the one that most give."),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="With --best-of: also score the answer that this model, trained by DPO, prefers."
        ),
    ] = None,
    price_in: Annotated[
        list[float] | None,
        typer.Option(metavar="X", min=0, help="Price of a million prompt tokens of an api: model; repeat it for several."),
    ] = None,
    price_out: Annotated[
        list[float] | None, typer.Option(metavar="X", min=0, help="The same for a million tokens of answers.")
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Score models on a config's suite, greedy: dev and test pass@1 with intervals, and a paired test against the first.

    Each is a run without iterations, so what was measured before is reused. --set select.test=false leaves test closed.
    """
    from codelutra.experiments.evaluate import best_answer, evaluation, priced

    prices, overrides = priced(model, price_in or (), price_out or ()), (*best_answer(best_of, verifier), *(set_ or ()))
    _run_experiment(evaluation(config, overrides, model, home_dir(home), prices), home, json_)


def _run_experiment(
    experiment: Experiment, home: Path | None, as_json: bool, *, only_table: bool = False, last: bool = True
) -> None:
    """Refine every arm (unless `only_table`), then show what came out; as JSON only of a command's `last` experiment."""
    from codelutra.cli import tables
    from codelutra.cli.watch import watch_run
    from codelutra.experiments import plan

    root = home_dir(home)
    if not only_table:
        plan.require_possible(experiment, root)
        for arm in experiment.arms:
            watch_run(arm.source, arm.overrides, root)
    result = plan.conclude(experiment, root)
    if as_json:
        if last:
            print_json(result.data)
        return
    tables.show(result.narrow if result.narrow and tables.narrow() else result.table, result.title)
    for name in result.missing:
        print(f"not in it: {name}, not finished", file=sys.stderr)
    print(visible(f"written: {plan.folder(experiment, root)}"), file=sys.stderr)
