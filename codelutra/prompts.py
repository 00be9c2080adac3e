"""A problem into chat messages and token ids, and an answer into those that follow them.

Sampling and training both use `prompt_ids` and `answer_ids`, so a policy is trained on the tokens it was sampled with.
"""

from __future__ import annotations

import random
from itertools import takewhile
from typing import Any

import polars as pl

from codelutra.completions import extract_code as extract_code


def prompt_ids(tokenizer: Any, system: str, prompt: str) -> list[int]:
    """Token ids of the conversation up to the start of the assistant's answer.

    A tokenizer without a chat template gets the plain text "system, blank line, prompt, newline".
    """
    text = as_messages(tokenizer, system, prompt)
    if not isinstance(text, str):
        text = tokenizer.apply_chat_template(text, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def as_messages(tokenizer: Any, system: str, prompt: str) -> list[dict[str, str]] | str:
    """The conversation as TRL takes a prompt: chat messages, or the plain text where there is no template."""
    if not tokenizer.chat_template:
        return as_text(system, prompt)
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


def as_text(system: str, prompt: str) -> str:
    """The conversation as plain text, for a tokenizer without a chat template."""
    return f"{system}\n\n{prompt}\n" if system else f"{prompt}\n"


def answer_ids(tokenizer: Any, completion: str, *, ended: bool = True) -> list[int]:
    """Token ids of an answer with exactly one end token; with none where the answer was cut off (`ended` False)."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return [*ids, tokenizer.eos_token_id] if ended else ids


def with_examples(problems: pl.DataFrame, shots: int, seed: int, references: pl.DataFrame | None = None) -> pl.DataFrame:
    """PROBLEMS whose prompts show `shots` worked train problems of the same group, never the problem itself.

    references: PROBLEMS that say which references may be shown; None allows all. The examples stand between the lines that
    all prompts of the group begin with (a schema) and the problem's own lines.
    """
    if not shots:
        return problems
    train = (problems if references is None else references).filter(pl.col("split") == "train", pl.col("reference") != "")
    known = {g: rows.select("problem_id", "prompt", "reference").rows() for (g,), rows in train.group_by("group")}
    shared = {g: _shared_lines(rows["prompt"].to_list()) for (g,), rows in problems.group_by("group")}
    prompts = []
    for problem_id, group, prompt in problems.select("problem_id", "group", "prompt").rows():
        others = sorted(row for row in known.get(group, []) if row[0] != problem_id)
        drawn = random.Random(f"{seed} {problem_id}").sample(others, min(shots, len(others)))
        head = prompt.split("\n")[: shared[group]]
        own = ["\n".join(text.split("\n")[len(head) :]).strip() for text in (*(p for _, p, _ in drawn), prompt)]
        examples = [f"{asked}\n{reference.strip()}" for asked, (_, _, reference) in zip(own, drawn, strict=False)]
        prompts.append("\n\n".join(["\n".join(head).strip(), *examples, own[-1]]).strip())
    return problems.with_columns(prompt=pl.Series(prompts, dtype=pl.String))


def _shared_lines(texts: list[str]) -> int:
    """How many lines all of `texts` have in common at their start."""
    columns = zip(*(t.split("\n") for t in texts), strict=False)
    return sum(1 for _ in takewhile(lambda lines: len(set(lines)) == 1, columns))
