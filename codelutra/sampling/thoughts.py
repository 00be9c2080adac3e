"""A sampled completion with a thought in it, within its budget.

The engine ends a thought that reaches its budget (vLLM's `thinking_token_budget`). What a server or a template makes of
that differs, so it is checked: a thought that is longer is cut there, an answer is cut at `max_tokens` whatever was
thought before it. Both then count as cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codelutra.prompts import answer_ids, answer_text, thought


@dataclass(frozen=True)
class Written:
    text: str
    finish_reason: str
    tokens: int
    thinking_tokens: int
    answer_at: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """The last fields of a `Completion`."""
        return self.tokens, self.thinking_tokens, self.answer_at


def within_budget(tokenizer: Any, text: str, ids: list[int], finish_reason: str, budget: int, max_tokens: int) -> Written:
    """What counts of a sampled text and its `ids`: at most `budget` tokens of thought, marks not counted, and `max_tokens`
    more."""
    marks = thought(tokenizer)
    thinking = thought_tokens(tokenizer, text, ids)
    around = sum(len(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in (marks.opens, marks.closes))
    most = budget if thinking > budget + around else thinking + max_tokens
    if len(ids) > most:
        ids, finish_reason = ids[:most], "length"
        text = answer_text(tokenizer, ids, thinking=True)
    return Written(text, finish_reason, len(ids), min(thinking, len(ids)), marks.answer_at(text))


def thought_tokens(tokenizer: Any, completion: str, ids: list[int]) -> int:
    """How many of the completion's ids are its thought, marks included."""
    marks = thought(tokenizer)
    at, close = marks.answer_at(completion), tokenizer.get_added_vocab().get(marks.closes)
    if at in (0, len(completion)):
        return len(ids) if at else 0
    if close in ids:
        return ids.index(close) + 1
    return min(len(ids), len(answer_ids(tokenizer, completion[:at], ended=False, thinking=True)))
