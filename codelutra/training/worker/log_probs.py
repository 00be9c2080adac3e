"""How training computes log-probabilities: always those of the function that is sampled, whatever the architecture.

The definition is a plain forward of transformers' own model, one sequence at a time, under the attention its class was
written with. What is faster is taken where a comparison on branching sequences gives the same numbers:

    shared prefixes   each once (prefix_sharing.py)
    padded            TRL's fused output layer on padded sequences, as TRL trains
    one by one        the definition itself: slow, right for all

TRL's losses call `model(..., labels=..., fused_lm_head=True)`. A way replaces what that call does, so losses and metrics
stay TRL's. Where both of the first two are equal and the device is a GPU, `fastest.py` times them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from trl.trainer.utils import FusedCausalLMOutput

from codelutra.errors import StageError, memory_ran_out
from codelutra.training.batches import Example
from codelutra.training.worker.prefix_sharing import ATTENTION, forest_log_probs, logits_at, planted, statistics

SAME = 5e-4  # nats a token, in float32. Rounding gives 1e-6 to 1e-4; a function that is another, hundredths to whole nats
# What a model may ask of its attention without another result. All else (softcaps, sinks, biases) our attention lacks;
# transformers' SDPA takes it and, but for SDPA_HAS, leaves it out without a word.
HARMLESS = {
    "cache_position",
    "dropout",  # 0: see `_without_chance`
    "is_causal",
    "output_attentions",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "scaling",
    "sliding_window",  # SDPA: in the mask. Ours: see `_window`
    "use_cache",
}
SDPA_HAS = {"position_bias"}
Statistics = tuple[Any, Any, Any, Any]


@dataclass(frozen=True)
class Way:
    """How log-probabilities are computed, and why not by shared prefixes."""

    name: str
    attention: str
    not_shared: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each way took on the same micro-batches, where they were timed."""
    take: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """Sets the model up for it."""

    def __str__(self) -> str:
        return f"{self.name}, {self.attention}"


def load_causal(policy: str, dtype: torch.dtype = torch.float32, **how: Any) -> Any:
    """The causal LM in directory `policy`, deterministic in training mode too, with its whole attention."""
    # With cuDNN among torch's kernels, padded batches gave NaN gradients on an H200, with finite values; without it not.
    torch.backends.cuda.enable_cudnn_sdp(False)
    how |= {"dtype": dtype, "trust_remote_code": False}  # where it is open, transformers asks on the terminal
    model = AutoModelForCausalLM.from_pretrained(policy, **how)
    asked = _asked(model)
    if not asked and model.config._attn_implementation != "eager":  # fixed when it is loaded
        model = AutoModelForCausalLM.from_pretrained(policy, attn_implementation="eager", **how)
    elif set(asked) - HARMLESS - SDPA_HAS:
        _set_attention(model, "eager")
    _without_chance(model)
    return model


def _without_chance(model: Any) -> None:
    """Turn off what training mode adds at random. TRL does so for dropout modules; here are the plain numbers: dropout given
    to an attention function, layers that are dropped, a router's noise."""
    for place in (
        model.config,
        model.config.get_text_config(),
        *(m for m in model.modules() if not isinstance(m, torch.nn.Dropout)),
    ):
        for name, value in list(vars(place).items()):
            if isinstance(value, float) and re.search("drop|jitter", name):
                setattr(place, name, 0.0)


def _asked(model: Any) -> dict[str, Any]:
    """What the model asks of its attention; nothing where it has none that can be exchanged."""
    own = model.config._attn_implementation
    ids = list(range(min(8, model.get_input_embeddings().weight.shape[0])))
    inputs = planted([ids], model.device)[1]
    try:
        model.set_attn_implementation(ATTENTION)
        with torch.no_grad():
            model.forward(**inputs)
    except Exception as e:  # noqa: BLE001 - whatever this architecture raises, it only says that ours does not fit
        _raise_out_of_memory(e)
    finally:
        _set_attention(model, own)
    return dict(inputs["blocks"].asked)


def exact_ways(model: Any, examples: list[Example], *, router_loss: bool, several: bool = False) -> list[Way]:
    """The ways of computing `model(..., labels=…, fused_lm_head=True)` that prove equal to the definition: the first of the
    table above, or with `several` shared prefixes and padding where both are. Call `take` of one of them.

    TRL's `add_fused_lm_head` must have been called. `router_loss`: the trainer adds a router's own loss, which only TRL's
    way returns. Raises StageError where even the definition gives other numbers in training mode.
    """
    trl, own, training = model.forward, model.config._attn_implementation, model.training
    sequences, prompts = branching(max(examples, key=lambda e: e.tokens))
    longest = max(len(e.prompt) + max(map(len, e.answers)) for e in examples)

    def set_up(attention: str, compute: Callable[..., Statistics] | None) -> None:
        model.forward = trl
        _set_attention(model, attention)
        if compute:
            model.forward = _fused(model, compute)

    model.eval()
    _set_attention(model, "eager")
    with torch.no_grad():
        expected = one_by_one(model, trl, sequences, prompts)[0]
    model.train()
    ways: list[tuple[str, str, Callable[..., Statistics] | None]] = [
        ("shared prefixes", ATTENTION, forest_log_probs),
        ("padded", own, None),
        ("padded", "eager", None),
        ("one by one", "eager", one_by_one),
    ]
    found, unshared = list[Way](), ""
    for name, attention, compute in dict.fromkeys(ways):
        if found and (not several or compute is one_by_one or found[-1].name == name):
            break
        take = partial(set_up, attention, compute)
        if router_loss and compute is forest_log_probs:
            wrong = "its router has a loss of its own"
        else:
            wrong = _differs(model, take, compute, sequences, prompts, expected, longest)
        if not wrong:
            found.append(Way(name, model.config._attn_implementation, unshared, take=take))
        unshared = unshared or wrong
    model.train(training)
    if not found:
        raise StageError(
            f"{type(model).__name__} has other log-probabilities while it is trained than while it is sampled ({wrong}), so "
            "it would be trained wrongly; take a model of another architecture"
        )
    return found


