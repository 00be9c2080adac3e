"""A completion into the program that is in it: thoughts cut off, code fences, prose around a program.

Fences are read as CommonMark defines them and, beyond that, as models write them: on one line, in the middle of a line,
unpaired, with backticks in the program's own strings. So no Markdown parser is used. Whatever a completion holds, nothing
here raises, and the time is linear in its length.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from html import unescape
from typing import NamedTuple

from codelutra.completions.characters import INVISIBLE, as_meant, escaped, with_plain_blanks
from codelutra.completions.joining import with_needed
from codelutra.completions.listings import unlisted
from codelutra.completions.looks import LONGEST, TRIES, end_of_statement, parses, worth
from codelutra.completions.prose import without_prose
from codelutra.completions.thoughts import without_thoughts
from codelutra.completions.wrappings import unwrapped

_TAGS = {
    "sql": re.compile(r"\w*sql\w*|(?:postgres|maria|duck|oracle|snowflake|big[_-]?query|hive|db2)\w*", re.IGNORECASE),
    "python": re.compile(r"i?py(?:thon)?w?[\d.]*|pycon|python[-_]?(?:repl|console)|sage", re.IGNORECASE),
}

# ---- fences --------------------------------------------------------------------------------------------------------------

# Behind quote and list marks; or, with a tag or a program, within a line.
_FENCE = re.compile(
    r"^(?P<margin>(?:[ \t>]|(?:[-*+]|\d{1,9}[.)])[ \t])*+)(?P<fence>`{3,}+|~{3,}+)|"
    r"(?<![`'\"\\\n])(?P<within>`{3,}+)(?=[A-Za-z{])",
    re.MULTILINE,
)
_TAG = re.compile(r"[ \t]*+\{?[ \t]*+\.?(?:lang(?:uage)?[-:=])?([A-Za-z][\w#+-]*+(?:\.\d+)*+)[^\S\n]*+\}?")
_GLUED = re.compile(r"(sql(?:ite3?)?|python3?|py)(?=(?:select|with|def|class|import|from|print)\b|n\s*=)", re.IGNORECASE)
# Literals and comments, in which backticks close no block. One that is never closed reaches to the end.
_LITERALS = {
    "python": (
        r"'''(?:[^'\\]++|\\.?|'(?!''))*+(?:'''|\Z)|\"\"\"(?:[^\"\\]++|\\.?|\"(?!\"\"))*+(?:\"\"\"|\Z)|"
        r"'(?:[^'\\\n]++|\\.)*+'?|\"(?:[^\"\\\n]++|\\.)*+\"?|#[^\n]*+"
    ),
    "sql": r"'[^']*+(?:'|\Z)|\"[^\"]*+(?:\"|\Z)|--[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)",
}
_ATTRIBUTE = re.compile(r"[ \t]*+[\w.-]++=[^\s=]")
_OPENS = re.compile(r"\{?\.?[A-Za-z]")
# One that its line does not close is none; no end is looked for far away, or a line of quotes would take quadratic time.
_ON_ONE_LINE = r"'(?:[^'\\\n]|\\.){0,200}+'|\"(?:[^\"\\\n]|\\.){0,200}+\""


class _Block(NamedTuple):
    tag: str
    body: str
    start: int
    end: int


def extract_code(completion: str, language: str) -> str:
    """The program in a completion: its last fenced block in `language`, else the text around it; "" where it is empty.

    A block in `language` beats blocks of no language, and one that defines something, or is a query, beats output and
    usage. Blocks of Python that use each other's names are one program.

    In SQL without a fence, prose around the query is cut. A second statement stays, and the sandbox refuses it.
    """
    text = without_thoughts(completion.replace("\r\n", "\n"))
    text = text if "```" in text else text.replace("\\`\\`\\`", "```")
    text = unwrapped(text, lambda body: worth(body, language))
    blocks = [block._replace(body=as_meant(block.body, language)) for block in _blocks(text, language)]
    mine = [b.body for b in blocks if _TAGS[language].fullmatch(b.tag)]
    if any(mine):
        return _best(mine, language)
    others = [b for b in blocks if b.body and not _TAGS[language].fullmatch(b.tag)]
    likely = [b.body for b in others if worth(b.body, language) > (1 if b.tag else 0)]
    if likely:
        return _best(likely, language)
    for b in others[:TRIES]:
        if (inside := unwrapped(b.body, lambda body: worth(body, language))) != b.body and worth(inside, language):
            return extract_code(inside, language) if "```" in inside else inside.strip()
    edges = [0, *(edge for b in blocks for edge in (b.start, b.end)), len(text)]
    around = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a:b].strip()]
    outside = (_plain(part, language) for part in around[:TRIES]) if blocks else iter(())
    if found := next((program for program in outside if worth(program, language)), ""):
        return found
    untagged = [b.body for b in others if not b.tag]
    if mine or untagged:
        return untagged[-1] if untagged else ""
    return _plain("".join(around) if blocks and not others else text, language)


def _best(bodies: list[str], language: str) -> str:
    """The last of the most promising, and before it what it needs of the others."""
    promising = [worth(body, language) if body else -1 for body in bodies]
    at = max(range(len(bodies)), key=lambda i: (promising[i], i))
    return bodies[at] if language == "sql" else with_needed(bodies, at)


def _code_first(text: str, language: str) -> int:
    """Where code that a text begins with may be followed by a fence: fences in its literals open nothing."""
    if not worth(text.lstrip().partition("\n")[0], language):
        return 0
    end = next((m.start() for m in _closers(language, "```").finditer(text) if m["run"]), len(text))
    end = text.rfind("\n", 0, end) + 1 if end < len(text) else end
    return end if language == "python" or (end <= LONGEST and parses(text[: end_of_statement(text[:end])])) else 0


def _blocks(text: str, language: str) -> Iterator[_Block]:
    """Blocks from the first to the last."""
    at, doubts = _code_first(text, language), 0
    while opened := _FENCE.search(text, at):
        fence, margin = opened["fence"] or opened["within"], opened["margin"] or ""
        tag, start = _opening(text, opened.end(), fence, language)
        mine = bool(_TAGS[language].fullmatch(tag))
        if opened["within"] and not mine and (tag or worth(text[start : start + 300], language) < 2):
            at = opened.end()
            continue
        sure = None
        if doubts < TRIES and (mine or not tag):
            sure = _outside_literals(text, start, fence, language)
            doubts += not sure
        end, at = sure or _on_its_line(text, start, fence)
        if not mine and doubts < TRIES and (inner := re.search(r"^[ \t>]*+```+[ \t]*+(\w+)", text[start:end], re.MULTILINE)):
            doubts += 1
            if _TAGS[language].fullmatch(inner[1]):  # Markdown in Markdown
                at = start + inner.start()
                continue
        yield _Block(tag, _body(text[start:end], margin, tag), opened.start(), at)


def _opening(text: str, at: int, fence: str, language: str) -> tuple[str, int]:
    """The tag behind an opening fence, and where the block begins: on the next line, or already on this one."""
    info = text[at : at + 300].partition("\n")[0]
    if glued := _GLUED.match(info):
        return glued[1], at + glued.end()
    named = _TAG.match(info)
    tag, rest = (named[1], info[named.end() :]) if named else ("", info)
    if not _TAGS[language].fullmatch(tag) and (fence in info or worth(info, language)):
        return "", at
    if fence in rest or (worth(rest, language) and not _ATTRIBUTE.match(rest)):
        return tag, at + len(info) - len(rest)
    line = text.find("\n", at)
    return tag, line if line >= 0 else len(text)


def _outside_literals(text: str, start: int, fence: str, language: str) -> tuple[int, int] | None:
    """Where the block that begins at `start` ends, and the text after it begins: backticks close it wherever they stand
    outside of literals. None where that leads nowhere, or to no query: then a literal was never closed."""
    found = next((m for m in _closers(language, fence).finditer(text, start) if m["run"]), None)
    if found and language == "sql":
        query = text[start : found.start("run")]
        if "\n" + fence in query and not parses(query[: end_of_statement(query)]):
            return None
    return _ends(text, found) if found else None


def _on_its_line(text: str, start: int, fence: str) -> tuple[int, int]:
    """The same where literals end with their line; the end of the text where nothing closes the block."""
    found = next((m for m in _closers("", fence).finditer(text, start) if m["run"]), None)
    return _ends(text, found) if found else (len(text), len(text))


def _ends(text: str, found: re.Match[str]) -> tuple[int, int]:
    near = max(0, found.start("run") - 200)  # margins are short, lines need not be
    line = text.rfind("\n", near, found.start("run")) + 1
    if (line or not near) and not text[line : found.start("run")].strip(" \t>") and _OPENS.match(text, found.end()):
        return line, line  # the closing fence was forgotten, this is the next block's
    return found.start("run"), found.end()


@lru_cache(64)
def _closers(language: str, fence: str) -> re.Pattern[str]:
    """Literals, and as `run` the fences between them."""
    run = rf"(?P<run>`{{{len(fence)},}}+)" if fence[0] == "`" else rf"^[ \t>]*+(?P<run>~{{{len(fence)},}}+)"
    return re.compile(f"{_LITERALS.get(language, _ON_ONE_LINE)}|{run}", re.DOTALL | re.MULTILINE)


def _body(text: str, margin: str, tag: str) -> str:
    """A block without the quote marks and the indentation of its fence, and without what a listing adds."""
    lines = text.split("\n")
    if quotes := margin.count(">"):
        mark = re.compile(rf"(?:[ \t]{{0,3}}>){{0,{min(quotes, 99)}}}[ \t]?")
        lines = [line[mark.match(line).end() :] for line in lines]  # type: ignore[union-attr]
    first = next((line for line in lines if line and not line.isspace()), "")
    if margin and not quotes and len(first) - len(first.lstrip()) >= len(margin):
        lines = [line[min(len(margin), len(line) - len(line.lstrip())) :] for line in lines]
    return _dedented("\n".join(unlisted(lines, tag)))


_QUOTED = re.compile(
    r"(?:(`{1,2}|'{3}|\"{3}|['\"])|\u201c)(?:python3?\n|py\n|sql(?:ite)?\n)?(?P<inside>.+)(?(1)\1|\u201d)", re.DOTALL
)
_LANGUAGE = re.compile(
    r"\s*+(?:python3?|py|sql|sqlite3?|(?:File(?:name)?:[ \t]*+)?[\w/-]{1,60}\.(?:py|sql):?)[ \t]*+\n", re.IGNORECASE
)


def _dedented(text: str) -> str:
    named = _LANGUAGE.match(text)  # a fence's tag without the fence or below it, a file's name
    return textwrap.dedent(text[named.end() :] if named else text).strip().lstrip(INVISIBLE)


def _plain(text: str, language: str) -> str:
    """The program in a text without fences."""
    if len(text) > LONGEST:
        return text.strip()
    text = with_plain_blanks(text, language)
    found = _without_fences(text, language)
    return as_meant(_without_fences(unescape(text), language) if escaped(found, language) else found, language)


def _without_fences(text: str, language: str) -> str:
    text = _dedented("\n".join(unlisted(text.split("\n"))))
    if (quoted := _QUOTED.fullmatch(text)) and worth(inside := quoted["inside"].strip(), language) == 2:
        text = inside if (quoted[1] or quoted[0][-1]) not in inside or (language == "sql" and parses(inside)) else text
    if worth(text, language) and (closed := next((m for m in _closers(language, "```").finditer(text) if m["run"]), None)):
        text = text[: closed.start("run")].rstrip()  # the prompt has opened the block
    return without_prose(text, language)
