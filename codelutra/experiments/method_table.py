"""Finished runs of several methods → one table: who is better, by how much, at what cost. Pure reading of run directories.

Numbers are of the test split, which every run touched once, with the policy its dev split chose. Several seeds of a
method are averaged problem by problem, so intervals and tests are over problems, never over problems × seeds.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.cli.tables import markdown_table
from codelutra.config import to_yaml
from codelutra.errors import UserError
from codelutra.experiments.methods import METHODS, Overrides, arm
from codelutra.reporting.figures.drawing import BLUE, INK, Figure, draw
from codelutra.scoring.scores import difference, mean_pass_at_1
from codelutra.store.files import write_atomic

Row = dict[str, Any]
AGAINST = "codelutra"  # the method the others are held against, where it is among them


def compare(home: Path, config: str, overrides: Overrides, methods: list[str], seeds: dict[str, list[int]]) -> Row:
    """The comparison as JSON: one row a method. Raises UserError where none of the runs has finished.

    A run that is missing, unfinished or without a test split is named in `missing` and left out of its method's row.
    """
    found: dict[str, list[tuple[int, Row, pl.DataFrame]]] = {}
    missing = []
    for method in methods:
        for seed in seeds[method]:
            made, _ = arm(config, overrides, method, seed)
            path = home / "runs" / made.name
            scores = path / "test-scores" / "scores.parquet"
            summary = json.loads((path / "summary.json").read_text()) if (path / "summary.json").exists() else {}
            if summary.get("state") == "finished" and summary["test"] and scores.exists():
                found.setdefault(method, []).append((seed, summary, pl.read_parquet(scores)))
            else:
                missing.append(made.name)
    if not found:
        raise UserError(
            f"none of these runs has finished under {home / 'runs'}: {', '.join(missing)}; run `codelutra compare`"
        )
    rows = [_row(method, found) for method in methods if method in found]
    first = next(iter(found.values()))[0][1]
    base = max((r["test"]["value"] for r in rows if r["method"].startswith("base")), default=0.0)
    for row in rows:
        row["times_base"] = round(row["test"]["value"] / base, 2) if base else None
    shown, _ = arm(config, overrides, methods[0], seeds[methods[0]][0])
    return {
        "suite": first["suite"],
        "suite_version": first["suite_version"],
        "mode": first["mode"],
        "model": first["model"],
        "problems": first["problems"],
        "methods": rows,
        "missing": missing,
        "config": to_yaml(shown),
    }


def _row(method: str, found: dict[str, list[tuple[int, Row, pl.DataFrame]]]) -> Row:
    runs = found[method]
    against = None
    if method != AGAINST and AGAINST in found:
        # Seeds that both have; where they share none, all of either.
        common = {s for s, _, _ in runs} & {s for s, _, _ in found[AGAINST]}
        ours = [f for s, _, f in found[AGAINST] if not common or s in common]
        theirs = [f for s, _, f in runs if not common or s in common]
        against = {"method": AGAINST, "seeds": sorted(common), **asdict(difference(theirs, ours))}
    return {
        "method": method,
        "what": METHODS[method].what,
        "test": asdict(mean_pass_at_1([f for _, _, f in runs])),
        "against": against,
        "runs": [_run(seed, summary) for seed, summary, _ in runs],
    }


def _run(seed: int, s: Row) -> Row:
    """What one run found and cost. Minutes are of the work itself, also where it was reused from another run's."""
    rows: list[Row] = s["policies"]
    best = next(r for r in rows if r["label"] == s["best"])
    seconds = [r["seconds"] for r in rows]
    return {
        "seed": seed,
        "run": s["run"],
        "policy": best["title"],
        "dev": best["dev"],
        "test": s["test"],
        "dev_by_policy": [{"title": r["title"], "value": r["dev"]["value"], "correct": r["dev"]["correct"]} for r in rows],
        "samples": sum((r.get("train") or {}).get("samples", 0) for r in rows),
        "tokens": sum(r["tokens"] for r in rows),
        "pairs": [r["pairs"] for r in rows if r["pairs"]],
        "minutes": round(sum(sum(x.values()) for x in seconds) / 60, 1),
        "training_minutes": round(sum(x.get("train", 0.0) for x in seconds) / 60, 1),
    }


