"""Queries as text: tokens, the clauses that decide about order, and what only looks different.

Queries are never rendered anew: what is added to one is put into its own text, at the place of a token. So every operator,
cast and literal keeps the meaning it has in its dialect (dialects.py), which is SQLite's where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from codelutra.suites.dialects import SQLITE, Dialect

BY_ROW = frozenset(
    ("row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value")
)  # told apart within a tie


_WINDOW = frozenset(("partition", "rows", "range", "groups"))  # what a window without ORDER BY begins with
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word in lower case, as SQLite sees it: of ASCII letters alone. "" for what is no bare word."""
        return self.text.translate(_LOWER) if self.kind == "word" else ""


def tokens(query: str, dialect: Dialect = SQLITE) -> list[Token]:
    """All tokens but blanks and comments."""
    found = ((match.lastgroup or "", match) for match in dialect.token.finditer(query))
    return [Token(kind, match[0], match.start(), match.end()) for kind, match in found if kind != "blank"]


def bare(query: str, dialect: Dialect = SQLITE) -> str:
    """A query without the semicolons, blanks and comments before and behind it, and without parentheses around it all,
    which SQLite does not take."""
    found = tokens(query, dialect)
    while found and found[-1].text == ";":
        found.pop()
    around = _parentheses(found) if dialect is not SQLITE else 0
    found = found[around : len(found) - around]
    return query[found[0].start : found[-1].end] if found else ""


def _parentheses(found: Sequence[Token]) -> int:
    """How many pairs of parentheses stand around all of these."""
    opening = next((i for i, t in enumerate(found) if t.text != "("), 0)
    closing = next((i for i, t in enumerate(reversed(found)) if t.text != ")"), 0)
    depths = list(accumulate((t.text == "(") - (t.text == ")") for t in found))
    return min(depths[opening : len(found) - closing], default=0) if found and not depths[-1] else 0


def one_line(query: str) -> str:
    """A query in SQLite without comments, with one blank for several; texts and quoted names stay as they are."""
    parts = [" " if match.lastgroup == "blank" else match[0] for match in SQLITE.token.finditer(bare(query))]
    return "".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != " " or before != " ")


def statements(query: str, dialect: Dialect = SQLITE) -> int:
    """How many statements there are."""
    parts, filled = 0, False
    for token in tokens(query, dialect):
        parts += token.text != ";" and not filled
        filled = token.text != ";"
    return parts


# ---- order ------------------------------------------------------------------------------------------------------------


class Level(NamedTuple):
    """What stands directly between two parentheses, or outermost: a query, a window, or something else."""

    found: Sequence[Token]  # all of the query's
    start: int  # number of its opening parenthesis; -1 outermost
    inside: Sequence[Token]  # without what is in further parentheses
    end: int  # where it ends in the text
    dialect: Dialect = SQLITE

    @property
    def called(self) -> str:
        """The bare word before the parenthesis: of a function its name."""
        return self.found[self.start - 1].word if self.start > 0 else ""

    @property
    def is_query(self) -> bool:
        return bool(self.inside) and self.inside[0].word in self.dialect.heads


class Clauses(NamedTuple):
    """A query's text up to its ORDER BY; the terms of that; LIMIT and OFFSET as text, "" where they are absent."""

    body: str
    order: str
    limit: str
    offset: str


def levels(query: str, dialect: Dialect = SQLITE) -> Iterator[Level]:
    """The levels of parentheses, inner ones first; the query itself last."""
    found = tokens(query, dialect)
    opened: list[tuple[int, list[Token]]] = [(-1, [])]
    for number, token in enumerate(found):
        if token.text == "(":
            opened.append((number, []))
        elif token.text == ")" and len(opened) > 1:
            start, inside = opened.pop()
            yield Level(found, start, inside, token.start, dialect)
            opened[-1][1].append(Token("group", "()", found[start].start, token.end))
        else:
            opened[-1][1].append(token)
    yield Level(found, -1, opened[0][1], len(query), dialect)