def _differs(
    model: Any,
    take: Callable[[], None],
    compute: Callable[..., Statistics] | None,
    sequences: list[list[int]],
    prompts: list[int],
    expected: Any,
    longest: int,
) -> str:
    """Set a way up; "" if it gives the expected log-probabilities, else what is wrong."""
    try:
        take()
        if compute is forest_log_probs and (beyond := _beyond(_asked(model), model.config.get_text_config(), longest)):
            return beyond
        with torch.no_grad():
            found = _padded_call(model, sequences, prompts)
    except Exception as e:  # noqa: BLE001 - whatever an architecture raises here, another way is taken
        _raise_out_of_memory(e)
        return f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    gap = (found - expected).abs().max().item()
    return "" if gap < SAME else f"log-probabilities off by {gap:.2g} nats"  # also for NaN


def _beyond(asked: dict[str, Any], config: Any, longest: int) -> str:
    """What `asked` and the config say of an attention that is not to all earlier tokens of `longest`; "" for nothing."""
    if not asked:
        return "its attention cannot be exchanged"
    if unknown := sorted(set(asked) - HARMLESS):
        return f"its attention has {', '.join(unknown)}"
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    window = _window(asked, config)
    return f"its window of {window} tokens is shorter than an example of {longest}" if window < longest else ""


def _window(asked: dict[str, Any], config: Any) -> float:
    windows = [asked.get("sliding_window"), getattr(config, "sliding_window", None)]
    return min((w for w in windows if isinstance(w, int)), default=float("inf"))


def branching(example: Example) -> tuple[list[list[int]], list[int]]:
    """Sequences of different lengths that branch behind the prompt and within it, and the lengths of their prompts."""
    prompt, chosen = example.prompt, example.answers[0]
    other = next((t for t in reversed(prompt) if t != chosen[0]), chosen[0])
    half = max(1, len(prompt) // 2)
    longer = [other, *chosen]
    sequences = [*(prompt + answer for answer in example.answers), prompt + longer, prompt[:half] + longer]
    return sequences, [len(prompt)] * (len(sequences) - 1) + [half]


def one_by_one(model: Any, forward: Any, sequences: list[list[int]], prompt_lengths: list[int]) -> Statistics:
    """As `forest_log_probs`, from a plain forward of each sequence."""
    device, parts = model.get_input_embeddings().weight.device, []
    for sequence, prompt in zip(sequences, prompt_lengths, strict=True):
        slots = torch.arange(prompt - 1, len(sequence) - 1, device=device)
        logits = logits_at(forward, slots, input_ids=torch.tensor([sequence], device=device), use_cache=False)
        parts.append(statistics(logits, slots - slots[0], torch.tensor(sequence[prompt:], device=device)))
    log_probs, entropy, mean, top = (torch.cat(values) for values in zip(*parts, strict=True))
    return log_probs, entropy, mean, top


def _fused(model: Any, compute: Callable[..., Statistics]) -> Any:
    """A forward of the model that answers `fused_lm_head=True` by `compute`, and all else as it did.

    `compute` gets the forward as it was: accelerate wraps ours in an autocast that does not end if it is nested in itself.
    """
    plain = model.forward

    @wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return plain(*args, **inputs)
        lengths, answered = inputs["attention_mask"].sum(1).tolist(), inputs["labels"] != -100
        sequences = [row[:n] for row, n in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        prompts = [n - a for n, a in zip(lengths, answered.sum(1).tolist(), strict=True)]
        mask = answered[:, 1:]
        fields = (f.new_zeros(mask.shape).masked_scatter(mask, f) for f in compute(self, plain, sequences, prompts))
        log_probs, entropy, mean, top = fields
        return FusedCausalLMOutput(log_probs=log_probs, entropy=entropy, mean_logits=mean, is_top1=top, label_mask=mask)

    return MethodType(forward, model)


def _padded_call(model: Any, sequences: list[list[int]], prompts: list[int]) -> Any:
    """The answers' log-probabilities by the call TRL makes, flat."""
    rows = [torch.tensor(s, device=model.device) for s in sequences]
    lengths = torch.tensor([len(s) for s in sequences], device=model.device)[:, None]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    at = torch.arange(ids.shape[1], device=model.device)[None]
    answered = (at >= torch.tensor(prompts, device=model.device)[:, None]) & (at < lengths)
    out = model.forward(
        input_ids=ids, attention_mask=(at < lengths).long(), labels=ids.masked_fill(~answered, -100), fused_lm_head=True
    )
    return out.log_probs[answered[:, 1:]]


def _set_attention(model: Any, name: str) -> None:
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _raise_out_of_memory(error: Exception) -> None:
    if memory_ran_out(error):
        raise error
