"""A server that speaks chat completions, and misbehaves as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.helpers.http import Asked, Raw, answering


def said(content: Any, finish: Any = "stop", prompt: Any = 11, completion: Any = 7, **more: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}, **more}


@contextmanager
def chatting(reply: Callable[[Asked, int], Any]) -> Iterator[tuple[str, list[Asked]]]:
    """The server's address, and what it was asked. `reply` gives the content of the n-th answer, from 1, or a `Raw` one."""
    asked: list[Asked] = []
    one = threading.Lock()

    def answer(new: Asked) -> Raw:
        with one:
            asked.append(new)
            number = len(asked)
        found = reply(new, number)
        return found if isinstance(found, Raw) else Raw(200, said(found))

    with answering(answer) as url:
        yield url, asked
