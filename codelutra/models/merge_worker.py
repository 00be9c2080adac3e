"""An adapter into its base, in a process of its own: `python -m codelutra.models.merge_worker BASE ADAPTER OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from codelutra.errors import UserError
from codelutra.policies import load_tokenizer
from codelutra.store.child import Parent, serve


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write the merged weights, in float32, and the base's tokenizer to `out`. Raises UserError where they do not fit."""
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
        merged = PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload()
    except (ValueError, KeyError, RuntimeError, TypeError) as e:
        raise UserError(f"the adapter in {adapter} does not fit {base}: {str(e)[:500]}; export it again") from e
    merged.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)


if __name__ == "__main__":

    def work(parent: Parent) -> None:
        merge(*map(Path, sys.argv[1:4]))
        parent.tell({"event": "done"})

    serve(work)
