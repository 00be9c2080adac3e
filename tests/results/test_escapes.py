"""Whatever a file or a model wrote, Markdown, a page and a terminal show it as text and nothing else."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from codelutra.cli.progress import event_line
from codelutra.cli.tables import say, show
from codelutra.reporting.html import folded, grid, page, side_by_side, tag
from codelutra.results.escapes import code, fenced, inline, one_line, paragraph, visible
from codelutra.results.table import Table

PIECES = (
    r"""
# heading|## |> quote|- item|+ item|1. item|1) item|***|---|===|~~~|```|````|`|``
![x](http://e/p.png)|[x](http://e)|[4](http://e)|[1]: http://e|[1]|[^1]|]|(|[|]: |!|<b>|</script>|<!-- |-->
<img src=x onerror=y>
<http://e>|&lt;|&#x3c;|\|\\|*|_|__|a_b_c|~~|$$|http://e.com|www.e.com|a@b.com
[bold]|[/]|[link=http://e]|"'|' onx='|]]>|]]|{x}|%
word|Ünïcode|40.0|[40.0 – 54.5]
""".strip()
    .replace("\n", "|")
    .split("|")
)
CONTROLS = ["\n", "\n\n", "\t", "    ", "\r", "\x00", "\x1b[31m", "\x1b]0;t\x07", "\x9b1m", "\x7f"]
HIDDEN = ["\u2028", "\u202e", "\u2066", "\ufeff", "\u200b", "\ud800", "\U000e0041"]
hostile = st.lists(st.sampled_from([*PIECES, *CONTROLS, *HIDDEN, "|", "| --- |"]) | st.text(max_size=4), max_size=8).map(
    "".join
)
ENDS_OR_MOVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def document(text: str) -> str:
    """Markdown with `text` everywhere that others' texts can stand."""
    table = Table(["a", text], [[text, "b"], ["c", text]], best=1)
    parts = [f"### {inline(text)}", paragraph(text), fenced(text, "diff"), f"> **{inline(text)}**", table.markdown()]
    return "\n\n".join([*parts, f"run {code(text)} on it", f"| | |\n|---|---|\n| suite | {code(text)} |", "The end."])


def flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def tokens_of(text: str) -> list[Token]:
    return list(flat(MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)))


def structure(text: str) -> list[tuple[str, str]]:
    words = ("text", "text_special", "code_inline")
    return [(t.type, t.tag) for t in tokens_of(text) if t.type not in words]


@given(hostile)
def test_no_text_changes_the_structure_of_markdown(text: str) -> None:
    assume(inline(text))
    assert structure(document(text)) == structure(document("harmless words"))


@given(hostile)
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    meant = one_line(re.sub(r"[ \n\t]+", " ", text)).strip()
    assume(meant)
    for written in (inline(text), paragraph(text)):
        (said,) = [t for t in tokens_of(f"x {written}" if written == inline(text) else written) if t.type == "inline"]
        assert "".join(t.content for t in said.children or []).removeprefix("x ") == meant


@given(hostile)
def test_no_text_turns_into_a_link_by_itself(text: str) -> None:
    outside_code = "".join(paragraph(text))
    assert not re.search(r"(?<!\\)://|www\.|\w@\w", outside_code, re.IGNORECASE)


@given(hostile)
def test_a_block_of_code_ends_where_we_end_it(text: str) -> None:
    (block,) = [t for t in tokens_of(fenced(text)) if t.type == "fence"]
    assert block.content == visible(text).replace("\r\n", "\n") + "\n"


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment",))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.found.append(("instruction",))

    def unknown_decl(self, data: str) -> None:
        self.found.append(("unknown",))


def html(text: str) -> str:
    table = Table(["a", text], [[text, "b"]])
    programs = side_by_side((text, text), ("right", text))  # the same twice: nothing in it is marked
    return page(text, [tag("p", text, title=text), grid(table), folded(text, tag("pre", text)), programs])


@given(hostile)
def test_no_text_changes_the_structure_of_a_page(text: str) -> None:
    assume(inline(text))
    assert Elements(html(text)).found == Elements(html("harmless words")).found
    assert not ENDS_OR_MOVES.search(html(text))
    html(text).encode()


@given(hostile)
def test_no_text_moves_the_cursor_or_reorders_a_line(text: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        say(text)
        show(Table(["a", text], [[text, "b"]]), title=text)
    assert not ENDS_OR_MOVES.search(out.getvalue())
    rows = [line for line in out.getvalue().splitlines() if line.rstrip().endswith(" b")]
    assert len(rows) >= 1, "a cell is in one line"


def events(text: str) -> list[dict[str, Any]]:
    return [
        {"event": "damaged", "stage": text, "moved_to": text},
        {"event": "note", "stage": "", "text": text},
        {"event": "waiting", "stage": "", "what": text},
        {"event": "made", "stage": "train", "label": text, "seconds": 1.0},
    ]


@given(hostile)
def test_an_event_of_the_ledger_is_told_without_markup_of_others(text: str) -> None:
    def told(text: str) -> str:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=10_000, highlight=False, emoji=False, color_system="standard")
        for event in events(text):
            console.print(event_line(event), soft_wrap=True)
        return out.getvalue()

    ours = re.compile(r"\x1b\[[0-9;]*m")
    assert len(ours.findall(told(text))) >= len(ours.findall(told("w"))), "a line is coloured, each of its lines anew"
    plain = ours.sub("", told(text))
    assert not ENDS_OR_MOVES.search(plain.replace("\t", " "))
    assert plain.count("[bold]") == 5 * text.count("[bold]"), "shown, not obeyed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("سلام‌ها 👩‍👩‍👧", "سلام‌ها 👩‍👩‍👧"),
        ("naïve – “q” 漢字", "naïve – “q” 漢字"),
    ],
)
def test_what_cannot_be_seen_is_written_out_and_words_of_all_languages_stay(text: str, shown: str) -> None:
    assert visible(text) == one_line(text) == shown


def test_numbers_stay_readable_in_the_source_of_a_table() -> None:
    table = Table(["n"], [["47.2% [40.0 – 54.5]"], ["+20 −10, p < 0.001"], ["[+3.4 – +16.0] points"]])
    assert "\\" not in table.markdown()
