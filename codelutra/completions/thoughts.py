"""What a thinking model writes before its answer: the marks around it, and where the answer begins.

    <think> let me see … </think> SELECT …          some templates have written the first mark into the prompt already

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_OPENED = re.compile(r"<(think|thinking|thought|reasoning|seed:think)>|\[(THINK)\]")


# Of the names that models give the marks. Only the first are trusted with a thought that never ends.
_SURE = "think|thinking|thought|reasoning|seed:think"
_LIKELY = r"[\w\u2581:.-]{0,24}(?:think|thought|reason)[\w\u2581:.-]{0,24}"
_ALSO = (
    r"[\w-]{0,9}(?:reflection|analysis|scratchpad|monologue|rationale|plan|planning|cot|internal|details|steps?|draft|notes)"
)
# At the start of a line: within a line the mark may be part of a program's string.
_BEGINS = re.compile(
    rf"^[ \t]*(?:(?P<sure><(?:{_SURE})>|(?-i:\[THINK\])|<\|begin_of_thought\|>|<\|channel\|>(?:analysis|commentary))|"
    rf"<(?P<bar>[|\uff5c])?(?!end){_LIKELY}(?(bar)[|\uff5c]|(?:\s[^<>\n]{{0,99}})?)>|(?-i:\[[A-Z_]{{0,24}}(?:THOUGHT|REASON)[A-Z_]{{0,9}}\])|"
    r"\u25c1think\u25b7|<unused94>thought|<\|channel>thought|<\|im_start\|>think\b)",
    re.MULTILINE | re.IGNORECASE,
)
_CLOSES = (
    rf"<[|\uff5c]?[/\\]{_LIKELY}\s?[|\uff5c]?>|<[|\uff5c](?:end{_LIKELY}|{_LIKELY}(?<=end))[|\uff5c]>|"
    r"(?-i:\[/[A-Z_]{0,24}(?:THINK|THOUGHT|REASON)[A-Z_]{0,9}\])|\u25c1/think\u25b7"
)
_ENDS = re.compile(
    rf"{_CLOSES}|<unused95>|<channel\|>|<\|channel\|>final(?:<\|message\|>)?|<\|im_start\|>answer\b", re.IGNORECASE
)
_END_ALONE = re.compile(rf"(?:{_CLOSES})(?=\s|```|\Z)", re.IGNORECASE)
_PREAMBLE = re.compile(rf"\s*<(?P<name>{_ALSO})>.*?</(?P=name)>(?=.*?\S)", re.DOTALL | re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """What follows the thoughts; also where a thought was opened in the prompt, so that only its end is here.

    A thought that never ends is all thought.
    """
    kept, at = "", 0
    while begun := _BEGINS.search(text, at):
        end = _ENDS.search(text, begun.end())
        if not end:
            begun = next((b for b in _BEGINS.finditer(text, at) if b["sure"]), None)
            text = text[: begun.start()] if begun else text
            break
        kept, at = kept + text[at : begun.start()], end.end()
    text = kept + text[at:]
    *_, start = 0, *(end.end() for end in _END_ALONE.finditer(text))
    text = text[start:]
    while preamble := _PREAMBLE.match(text):
        text = text[preamble.end() :]
    return text


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
