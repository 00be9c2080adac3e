"""What models put around an answer beside fences: end tokens spelled out, tags, JSON, a name of the language.

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from codelutra.completions.characters import INVISIBLE

# No program holds one but in its texts and comments: there a quote is before it, or the line goes on behind it.
_END_TOKEN = re.compile(
    r"^(?P<before>(?:(?!--)[^\n#])*?)(?:<\|(?!\w{0,30}th(?:ink|ought))/?\w{0,30}(?:end|eo[tsm]|pad|sep|return|user|start|(?<=/)(?:sql|code|python))\w{0,30}\|>|"
    r"<\uff5cend\u2581of\u2581sentence\uff5c>|<end_of_turn>|<eos>|</s>(?=\s*(?:\Z|<s>|\[INST\]))|(?<=\n)\[DONE\]|(?P<closing></(?:[a-z]+[_-])?(?:sql|query|python|code|answer|solution|response|result|output|p)>|"
    r"\[/(?:SQL|PYTHON|CODE|ANSWER|INST)\])(?=\s*(?:\n|\Z)))",
    re.MULTILINE | re.IGNORECASE,
)
_GOES_ON = re.compile(r"[ \t]*[^\s<]")
# What opens a turn of the model: templates print it, and models repeat it.
_TURN = re.compile(
    r"(?:\s*+(?:<[|\uff5c][a-z_]+[|\uff5c]>(?:assistant|final)?|<start_of_turn>model|<s>|\[/INST\]))*+"
    r"(?:\s*+assistant[ \t]*+\n)?",
    re.IGNORECASE,
)
_TAGGED = re.compile(
    r"^[ \t]*+(?:<(?:pre|invoke|function)\b[^<>\n]{0,99}>[ \t]*+\n?)?"
    r"(?:<(?P<tag>(?:[a-z]+[_-])?(?:sql|query|python|code|answer|solution|response|result|output|p)(?:[_-][a-z]+)?|"
    r"assistant|parameter|arg_value)(?:[\s=][^<>\n]{0,99})?>|"
    r"\[(?P<mark>SQL|PYTHON|CODE|ANSWER)\]|(?P<begin>\[BEGIN\]))[ \t]*+\n?"
    r"(?P<inside>.*?)(?:</(?P=tag)>|\[/(?P=mark)\]|\[DONE\]|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_JSON = re.compile(
    r"\s*+(?:```json[ \t]*+\n|<(?P<tag>[a-z_]{1,20})>)?\s*+(?P<object>\{.*\}|\[\s*+[\[{\"'].*\]|\".*\")\s*+"
    r"(?:```\s*+|</(?P=tag)>\s*+)?",
    re.DOTALL | re.IGNORECASE,
)
# In a text, behind no more than a label or a mark of its own on the line.
_OBJECT = re.compile(r"^(?:[^\n{]{0,60}?[:>\]])?[ \t]*+(?=\{|\[\s*+[\[{\"'])", re.MULTILINE)
_BOXED = re.compile(r"\$*+\\\[?\s*+\\?boxed\{(?:\\text(?:tt)?\{(?P<text>.*)\}|(?P<inside>.*))\}\.?\$*+", re.DOTALL)
_NAMES = re.compile("sql|query|code|program|solution|source")
_DECODER = json.JSONDecoder(strict=False)
_LONGEST = 20_000  # characters of JSON that are read
_DEEPEST = 8  # of values in values
_TRIES = 8  # end tokens, tags and objects that are looked at


def unwrapped(text: str, worth: Callable[[str], int]) -> str:
    """The text up to its end token, and of that the inside of tags or of JSON where the program is there.

    worth: how likely a text is a program; 2 at most.
    """
    text = text.strip(INVISIBLE)
    text = text[_TURN.match(text).end() :]  # type: ignore[union-attr]
    for end in islice(_END_TOKEN.finditer(text), _TRIES):
        before = text[: end.end("before")]
        of_a_text = _GOES_ON.match(text, end.end()) and re.search("['\"]", end["before"])
        opened = end["closing"] and end["closing"].replace("/", "")[:-1].lower() in before.lower()
        if not (of_a_text or opened or before.count('"""') % 2 or before.count("'''") % 2) and before.strip():
            text = before
            break
    if len(text) < _LONGEST and (boxed := _BOXED.fullmatch(text.strip())):
        text = boxed["text"] or boxed["inside"] or ""
    if found := in_an_object(text, worth):
        return found
    for tagged in islice(_TAGGED.finditer(text), _TRIES):
        if "```" in text[: tagged.start()] or worth(text[: tagged.start()].strip()):
            break
        inside = tagged["inside"]
        if "```" in inside or worth(inside.strip()):
            return inside
    return text


def in_an_object(text: str, worth: Callable[[str], int]) -> str:
    """The one program, or fenced text, among the texts of an object of JSON, of a notebook, or of a text of JSON, which may
    stand in prose; else ""."""
    for written in _objects(text, worth) if len(text) <= _LONGEST else ():
        programs = [value for value in _texts(written) if worth(value) == 2 or "```" in value]
        if len(programs) == 1:
            return programs[0]
    return ""


def _objects(text: str, worth: Callable[[str], int]) -> Iterator[str]:
    """What may be values of JSON: the text, else those in it that no program and no fence stands beside."""
    if whole := _JSON.fullmatch(text):
        yield whole["object"]
    for begin in islice(_OBJECT.finditer(text), _TRIES) if not whole else ():
        if "```" in text[: begin.end()] or worth(text[: begin.end()].strip()):
            break
        with suppress(ValueError, RecursionError):
            end = _DECODER.raw_decode(text, begin.end())[1]
            if not worth(text[end:].strip()):
                yield text[begin.end() : end]


def _texts(written: str) -> Iterator[str]:
    """The texts in a value of JSON, or of Python: of the keys that say what they are, or of all; a list of lines is one."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = _DECODER.decode(written)
    if found is None:
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = ast.literal_eval(written)
    texts = list(_within("", found, 0))
    yield from [text for key, text in texts if _NAMES.search(key)] or [text for _, text in texts]


def _within(key: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """The texts in a value, each with its key. A text of JSON, as the arguments of a call are, is a value too."""
    if isinstance(value, str):
        inner: Any = None
        with suppress(ValueError, RecursionError):
            inner = _DECODER.decode(value) if value[:1] in ("{", "[") and depth < _DEEPEST else None
        yield from _within(key, inner, depth + 1) if inner else [(key, value)]
    elif depth < _DEEPEST and isinstance(value, dict):
        for name, inner in value.items():
            yield from _within(str(name).lower(), inner, depth + 1)
    elif depth < _DEEPEST and isinstance(value, list) and value:
        if key == "source" and all(isinstance(line, str) for line in value):
            yield key, "".join(value)
        else:
            for inner in value:
                yield from _within(key, inner, depth + 1)
