"""The engine's process: `python -m codelutra.sampling`, started by `Engine`.

vLLM takes some 15 seconds to import. Before that the process hears its parent end, and waits for the accelerator.
"""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path

from codelutra.store.child import Parent, serve


def main(parent: Parent) -> None:
    spec = parent.hear()
    with parent.holding(Path(spec["lock"])) if spec["lock"] else nullcontext():
        parent.tell({"event": "started"})
        gc.disable()  # importing vLLM makes millions of objects and hardly any garbage: 2 of 15 seconds
        from codelutra.sampling import engine_worker

        gc.freeze()  # vLLM collects garbage several times while it loads: each would go through all these objects
        sampler = engine_worker.Sampler(spec)
        gc.enable()
        gc.freeze()
        sampler.serve(parent)


if __name__ == "__main__":
    serve(main)
