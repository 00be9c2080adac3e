"""What number formats do to a policy: the float32 check of a model that is not in float32, how far the function that is
trained is from the policy it stands for, and whether activations fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from codelutra.training.batches import Example
from codelutra.training.checkpoints import Job
from codelutra.training.worker.log_probs import load_causal, one_by_one
from codelutra.training.worker.sft_term import imitated

COMPARED = 8  # examples whose first answers are compared with policy t-1
LOW = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Inside, `model` computes in float32 with the values its weights have, 4-bit ones too. Only one decoder layer's weights
    are held in float32 at a time, and those outside of layers (embeddings, output layer, norms). Not for gradients."""
    layers = decoder_layers(model)
    inside = {id(t) for layer in layers for t in _low(layer)}
    outside = [t for t in _low(model) if id(t) not in inside]
    four_bit = [m for m in model.modules() if hasattr(m, "compute_type_is_set")]  # bitsandbytes' Linear4bit
    computed = [(m.compute_dtype, m.compute_type_is_set) for m in four_bit]
    kept: dict[int, Any] = {}

    def widen(tensors: list[Any]) -> None:
        for t in tensors:
            kept[id(t)], t.data = t.data, t.data.float()

    def narrow(tensors: list[Any]) -> None:
        for t in tensors:
            if id(t) in kept:
                t.data = kept.pop(id(t))

    hooks = [layer.register_forward_pre_hook(lambda m, _: widen(_low(m))) for layer in layers]
    # before FSDP's own, which takes the layer's weights away
    hooks += [layer.register_forward_hook(lambda m, *_: narrow(_all(m)), prepend=True, always_call=True) for layer in layers]
    widen(outside)
    for module in four_bit:
        module.compute_dtype, module.compute_type_is_set = torch.float32, True
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        narrow(_all(model))
        for module, (dtype, is_set) in zip(four_bit, computed, strict=True):
            module.compute_dtype, module.compute_type_is_set = dtype, is_set


def decoder_layers(model: Any) -> list[Any]:
    """The layers that transformers never splits between devices: whoever uses their weights calls them."""
    names = set(getattr(model, "_no_split_modules", None) or [])
    return [m for m in model.modules() if names & {kind.__name__ for kind in type(m).__mro__}]  # FSDP puts a class before


def _all(module: Any) -> list[Any]:
    return list(chain(module.parameters(), module.buffers()))


def _low(module: Any) -> list[Any]:
    return [t for t in _all(module) if t.dtype in LOW]


@dataclass(frozen=True)
class PolicyBefore:
    """Log-probabilities of a few answers under policy t-1 as it lies on disk, in float32: what training starts from."""

    sequences: list[list[int]]
    prompts: list[int]
    log_probs: Any  # of the answers' tokens, sequence by sequence; None in all processes but the first

    @staticmethod
    def of(job: Job) -> PolicyBefore:
        """Loads the model and lets it go again: call it before the one that is trained is in memory."""
        sequences, prompts = _a_few([*job.examples, *job.replayed])  # of some lessons the one or the other is empty
        if job.rank:
            return PolicyBefore(sequences, prompts, None)
        model = load_causal(str(job.policy)).eval()
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        if torch.cuda.is_available() and size < 0.8 * torch.cuda.mem_get_info()[0]:
            model.to("cuda")
        with torch.no_grad():
            found = one_by_one(model, model.forward, sequences, prompts)[0].cpu()
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return PolicyBefore(sequences, prompts, found)

    def gap(self, model: Any, autocast: Any) -> dict[str, float]:
        """How far log-probabilities under `model`, as it computes in training, are from those of policy t-1: mean and
        largest difference, in nats a token."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        with torch.no_grad(), autocast:
            found = one_by_one(base, base.forward, self.sequences, self.prompts)[0]
        if self.log_probs is None:
            return {}
        apart = (found.float().cpu() - self.log_probs).abs()
        return {"mean": round(apart.mean().item(), 5), "largest": round(apart.max().item(), 5)}


def _a_few(examples: list[Example]) -> tuple[list[list[int]], list[int]]:
    """Every so many of the examples: their first answers behind their prompts, and the lengths of those."""
    some = examples[:: max(1, -(-len(examples) // COMPARED))]
    return [e.prompt + e.answers[0] for e in some], [len(e.prompt) for e in some]


def checkpointed(job: Job, model: Any) -> bool:
    """`gradient_checkpointing`, decided where it is open: on a GPU that could not hold the activations of the largest
    micro-batch beside gradients and optimizer, or that has parts of the model. Never on a CPU, nor for an architecture that
    has no such thing."""
    asked = job.config.gradient_checkpointing
    if not getattr(model, "supports_gradient_checkpointing", True):
        return False
    if asked is not None or not torch.cuda.is_available():
        return bool(asked)
    if job.sharded:  # else autocast's copies of all weights wait for the backward pass
        return True
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_cuda)  # still to be moved there
    free = torch.cuda.mem_get_info()[0] - held - 12 * trained  # a gradient and two moments in float32
    return activation_bytes(job, model.config.get_text_config()) > 0.7 * free


def activation_bytes(job: Job, config: Any) -> int:
    """An estimate of what the largest micro-batch of a job keeps for its backward pass, as if no prefix were shared.

    A token of a layer leaves about four vectors of the model's width and four of the feed-forward's in 16 bits, and four of
    the model's width in float32 (norms, residual). A token of an answer leaves three rows of logits in float32.
    """
    wide = int(getattr(config, "hidden_size", 0) or 0)
    deep = int(getattr(config, "intermediate_size", 0) or 4 * wide)
    layers, words = int(getattr(config, "num_hidden_layers", 0) or 0), int(getattr(config, "vocab_size", 0) or 0)
    size = 2 if job.bf16 else 4
    a_token = layers * (size * (4 * wide + 4 * deep) + 16 * wide)
    most = 0
    together = [[job.examples[i] for i in micro] for micro in {tuple(m) for step in job.steps for m in step}]
    if job.replayed:
        together += [answers for step in range(len(job.steps)) for answers in imitated(job, step)[0]]
    for examples in together:
        answers = sum(len(a) for e in examples for a in e.answers)
        most = max(most, a_token * sum(e.tokens for e in examples) + 12 * words * answers)
    return most
