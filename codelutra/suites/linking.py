"""The part of a schema that a question needs: `suite.shown_schema: linked`. Found by names and values, without a model.

A table is taken where its name, one of its values, or a word of a column that few tables have is in the question; and so
are the tables on a shortest way between two of those by foreign keys. Of a narrow table all columns are shown. Of a wide
one, and of tables one foreign key away, those whose name or value is in the question, the keys that join, the first column
and what is called name or title. Where nothing is found, the whole schema is shown. Not covered: synonyms, other languages,
what only the meaning tells. `codelutra check` says how much of what references read is there.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from codelutra.suites.databases import reads_of, text_values
from codelutra.suites.sql_text import Token, tokens

VERSION = 1
_COMMON = frozenset(
    """all and any are count each every find for from give has have how list many most not number than that the their them
    there these this total what which who whose with""".split()  # noqa: SIM905 - a list of 32 texts reads worse
)
_LABELS = frozenset(("nam", "titl"))  # stems
NARROW = 10  # columns: all of such a table's are shown, for "the oldest" asks for an age
WORDS_OF_A_VALUE = 6
Place = tuple[str, str]  # table, column; in lower case


class Column(NamedTuple):
    name: str
    shown: str  # as a query must write it
    link: str  # " -> other.column" or ""
    to: str  # the table of the link, in lower case


class Table(NamedTuple):
    name: str
    shown: str
    columns: list[Column]


def linked(problems: pl.DataFrame, files: Mapping[str, Path]) -> pl.DataFrame:
    """PROBLEMS whose prompts show the part of the schema that they need. files: the databases, by digest."""
    prompts = []
    for prompt, judge in problems.select("prompt", "judge").rows():
        context, blank, asked = prompt.partition("\n\n")
        tables = _tables(context)
        kept = needed(tables, asked, _values(files[json.loads(judge)["database"]]))
        prompts.append("\n".join(_lines(context, kept)) + blank + asked if kept else prompt)
    return problems.with_columns(prompt=pl.Series(prompts, dtype=pl.String))


def needed(tables: Sequence[Table], question: str, values: Mapping[str, Iterable[Place]]) -> set[Place]:
    """The columns that the question needs, as `Place`s; empty where it names none."""
    words = re.findall(r"\w+", question.lower())
    asked = {_stem(word) for word in words if word not in _COMMON and len(word) > 2}
    spans = {" ".join(words[i : i + n]) for n in range(1, WORDS_OF_A_VALUE + 1) for i in range(len(words))}
    said = {place for span in spans - _COMMON for place in values.get(span, ())}
    stems = {(t.name, c.name): _found(c.name, asked) for t in tables for c in t.columns}
    spread = Counter(stem for t in tables for stem in {s for c in t.columns for s in stems[t.name, c.name]})
    few = max(2, len(tables) // 3)
    hit = {place for place, found in stems.items() if found} | said
    own = {
        t.name
        for t in tables
        if _found(t.name, asked)
        or any((t.name, c.name) in said or any(spread[s] <= few for s in stems[t.name, c.name]) for c in t.columns)
    }
    links = {(t.name, c.name): c.to for t in tables for c in t.columns if c.to}
    names = _joined(own, links, {t.name for t in tables})
    near = {t for (t, _), to in links.items() if to in names} | {to for (t, _), to in links.items() if t in names}
    beside = near - names
    kept = set[Place]()
    for t in (t for t in tables if t.name in names | beside):
        mine = {(t.name, c.name) for c in t.columns}
        keys = {p for p in mine if links.get(p) in names | beside} | {(t.name, c.name) for c in t.columns[:1]}
        labels = {p for p in mine if _found(p[1], _LABELS)}
        kept |= mine if t.name in names and len(mine) <= NARROW else (mine & hit) | keys | labels
    targets = {(links[p], _target(tables, p)) for p in kept & {*links}}
    return kept | {p for p in targets if p[0] in names | beside}


def _found(name: str, asked: Set[str]) -> set[str]:
    """The words asked for that a name has, also where it writes several as one: "pettype"."""
    parts = _stems(name)
    return {w for w in asked if w in parts or (len(w) > 3 and any(p.startswith(w) or p.endswith(w) for p in parts))}


def _joined(own: set[str], links: Mapping[Place, str], every: set[str]) -> set[str]:
    """The tables, and those on a shortest way between two of them by foreign keys."""
    beside = defaultdict[str, set[str]](set)
    for (table, _), other in links.items():
        if other in every:
            beside[table].add(other)
            beside[other].add(table)
    found = set(own)
    for start, end in combinations(sorted(own), 2):
        before, level = {start: start}, [start]
        while level and end not in before:
            level = [n for at in level for n in sorted(beside[at]) if before.setdefault(n, at) == at and n != start]
        while end in before and end != start:
            found.add(end)
            end = before[end]
    return found


def _target(tables: Sequence[Table], place: Place) -> str:
    """The column that a link leads to; of the same name where the schema does not say."""
    column = next(c for t in tables if t.name == place[0] for c in t.columns if c.name == place[1])
    end = tokens(column.link)
    return _name(end[-1]).lower() if len(end) > 2 else column.name


# ---- text ---------------------------------------------------------------------------------------------------------------


def _lines(context: str, kept: set[Place]) -> Iterator[str]:
    """The lines of a schema with what is kept. Other lines stay, except `table.column: …` of a column that does not."""
    names = {table for table, _ in kept}
    for line in context.split("\n"):
        table = parsed_table(line)
        if table is None:
            about = re.match(r"([^.:]+)\.([^:]+):", line)
            if not about or (about[1].lower(), about[2].lower()) in kept:
                yield line
        elif table.name in names:
            columns = [c.shown + (c.link if c.to in names else "") for c in table.columns if (table.name, c.name) in kept]
            yield f"{table.shown}({', '.join(columns)})"


@lru_cache(1024)
def _tables(context: str) -> tuple[Table, ...]:
    return tuple(filter(None, map(parsed_table, context.split("\n"))))


@lru_cache(65536)
def parsed_table(line: str) -> Table | None:
    """A line as `databases.table_text` writes it; None for any other."""
    found = tokens(line)
    if len(found) < 3 or found[0].kind not in ("word", "quoted") or found[1].text != "(" or found[-1].text != ")":
        return None
    items = [list(item) for comma, item in groupby(found[2:-1], lambda t: t.text == ",") if not comma]
    columns = []
    for first, *rest in items:
        link = line[first.end : rest[-1].end] if rest else ""
        columns.append(Column(_name(first).lower(), first.text, link, _name(rest[1]).lower() if len(rest) > 1 else ""))
    return Table(_name(found[0]).lower(), found[0].text, columns)


def _name(token: Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text


@lru_cache(65536)
def _stems(name: str) -> frozenset[str]:
    """The words of a name, without what a plural or a verb adds."""
    parts = re.findall(r"[^\W\d_]+", name)
    return frozenset(_stem(part) for part in parts if len(part) > 2 and part not in _COMMON)


def _stem(word: str) -> str:
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) > 2 and not word.endswith("ss"):
            word = word.removesuffix(ending) + instead
            break
    return word.removesuffix("e")


@lru_cache(256)
def _values(file: Path) -> dict[str, set[Place]]:
    found = defaultdict[str, set[Place]](set)
    for table, column, value in text_values(file):
        words = re.findall(r"\w+", value.lower())
        if 0 < len(words) <= WORDS_OF_A_VALUE and len(span := " ".join(words)) > 2:
            found[span].add((table.lower(), column.lower()))
    return dict(found)


# ---- how much of it is there --------------------------------------------------------------------------------------------


def recall(full: pl.DataFrame, shown: pl.DataFrame, files: Mapping[str, Path]) -> dict[str, Any]:
    """Of what references read: the shares of `tables` and of `columns` that prompts show, and how many prompts show the
    `whole` of it, of so many `references`; and the mean share of a schema's columns that is `shown`.

    full: PROBLEMS with whole schemas; shown: the same from `linked`.
    """
    tables, columns, whole, kept = [0, 0], [0, 0], [0, 0], list[float]()
    for before, after, reference, judge in zip(
        full["prompt"], shown["prompt"], full["reference"], full["judge"], strict=True
    ):
        all_places, places = (_places(prompt) for prompt in (before, after))
        kept.append(len(places) / max(1, len(all_places)))
        if not reference:
            continue
        read = reads_of(files[json.loads(judge)["database"]], reference)
        wanted = read & all_places
        of_tables = {t for t, _ in read} & {t for t, _ in all_places}
        there = {t for t, _ in places}
        for count, got, of in ((tables, of_tables & there, of_tables), (columns, wanted & places, wanted)):
            count[0] += len(got)
            count[1] += len(of)
        whole[0] += of_tables <= there and wanted <= places
        whole[1] += 1
    shares = {name: a / b if b else 1.0 for name, (a, b) in {"tables": tables, "columns": columns}.items()}
    return {**shares, "whole": whole[0], "references": whole[1], "shown": sum(kept) / max(1, len(kept))}


def _places(prompt: str) -> set[Place]:
    return {(t.name, c.name) for t in _tables(prompt.partition("\n\n")[0]) for c in t.columns}