def clauses(query: str, dialect: Dialect = SQLITE) -> Clauses:
    """The outermost clauses of a query without semicolons."""
    inside = list(levels(query, dialect))[-1].inside
    order = _place(inside, "order", "by")
    cuts = _cuts(inside, order, dialect)
    end = min((start.start for start, _ in cuts.values()), default=len(query))
    body = query[: order.start if order else end]
    terms = query[inside[inside.index(order) + 1].end : end] if order else ""
    texts = {}
    for name, (start, value) in cuts.items():
        behind = [other.start for other, _ in cuts.values() if other.start > start.start]
        behind += [t.start for t in inside if t.start > value and t.word in ("row", "rows")]  # OFFSET 2 ROWS
        texts[name] = query[value : min(behind, default=len(query))]
    return Clauses(body, terms, texts.get("limit", ""), texts.get("offset", ""))


def _cuts(inside: Sequence[Token], order: Token | None, dialect: Dialect) -> dict[str, tuple[Token, int]]:
    """The outermost LIMIT and OFFSET: the token each begins with, and where its value does. SQLite has the OFFSET behind the
    LIMIT, or `LIMIT offset, limit`; DuckDB has either without the other, in any order, and FETCH FIRST for LIMIT."""
    limit = _place(inside, "limit")
    if dialect is not SQLITE:
        limit = limit or _place(inside, "fetch")
        placed = {"limit": limit, "offset": _place(inside, "offset")}
        first = inside.index(order) if order else 0
        return {name: (t, t.end) for name, t in placed.items() if t and inside.index(t) > first}
    if not limit:
        return {}
    rest = inside[inside.index(limit) + 1 :]
    cut = next((t for t in rest if t.word == "offset" or t.text == ","), None)
    if cut is None:
        return {"limit": (limit, limit.end)}
    if cut.text == ",":
        return {"offset": (limit, limit.end), "limit": (cut, cut.end)}
    return {"limit": (limit, limit.end), "offset": (cut, cut.end)}


def ordered_within(query: str, dialect: Dialect = SQLITE) -> bool:
    """Whether the outermost LIMIT has no ORDER BY of its own and cuts rows that a subquery has put in order."""
    *inner, outermost = levels(query, dialect)
    limit, start = _place(outermost.inside, "limit"), _place(outermost.inside, "from")
    if not limit or not start or _place(outermost.inside, "order", "by"):
        return False
    behind = [t for t in outermost.inside if start.start < t.start < limit.start]
    is_alone = not any(t.text == "," or t.word in ("join", "group", "union", "intersect", "except") for t in behind)
    return is_alone and any(map(_gives_order, inner))


def _gives_order(level: Level) -> bool:
    return level.is_query and level.called in ("from", "as", "materialized") and _ordered(level)


def _place(inside: Sequence[Token], *words: str) -> Token | None:
    """Where the words stand one behind the other, the last time."""
    for i in range(len(inside) - len(words), -1, -1):
        if all(t.word == w for t, w in zip(inside[i : i + len(words)], words, strict=True)):
            return inside[i]
    return None


def told_apart(query: str, term: str, dialect: Dialect = SQLITE) -> str:
    """The query with `term` as a last sort key wherever an inner choice among rows could depend on their order.

    That is where a subquery has a LIMIT, or an order that an outer LIMIT cuts by, and where a window function tells apart
    rows that tie. The outermost ORDER BY stays as it is.
    """
    added: list[tuple[int, str]] = []
    orders = ordered_within(query, dialect)
    for level in levels(query, dialect):
        if level.start < 0:
            continue
        order = _place(level.inside, "order", "by")
        cuts = [start.start for start, _ in _cuts(level.inside, order, dialect).values()]
        if level.is_query and (cuts or (orders and _gives_order(level))):
            place = min([*cuts, level.end])
            added.append((place, f"\n, {term}\n" if order else f"\nORDER BY {term}\n"))
        elif _is_window(level):
            frame = next((t for t in level.inside if t.word in ("rows", "range", "groups")), None)
            place = frame.start if frame else level.end
            if (frame and frame.word == "rows") or (_tells_ties_apart(level) and (order or not frame)):
                whole = "" if order or frame else " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"
                added.append((place, f"\n, {term}\n" if order else f"\nORDER BY {term}{whole}\n"))
    for place, text in sorted(added, reverse=True):
        query = query[:place] + text + query[place:]
    return query


