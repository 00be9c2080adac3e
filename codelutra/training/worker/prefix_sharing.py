"""Log-probabilities of many answers; each shared prefix is computed once.

The two answers of a pair share their prompt, questions about one database share its schema, and answers often begin
alike. In a causal model a token's state depends only on what precedes it, so a micro-batch is a forest of tokens:

    schema ──┬── question 1 ──┬── chosen            a token sees its ancestors and itself, at the position
             │                └── rejected          it has in its own sequence
             └── question 2 ───── ...

This is exact, not an approximation. On text-to-SQL it computes a third of the tokens. The output layer (49,152 tokens
wide in the default model) runs only where an answer's token is predicted.

It holds for layers that do nothing but attend to all earlier tokens. `log_probs.py` proves that for a model before use.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "codelutra_forest"
# What one more attention block costs, in scores that could be computed meanwhile. A GPU waits for the launch of its kernels.
BLOCK_COST = {"cpu": 8_192, "cuda": 2_097_152}
# The kernel that torch takes by itself on an H100 gave NaN gradients under such masks, with finite values.
KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
FUSED = {"cuda"}  # where torch's fused attention kernels take the blocks


@dataclass
class _Node:
    """A run of tokens without a branch. Depth first, so a node and all below it are the slots start … stop."""

    start: int
    end: int
    ancestors: list[range]
    stop: int = 0
    children: list[_Node] = field(default_factory=list)

    @property
    def seen(self) -> int:
        return sum(len(r) for r in self.ancestors)


@dataclass(frozen=True)
class Block:
    """Queries of slots start … stop against the keys in slots `keys`, of which the block's own come last. `mask` (own, own)
    is added to the scores of its own. Every query sees all keys before those."""

    start: int
    stop: int
    keys: Any
    mask: Any

    def whole_mask(self, dtype: Any) -> Any:
        """(own, keys): `mask`, and 0 for the keys before."""
        before = self.mask.new_zeros(self.stop - self.start, len(self.keys) - self.mask.shape[1])
        return torch.cat([before, self.mask], 1).clamp(min=-3e4).to(dtype)  # finite, in two bytes too


@dataclass(frozen=True)
class Forest:
    """`tokens[slot]`, `positions[slot]`; `paths[i]` are the slots of sequence i in order."""

    tokens: list[int]
    positions: list[int]
    paths: list[list[int]]
    roots: list[_Node]


def grow(sequences: Sequence[Sequence[int]]) -> Forest:
    """Merge sequences into a forest of their shared prefixes. Equal sequences share everything."""
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    forest = Forest([], [], [[] for _ in sequences], [])

    def plant(members: list[int], depth: int, ancestors: list[range]) -> _Node:
        first, last = sequences[members[0]], sequences[members[-1]]  # sorted: what these two share, all share
        shared = depth
        while shared < min(len(first), len(last)) and first[shared] == last[shared]:
            shared += 1
        node = _Node(len(forest.tokens), len(forest.tokens) + shared - depth, ancestors)
        forest.tokens.extend(first[depth:shared])
        forest.positions.extend(range(depth, shared))
        below = [*ancestors, range(node.start, node.end)]
        for i in members:
            if len(sequences[i]) == shared:
                forest.paths[i].extend(slot for r in below for slot in r)
        for group in _by_token([i for i in members if len(sequences[i]) > shared], sequences, shared):
            node.children.append(plant(group, shared, below))
        node.stop = len(forest.tokens)
        return node

    for group in _by_token(order, sequences, 0):
        forest.roots.append(plant(group, 0, []))
    return forest


def _by_token(members: list[int], sequences: Sequence[Sequence[int]], at: int) -> list[list[int]]:
    return [list(group) for _, group in groupby(members, key=lambda i: sequences[i][at])]


class Blocks(list[Block]):
    """The blocks of a forest, and what a model has asked of its attention beside queries, keys, values and scale."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        self.asked: dict[str, Any] = {}
        self._masks: list[Any] = []

    def masks(self, dtype: Any) -> list[Any]:
        """`whole_mask` of every block, made once for all layers."""
        if not self._masks or self._masks[0].dtype != dtype:
            self._masks = [block.whole_mask(dtype) for block in self]
        return self._masks


