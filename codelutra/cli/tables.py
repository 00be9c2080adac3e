"""Tables for people. What they show is in the run's files; this module only lays it out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codelutra.errors import UserError
from codelutra.pipeline.run import home_dir
from codelutra.store.paths import go_on_command, told_command
from codelutra.store.run_dir import RunDir

if TYPE_CHECKING:
    from codelutra.pipeline.check import Report

Row = dict[str, Any]
_SHOWN = 10  # of a kind, for people; JSON has all


def read_summary(runs: Path, name: str) -> Row:
    """A run's summary.json with its live state. Raises UserError naming the runs there are."""
    run = RunDir(runs / name)
    summary: Row | None = run.read("summary.json")
    if summary is None:
        there = sorted(p.parent.name for p in runs.glob("*/run.yaml"))
        raise UserError(f"no run {name!r} with results under {runs}; there: {', '.join(there) or 'none'}")
    if summary["state"] == "running" and not run.held:
        last = next((e for e in reversed(run.events()) if e["event"] != "refused"), {"event": ""})
        again = f"`{go_on_command(run.path)}` goes on where it was"
        failed = last["event"] == "error"
        summary["state"] = "failed" if failed else "interrupted"
        summary["reason"] = f"{last['text']}\n{again}" if failed else f"its process is gone; {again}"
    if summary["state"] == "running":
        summary["now"] = run.read("progress.json")
    return summary


def list_runs(runs: Path) -> list[Row]:
    rows = []
    for path in sorted(runs.glob("*/summary.json")):
        s = read_summary(runs, path.parent.name)
        best = next((p for p in s["policies"] if p["label"] == s["best"]), None)
        rows.append(
            {
                "run": s["run"],
                "suite": s["suite"],
                "state": s["state"],
                "best": best["title"] if best else "",
                "dev_pass_at_1": best["dev"]["value"] if best and best["dev"]["n"] else None,
            }
        )
    return rows


def runs_table(rows: list[Row]) -> None:
    if not rows:
        print("no runs here yet; `codelutra run demo` makes one")
        return
    table = Table("run", "suite", "state", "best policy", "dev pass@1")
    for r in rows:
        value = r["dev_pass_at_1"]
        table.add_row(r["run"], r["suite"], r["state"], r["best"], "" if value is None else f"{value:.1%}")
    Console(markup=False).print(table)


def problem_counts(s: Row) -> str:
    """Of a summary: 400 train, 178 dev, 150 test; and of how many train problems the model is shown the reference."""
    counts = {split: n for split in ("train", "dev", "test") if (n := s["problems"].get(split))}
    known = s["problems"].get("train_with_reference")
    told = {"train": "" if known is None else f" ({known:,} with a reference)"}
    return ", ".join(f"{n:,} {split}{told.get(split, '')}" for split, n in counts.items())


def summary_table(s: Row, home: Path | None) -> None:
    """The table a run ends with."""
    console = Console(highlight=False, soft_wrap=True, markup=False)  # reasons and paths may hold [brackets]
    wide = not narrow()
    columns = {
        "policy": "left",
        "dev pass@1 [95 %]": "right",
        "runs": "right",
        "ends": "right",
        "tokens": "right",
        "against the one before": "left",
        "pairs": "right",
        "min": "right",
    }
    title = f"{s['run']}: {s['suite']} ({problem_counts(s)})"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [c for c in columns if wide or c not in ("ends", "tokens")]
    for name in shown:
        table.add_column(name, justify=columns[name], no_wrap=True)  # type: ignore[arg-type]
    for row in s["policies"]:
        dev, best = row["dev"], row["label"] == s["best"]
        cells = {
            "policy": row["title"],
            "runs": f"{row['executable']:.0%}",
            "ends": ended_text(row),
            "tokens": length_text(row),
            "dev pass@1 [95 %]": f"{dev['value']:.1%} [{100 * dev['low']:.1f} – {100 * dev['high']:.1f}]",
            "against the one before": paired_text(row["paired"]["previous"]),
            "pairs": f"{row['pairs'] or ''}",
            "min": f"{sum(row['seconds'].values()) / 60:.1f}",
        }
        if not dev["n"]:
            cells |= {"dev pass@1 [95 %]": "", "runs": ""}
        table.add_row(*(cells[c] for c in shown), style="bold" if best else "")
    console.print(table)
    for row in s["policies"]:
        against = row["paired"]["start"]
        if against and row["paired"]["previous"] and against["against"] != row["paired"]["previous"]["against"]:
            console.print(f"{row['title']} against {against['against']}: {paired_text(against)}")
    if s["test"]:
        t = s["test"]
        console.print(
            f"test, touched once with {s['best']}: {t['value']:.1%} [{t['low']:.1%} – {t['high']:.1%}], n = {t['n']}"
        )
    state = f"{s['state']}: {s['reason']}" if s["reason"] else s["state"]
    console.print(state + (f"  ({s['minutes']:.1f} minutes)" if "minutes" in s else ""))
    for text in (a for row in s["policies"] for a in row.get("alarms", [])):
        console.print(f"! {text}", style="yellow")
    if now := s.get("now"):
        console.print(
            f"now: {now['stage']} {now['done']:,}/{now['total']:,} {now['unit']}{training_text(now.get('measures'))}"
        )
    folder = home_dir(home) / "runs" / s["run"]
    report = told_command(f"codelutra report {s['run']}", folder)
    console.print(f"files: {folder}   report: {report}   UI: make ui", style="dim")


