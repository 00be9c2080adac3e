"""A problem into chat messages and token ids, a completion into code.

Sampling and training both go through `prompt_ids` and `answer_ids`, so what is trained on is what was sampled from.
"""

from __future__ import annotations

import re
from typing import Any

_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LANGUAGES = {"sql": {"", "sql", "sqlite"}, "python": {"", "python", "py", "python3"}}


def prompt_ids(tokenizer: Any, system: str, prompt: str) -> list[int]:
    """Token ids of the conversation up to where the assistant's answer begins.

    A tokenizer without a chat template gets the plain text "system, blank line, prompt, newline".
    """
    if tokenizer.chat_template:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        text = f"{system}\n\n{prompt}\n" if system else f"{prompt}\n"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def answer_ids(tokenizer: Any, completion: str) -> list[int]:
    """Token ids of an answer, closed by the end token exactly once."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return [*ids, tokenizer.eos_token_id]


def extract_code(completion: str, language: str) -> str:
    """The program in a completion: its last fenced block in `language`, else the whole text; "" where there is nothing.

    For SQL without a fence, the text is cut after the first statement when prose follows a semicolon.
    """
    blocks = [body for tag, body in _FENCE.findall(completion) if tag.lower() in _LANGUAGES[language]]
    code = blocks[-1] if blocks else completion
    return code.strip()
