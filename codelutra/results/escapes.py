"""Text that others wrote, made harmless for where it is shown: a terminal, Markdown. (`reporting.html` does it for a page.)

Ids, questions, programs, errors and paths come from files and models. Shown as they are, they could move the cursor, reorder
a line, forge a heading or load an image.
"""

from __future__ import annotations

import re

# Control characters, what reorders or hides text, line separators, lone surrogates. Not the two joiners that words of some
# languages need.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0e\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_INLINE = re.compile(
    r"[\\`*~|{}$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is only an underscore
    r"|\[(?![+−-]?\d)|\](?=[\[(])"  # intervals stay readable: [40.0 – 54.5]
    r"|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])"
    r"|:(?=//)|(?<=www)\.|(?<=\w)@(?=\w)",  # what turns into a link by itself
    re.IGNORECASE,
)
_AT_A_START = re.compile(r"[#>+=\[-]|\d+(?=[.)])")


def visible(text: str) -> str:
    """With characters that do something instead of being seen written out (`\\x1b`); lines stay lines."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else _written_out(found[0]), text)


def one_line(text: str) -> str:
    """As `visible`, line breaks and tabs too."""
    return _UNSEEN.sub(lambda found: _written_out(found[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def inline(text: str) -> str:
    """Words within a line of Markdown (a table cell, a heading) that show as they are: no markup, no link, one line."""
    return _INLINE.sub(r"\\\g<0>", one_line(re.sub(r"[ \n\t]+", " ", text)).strip())


def paragraph(text: str) -> str:
    """As `inline`, where a line begins: no heading, list or quote either."""
    line = inline(text)
    if begins := _AT_A_START.match(line):
        mark = begins[0]
        line = (f"{mark}\\" if mark[0].isdigit() else f"\\{mark}") + line[len(mark) :]
    return line


def code(text: str) -> str:
    """A code span of Markdown; in a table cell too, where a bar would end the cell: then it is no code."""
    line = one_line(text)
    if not line.strip() or "|" in line:
        return inline(line)
    marks = "`" * (_longest_run(line) + 1)
    pad = " " if "`" in (line[0], line[-1]) or line != line.strip() else ""
    return f"{marks}{pad}{line}{pad}{marks}"


def fenced(text: str, language: str = "") -> str:
    """A code block of Markdown that nothing in `text` closes."""
    shown = visible(text)
    marks = "`" * max(3, _longest_run(shown) + 1)
    return f"{marks}{language}\n{shown}\n{marks}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
