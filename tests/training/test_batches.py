"""Which examples meet in an optimizer step and in a micro-batch, and what an answer weighs."""

from __future__ import annotations

import polars as pl
import pytest

from codelutra.training.batches import Example, Graded, plan
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


@pytest.mark.parametrize(("examples", "processes"), [(17, 6), (49, 2), (6, 6), (11, 6), (3, 2)])
def test_no_number_of_examples_leaves_a_process_without_one(examples: int, processes: int) -> None:
    made = plan([Example(str(i), [i], ([1],)) for i in range(examples)], 1, processes, 3, seed=1, processes=processes)
    sizes = [sum(map(len, step)) for step in made]
    assert sum(sizes) == examples
    assert min(sizes) >= processes
    assert max(sizes) < 2 * processes
    assert all(all(step) and len(step) % processes == 0 for step in made)


def test_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 5 for 6 processes"):
        plan([Example(str(i), [i], ([1],)) for i in range(5)], 1, 8, 3, seed=1, processes=6)


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


def group(name: int, answers: int) -> list[Graded]:
    """One right answer among so many."""
    return [Graded(str(name), [name, 7, 7], ([i],), advantage=1.0 if i == 0 else -1 / (answers - 1)) for i in range(answers)]


def test_the_answers_to_a_problem_are_learnt_from_in_the_same_step() -> None:
    examples = [e for name, answers in enumerate((5, 3, 8, 2, 2, 4, 6, 2)) for e in group(name, answers)]
    steps = plan(examples, 1, batch_size=8, micro_batch=4, seed=0, grouped=True)
    assert sorted(i for step in steps for micro in step for i in micro) == list(range(32))
    members = [[examples[i] for micro in step for i in micro] for step in steps]
    assert [sum(e.advantage for e in batch) for batch in members] == pytest.approx([0] * 4)
    assert {len(batch) for batch in members} <= {7, 8, 9}, "about as even as whole groups allow"
    assert max(len(micro) for step in steps for micro in step) <= 4
    again = plan(examples[::-1], 1, 8, 4, seed=0, grouped=True)
    said = [sorted((examples[::-1][i].problem_id, examples[::-1][i].answers) for m in step for i in m) for step in again]
    assert said == [sorted((e.problem_id, e.answers) for e in batch) for batch in members], "whatever order they came in"
    assert plan(examples, 1, 8, 4, seed=1, grouped=True) != steps


def test_a_group_larger_than_a_batch_has_right_and_wrong_answers_in_each_part() -> None:
    right = [Graded("p", [1], ([i],), advantage=0.5) for i in range(6)]
    wrong = [Graded("p", [1], ([9, i],), advantage=-0.3) for i in range(10)]
    steps = plan([*right, *wrong], 1, batch_size=6, micro_batch=6, seed=0, grouped=True)
    parts = [[i < 6 for micro in step for i in micro] for step in steps]
    assert sorted(map(len, parts)) == [5, 5, 6]
    assert {sum(part) for part in parts} == {2}


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
