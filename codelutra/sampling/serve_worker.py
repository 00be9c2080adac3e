"""vLLM's OpenAI server in a process of its own: `python -m codelutra.sampling.serve_worker`, started by `serving.Server`.

Told the arguments of `vllm serve`, and later "stop": then it takes no more requests, answers those it has, and ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from codelutra.store.child import Parent, serve


def main(parent: Parent) -> None:
    arguments = parent.hear()["arguments"]

    def stop() -> None:
        parent.hear()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3600)  # vLLM ends the process when the last request is answered

    threading.Thread(target=stop, daemon=True).start()
    from vllm.entrypoints.launchers.api_server.entry import main as vllm

    sys.argv = ["vllm", *arguments]
    vllm()


if __name__ == "__main__":
    serve(main)
