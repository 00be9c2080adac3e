"""Which examples meet in an optimizer step and in a micro-batch, and what an answer weighs."""

from __future__ import annotations

import polars as pl
import pytest

from codelutra.training.batches import Example, plan, whole_batches
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import encoded, some_pairs


def test_every_example_is_met_once_an_epoch_in_even_batches() -> None:
    examples = [Example(str(i), [i % 3, i], ([1],)) for i in range(17)]
    steps = plan(examples, 2, batch_size=8, micro_batch=3, seed=1)
    first, second = steps[:3], steps[3:]
    assert sorted(i for step in first for micro in step for i in micro) == list(range(17))
    assert sorted(map(str, first)) == sorted(map(str, second))  # the same batches, so the same reference log-probabilities
    assert {sum(map(len, step)) for step in steps} == {5, 6}
    assert max(len(micro) for step in steps for micro in step) <= 3
    assert plan(examples, 2, 8, 3, seed=1) == steps != plan(examples, 2, 8, 3, seed=2)
    assert len(plan(examples, 0.5, 8, 3, seed=1)) == 2


@pytest.mark.parametrize(("micro_batch", "processes"), [(3, 2), (1, 2), (8, 3), (2, 5)])
def test_every_process_gets_as_many_micro_batches_of_a_step(micro_batch: int, processes: int) -> None:
    examples = [Example(str(i), [i % 3, i], ([1],)) for i in range(17)]
    for step in plan(examples, 2, batch_size=8, micro_batch=micro_batch, seed=1, processes=processes):
        assert len(step) % processes == 0
        assert all(step), "a process without work would wait for nothing, and the others for it"
    with pytest.raises(ValueError, match="a batch of 5 for 6 processes"):
        plan(examples, 1, 8, 3, seed=1, processes=6)


def test_examples_that_begin_alike_meet_in_a_micro_batch() -> None:
    examples = [Example(str(i), [i % 2] * 10, ([i],)) for i in range(16)]
    for micro in plan(examples, 1, batch_size=16, micro_batch=8, seed=0)[0]:
        assert len({tuple(examples[i].prompt) for i in micro}) == 1


def test_a_batch_mixes_schemas_of_which_a_micro_batch_has_one() -> None:
    schemas = [[schema] * 30 + [question, 99] for schema in range(8) for question in range(100, 108)]
    examples = [Example(str(i), prompt, ([i],)) for i, prompt in enumerate(schemas)]
    for step in plan(examples, 1, batch_size=16, micro_batch=4, seed=0):
        assert [len({examples[i].prompt[0] for i in micro}) for micro in step] == [1, 1, 1, 1]
        assert len({examples[i].prompt[0] for micro in step for i in micro}) > 1


def test_batches_are_whole_and_each_pass_uses_a_problem_at_most_once() -> None:
    made = whole_batches(10, 4, 2.0, seed=0)
    assert [len(b) for b in made] == [4, 4, 4, 4]
    assert len(set(made[0] + made[1])) == 8
    assert made == whole_batches(10, 4, 2.0, seed=0) != whole_batches(10, 4, 2.0, seed=1)
    assert whole_batches(3, 16, 1.0, seed=0)[0].__len__() == 3


def test_an_answer_that_was_cut_off_gets_no_end_token() -> None:
    pairs, end = some_pairs(4), tiny_tokenizer().eos_token_id
    cut = pl.int_range(pl.len()) == 1
    found = encoded(pairs.with_columns(rejected_ended=~cut))
    assert [e.answers[1].count(end) for e in found] == [1, 0, 1, 1]
    assert [e.answers[1][-1] == end for e in found] == [True, False, True, True]
    assert all(e.answers[0][-1] == end and e.answers[0].count(end) == 1 for e in found)


def test_an_answer_chosen_in_k_pairs_weighs_as_one() -> None:
    examples = encoded(some_pairs(6))
    by_answer: dict[tuple[str, str], float] = {}
    for e in examples:
        key = (e.problem_id, str(e.answers[0]))
        by_answer[key] = by_answer.get(key, 0) + e.weight
    assert len(by_answer) == 5
    assert set(by_answer.values()) == {6 / 5}
    assert sum(e.weight for e in examples) == pytest.approx(len(examples))