def _is_window(level: Level) -> bool:
    """Whether it is what stands behind OVER, or behind WINDOW name AS."""
    if level.is_query or level.called not in ("over", "as"):
        return False
    return level.called == "over" or not level.inside or level.inside[0].word in _WINDOW or _ordered(level)


def _ordered(level: Level) -> bool:
    return _place(level.inside, "order", "by") is not None


def _tells_ties_apart(level: Level) -> bool:
    """Whether all functions over a window are row_number() and its like, which tell apart rows that tie."""
    found = level.found
    if level.called == "over":
        overs = [level.start - 1]
    else:  # WINDOW name AS (…)
        name = found[level.start - 2].word
        overs = [i for i, (a, b) in enumerate(pairwise(found)) if a.word == "over" and b.word == name]
    return bool(overs) and all(_function_before(found, i) in BY_ROW for i in overs)


def _function_before(found: Sequence[Token], over: int) -> str:
    """The function that the token OVER belongs to; a FILTER may stand between."""
    depth = 0
    for i in range(over - 1, 0, -1):
        depth += (found[i].text == ")") - (found[i].text == "(")
        if depth == 0 and found[i].text == "(" and found[i - 1].word != "filter":
            return found[i - 1].word
    return ""


# ---- clock and chance ---------------------------------------------------------------------------------------------------


def reads_clock(query: str, dialect: Dialect = SQLITE) -> bool:
    """Whether the query's text reads the clock: CURRENT_DATE, date('now'), date(), strftime('%Y'), now() …"""
    found = tokens(query, dialect)
    if any(t.word in dialect.clock and not (i and found[i - 1].text == ".") for i, t in enumerate(found)):
        return True
    reads = False
    for level in levels(query, dialect):
        name = level.called
        if name in dialect.readers:
            reads = True
            if sum(t.text == "," for t in level.inside) + bool(level.inside) <= dialect.readers[name]:
                return True
    # It may come by another function or a table, as in date(coalesce(died, 'now')); and "now" is a text, too.
    return reads and any(t.kind in ("text", "quoted") and t.text[1:-1].lower() == "now" for t in found)


def draws(query: str, dialect: Dialect = SQLITE) -> bool:
    """Whether the query's text draws by chance: random(), randomblob(…), USING SAMPLE …"""
    found = tokens(query, dialect)
    pairs = list(pairwise(found))
    if any(a.word in dialect.chance and b.text == "(" for a, b in pairs):
        return True
    return any(b.word in dialect.samples and (a.word == "using" or b.word != "sample") for a, b in pairs)


# ---- what only looks different ------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def normalise(code: str, dialect: Dialect = SQLITE) -> str:
    """The query without blanks, comments, the case of keywords and bare names, and semicolons behind it.

    Nothing else changes, so two queries with one normal form give the same rows; only their columns' names may differ.
    """
    found = tokens(bare(code, dialect), dialect)
    if not found or found[0].word not in dialect.heads or any(t.text == ";" for t in found):
        return code
    # An inner column without an alias is called by its own text, blanks included: "a + 1".
    if (
        any(t.kind == "quoted" and not t.text[1:-1].replace(" ", "").replace("_", "").isalnum() for t in found)
        and _selects(found) > 1
    ):
        return code
    return " ".join(_SAME.get(t.text, t.text) if t.kind == "sign" else (t.word or t.text) for t in found)


def _selects(found: Sequence[Token]) -> int:
    return sum(t.word == "select" for t in found)


_SAME = {"==": "=", "!=": "<>"}
