"""Characters that look like a program's own and are not: blanks of typesetting, invisible marks, entities of HTML.

No grammar takes them outside of literals and comments, so there they are put right; inside they are the program's.
"""

from __future__ import annotations

import html
import re

INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_BLANKS = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# U+200C and U+200D join letters of some scripts, also in names.
_MARKS = "\ufeff\u200b\u200e\u200f\u2060\u00ad\u202a-\u202e\u2066-\u2069"
_ODD = rf"(?P<blank>[{_BLANKS}])|(?P<mark>[{_MARKS}]|(?<!\w)[\u200c\u200d]|[\u200c\u200d](?!\w))"
_ENTITY = r"(?P<entity>&(?:lt|gt|amp|quot|apos|nbsp|#0*39|#[xX]27|#0*34|#[xX]22);)"
# Literals, quoted names and comments, each on its line: an apostrophe of prose begins none.
_OWN = {
    "python": re.compile(
        rf"'''(?:[^'\\]++|\\.?|'(?!''))*+(?:'''|\Z)|\"\"\"(?:[^\"\\]++|\\.?|\"(?!\"\"))*+(?:\"\"\"|\Z)|"
        rf"'(?:[^'\\\n]++|\\.){{0,999}}+'|\"(?:[^\"\\\n]++|\\.){{0,999}}+\"|#[^\n]*+|{_ODD}|{_ENTITY}",
        re.DOTALL,
    ),
    "sql": re.compile(
        rf"'[^'\n]{{0,999}}+'|\"[^\"\n]{{0,999}}+\"|`[^`\n]{{0,99}}+`|\[[^\[\]\n]{{0,99}}+\]|--[^\n]*+|{_ODD}|{_ENTITY}"
    ),
}
_ANY = re.compile(f"[{_BLANKS}{_MARKS}\u200c\u200d]")


def escaped(program: str, language: str) -> bool:
    """Whether it is written with entities of HTML: one stands where no literal is."""
    return "&" in program and any(found["entity"] for found in _OWN[language].finditer(program))


def with_plain_blanks(text: str, language: str) -> str:
    """The text with blanks for blanks, and without invisible marks."""
    return text if text.isascii() or not _ANY.search(text) else _OWN[language].sub(_as_meant, text)


def _as_meant(found: re.Match[str]) -> str:
    return " " if found["blank"] else "" if found["mark"] else found[0]


def as_meant(program: str, language: str) -> str:
    """The program with its own characters alone."""
    program = html.unescape(program) if escaped(program, language) else program
    return with_plain_blanks(program, language).strip()
