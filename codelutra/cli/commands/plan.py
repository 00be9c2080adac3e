"""The command that asks what a run will take: plan."""

from __future__ import annotations

from typing import Annotated

import typer

from codelutra.cli.commands.options import Config, Home, Json, Set, print_json
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir

GpuMemory = Annotated[
    float | None,
    typer.Option(min=1, max=4096, metavar="GIB", help="Plan for another machine, whose GPU has so much memory."),
]
Price = Annotated[
    float | None,
    typer.Option(min=0, max=1e9, metavar="X", help="What an hour of this machine costs: says what the run costs."),
]
Gpus = Annotated[int, typer.Option(min=1, max=64, metavar="N", help="With --gpu-memory: so many such GPUs.")]
Memory = Annotated[
    float | None,
    typer.Option(min=1, max=65536, metavar="GIB", help="Plan for another machine with so much memory of its own."),
]


def plan(
    config: Config,
    set_: Set = None,
    price: Price = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Sample and train for about a minute, if no earlier run tells the speed; without it, guess from FLOPs.",
        ),
    ] = True,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the model if it is not here and its size is not known.")
    ] = False,
    gpu_memory: GpuMemory = None,
    gpus: Gpus = 1,
    memory: Memory = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Say what a run will take: memory, disk, tokens, minutes, cost.

    Exit code 2: the run does not fit this machine; the message names settings under which it does. Each figure says what
    it is based on: *earlier work* of this model, a *calibration* of about a minute now, or a *guess*, which may be
    several times off. Minutes are of all iterations; a run ends earlier if dev stops improving. For another machine (the
    last example) minutes are guesses, and the disk is this one's.

    ```
    codelutra plan my/config.yaml --set model=path:DIR --price 1.20
    codelutra plan my/config.yaml --gpu-memory 24 --memory 64
    ```
    """
    import sys

    from codelutra.cli import planned
    from codelutra.config import load_config
    from codelutra.errors import UserError
    from codelutra.pipeline.startable import require_startable
    from codelutra.planning.machine import described
    from codelutra.planning.plan import plan_of

    asked, root = load_config(config, tuple(set_ or ())), home_dir(home)
    if gpus > 1 and not gpu_memory:
        raise UserError(f"--gpus {gpus}: say how much memory each has with --gpu-memory GIB")
    machine = described(memory, gpu_memory, gpus) if memory or gpu_memory else None
    require_startable(asked, root, here=machine is None)
    found = plan_of(
        asked,
        root,
        measure=calibrate,
        fetch=fetch,
        price=price,
        machine=machine,
        say=lambda text: print(visible(f"{text} …"), file=sys.stderr),
    )
    print_json(found.as_json()) if json_ else planned.show(found)
    if found.fit.refusals:
        planned.refuse(found)