def training_text(measures: Row | None, before: str = "  ·  ") -> str:
    """A step of training in words: summed log-probabilities of an answer in nats, in brackets how far they moved from the
    reference model's; "" where there is nothing to say."""
    m = measures or {}
    said = [f"{name} {m[name]:.3f}" for name in ("loss", "reward") if name in m]
    said += [
        f"{side} {m[f'{side}_log_prob']:.1f} ({m[f'{side}_drift']:+.1f})"
        for side in ("chosen", "rejected")
        if f"{side}_log_prob" in m
    ]
    said += [f"{label} {m[name]:.3f}" for name, label in (("margin", "margin"), ("kl", "KL")) if name in m]
    return (before + "  ".join(said)).replace("-", "−") if said else ""


def ended_text(row: Row, split: str = "dev") -> str:
    """The share of a policy's answers that end by themselves, "" where it is not known."""
    answers = row.get("answers", {}).get(split)
    return f"{answers['ended']:.0%}" if answers else ""


def length_text(row: Row, split: str = "dev") -> str:
    """Mean tokens of a policy's answers, and how much that is more than the policy before it."""
    answers = row.get("answers", {}).get(split)
    if not answers:
        return ""
    drift = answers.get("length_drift")
    return f"{answers['tokens']:.0f}" + (f" ({drift:+.0%})".replace("-", "−") if drift is not None else "")


def paired_text(paired: Row | None) -> str:
    """A paired test in words: problems gained and lost, exact McNemar p."""
    if not paired:
        return ""
    return f"+{paired['gained']} −{paired['lost']}, p = {paired['p']:.2g}"


def doctor_table(rows: list[Row]) -> None:
    table = Table("", "what", "found", "how to get it")
    for r in rows:
        table.add_row(
            "[green]✓[/]" if r["ok"] else "[red]✗[/]",
            *(escape(text) for text in (r["name"], str(r["found"]), "" if r["ok"] else r["how_to_get_it"])),
        )
    Console().print(table)


def progress_line(stage: str, done: int, total: int, unit: str, measures: dict[str, float]) -> None:
    """How far a stage is, on a terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{stage}: {done:,}/{total:,} {unit}" if done < total else "\r\033[K", end="", file=sys.stderr)


def check_rows(report: Report) -> Row:
    return {**asdict(report), "spoilt": report.spoilt}


def check_table(report: Report) -> None:
    """What `codelutra check` found: counts a split, the first of what fails and leaks, and what it comes to."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{report.suite['name']} {report.suite['version']}, {report.suite['mode']}", title_justify="left")
    for name in ("split", "problems", "usable", "too long", "errors", "flaky", "digest"):
        table.add_column(name, justify="left" if name in ("split", "digest") else "right")
    for row in report.splits:
        table.add_row(*("not counted" if v is None else str(v) for v in row.values()))
    console.print(table)
    for kind, n in Counter(f["kind"] for f in report.failures).most_common():
        console.print(f"{n} × {kind}", markup=False)
        for f in [f for f in report.failures if f["kind"] == kind][:_SHOWN]:
            why = "" if f["why"] == kind else f": {' '.join(f['why'].split())[:160]}"
            console.print(f"    {f['split']} {f['problem_id']}{why}", markup=False)
            console.print(f"        {' '.join(f['reference'].split())[:160]}", markup=False, style="dim")
    for leak in report.leaks[:_SHOWN]:
        where = f"{leak['suite']} {leak['split']} {leak['problem_id']}"
        console.print(f"leak: {where} has the {leak['shares']} of train {leak['train_id']}", markup=False)
    if len(report.leaks) > _SHOWN:
        console.print(f"… and {len(report.leaks) - _SHOWN} more leaks (--json lists all)")
    for line in report.notes:
        console.print(line, markup=False)
    errors = sum(row["reference_errors"] + row["flaky"] for row in report.splits)
    if errors:
        console.print(f"{errors} references are no use: counted, kept out of pairs, never right (--json lists all)")
    console.print(f"not fine: {'; '.join(report.spoilt)}" if report.spoilt else "fine: no leak, and references to judge by")


def narrow() -> bool:
    """Whether the terminal has too few columns for all of a wide table's."""
    return Console().width < 110


def by_stage(artifacts: Sequence[tuple[Path, int]]) -> list[Row]:
    """Directories of the store with their bytes → a row a stage: how many, GiB."""
    kinds: dict[str, list[int]] = {}
    for path, size in artifacts:
        kinds.setdefault(path.parent.name, []).append(size)
    return [{"stage": k, "artifacts": len(sizes), "GiB": f"{sum(sizes) / 2**30:.2f}"} for k, sizes in sorted(kinds.items())]


def rows_table(rows: list[Row], *, title: str) -> None:
    """Any list of flat rows with the same keys."""
    table = Table(*(rows[0] if rows else []), title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for r in rows:
        table.add_row(*(str(v) for v in r.values()))
    Console(markup=False).print(table)


def markdown_table(rows: list[dict[str, str]]) -> str:
    """The same as Markdown."""
    head = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(r.values()) + " |" for r in rows)])


def purpose(preset: Path) -> str:
    """The sentence a preset opens with."""
    return preset.read_text().split("\n", 1)[0].lstrip("# ").strip()