def attention_blocks(forest: Forest, device: Any, block_cost: int) -> Blocks:
    """Cut the forest's attention into dense blocks: a subtree is one block where its masked scores cost less than
    `block_cost` for every block saved."""
    chosen: list[tuple[_Node, int]] = []

    def cut(node: _Node) -> tuple[int, list[tuple[_Node, int]]]:
        size, run = node.stop - node.start, node.end - node.start
        whole = block_cost + size * (node.seen + size)
        parts = [cut(child) for child in node.children]
        split = block_cost + run * (node.seen + run) + sum(cost for cost, _ in parts)
        if whole <= split:
            return whole, [(node, node.stop)]
        return split, [(node, node.end), *(block for _, blocks in parts for block in blocks)]

    for root in forest.roots:
        chosen += cut(root)[1]
    return Blocks([_block(node, stop, device) for node, stop in chosen])


def _block(node: _Node, stop: int, device: Any) -> Block:
    hidden = torch.ones(stop - node.start, stop - node.start, dtype=torch.bool)

    def show(at: _Node, above: list[slice]) -> None:
        rows = slice(at.start - node.start, at.end - node.start)
        for columns in above:
            hidden[rows, columns] = False
        hidden[rows, rows].triu_(1)
        if stop == node.stop:
            for child in at.children:
                show(child, [*above, rows])

    show(node, [])
    keys = [slot for r in node.ancestors for slot in r] + list(range(node.start, stop))
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
    return Block(node.start, stop, torch.tensor(keys, device=device), mask.to(device))


