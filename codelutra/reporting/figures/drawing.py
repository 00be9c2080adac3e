"""Figures as values: drawn once, in stand-in colours for ink, grid and paper, then coloured for where they are seen.

Files on disk get a white paper; inside a page the reader's light or dark theme decides. Series colours are Okabe and Ito's,
which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.results.answers import as_csv
from codelutra.results.escapes import visible
from codelutra.store.files import write_atomic

Row = dict[str, Any]

INK, GRID, PAPER = "#1f2430", "#d9dde4", "#fefefd"
GREEN, VERMILION, BLUE, ORANGE, SKY, PURPLE = "#009e73", "#d55e00", "#0072b2", "#e69f00", "#56b4e9", "#cc79a7"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
_STYLE = Path(__file__).with_name("style.mplstyle")


@dataclass(frozen=True)
class Figure:
    """A figure not drawn yet: `draw(figure)` puts it on an empty matplotlib Figure of `size` inches."""

    name: str
    title: str
    caption: str
    rows: list[Row]
    draw: Callable[[Any], None]
    size: tuple[float, float] = (5.4, 3.5)


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn: the same rows give the same bytes."""

    figure: Figure
    svg: str
    png: bytes

    def save(self, out_dir: Path) -> list[Path]:
        """Write NAME.svg and .png, and the rows as .json and .csv; returns the files, each whole."""
        figure = self.figure
        out_dir.mkdir(parents=True, exist_ok=True)
        svg, png, data, table = (out_dir / f"{figure.name}.{kind}" for kind in ("svg", "png", "json", "csv"))
        write_atomic(svg, self.svg.replace(PAPER, "#ffffff"))
        write_atomic(png, self.png)
        content = {"title": figure.title, "caption": figure.caption, "rows": figure.rows}
        write_atomic(data, json.dumps(content, indent=1))
        write_atomic(table, as_csv(pl.DataFrame(figure.rows, infer_schema_length=None)))
        return [svg, png, data, table]

    def inline(self) -> str:
        """An <svg> element for an HTML page: ids of its own, scales with its box, ink and grid follow the page's theme."""
        head, body = self.svg[self.svg.index("<svg") :].split(">", 1)
        view = head.split('viewBox="', 1)[1].split('"', 1)[0]
        for mark in (' id="', "url(#", 'xlink:href="#'):
            body = body.replace(mark, f"{mark}{self.figure.name}-")
        body = body.replace(INK, "currentColor").replace(GRID, "var(--line)").replace(PAPER, "none")
        label = escape(self.figure.title)
        return f'<svg viewBox="{view}" role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def draw(figure: Figure) -> Drawing:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Text

    svg, png = io.StringIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": figure.name}, _STYLE):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.suptitle(visible(figure.title), x=0.01, ha="left", weight="bold", size=10)
        figure.draw(canvas)
        for text in canvas.findobj(Text):
            text.set_text(visible(text.get_text()))
        canvas.savefig(png, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        canvas.set_layout_engine("none")  # laid out already
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(figure, svg.getvalue(), png.getvalue())
