"""Screenshots of a run's report: 1400 and 400 pixels wide, light and dark (`python scripts/screenshots.py RUN_FOLDER OUT`).

Needs a browser (Debian: `apt-get install chromium`). It writes the report to a temporary folder and pictures of the page's
top, of what was gained and lost, and of the failures with one opened: OUT/report-PART-WIDTH-THEME.png.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {"top": "main", "gains": "#gains", "failures": "#failures"}


def main(run: Path, out: Path) -> None:
    from codelutra.reporting.report import write_report
    from tests.helpers.browser import browser, opened

    if browser() is None:
        sys.exit("no browser here: apt-get install chromium")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, opened() as tab:
        page = write_report(run, out=Path(folder) / "report")
        for width, dark in [(w, d) for w in (1400, 400) for d in (False, True)]:
            tab.look(width=width, dark=dark)
            tab.open(page)
            tab.run("(document.querySelectorAll('.rows > details')[1] || {}).open = true")
            for part, place in PARTS.items():
                tab.run(f"document.querySelector({place!r})?.scrollIntoView()")
                tab.screenshot(out / f"report-{part}-{width}-{'dark' if dark else 'light'}.png", whole=False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(str(__doc__))
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
