"""The training process: `python -m codelutra.training.worker SPEC.json`, started by `training.launch`.

With `processes` above 1 it starts so many of itself (SPEC.json and "shared") with torch's launcher, as `accelerate launch`
would on GPUs (on CPUs that needs MPI). Torch is imported once the process hears its parent end and has the accelerator.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from codelutra.store.child import OUT_OF_MEMORY, Event, Parent, serve


def one(parent: Parent, spec: dict[str, Any]) -> None:
    """Hold the lock, train, and tell the summary. Of several processes the first speaks, and holds the lock, for all."""
    first, may_load = os.environ.get("RANK", "0") == "0", Path(spec["work"]) / "may-load"

    def emit(event: Event) -> None:
        if first:
            parent.tell(event)

    with parent.holding(Path(spec["lock"])) if first and spec["lock"] else contextlib.nullcontext():
        if first:
            may_load.touch()
        while not may_load.exists():
            time.sleep(0.05)
        gc.disable()  # these imports make millions of objects and hardly any garbage
        if spec["kind"] == "likelihood":
            from codelutra.training.worker.likelihood import likelihoods as work
        else:
            from codelutra.training.worker.train import train as work
        gc.enable()
        gc.freeze()  # a training collects garbage several times: each would go through all these objects

        emit({"event": "done", **work(spec, emit)})


def launch(spec_file: str, processes: int) -> None:
    """Start the processes and wait for them. One that the kernel kills is out of memory, as where there is one alone."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(["--standalone", f"--nproc-per-node={processes}", "-m", "codelutra.training.worker", spec_file, "shared"])
    except ChildFailedError as e:
        codes = {failure.exitcode for failure in e.failures.values()}
        sys.exit(OUT_OF_MEMORY if codes & {OUT_OF_MEMORY, -signal.SIGKILL} else 1)


def main(spec_file: str, shared: str = "") -> None:
    spec = json.loads(Path(spec_file).read_text())
    if spec["config"]["processes"] > 1 and not shared:
        launch(spec_file, spec["config"]["processes"])
    else:
        serve(lambda parent: one(parent, spec))


if __name__ == "__main__":
    main(*sys.argv[1:])
