"""What models put around an answer beside fences: end tokens spelled out, tags, JSON, a name of the language.

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

# Where one ends its line, or stands before another: in a program's own texts a quote follows, or it is in comments.
_END_TOKEN = re.compile(
    r"^(?P<before>(?:(?!--)[^\n#])*?)(?:<\|(?:endoftext|end_of_text|im_end|eot_id|eom_id|end)\|>|<\uff5cend\u2581of\u2581sentence\uff5c>|"
    r"<end_of_turn>|<eos>|</s>(?=\s*\Z))(?=[ \t]*(?:\n|\Z|<))",
    re.MULTILINE,
)
_INVISIBLE = "\ufeff\u200b\u2060"
_TAGGED = re.compile(
    r"^[ \t]*+(?:<(?P<tag>sql|query|python|code|answer|final_answer|solution|response)>|"
    r"\[(?P<mark>SQL|PYTHON|CODE|ANSWER)\])[ \t]*+\n?(?P<inside>.*?)(?:</(?P=tag)>|\[/(?P=mark)\]|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_JSON = re.compile(r"\s*+(?:```json[ \t]*+\n)?\s*+(?P<object>\{.*\})\s*+(?:```\s*+)?", re.DOTALL | re.IGNORECASE)
_NAMES = re.compile("sql|query|code|program|solution")
_LONGEST = 20_000  # characters of JSON that are read
_TRIES = 8  # end tokens that are looked at


def unwrapped(text: str, worth: Callable[[str], int]) -> str:
    """The text up to its end token, and of that the inside of tags or of JSON where the program is there.

    worth: how likely a text is a program; 2 at most.
    """
    text = text.strip(_INVISIBLE)
    for end in islice(_END_TOKEN.finditer(text), _TRIES):
        before = text[: end.end("before")]
        if before.strip() and not before.count('"""') % 2 and not before.count("'''") % 2:
            text = before
            break
    if len(text) <= _LONGEST and (found := _JSON.fullmatch(text)):
        programs = [value for value in _texts(found["object"]) if worth(value) == 2]
        return programs[0] if len(programs) == 1 else text
    tagged = next((t for t in _TAGGED.finditer(text) if t["inside"].strip()), None)
    if tagged and "```" not in text[: tagged.start()] and not worth(text[: tagged.start()].strip()):
        inside = tagged["inside"]
        return inside if "```" in inside or worth(inside.strip()) else text
    return text


def _texts(written: str) -> Iterator[str]:
    """The texts in an object of JSON: of the keys that say what they are, or of all."""
    try:
        found: Any = json.loads(written, strict=False)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        texts = {key.lower(): value for key, value in found.items() if isinstance(value, str)}
        yield from [value for key, value in texts.items() if _NAMES.search(key)] or texts.values()
