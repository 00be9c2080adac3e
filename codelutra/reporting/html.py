"""Pieces of an HTML page, made from text that is never trusted: everything shown is escaped here."""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from codelutra.results.escapes import visible
from codelutra.results.table import Table

_TOKENS = re.compile(r"\s+|\w+|[^\w\s]")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def page(title: str, parts: Sequence[Html]) -> str:
    """A whole document: one file, nothing fetched. Its content security policy lets the browser run our own script alone."""
    templates = resources.files("codelutra.reporting").joinpath("templates")
    script = templates.joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    filled = {"title": safe(title), "body": "\n".join(parts), "script": script, "digest": f"sha256-{digest}"}
    return Template(templates.joinpath("report.html").read_text(encoding="utf-8")).substitute(filled)


def data(name: str, json: str) -> Html:
    """JSON for the page's script, in which every "<" is escaped: the browser neither runs nor shows it."""
    if "<" in json:
        raise ValueError("data in a page may hold no '<'")
    return Html(f'<script type="application/json" id="{safe(name)}">{json}</script>')


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """<name …>inside</name>; `class_` becomes class. Strings are escaped, Html is not."""
    attrs = "".join(f' {k.rstrip("_").replace("_", "-")}="{safe(v)}"' for k, v in attributes.items() if v)
    return Html(f"<{name}{attrs}>{''.join(map(safe, inside))}</{name}>")


def safe(text: str) -> Html:
    """What is no markup yet: escaped, and with characters that hide or reorder others written out."""
    return text if isinstance(text, Html) else Html(escape(visible(text)))


def join(*parts: str) -> Html:
    return Html("".join(map(safe, parts)))


def grid(shown: Table, *, wide: int | None = None) -> Html:
    """A table of `results.table`; the column with index `wide` may wrap."""
    kinds = ["n" if c in shown.numbers else "wide" if i == wide else "" for i, c in enumerate(shown.columns)]

    def cells(kind_of_cell: str, row: Sequence[str]) -> list[Html]:
        return [tag(kind_of_cell, text, class_=kind) for text, kind in zip(row, kinds, strict=True)]

    head = tag("tr", *cells("th", shown.columns))
    body = [tag("tr", *cells("td", row), class_="best" if n == shown.best else "") for n, row in enumerate(shown.rows)]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def folded(summary: str, *inside: str) -> Html:
    return tag("details", tag("summary", summary), *inside)


def side_by_side(left: tuple[str, str], right: tuple[str, str]) -> Html:
    """Two (label, program), what only one of them has marked in it."""
    marked = [code or tag("span", "(empty)", class_="soft") for code in diff(left[1], right[1])]
    labelled = zip((left[0], right[0]), marked, strict=True)
    sides = [tag("div", tag("div", label), tag("pre", code), class_="side") for label, code in labelled]
    return tag("div", *sides, class_="sides")


def diff(left: str, right: str) -> tuple[Html, Html]:
    """Both texts word by word: <del> around what only the left has, <ins> around what only the right has."""
    a, b = _TOKENS.findall(left), _TOKENS.findall(right)
    lefts, rights = list[str](), list[str]()
    for op, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        here, there = "".join(a[a0:a1]), "".join(b[b0:b1])
        lefts.append(safe(here) if op == "equal" or not here else tag("del", here))
        rights.append(safe(there) if op == "equal" or not there else tag("ins", there))
    return join(*lefts), join(*rights)


def cut(text: str, most: int) -> str:
    """At most so many characters, and said so where there were more."""
    return text if len(text) <= most else f"{text[:most].rstrip()} … ({len(text) - most:,} more characters)"