def write_comparison(result: Row, out_dir: Path) -> Path:
    """Write comparison.json, comparison.md and the figure into `out_dir`; returns the JSON's path."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / "comparison.json", json.dumps(result, indent=1) + "\n")
    table = markdown_table(table_rows(result))
    note = "".join(f"\n\nNot in it: {name}, not finished." for name in result["missing"])
    write_atomic(out_dir / "comparison.md", table + note + "\n")
    draw(methods_figure(result)).save(out_dir)
    return out_dir / "comparison.json"


def table_rows(result: Row, *, narrow: bool = False) -> list[dict[str, str]]:
    """The table people read: one flat row a method. `narrow`: what fits 80 columns."""
    rows = []
    for r in result["methods"]:
        runs, test, against = r["runs"], r["test"], r["against"]
        dev = f"{sum(x['dev']['value'] for x in runs) / len(runs):.1%}" if runs[0]["dev"]["n"] else ""
        rows.append(
            {
                "method": r["method"],
                "seeds": str(len(runs)),
                "dev pass@1": dev,
                "test pass@1": f"{test['value']:.1%} [{test['low']:.1%} – {test['high']:.1%}]",
                "× base": f"{r['times_base']:.2f}" if r["times_base"] else "",
                f"{AGAINST} is ahead by": _ahead(against, narrow) if against else "",
                "samples": f"{sum(x['samples'] for x in runs) // len(runs):,}",
                "minutes": f"{sum(x['minutes'] for x in runs) / len(runs):.1f}",
            }
        )
    left_out = ("seeds", "dev pass@1", "samples") if narrow else ()
    return [{name: cell for name, cell in row.items() if name not in left_out} for row in rows]


def _ahead(d: Row, narrow: bool) -> str:
    p = "p < 0.001" if d["p"] < 0.001 else f"p = {d['p']:.2g}"
    interval = "" if narrow else f" [{100 * d['low']:+.1f} – {100 * d['high']:+.1f}] points"
    return f"{100 * d['value']:+.1f}{interval}, {p}"


def methods_figure(result: Row) -> Figure:
    """Test pass@1 of every method with its interval, the best on top; a dot a seed."""
    rows = [
        {
            "method": r["method"],
            "test_pass_at_1": r["test"]["value"],
            "low": r["test"]["low"],
            "high": r["test"]["high"],
            "seeds": [x["test"]["value"] for x in r["runs"]],
        }
        for r in sorted(result["methods"], key=lambda r: r["test"]["value"])
    ]
    n = result["methods"][0]["test"]["n"]

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for y, r in enumerate(rows):
            value, low, high = (100 * r[k] for k in ("test_pass_at_1", "low", "high"))
            ax.barh(y, value, color=BLUE, alpha=0.85 if r["method"] == AGAINST else 0.4, height=0.6)
            ax.plot([low, high], [y, y], color=INK, linewidth=1.4)
            if len(r["seeds"]) > 1:
                ax.plot([100 * s for s in r["seeds"]], [y] * len(r["seeds"]), "o", color=INK, markersize=3)
            ax.annotate(f"{value:.1f}", (high, y), xytext=(4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(rows)), [r["method"] for r in rows])
        ax.grid(axis="y", visible=False)
        ax.set_xlim(left=0)
        ax.set_xlabel(f"test pass@1, % of {n} problems")

    flat = [r | {"seeds": ";".join(f"{s:.4f}" for s in r["seeds"])} for r in rows]
    caption = (
        f"Greedy pass@1 on the test split of {result['suite']} ({n} problems), policies chosen on dev. Lines: 95 % "
        "intervals, dots: single seeds."
    )
    return Figure("methods", "What a user would do instead", caption, flat, paint, (5.8, 0.9 + 0.36 * len(rows)))
