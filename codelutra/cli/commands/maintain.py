"""Commands that keep the machine in order: doctor, prune, sandbox build, sandbox probe."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer

from codelutra.cli.commands.options import Home, Json, Set, print_json
from codelutra.cli.completion import preset_starting
from codelutra.errors import UserError
from codelutra.results.escapes import visible
from codelutra.store.paths import home_dir


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG", help="Also check the cluster of this preset or file.", autocompletion=preset_starting
        ),
    ] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Check what is installed, and say how to get what is missing.

    With CONFIG it also says whether the config's Ray cluster (`cluster:`) answers and what it offers. Exit code 1: something
    that is needed is missing.
    """
    from dataclasses import asdict

    from codelutra.cli import tables
    from codelutra.cli.doctor import checks
    from codelutra.config import load_config

    if set_ and not config:
        raise UserError("--set lays values over a config: name one, e.g. `codelutra doctor demo --set …`")
    found = checks(load_config(config, tuple(set_ or ())) if config else None)
    print_json([asdict(c) for c in found]) if json_ else tables.show(tables.checks_table(found))
    if not all(c.ok for c in found):
        raise typer.Exit(1)


def prune(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Runs to remove, with everything that only they use.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without --yes it is only listed.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Free disk space: remove what no run uses any more.

    Promoted runs are never removed. Nothing is removed from a shared store (`store: s3://…`): this is about the local disk.
    Sandbox images of other versions of codelutra are only named: other checkouts may use them.

    ```
    codelutra prune
    codelutra prune demo --yes
    ```
    """
    from codelutra.cli import tables
    from codelutra.experiments import prune as pruning

    found = (pruning.prune if yes else pruning.unused)(home_dir(home), runs or ())
    images = _superseded_images()
    if json_:
        rows = [{"path": str(path), "bytes": size} for path, size in found.artifacts]
        told = {"removed": yes, "bytes": found.size, "runs": [str(r) for r in found.runs], "artifacts": rows}
        print(json.dumps(told | {"images": images}))
        return
    if found.artifacts:
        tables.show(tables.by_stage(found.artifacts), "used by no other run" if runs else "used by no run")
    if found.artifacts or found.runs:
        print(f"{'freed' if yes else 'would free'} {found.size / 2**30:.2f} GiB" + ("" if yes else "; --yes removes it"))
    else:
        print("nothing to remove")
    if images:
        remove = f"docker rmi {' '.join(images)}"
        print(visible(f"sandbox images of other versions, which no container uses; if no other checkout does: {remove}"))


def _superseded_images() -> list[str]:
    """None where Docker does not answer."""
    from sandbox.client import connect
    from sandbox.errors import SandboxError
    from sandbox.image import superseded

    with contextlib.suppress(SandboxError), contextlib.closing(connect(timeout_seconds=10)) as client:
        return superseded(client)
    return []


Image = Annotated[str, typer.Argument(metavar="KIND", help="python, duckdb or datascience.")]


def sandbox_build(kind: Image = "python", json_: Json = False) -> None:
    """Build the sandbox's image, unless it is there."""
    from sandbox.image import ensure_image

    tag = ensure_image(kind, progress=lambda line: print(visible(line), file=sys.stderr))
    print(json.dumps({"image": tag}) if json_ else tag)


def sandbox_probe(kind: Image = "python", json_: Json = False) -> None:
    """Run honest programs and known attacks in the real sandbox.

    Exit code 1: a verdict is not as expected.
    """
    from codelutra.cli import tables
    from codelutra.cli.progress import Here
    from codelutra.results.table import Table
    from sandbox.image import ensure_image
    from sandbox.pool import Pool
    from sandbox.probe import probe

    with Here() as progress, Pool(image=ensure_image(kind), workers=1, run="probe") as pool:
        rows = probe(pool, lambda done, total: progress("sandbox probe", done, total, "attacks"))
    shown = [{k: str(v) for k, v in row.items()} for row in rows]
    print_json(rows) if json_ else tables.show(Table.of(shown), "sandbox probe")
    if not all(r["ok"] for r in rows):
        raise typer.Exit(1)
