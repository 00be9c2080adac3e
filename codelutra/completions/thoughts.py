"""What a thinking model writes before its answer: the marks around it, and where the answer begins.

    <think> let me see … </think> SELECT …          some templates have written the first mark into the prompt already

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_OPENED = re.compile(r"<(think|thinking|thought|reasoning|seed:think)>|\[(THINK)\]")


@dataclass(frozen=True)
class Thought:
    """How a model marks what it thinks."""

    opens: str
    closes: str
    prompted: bool = False
    """The prompt ends inside of it, so a completion begins with the thought itself."""

    def answer_at(self, completion: str) -> int:
        """Where the answer begins, in characters: behind the thought; 0 where there is none, the end where it never ends."""
        if not self.prompted and not completion.lstrip().startswith(self.opens):
            return 0
        end = completion.find(self.closes)
        return len(completion) if end < 0 else end + len(self.closes)


def left_open(tail: str) -> Thought | None:
    """The thought that the end of a prompt opens and does not close."""
    if not (opened := list(_OPENED.finditer(tail))):
        return None
    last = _thought(opened[-1], prompted=True)
    return None if last.closes in tail[opened[-1].end() :] else last


def first_marked(texts: Iterable[str]) -> Thought | None:
    """The first marks in the first of the texts that has any."""
    return next((_thought(found) for text in texts if (found := _OPENED.search(text))), None)


def _thought(opened: re.Match[str], *, prompted: bool = False) -> Thought:
    closes = f"</{opened[1]}>" if opened[1] else f"[/{opened[2]}]"
    return Thought(opened[0], closes, prompted)
