"""Log-probabilities of answers under a policy that is not trained, inside the training process.

In float32, by the same ways of computing them as training (log_probs.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch
from trl.trainer.utils import add_fused_lm_head

from codelutra.hardware import cores
from codelutra.policies import load_tokenizer
from codelutra.prompts import answer_ids, prompt_ids
from codelutra.training.batches import Example
from codelutra.training.checkpoints import Emit
from codelutra.training.likelihood import FOUND
from codelutra.training.worker.log_probs import Way, exact_ways, load_causal
from codelutra.training.worker.sft import collate_answers


def likelihoods(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write FOUND for the rows of `spec["answers"]`, in their order, to `spec["found"]`.

    An answer without a token, such as one to a prompt that was too long to be asked, has log-probability 0.
    """
    torch.set_num_threads(max(1, cores()))
    tokenizer = load_tokenizer(Path(spec["policy"]))
    rows = pl.read_parquet(spec["answers"], glob=False).rows(named=True)
    thinking = spec["thinking"]
    prompts = {p: prompt_ids(tokenizer, spec["system"], p, thinking=thinking) for p in {r["prompt"] for r in rows}}
    examples = [
        Example(
            "",
            prompts[row["prompt"]],
            (answer_ids(tokenizer, row["completion"], ended=row["ended"], thinking=thinking, written=row["written"]),),
        )
        for row in rows
    ]
    answered = [e for e in examples if e.answers[0]]
    found, way = _found(spec, tokenizer, answered, emit) if answered else ([], None)
    told = iter(found)
    rows_of = [next(told) if e.answers[0] else (0.0, 0) for e in examples]
    frame = pl.DataFrame(rows_of, schema=FOUND, orient="row")
    frame.write_parquet(Path(spec["found"]))
    return {"rows": frame.height, "log_probs": way and str(way)}


def _found(spec: dict[str, Any], tokenizer: Any, examples: list[Example], emit: Emit) -> tuple[list[tuple[float, int]], Way]:
    """(log-probability, tokens) of each answer, and how they were computed."""
    model = load_causal(spec["policy"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    add_fused_lm_head(model)
    way = exact_ways(model, examples, router_loss=False)[0]
    way.take()
    print(f"log-probabilities: {way}", flush=True)
    # Answers to one prompt stand together: what shares prefixes computes it once. Ids sort as the prompts do.
    order = sorted(range(len(examples)), key=lambda i: (examples[i].prompt, len(examples[i].answers[0])))
    found: dict[int, tuple[float, int]] = {}
    size = spec["micro_batch"]
    with torch.no_grad():
        for at in range(0, len(order), size):
            emit({"event": "progress", "done": at, "total": len(order)})
            some = order[at : at + size]
            inputs = collate_answers([examples[i] for i in some], tokenizer)
            log_probs = model(**{k: v.to(device) for k, v in inputs.items()}, fused_lm_head=True).log_probs.double().cpu()
            seen = inputs["labels"][:, 1:] != -100
            for i, values, mask in zip(some, log_probs, seen, strict=True):
                found[i] = (float(values[mask].sum()), int(mask.sum()))
    return [found[i] for i in range(len(examples))], way
