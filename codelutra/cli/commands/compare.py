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
        str, typer.Option(metavar="NAME,NAME", help="Which methods, or `all`; --list explains them.")
    ] = "base,warm-start,sft,rft,dpo,codelutra",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Every method runs once with each of these seeds.")] = "0",
    list_: Annotated[
        bool, typer.Option("--list", help="Explain the methods, and stop.", is_eager=True, callback=_list_methods)
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="First choose learning rate and passes for every trained method, on dev.")
    ] = False,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; compare the runs that have finished.")] = False,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Compare training methods: a run for each method and seed.

    All runs have the same model, warm start and problems, and share finished work. If it is interrupted, give the same
    command again. Later commands with other --methods or --seeds reuse the runs that have finished.

    ```
    codelutra compare my/config.yaml --methods sft,codelutra --seeds 0,1
    ```
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
    vary: Annotated[
        list[str], typer.Option(metavar="KEY=V,W", help="Values to try. Repeatable; then every combination is tried.")
    ],
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Compare settings on dev: a run for each combination.

    Runs share the work that their settings do not change. Test is not scored. If it is interrupted, give the same command
    again.

    ```
    codelutra sweep demo --vary train.beta=0.1,0.3 --vary train.epochs=1,2
    ```
    """
    from codelutra.experiments.sweep import sweep as plan

    _run_experiment(plan(config, tuple(set_ or ()), vary), home, json_)


def evaluate(
    config: Config,
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            help="A name of `codelutra models`, path:DIR, hf:org/name@revision, gguf:FILE, run:NAME, or api:URL#NAME for a "
            "model behind an OpenAI-compatible API (its key in $CODELUTRA_API_KEY); repeatable.",
        ),
    ],
    best_of: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, help="Also draw N answers to each test problem, and score the result that most of them give."
        ),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="With --best-of: also score the answer that this model, trained by DPO, prefers."
        ),
    ] = None,
    price_in: Annotated[
        list[float] | None,
        typer.Option(metavar="X", min=0, help="Price of a million prompt tokens of an api: model; give one for each."),
    ] = None,
    price_out: Annotated[
        list[float] | None, typer.Option(metavar="X", min=0, help="The same for a million tokens of answers.")
    ] = None,
    set_: Set = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Score models on a suite, and compare each with the first.

    It shows pass@1 on dev and test (one greedy answer a problem) with intervals, and a paired test. What was measured
    before is reused. --set select.test=false does not score test.

    ```
    codelutra evaluate my/config.yaml --model run:my-run --model path:other
    ```
    """
    from codelutra.experiments.evaluate import best_answer, evaluation, priced

    prices, overrides = priced(model, price_in or (), price_out or ()), (*best_answer(best_of, verifier), *(set_ or ()))
    _run_experiment(evaluation(config, overrides, model, home_dir(home), prices), home, json_)


def _run_experiment(
    experiment: Experiment, home: Path | None, as_json: bool, *, only_table: bool = False, last: bool = True
) -> None:
    """Refine every arm (unless `only_table`), then show what came out; as JSON only of a command's `last` experiment."""
    from codelutra.cli import tables
    from codelutra.cli.watch import require_prefect, watch_run
    from codelutra.experiments import plan

    root = home_dir(home)
    if not only_table:
        require_prefect()
        plan.require_possible(experiment, root)
        for arm in experiment.arms:
            watch_run(arm.source, arm.overrides, root)
    result = plan.conclude(experiment, root)
    if as_json:
        if last:
            print_json(result.data)
        return
    tables.show(result.narrow if result.narrow and tables.narrow() else result.table, result.title)
    for name, why in result.missing.items():
        print(visible(f"not in it: {name}, {why}"), file=sys.stderr)
    print(visible(f"written: {plan.folder(experiment, root)}"), file=sys.stderr)