class ForestAttention(torch.autograd.Function):
    """Softmax attention block by block.

    Scores and softmax are float32; the products of probabilities, values and gradients are in `low`, the autocast dtype,
    as in flash attention. Probabilities are kept for the backward pass: little beside what the layers keep anyway.
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, blocks: list[Block], scale: float, low: Any) -> Any:
        # query (key heads, group, slots, size); key (key heads, slots, size); value (key heads, slots, its own size)
        query, value, out = query * scale, value.to(low), query.new_empty(*query.shape[:-1], value.shape[-1])
        kept = []
        for block in blocks:
            rows = query[:, :, block.start : block.stop]
            scores = rows.flatten(1, 2) @ key[:, block.keys].transpose(1, 2)
            scores.view(*rows.shape[:3], -1)[..., -block.mask.shape[1] :].add_(block.mask)
            weights = torch.softmax(scores, -1).to(low)
            out[:, :, block.start : block.stop] = (weights @ value[:, block.keys]).view(*rows.shape[:3], -1)
            kept.append(weights)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.blocks, ctx.scale, ctx.low = blocks, scale, low
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        query, key, value, out, *kept = ctx.saved_tensors
        inner = (grad * out).sum(-1, keepdim=True)
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), key.new_zeros(value.shape)
        query, key, grad = query.to(ctx.low), key.to(ctx.low), grad.to(ctx.low)
        for block, weights in zip(ctx.blocks, kept, strict=True):
            rows = slice(block.start, block.stop)
            above, own = grad[:, :, rows].flatten(1, 2), inner[:, :, rows].flatten(1, 2)
            grad_value.index_add_(1, block.keys, (weights.transpose(1, 2) @ above).to(grad_value.dtype))
            scores = (above @ value[:, block.keys].transpose(1, 2)).to(own.dtype).sub_(own).mul_(weights).to(ctx.low)
            grad_query[:, :, rows] = (scores @ key[:, block.keys]).view(grad_query[:, :, rows].shape)
            products = scores.transpose(1, 2) @ query[:, :, rows].flatten(1, 2)
            grad_key.index_add_(1, block.keys, products.to(grad_key.dtype))
        return grad_query.mul_(ctx.scale), grad_key, grad_value, None, None, None


def _attend(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, blocks: Blocks | None = None, **more: Any
) -> tuple[Any, None]:
    """The attention transformers calls. Without `blocks` it is plain SDPA."""
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, mask, **more)
    blocks.asked |= {name: wish for name, wish in more.items() if wish is not None}
    _, heads, slots, size = query.shape
    scale = size**-0.5 if more.get("scaling") is None else more["scaling"]
    if query.device.type in FUSED:
        return _fused_blocks(query[0], key[0], value[0], blocks, scale).transpose(0, 1)[None], None
    device = query.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        q, k, v = (t[0].float() for t in (query, key, value))
        out = ForestAttention.apply(q.view(k.shape[0], -1, slots, size), k, v, blocks, scale, low)
    return out.reshape(heads, slots, -1).transpose(0, 1)[None].to(query.dtype), None


def _fused_blocks(query: Any, key: Any, value: Any, blocks: Blocks, scale: float) -> Any:
    """(heads, slots, size), block by block in torch's fused kernels: for GPUs, where few launches and no kept probabilities
    count. `ForestAttention` is made for CPUs, where they do not."""
    device, group = query.device.type, query.shape[0] // key.shape[0]
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    key, value = (t.repeat_interleave(group, 0) for t in (key, value))  # fused kernels take no groups beside a mask
    query, key, value = (t.to(low)[None] for t in (query, key, value))
    with sdpa_kernel(KERNELS):
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, block.start : block.stop],
                key[:, :, block.keys],
                value[:, :, block.keys],
                attn_mask=mask[None, None],
                scale=scale,
            )[0]
            for block, mask in zip(blocks, blocks.masks(low), strict=True)
        ]
    return torch.cat(parts, 1)  # blocks come in the order of their slots, and each slot is in one


AttentionInterface.register(ATTENTION, _attend)


def planted(sequences: Sequence[Sequence[int]], device: Any) -> tuple[Forest, dict[str, Any]]:
    """A forest, and what a model with the attention `ATTENTION` is called with to compute it."""
    forest = grow(sequences)
    return forest, {
        "input_ids": torch.tensor([forest.tokens], device=device),
        "position_ids": torch.tensor([forest.positions], device=device),
        "blocks": attention_blocks(forest, device, BLOCK_COST.get(device.type, BLOCK_COST["cuda"])),
        "use_cache": False,
    }


def forest_log_probs(
    model: Any, forward: Any, sequences: list[list[int]], prompt_lengths: list[int]
) -> tuple[Any, Any, Any, Any]:
    """log_probs, entropy, mean_logits and is_top1 of the answers' tokens: flat, sequence by sequence.

    `model` is a causal LM whose attention is `ATTENTION`, `forward` its own forward. The logits are the model's, scaled and
    capped as it does.
    """
    device = model.get_input_embeddings().weight.device
    forest, inputs = planted(sequences, device)
    before = [slot for path, p in zip(forest.paths, prompt_lengths, strict=True) for slot in path[p - 1 : -1]]
    targets = torch.tensor([t for s, p in zip(sequences, prompt_lengths, strict=True) for t in s[p:]], device=device)
    slots, which = torch.tensor(before, device=device).unique(return_inverse=True)  # answers that begin alike share these
    return statistics(logits_at(forward, slots, **inputs), which, targets)


def logits_at(forward: Any, slots: Any, **inputs: Any) -> Any:
    """A model's own logits (slots, vocabulary) in float32 after the tokens of these slots of one row."""
    if "logits_to_keep" in inspect.signature(forward).parameters:
        return forward(**inputs, logits_to_keep=slots).logits[0].float()
    return forward(**inputs).logits[0, slots].float()


def statistics(logits: Any, which: Any, targets: Any) -> tuple[Any, Any, Any, Any]:
    """What TRL's losses and metrics take, of `targets[i]` under `logits[which[i]]`."""
    total = logits.logsumexp(-1)
    with torch.no_grad():  # a few rows at a time: the vocabulary is wide
        inner = torch.cat([(torch.softmax(rows, -1) * rows).sum(-1) for rows in logits.split(256)])
        entropy = (total - inner)[which]
        mean, top = logits.mean(-1)[which], logits.argmax(-1)[which]
    return logits[which, targets] - total[which], entropy, mean, top == targets
