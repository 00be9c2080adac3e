"""Sharing prefixes changes the work, never the numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def random_sequences(seed: int) -> tuple[list[list[int]], list[int]]:
    """Sequences that share beginnings of all lengths, twins and prefixes of each other among them."""
    draw = random.Random(seed)
    sequences = [[draw.randrange(512) for _ in range(draw.randint(3, 40))] for _ in range(3)]
    while len(sequences) < 14:
        start = draw.choice(sequences)
        sequences.append(start[: draw.randint(2, len(start))] + [draw.randrange(512) for _ in range(draw.randint(0, 30))])
    sequences.append(list(sequences[0]))
    return sequences, [draw.randint(1, len(s) - 1) for s in sequences]


@pytest.mark.parametrize("fused", [set(), {"cpu"}], ids=["ours", "torch-kernels"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block_cost", [0, 500, 10**9])
def test_sharing_prefixes_changes_neither_log_probabilities_nor_gradients(
    policy: Path, seed: int, block_cost: int, fused: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codelutra.training.worker import prefix_sharing as prefixes  # imports transformers and TRL
    from codelutra.training.worker.log_probs import load_causal

    monkeypatch.setitem(prefixes.BLOCK_COST, "cpu", block_cost)
    monkeypatch.setattr(prefixes, "FUSED", fused)
    sequences, prompts = random_sequences(seed)
    model = load_causal(str(policy))
    model.set_attn_implementation(prefixes.ATTENTION)
    shared = prefixes.forest_log_probs(model, model.forward, sequences, prompts)[0]
    each = [
        model(torch.tensor([s])).logits[0].log_softmax(-1)[range(p - 1, len(s) - 1), s[p:]]
        for s, p in zip(sequences, prompts, strict=True)
    ]
    plain = torch.cat(each)
    assert (shared - plain).abs().max() < 1e-4
    pull = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
    gradients = [torch.autograd.grad((values * pull).sum(), list(model.parameters())) for values in (shared, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-3 * max(1.0, theirs.abs().max().item())


def test_a_forest_holds_every_shared_token_once() -> None:
    from codelutra.training.worker import prefix_sharing as prefixes

    forest = prefixes.grow([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [7], [1, 2]])
    assert sorted(forest.tokens) == [1, 2, 3, 4, 5, 7]
    for sequence, path in zip([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [7], [1, 2]], forest.paths, strict=True):
        assert [forest.tokens[slot] for slot in path] == sequence
        assert [forest.positions[slot] for slot in path] == list(range(len(sequence)))


def test_models_are_trained_without_the_kernel_that_gave_nan(policy: Path) -> None:
    from codelutra.training.worker.log_probs import load_causal

    torch.backends.cuda.enable_cudnn_sdp(True)
    load_causal(str(policy))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
