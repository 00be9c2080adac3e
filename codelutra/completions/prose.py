"""The program in a text without fences: sentences, lists and headings around it are cut.

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import re

from codelutra.completions.looks import CODE, HEAD, READS, STATEMENT, TRIES, compiles, end_of_statement, parses


def without_prose(text: str, language: str) -> str:
    return _query(text) if language == "sql" else _program(text)


# ---- programs in prose ---------------------------------------------------------------------------------------------------

_BEGINS = re.compile(r"^(?:@|(?:async )?def |class |import |from \S+ import )", re.MULTILINE)


def _program(text: str) -> str:
    """The code of a text that is no Python as a whole, but is without the sentences around it."""
    begin = _BEGINS.search(text)
    if not begin or CODE.search(text, 0, begin.start()):
        begin = CODE.search(text)
    before = text[: begin.start()] if begin else ""
    if not begin or (before and not _PROSE_LINE.match(before)) or compiles(text):
        return text
    ends = [line.start() for line, _ in zip(_PROSE_LINE.finditer(text, begin.end()), range(TRIES), strict=False)]
    parts = (text[begin.start() : end] for end in (len(text), *ends))
    return next((part.strip() for part in parts if compiles(part)), text)


# ---- queries in prose ----------------------------------------------------------------------------------------------------

_IN_A_LINE = re.compile(
    rf"(?:^[ \t]*+(?:(?:[-+]|\d{{1,3}}[.)]|sqlite>)[ \t]++)?(?:[^\n:;'\"`]{{0,80}}:)?[ \t*]*+|`)(?=(?:{READS}))",
    re.MULTILINE | re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:[A-Z][a-z']+ |.*[.:!]\s*$|(?:\S+ )??(?:[a-z']+ ){3})", re.MULTILINE)
_PROSE_LINE = re.compile(
    r"^[ \t]*+(?:#+ |\*\*|[A-Z][A-Za-z]++:|\[/|\((?=[A-Z][a-z]+ [a-z])|(?:[-*+]|\d{1,2}[.)]) (?=[A-Za-z`*]++ [a-z])|"
    r"(?!(?:FROM|WHERE|GROUP|ORDER|HAVING|LIMIT|OFFSET|JOIN|LEFT|RIGHT|INNER|OUTER|CROSS|NATURAL|FULL|"
    r"UNION|INTERSECT|EXCEPT|AND|OR|ON|USING|WINDOW|AS|CASE|WHEN|THEN|ELSE|END|SELECT|VALUES|NOT|SET|INTO|RETURNING)\b)"
    r"[A-Z][A-Za-z']*+[,:.!]?[ \t]+[A-Za-z']++[ \t,]++[A-Za-z'])",
    re.MULTILINE,
)


def _query(text: str) -> str:
    """The query and what follows it up to where prose begins; the text itself where that cannot be told."""
    if not HEAD.match(text) or (_SENTENCE.match(text) and not parses(text[: end_of_statement(text)])):
        for begin, _ in zip(_IN_A_LINE.finditer(text), range(TRIES), strict=False):
            found = text[begin.end() :]
            mark = next((mark for mark in ("`", "**") if begin[0].endswith(mark)), "")
            found = found.partition(mark)[0] if mark in found.partition("\n")[0] and mark else _up_to_prose(found)
            if parses(found[: end_of_statement(found)]):
                return found.strip()
    return _up_to_prose(text).strip()


def _up_to_prose(text: str) -> str:
    """The text up to where what follows its first statement is no statement."""
    end = end_of_statement(text)
    if text[:end].endswith(";"):
        following = STATEMENT.match(text, end)
        if following and following["parsed"]:
            second = text[following.start("parsed") :]
            second = second[: end_of_statement(second)]
            following = following if parses(second) or not _SENTENCE.match(second) else None
        return text if following else text[:end]
    if not parses(text):
        for line, _ in zip(_PROSE_LINE.finditer(text, 1), range(TRIES), strict=False):
            if parses(text[: line.start()]):
                return text[: line.start()]
    return text
