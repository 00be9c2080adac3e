"""Pictures of a finished run: `python scripts/screenshots.py RUN_FOLDER OUT [--prefect SERVER]`.

OUT/terminal.svg: what `codelutra run` says of it on a terminal of 80 columns. OUT/report-PART-WIDTH-THEME.png: the report,
1400 and 400 pixels wide, light and dark: the page's top, what was gained and lost, and the failures with one opened. With
--prefect: ui-run.png, ui-policy.png and ui-pairs.png, from a server that shows the run and asks for no password
(`PREFECT_UI_API_URL=http://127.0.0.1:4299/api prefect server start --port 4299`).

Needs a browser (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PARTS = {"top": "main", "gains": "#gains", "failures": "#failures"}
COLUMNS = 80


def terminal(run: Path, out: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from tests.helpers.terminal import written_to_terminal

    home = str(run.parents[1])
    written = written_to_terminal("run", str(run / "run.yaml"), "--home", home, columns=COLUMNS)
    kept = re.sub(r"\x1b\[\??[0-9;]*[A-Zhl]", "", written).replace(f" --home {home}", "").replace(home, "~/codelutra")
    lines = [line for line in kept.replace("\r\n", "\n").split("\n") if "starting Prefect" not in line]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(Text.from_ansi("\n".join([f"$ codelutra run {run.name}", *(line.lstrip("\r") for line in lines)])))
    console.save_svg(str(out / "terminal.svg"), title="codelutra", unique_id="terminal")


def report(run: Path, out: Path, tab: Any) -> None:
    from codelutra.reporting.report import write_report

    with tempfile.TemporaryDirectory() as folder:
        page = write_report(run, out=Path(folder) / "report")
        for width, dark in [(w, d) for w in (1400, 400) for d in (False, True)]:
            tab.look(width=width, dark=dark)
            tab.open(page)
            tab.run("(document.querySelectorAll('.rows > details')[1] || {}).open = true")
            for part, place in PARTS.items():
                tab.run(f"document.querySelector({place!r})?.scrollIntoView()")
                tab.screenshot(out / f"report-{part}-{width}-{'dark' if dark else 'light'}.png", whole=False)


def prefect(run: Path, out: Path, tab: Any, server: str) -> None:
    def found(path: str, **asked: Any) -> list[dict[str, Any]]:
        """What the server knows, the newest first."""
        body = json.dumps({"limit": 50} | asked).encode()
        request = urllib.request.Request(f"{server}/api/{path}/filter", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: list[dict[str, Any]] = json.load(answer)
        return told

    def artifact(key: str) -> str:
        return f"artifacts/artifact/{found('artifacts', sort='CREATED_DESC', artifacts={'key': {'any_': [key]}})[0]['id']}"

    summary = json.loads((run / "summary.json").read_text())
    policy = summary["policies"][-2]["folder"]  # the last that the run learned from
    runs = found("flow_runs", sort="START_TIME_DESC", flow_runs={"name": {"any_": [f"refine-{run.name}"]}})
    runs = [r for r in runs if r["state_type"] == "COMPLETED"]
    whole = min(runs, key=lambda r: abs(r["total_run_time"] - 60 * summary["minutes"]))  # not one that found all of it made
    pages = {
        "run": (f"runs/flow-run/{whole['id']}", 1500, 580),
        "policy": (artifact(f"{run.name}-{policy}"), 1300, 1000),
        "pairs": (artifact(f"{run.name}-{policy}-pairs"), 1300, 1000),
    }
    for name, (path, width, height) in pages.items():
        tab.look(width=width, height=height, dark=True)
        tab.open(f"{server}/{path}")
        time.sleep(25)  # the page draws itself after it has loaded
        tab.screenshot(out / f"ui-{name}.png", whole=False)


def main() -> None:
    from tests.helpers.browser import browser, opened

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--prefect", help="a server's address")
    asked = parser.parse_args()
    if browser() is None:
        sys.exit("no browser here: apt-get install chromium")
    run = asked.run.resolve()
    asked.out.mkdir(parents=True, exist_ok=True)
    terminal(run, asked.out)
    with opened() as tab:
        report(run, asked.out, tab)
        if asked.prefect:
            prefect(run, asked.out, tab, asked.prefect.rstrip("/"))


if __name__ == "__main__":
    main()
