"""Prompts and answers into token ids."""

from __future__ import annotations

import pytest

from codelutra.prompts import answer_ids
from tests.helpers.tiny_model import tiny_tokenizer


@pytest.mark.parametrize("completion", ["SELECT 1", "SELECT 1<|im_end|>", "SELECT 1<|im_end|><|im_end|>", ""])
def test_an_answer_ends_with_the_end_token_exactly_once_unless_it_was_cut_off(completion: str) -> None:
    tokenizer = tiny_tokenizer()
    text = tokenizer(completion.partition("<")[0], add_special_tokens=False)["input_ids"]
    assert answer_ids(tokenizer, completion) == [*text, tokenizer.eos_token_id]
    assert answer_ids(tokenizer, completion, ended=False) == text
