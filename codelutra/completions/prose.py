"""The program in a text without fences: sentences, lists and headings around it are cut.

Whatever a text holds, nothing here raises, and the time is linear in its length.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from itertools import islice, pairwise

from codelutra.completions.looks import CODE, HEAD, READS, STATEMENT, TRIES, end_of_statement, fault, parses, worth


def without_prose(text: str, language: str) -> str:
    return _query(text) if language == "sql" else _program(text)


# ---- what is prose -------------------------------------------------------------------------------------------------------

# Words of SQL that a line of a query begins with; "And it", "From this" and the like are rather prose.
_OF_A_QUERY = r"[A-Z]{2,}\b|(?:Where|Having|(?:Group|Order)[ \t]+By|Case[ \t]+When|(?:[A-Z][a-z]+[ \t]+){0,2}Join)\b"
_PROSE_LINE = re.compile(
    r"^[ \t]*+(?:#+ |\*\*|(?:-{3,}|\*{3,}|={3,}|_{3,})[ \t]*+$|>|\|(?!\|)|\+-{3}|\[/|</?[a-z_]+>|```|\\[a-z]+\{|"
    r"[A-Z][a-z]++'[a-z]|[A-Z][A-Za-z']*+(?: [A-Za-z']++){0,5}(?: \d{1,2})?:(?![:\w])|"
    r"(?:th(?:is|at|ese|e)|it|we|you|here|note)(?: [a-z']++){2}|[^\n]{1,80}\n(?:-{3,}|={3,})[ \t]*+$|"
    r"(?:GO|/|#|\\[gG]|\.[a-z]{2,10})[ \t]*+$|"
    r"\(\d+ rows?\)[ \t]*+$|\((?=[A-Z][a-z]+ [a-z])|(?:[-*+]|\d{1,2}[.)]) (?=[A-Za-z'`*]++ [a-z])|[^\x00-\x7f]|"
    rf"(?!{_OF_A_QUERY})(?=[A-Z])(?:[^\W\d_]['\w]*+[,:.!]?[ \t]+[^\W\d_]['\w]*+[ \t,]++[^\W\d_]|"
    r"[^\W\d_][\w']*+(?:[.!?]++|[, \t](?:[^\n=(`]|(?<= )\(|`[^`\n]*+`){0,300}[.!?:])[ \t]*+$))",
    re.MULTILINE,
)


# ---- programs in prose ---------------------------------------------------------------------------------------------------

_KEYWORD = rf"(?:{'|'.join([*keyword.kwlist, *keyword.softkwlist, 'print', 'exec'])})\b"
# Two names side by side, "L'appel", "etc.", links and formulas.
_NO_PYTHON = re.compile(
    rf"(?!{_KEYWORD})[^\W\d]\w*+ (?!{_KEYWORD})[^\W\d].*+|(?![rbfuRBFU]{{1,2}}')[^\W\d]\w*+'\w.*+|"
    rf"(?!{_KEYWORD})\w++[.!?:]++[ \t]*+|[!$\\?].*+|\.\.\. [a-z].*+|https?:.*+"
)
_ALONE = re.compile(r"\A\s*+[A-Z][a-z]++[ \t]*+\n")
_TAIL = re.compile(r"^(?:(?:[A-Z][a-z]++(?:: |(?=\s*\Z))|[-+] [A-Z][a-z']*+ )[^\n=]*+(?:\n\s*+|\Z))++\Z", re.MULTILINE)
_TYPED = re.compile(r"[A-Z]\w*: [\w.\[\], |]+ = ")
# A line of code, or the first one behind a label.
_BEGINS = re.compile(
    rf"^[ \t]*+(?:@|(?:async )?def |class )|{CODE.pattern}|"
    r"(?<=[:\uff1a\]*>`])[ \t]*+(?=(?:(?:async )?def|class|import|from) \w|[a-z_]\w* = lambda\b)",
    re.MULTILINE,
)


def _program(text: str) -> str:
    """The code of a text that is no Python as a whole, but is without the sentences around it."""
    if (alone := _ALONE.match(text)) and not fault(text[alone.end() :]) and worth(text[alone.end() :], "python"):
        text = text[alone.end() :].strip()
    if not fault(text):
        return _without_tail(text)
    first = _behind_prose(text)
    if worth(found := _head(_from(text, first)), "python"):
        return found
    for begin in islice(_BEGINS.finditer(text), TRIES if first else 0):
        if found := _head(_from(text, begin.start())):
            return found
    return text


def _behind_prose(text: str) -> int:
    """Where the first line begins that is no prose."""
    at = 0
    for line in text.splitlines(keepends=True):
        if line.strip() and (line.startswith("#") or not _is_prose(line.rstrip())):
            return at
        at += len(line)
    return at


def _without_tail(program: str) -> str:
    """A program without the last lines that Python takes and nobody means as code: "Human: thanks", "- It is short"."""
    tail = _TAIL.search(program)
    return program[: tail.start()].rstrip() if tail and not fault(program[: tail.start()]) else program


def _from(text: str, start: int) -> str:
    """The text from there on: without the indentation of its first line, or up to the backtick that closes it."""
    before, found = text[:start][-1:], text[start:]
    if before == "`":
        return found.partition("`")[0]
    if before not in ("", "\n"):
        return found.lstrip(" \t")
    margin = found[: len(found) - len(found.lstrip(" \t"))]
    return re.sub(f"^{margin}", "", found, flags=re.MULTILINE) if margin else found


def _head(text: str) -> str:
    """The program that a text begins with, up to a line of prose; "" where there is none."""
    if not (number := fault(text)):
        return _without_tail(text.strip())
    # Where the fault is, or before: a heading, for one, is a comment to Python, and no fault.
    lines = text.split("\n")[:number]
    filled = [n for n, line in enumerate(lines) if line.strip()]
    prose = {n for n in filled if not lines[n].startswith("#") and _is_prose(lines[n])}
    ends = sorted(prose - {0}, reverse=True)
    begins = [n for n, before in pairwise(reversed(filled)) if n in prose and before not in prose]
    # First where a run of them begins: of "- It is O(n)" Python would take each line but the last.
    heads = ("\n".join(lines[:n]).strip() for n in [*begins[:TRIES], *ends[:TRIES]])
    return next((head for head in heads if not fault(head)), "")


def _is_prose(line: str) -> bool:
    return bool(_PROSE_LINE.match(line) or _NO_PYTHON.fullmatch(line)) and not _TYPED.match(line)


# ---- queries in prose ----------------------------------------------------------------------------------------------------

_IN_A_LINE = re.compile(
    rf"(?:^[ \t]*+(?:(?:[-+]|\d{{1,3}}[.)]|sqlite>)[ \t]++)?(?:[^\n]{{0,200}}[:\uff1a])?[ \t*]*+|`|"
    rf"(?:[=(:]|\b(?:sqlite3|duckdb|echo) [^\n\"']{{0,200}})[ \t]*+f?(?:\"\"\"|'''|[\"'])\s*+)(?=(?:{READS}))",
    re.MULTILINE | re.IGNORECASE,
)
_LIST = re.compile(r"\n[ \t]*+\n[-+] [A-Z][a-z']*+ [a-z]")  # also an expression that goes on
_MAY_BE_DUCKDBS = re.compile(r"(?:FROM|from|PIVOT|(?:SELECT|WITH)\b(?=.*\sFROM\s))", re.DOTALL)
_IN_A_SENTENCE = re.compile(r"(?<=[ \t])(?=SELECT\s[^\n]{1,300}\sFROM\s)")
_SENTENCE = re.compile(r"(?:[A-Z][a-z']+ |.*[.:!]\s*$|(?:\S+ )??(?:[a-z']+ ){3})", re.MULTILINE)


def _query(text: str) -> str:
    """The query and what follows it up to where prose begins; the text itself where that cannot be told."""
    in_prose = not HEAD.match(text) or (_SENTENCE.match(text) and not parses(text[: end_of_statement(text)]))
    if in_prose and (found := _query_within(text)):
        return found.strip().rstrip(" .")
    found = _up_to_prose(text).strip()
    return found.rstrip(" .") if HEAD.match(found) else found


def _query_within(text: str) -> str:
    """The first query of a text that SQLite's grammar takes; else the first that may be DuckDB's; else ""."""
    other, until = "", 0
    for begin in (*islice(_IN_A_LINE.finditer(text), TRIES), *islice(_IN_A_SENTENCE.finditer(text), TRIES)):
        if begin.end() < until:
            continue
        for part in _parts(text[begin.end() :], begin[0]):
            if parses(part[: end_of_statement(part)]):
                return part
            if not other and _MAY_BE_DUCKDBS.match(part) and not _SENTENCE.match(part):
                other, until = part, begin.end() + len(part)
    return other


def _parts(text: str, before: str) -> Iterator[str]:
    """What may be the query that a text begins with: up to the mark that closes it, or up to prose."""
    mark = next((mark for mark in ("`", "**", '"""', "'''", '"', "'") if before.rstrip().endswith(mark)), "")
    if mark and mark in text:
        yield text.partition(mark)[0]
    yield _up_to_prose(text)


