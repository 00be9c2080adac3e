"""Settings against each other on dev: the points of a grid, each a run that shares with the others all its settings leave
untouched. Test stays closed (`select.test: false`): it is for the one setting that is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from codelutra.cli.tables import markdown_table, paired_text
from codelutra.config import RunConfig, load_config
from codelutra.errors import UserError
from codelutra.reporting.figures.drawing import draw
from codelutra.reporting.figures.runs import runs_compared_figure
from codelutra.store.files import write_atomic

Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    label: str  # what is special about it: "learning_rate 4e-5, beta 0.1"
    config: RunConfig
    overrides: tuple[str, ...]


def grid(config: str, overrides: tuple[str, ...], vary: Sequence[str]) -> list[Point]:
    """Every combination of `vary`, each "section.key=value,value,…". Raises UserError where one is not that, ConfigError
    where a value is not allowed: all points are valid before the first one runs."""
    axes = []
    for text in vary:
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise UserError(f"--vary {text!r}: write section.key=value,value, e.g. --vary train.learning_rate=1e-5,4e-5")
        axes.append([(key, value.strip()) for value in values.split(",")])
    if not axes:
        raise UserError("nothing to vary; e.g. --vary train.learning_rate=1e-5,4e-5 --vary pairs.references=true,false")
    base = load_config(config, overrides).name
    points = []
    for chosen in product(*axes):
        label = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen)
        name = _short(re.sub(r"[^A-Za-z0-9._-]+", "-", f"{base}-{label}").strip("-"))
        more = (*overrides, *(f"{key}={value}" for key, value in chosen), "select.test=false", f"name={name}")
        points.append(Point(label, load_config(config, more), more))
    return points


def _short(name: str) -> str:
    """At most 64 characters, different for different names."""
    return name if len(name) <= 64 else f"{name[:55]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def results(home: Path, points: Sequence[Point]) -> list[Row]:
    """A row a point that has finished, best dev pass@1 first; of equals the one given first."""
    rows = []
    for p in points:
        file = home / "runs" / p.config.name / "summary.json"
        s = json.loads(file.read_text()) if file.exists() else {}
        if s.get("state") != "finished":
            continue
        best = next(r for r in s["policies"] if r["label"] == s["best"])
        rows.append(
            {
                "setting": p.label,
                "run": p.config.name,
                "policy": best["title"],
                "dev": best["dev"],
                "against_start": best["paired"]["start"],
                "by_policy": [
                    {"title": r["title"], "value": r["dev"]["value"], "executable": r["executable"]} for r in s["policies"]
                ],
                "minutes": round(sum(sum(r["seconds"].values()) for r in s["policies"]) / 60, 1),
                "summary": s,
            }
        )
    return sorted(rows, key=lambda r: -r["dev"]["value"])


def table_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {
            "setting": r["setting"],
            "dev pass@1 [95 %]": f"{r['dev']['value']:.1%} [{100 * r['dev']['low']:.1f} – {100 * r['dev']['high']:.1f}]",
            "chosen": r["policy"],
            "against the start": paired_text(r["against_start"]),
            "by policy, %": " → ".join(f"{100 * x['value']:.1f}" for x in r["by_policy"]),
            "minutes": f"{r['minutes']:.1f}",
        }
        for r in rows
    ]


def write_sweep(rows: Sequence[Row], out_dir: Path) -> None:
    """sweep.json, sweep.md and the figure, into `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    flat = [{k: v for k, v in r.items() if k != "summary"} for r in rows]
    write_atomic(out_dir / "sweep.json", json.dumps(flat, indent=1) + "\n")
    write_atomic(out_dir / "sweep.md", markdown_table(table_rows(rows)) + "\n")
    draw(runs_compared_figure([(r["setting"], r["summary"]) for r in rows])).save(out_dir)
