"""Pairs, groups and references → token ids, and the plan of optimizer steps and micro-batches. Needs no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import polars as pl

from codelutra.prompts import answer_ids, prompt_ids

Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of its answers: chosen and rejected, or (SFT) one answer.

    `weight` scales the SFT term on the first answer. Over all examples and replayed references its mean is 1 if no answer
    is repeated.
    """

    problem_id: str
    prompt: list[int]
    answers: tuple[list[int], ...]
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, as if no prefix were shared."""
        return sum(len(self.prompt) + len(a) for a in self.answers)


@dataclass(frozen=True)
class Graded(Example):
    """One answer of a group. `weight` is the number of samples that said it."""

    reward: float = 0.0
    advantage: float = 0.0


def pair_examples(
    pairs: pl.DataFrame, tokenizer: Any, system: str, max_length: int, extra_answers: int = 0, *, thinking: bool = False
) -> list[Example]:
    """PAIRS as examples; those longer than `max_length` (prompt + answer) are left out.

    An answer that is chosen in k pairs of its problem weighs 1/k in each (`sequence`): it is one answer to imitate, not k.
    `extra_answers` is the number of replayed references, which join the SFT term. `thinking`: as in `prompts.py`.
    """
    columns = pairs.select("problem_id", "prompt", "chosen", "chosen_source", "rejected", "rejected_ended")
    rows = [
        (i, prompt, [(chosen, True, source != "reference"), (rejected, ended, True)])
        for i, prompt, chosen, source, rejected, ended in columns.rows()
    ]
    kept = _encode(rows, tokenizer, system, max_length, thinking)
    times: dict[tuple[str, tuple[int, ...]], int] = {}
    for e in kept:
        times[_chosen(e)] = times.get(_chosen(e), 0) + 1
    scale = len(kept) / max(1, len(times) + extra_answers)
    return [Example(e.problem_id, e.prompt, e.answers, scale / times[_chosen(e)]) for e in kept]


def answer_examples(
    examples: pl.DataFrame, tokenizer: Any, system: str, max_length: int, *, thinking: bool = False, written: bool = True
) -> list[Example]:
    """(problem_id, prompt, completion) rows as examples; those longer than `max_length` are left out. `written`: by the
    policy, and not references."""
    rows = examples.select("problem_id", "prompt", "completion").rows()
    answered = [(i, prompt, [(answer, True, written)]) for i, prompt, answer in rows]
    return _encode(answered, tokenizer, system, max_length, thinking)


def group_examples(groups: pl.DataFrame, tokenizer: Any, system: str, max_length: int) -> list[Graded]:
    """GROUPS as examples; those longer than `max_length` are left out."""
    prompts = {p: prompt_ids(tokenizer, system, p) for p in groups["prompt"].unique()}
    said = "problem_id", "prompt", "completion", "ended", "count", "reward", "advantage"
    made = [
        Graded(problem_id, prompts[prompt], (answer_ids(tokenizer, answer, ended=ended),), float(count), reward, advantage)
        for problem_id, prompt, answer, ended, count, reward, advantage in groups.select(said).rows()
    ]
    return [e for e in made if len(e.prompt) + len(e.answers[0]) <= max_length]


def _encode(
    rows: Sequence[tuple[str, str, list[tuple[str, bool, bool]]]],
    tokenizer: Any,
    system: str,
    max_length: int,
    thinking: bool,
) -> list[Example]:
    """`rows` are (problem_id, prompt, [(answer, whether it ended by itself, whether the policy wrote it)])."""
    prompts = {p: prompt_ids(tokenizer, system, p, thinking=thinking) for p in {prompt for _, prompt, _ in rows}}

    def ids(answer: str, ended: bool, written: bool) -> list[int]:
        return answer_ids(tokenizer, answer, ended=ended, thinking=thinking, written=written)

    made = [
        Example(problem_id, prompts[prompt], tuple(ids(*answer) for answer in answers))
        for problem_id, prompt, answers in rows
    ]
    return [e for e in made if len(e.prompt) + max(map(len, e.answers)) <= max_length]


def _chosen(e: Example) -> tuple[str, tuple[int, ...]]:
    return e.problem_id, tuple(e.answers[0])


def batches_in_a_pass(examples: int, batch_size: int, processes: int = 1) -> int:
    """As many batches of `batch_size` as the examples make, if each then has an example for each process; else fewer."""
    with_one_each = examples // processes or 1  # fewer examples than processes: `plan` refuses them
    return min(math.ceil(examples / batch_size), with_one_each)


def plan(
    examples: Sequence[Example],
    epochs: float,
    batch_size: int,
    micro_batch: int,
    seed: int,
    processes: int = 1,
    at_least: int = 0,
    *,
    grouped: bool = False,
) -> list[list[list[int]]]:
    """Optimizer steps, each a list of micro-batches, each a list of indices.

    Batches have even sizes (17 examples in batches of 16 make 9 and 8, not 16 and 1). They are made once, and only their
    order is shuffled anew every epoch: the reference log-probabilities of one pass then serve all. Examples that begin
    alike (a problem's pairs, questions over one database) are shuffled a quarter of a batch at a time and go into the same
    micro-batch: there prefixes are shared, or little is padded. The number of micro-batches is a multiple of `processes`,
    so that each process gets as many; for their sake a batch may have a few examples more than `batch_size`. Raises
    ValueError if a batch has fewer examples than there are processes.

    With `at_least` a pass has no fewer steps than that: batches are smaller, and where there are more steps than batches
    some steps are empty. `grouped`: the answers to one problem stay in one batch, so that right and wrong ones are weighed
    against each other in the same step. Batches then have about `batch_size` examples.
    """
    draw = random.Random(seed)
    if grouped:
        drawn = _whole_groups(examples, batch_size, draw)
    else:
        order = _shuffled(examples, max(1, batch_size // 4), draw)
        parts = max(batches_in_a_pass(len(order), batch_size, processes), min(at_least, len(order) // processes))
        drawn = evenly(order, parts) if parts else []
    batches: list[list[list[int]]] = []
    for batch in drawn:
        batch.sort(key=lambda i: (examples[i].prompt, examples[i].answers))
        if len(batch) < processes:
            raise ValueError(f"a batch of {len(batch)} for {processes} processes")
        rounds = min(math.ceil(len(batch) / micro_batch / processes), len(batch) // processes)
        batches.append(evenly(batch, rounds * processes))
    batches += [[] for _ in range(at_least - len(batches))]
    steps: list[list[list[int]]] = []
    wanted = max(1, round(epochs * len(batches)))
    while len(steps) < wanted:
        steps += draw.sample(batches, len(batches))
    if first := next((i for i, step in enumerate(steps) if step), 0):
        steps[0], steps[first] = steps[first], steps[0]  # the reference model is checked there
    return steps[:wanted]


def spread(answers: Sequence[Example], steps: int, a_pass: int, seed: int) -> list[list[int]]:
    """Which answers (indices) each of `steps` imitates beside its pairs: all of them once in `a_pass` steps, evenly.

    Like pairs they are shuffled a quarter of a step at a time, and a step keeps its members from pass to pass.
    """
    draw = random.Random(seed + 1)  # not the order of the pairs
    order = _shuffled(answers, max(1, len(answers) // a_pass // 4), draw)
    batches, made = evenly(order, a_pass), list[list[int]]()
    while len(made) < steps:
        made += draw.sample(batches, len(batches))
    return made[:steps]


def _whole_groups(examples: Sequence[Example], batch_size: int, draw: random.Random) -> list[list[int]]:
    """Batches of whole groups, the largest dealt out first, each to the batch that has least.

    A group larger than a batch is cut into parts of even sizes, its answers dealt out in the order of their advantages.
    """
    groups: dict[str, list[int]] = {}
    for i in sorted(range(len(examples)), key=lambda i: (getattr(examples[i], "advantage", 0.0), examples[i].answers)):
        groups.setdefault(examples[i].problem_id, []).append(i)
    parts = []
    for name in sorted(groups):
        cuts = math.ceil(len(groups[name]) / batch_size)
        parts += [groups[name][at::cuts] for at in range(cuts)]
    draw.shuffle(parts)
    batches: list[list[int]] = [[] for _ in range(math.ceil(len(examples) / batch_size))]
    for part in sorted(parts, key=len, reverse=True):
        min(batches, key=len).extend(part)
    return [batch for batch in batches if batch]


def _shuffled(examples: Sequence[Example], together: int, draw: random.Random) -> list[int]:
    """Indices in random order; up to `together` examples whose prompts share half their tokens stay together."""
    families: list[list[list[int]]] = []  # groups of prompts that begin alike; of each prompt its examples
    before: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: (examples[i].prompt, examples[i].answers)):
        prompt = examples[i].prompt
        if families and prompt == before:
            families[-1][-1].append(i)
        elif families and 2 * alike(before, prompt) >= len(prompt):
            families[-1].append([i])
        else:
            families.append([[i]])
        before = prompt
    clumps = []
    for prompts in families:
        draw.shuffle(prompts)
        members = [i for same in prompts for i in same]
        clumps += [members[a : a + together] for a in range(0, len(members), together)]
    draw.shuffle(clumps)
    return [i for clump in clumps for i in clump]


def alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The number of items (tokens, characters) that both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def evenly(items: list[Item], parts: int) -> list[list[Item]]:
    """The items in so many parts, whose sizes differ by one at most."""
    cuts = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(cuts)]
