"""Figures that are drawn once, for tests whose subject they are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codelutra.reporting import report
from codelutra.reporting.figures.drawing import Drawing, Figure, draw


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """The real drawings: the same rows give the same bytes. Drawing them takes most of the time of an export."""
    drawn: dict[str, Drawing] = {}

    def once(figure: Figure) -> Drawing:
        key = repr((figure.name, figure.title, figure.caption, figure.size, figure.rows))
        if key not in drawn:
            drawn[key] = draw(figure)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", once)
        yield