def _up_to_prose(text: str) -> str:
    """The text up to where what follows its first statement is no statement."""
    end = end_of_statement(text)
    if text[:end].endswith(";") and (parses(text[:end]) or not _longest(text[: end - 1])):
        following = STATEMENT.match(text, end)
        if following and following["parsed"]:
            second = text[following.start("parsed") :]
            second = second[: end_of_statement(second)]
            following = following if parses(second) or not _SENTENCE.match(second) else None
        return text if following else text[:end]
    if not parses(text):
        # The longest: a line of a query may look like prose.
        if longest := _longest(text):
            return longest
        ends = [line.start() for line in islice(_PROSE_LINE.finditer(text, 1), TRIES)]
        # Another dialect's query, or a wrong one, which stays wrong.
        return next((text[:end] for end in ends if HEAD.match(text) and text[:end].endswith("\n\n")), text)
    listed = _LIST.search(text)
    return text[: listed.start()] if listed and parses(text[: listed.start()], whole=True) else text


def _longest(text: str) -> str:
    """The longest query that a text begins with and prose follows, or ""."""
    ends = [line.start() for line in islice(_PROSE_LINE.finditer(text, 1), TRIES)]
    # First where a run of prose begins: SQL takes "- It is so" for an expression that goes on.
    begins = [end for before, end in pairwise(ends) if "\n" in text[before:end].strip()]
    likely = (*reversed([*ends[:1], *begins]), *reversed(ends))
    return next((text[:end] for end in likely if parses(text[:end], whole=True)), "")
