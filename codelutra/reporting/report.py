"""The report of a run: one HTML page that needs nothing else, and its figures as files beside it.

    runs/NAME/report/index.html     the numbers, figures, pairs, failures, config and provenance
    runs/NAME/report/FIGURE.svg …   .png for slides, .json and .csv with what is drawn

It can be written at any time: what is not there yet is left out, and the state of the run stands on top.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.cli.tables import ended_text, length_text, paired_text, problem_counts
from codelutra.reporting.figures.drawing import Drawing, draw
from codelutra.reporting.figures.policies import run_figures
from codelutra.reporting.figures.runs import figures_beside
from codelutra.reporting.html import Html, cut, folded, join, page, section, side_by_side, table, tag
from codelutra.results.findings import Findings, Row, headline, libraries, question, read_findings, spread
from codelutra.schema import STATUSES
from codelutra.store.files import write_atomic

_PAIRS_SHOWN = 3  # an iteration
_FAILURES_SHOWN = 6
_CODE_SHOWN = 1200  # characters
_STATE_LOOKS = {"finished": "good", "running": "wait", "interrupted": "wait"}


def write_report(run_path: Path, beside: Sequence[Path] = ()) -> Path:
    """Write runs/NAME/report/ from what the run has so far, and figures that put it beside other runs; returns its
    index.html. Raises UserError without results."""
    found, others = read_findings(run_path), [read_findings(path) for path in beside]
    drawings = [draw(figure) for figure in run_figures(found.summary, found.training)]
    compared = [draw(figure) for figure in figures_beside([found, *others])] if others else []
    out = run_path / "report"
    out.mkdir(exist_ok=True)
    for drawing in [*drawings, *compared]:
        drawing.save(out)
    index = out / "index.html"
    write_atomic(index, render(found, drawings, compared))
    return index


def render(found: Findings, drawings: list[Drawing], compared: Sequence[Drawing] = ()) -> str:
    """The page."""
    parts = {
        "numbers": ("Numbers", _numbers(found)),
        "figures": ("Figures", _figures([d for d in drawings if d.figure.name != "minutes"])),
        "beside": ("Beside other runs", _figures(list(compared))),
        "pairs": ("Pairs it learned from", _pairs(found)),
        "failures": ("What still fails", _failures(found)),
        "groups": ("By group", _groups(found)),
        "cost": ("Time and tokens", _cost(found, _figures([d for d in drawings if d.figure.name == "minutes"]))),
        "config": ("Config", tag("pre", found.config_text, class_="plain")),
        "provenance": ("Provenance", _provenance(found)),
    }
    present = {anchor: (title, body) for anchor, (title, body) in parts.items() if body}
    links = tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, (title, _) in present.items()))
    sections = [section(anchor, title, body) for anchor, (title, body) in present.items()]
    return page(f"{found.summary['run']}: {found.summary['suite']}", [_top(found), links, *sections, _footer(found)])


def _top(found: Findings) -> Html:
    s = found.summary
    state = tag("span", s["state"], class_=f"pill {_STATE_LOOKS.get(s['state'], 'bad')}")
    facts = [
        f"model {s['model']}",
        f"suite {s['suite']} ({problem_counts(s) or 'not loaded yet'} problems)",
        f"judged by {s['mode']}",
    ]
    if "minutes" in s:
        facts.append(f"{s['minutes']:.0f} minutes")
    said = headline(found)
    if t := s.get("test"):
        said.append(
            f"On the test split, touched once with the chosen policy: {t['value']:.1%} "
            f"[{100 * t['low']:.1f}–{100 * t['high']:.1f}] of {t['n']} problems."
        )
    return join(
        tag("p", "codelutra run", class_="kicker"),
        tag("h1", s["run"], " ", state),
        _banner(found),
        tag("p", said[0], class_="lead"),
        *(tag("p", sentence) for sentence in said[1:]),
        *(tag("p", alarm, class_="banner bad") for alarm in found.alarms),
        tag("p", "  ·  ".join(facts), class_="facts"),
    )


def _banner(found: Findings) -> Html:
    """Why the run is where it is, when it did not simply finish."""
    s = found.summary
    if s["state"] == "finished":
        return tag("p", f"Ended: {s['reason']}", class_="facts") if s["reason"] else Html("")
    parts = [s["reason"]] if s["reason"] else []
    if now := s.get("now"):
        parts.append(f"now: {now['stage']}, {now['done']:,} of {now['total']:,} {now['unit']}")
    told = [e for e in found.events if e["event"] != "refused"]  # that was another start, while this one went on
    errors = [e["text"] for e in told[-1:] if e["event"] == "error"]
    text = " · ".join([f"This run is {s['state']}; the report shows what is there so far.", *parts, *errors])
    return tag("p", text, class_="banner bad" if errors else "banner")


def _numbers(found: Findings) -> Html | None:
    rows, best = found.policies, found.best
    if not rows:
        return None
    cells = []
    for i, r in enumerate(rows):
        dev = r["dev"]
        learned = rows[i - 1].get("funnel") if i else None
        cells.append(
            [
                r["title"],
                *(
                    (f"{dev['value']:.1%}", f"{100 * dev['low']:.1f} – {100 * dev['high']:.1f}", f"{r['executable']:.1%}")
                    if dev["n"]
                    else ("", "", "")
                ),
                ended_text(r),
                length_text(r),
                paired_text(r["paired"]["previous"]),
                f"{learned['pairs']:,}" if learned else "",
                f"{sum(r['seconds'].values()) / 60:.1f}",
            ]
        )
    columns = (
        "policy",
        "dev pass@1",
        "95 % interval",
        "executable",
        "ends by itself",
        "tokens",
        "against the one before",
        "made from pairs",
        "minutes",
    )
    notes = [
        f"{r['title']} against {p['against']}: {paired_text(p)}"
        for r in rows
        if (p := r["paired"]["start"]) and p["against"] != (r["paired"]["previous"] or {}).get("against")
    ]
    for r in rows:
        if others := r.get("other_modes"):
            shown = ", ".join(f"{mode} {o['value']:.1%}" for mode, o in others.items())
            notes.append(f"{r['title']} under comparison modes that are reported but never trained on: {shown}")
    broken = found.summary["problems"].get("reference_errors", 0)
    explained = (
        "pass@1: share of dev problems whose greedy answer is correct when run; Wilson interval. executable: answers that "
        "ran to their end. ends by itself: answers that stopped at an end token, not at sample.max_tokens; tokens: an "
        "answer's mean length, and how much longer than the policy before it. +a −b: problems solved now, not before, and "
        "the other way round; p of the exact McNemar test. The chosen policy is marked."
    )
    if broken:
        explained += (
            f" {broken} problem(s) have a reference that fails itself: they stay in the denominator and out of the pairs."
        )
    at = rows.index(best) if best else None
    return join(
        table(columns, cells, numbers=(1, 2, 3, 4, 5, 7, 8), best=at),
        *(tag("p", n) for n in notes),
        tag("p", explained, class_="facts"),
    )


def _figures(drawings: list[Drawing]) -> Html:
    if not drawings:
        return Html("")
    shown = [
        tag("figure", Html(d.inline()), tag("figcaption", d.figure.caption, " ", *_files(d.figure.name))) for d in drawings
    ]
    return tag("div", *shown, class_="figures")


def _files(name: str) -> list[Html]:
    links = [tag("a", kind, href=f"{name}.{kind}") for kind in ("svg", "png", "csv", "json")]
    return [join(" " if i else "", link) for i, link in enumerate(links)]


def _pairs(found: Findings) -> Html | None:
    parts = []
    for i, row in enumerate(r for r in found.policies if r.get("funnel")):
        frame = found.pairs(row)
        if frame is None or frame.is_empty():
            continue
        kinds = dict(frame["rejected_status"].value_counts(sort=True).rows())
        against = ", ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in kinds.items())
        stood_in = row["funnel"].get("pairs_from_references", 0)
        intro = f"{frame.height:,} pairs of {frame['problem_id'].n_unique():,} problems, from answers of “{row['title']}”. "
        intro += f"Rejected: {against}. " + (f"In {stood_in:,} the reference is the chosen answer." if stood_in else "")
        parts += [tag("h3", f"Iteration {i + 1}"), tag("p", intro, class_="soft")]
        parts += [_pair(p) for p in spread(frame, _PAIRS_SHOWN).rows(named=True)]
    return join(*parts) if parts else None


def _pair(p: Row) -> Html:
    source = "the reference" if p["chosen_source"] == "reference" else f"sample {p['chosen_sample']}"
    rejected = join(f"rejected: sample {p['rejected_sample']} ", _pill(p["rejected_status"]))
    chosen = join(f"chosen: {source} ", _pill("correct"))
    return tag(
        "div",
        _asked(p["problem_id"], p["prompt"]),
        side_by_side((rejected, cut(p["rejected"], _CODE_SHOWN)), (chosen, cut(p["chosen"], _CODE_SHOWN))),
        class_="card",
    )


def _failures(found: Findings) -> Html | None:
    """Dev problems the chosen policy gets wrong: the most frequent statuses take turns."""
    best = found.best
    outcomes = found.dev_outcomes(best) if best else None
    problems, expected = found.frame("problems.parquet"), found.frame("expected.parquet")
    if best is None or outcomes is None or problems is None or expected is None:
        return None
    wrong = outcomes.filter(pl.col("greedy"), pl.col("status") != "correct").sort("problem_id")
    if wrong.is_empty():
        return tag("p", f"Nothing: {best['title']} solves every dev problem.")
    counts = dict(wrong["status"].cast(pl.String).value_counts(sort=True).rows())
    per_status = -(-_FAILURES_SHOWN // len(counts))
    picked = pl.concat([spread(wrong.filter(pl.col("status") == s), per_status) for s in counts]).head(_FAILURES_SHOWN)
    rows = picked.join(problems.select("problem_id", "prompt", "reference"), on="problem_id", maintain_order="left")
    rows = rows.join(expected.select("problem_id", "expected"), on="problem_id", how="left", maintain_order="left")
    shares = ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in counts.items())
    asked = outcomes.filter(pl.col("greedy")).height
    intro = f"“{best['title']}” does not solve {wrong.height} of {asked} dev problems: {shares}. Some of them:"
    note = "Where order counts, the last columns of what was expected may be those that the reference sorts by."
    return join(
        tag("p", intro, class_="soft"), tag("p", note, class_="facts"), *(_failure(r) for r in rows.rows(named=True))
    )


def _failure(r: Row) -> Html:
    wrote = (join("it wrote ", _pill(r["status"])), cut(r["code"] or r["completion"], _CODE_SHOWN))
    said = []
    if r["error"]:
        said.append(tag("p", tag("b", "error "), tag("code", cut(r["error"].strip(), 400)), class_="said"))
    if r["output"]:
        said.append(tag("p", tag("b", "gave "), tag("code", readable(r["output"])), class_="said"))
    if r["expected"]:
        said.append(tag("p", tag("b", "expected "), tag("code", readable(r["expected"])), class_="said"))
    return tag(
        "div",
        _asked(r["problem_id"], r["prompt"]),
        side_by_side(wrote, (Html("reference"), cut(r["reference"], _CODE_SHOWN))),
        *said,
        class_="card",
    )


def readable(output: str, most: int = 240) -> str:
    """An output as it is kept (canonical JSON, or a preview that may be cut short) for people: rows, counted."""
    from sandbox.protocol import decode

    try:
        value = decode(json.loads(output))
    except ValueError:
        try:
            value = ast.literal_eval(output)
        except (ValueError, SyntaxError):  # cut short, or nothing that can be read: shown as it is
            return cut(output, most)
    rows = value["rows"] if isinstance(value, dict) and "rows" in value else value
    if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return cut(repr(value), most)
    shown = "; ".join("(" + ", ".join("NULL" if v is None else repr(v) for v in row) + ")" for row in rows)
    return cut(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {shown}" if rows else "no rows", most)


def _asked(problem_id: str, prompt: str) -> Html:
    whole = prompt.strip()
    asked = question(whole)
    more = folded("whole prompt", tag("pre", whole)) if whole != asked else Html("")
    return join(tag("p", tag("b", asked), " ", tag("span", problem_id, class_="soft"), class_="ask"), more)


def _pill(status: str) -> Html:
    return tag("span", status.replace("_", " "), class_="pill good" if status == "correct" else "pill bad")


def _groups(found: Findings) -> Html | None:
    """dev pass@1 by database or library, for the first, the warm-started and the chosen policy."""
    from codelutra.scoring.scores import breakdown

    shown = [r for i, r in enumerate(found.policies) if i == 0 or r["label"] == "policy-0" or r is found.best]
    rates = {r["title"]: breakdown(f) for r in shown if (f := found.dev_scores(r)) is not None}
    groups = dict.fromkeys(g for frame in rates.values() for g in frame["group"])
    if len(groups) < 2:
        return None
    by = {(title, r["group"]): r for title, frame in rates.items() for r in frame.rows(named=True)}
    cells = [[g, *(_rate(by.get((title, g))) for title in rates)] for g in groups]
    note = "Dev problems solved, of those asked. Few problems each: most differences between groups are noise."
    return join(table(["group", *rates], cells, numbers=range(1, len(rates) + 1)), tag("p", note, class_="facts"))


def _rate(r: Row | None) -> str:
    return f"{r['value']:.0%} ({r['correct']} of {r['n']})" if r else ""


def _cost(found: Findings, drawn: Html) -> Html | None:
    rows = found.policies
    if not rows:
        return None
    cells = []
    for r in rows:
        s = r["seconds"]
        rate = f"{r['tokens'] / s['sample']:,.0f}" if s.get("sample") else ""
        cells.append(
            [
                r["title"],
                *(f"{s[k] / 60:.1f}" if k in s else "" for k in ("train", "sample", "execute", "pairs")),
                f"{r['tokens']:,}",
                rate,
            ]
        )
    columns = ("policy", "train, min", "sample, min", "execute, min", "pairs, min", "tokens sampled", "tokens / s")
    made, reused = (sum(e["event"] == kind for e in found.events) for kind in ("made", "reused"))
    note = (
        f"Training is the time to make the policy of the row. Work shared through the store counts here even where this run "
        f"took it over: the ledger tells of {made:,} artifacts made and {reused:,} reused."
    )
    return join(table(columns, cells, numbers=range(1, 7)), tag("p", note, class_="facts"), drawn, _training(rows))


def _training(rows: list[Row]) -> Html:
    """What the trainer said about each policy it made, one column a policy."""
    trained = {r["title"]: _flat(r["training"]) for r in rows if r["training"]}
    names = dict.fromkeys(k for said in trained.values() for k, v in said.items() if v is not None)
    if not names:
        return Html("")
    cells = [[n.replace("_", " "), *(_value(said.get(n)) for said in trained.values())] for n in names]
    return join(tag("h3", "Training"), table(["", *trained], cells, numbers=range(1, len(trained) + 1)))


def _flat(facts: Row) -> Row:
    flat = {f"{k} {sub}": x for k, v in facts.items() if isinstance(v, dict) for sub, x in v.items()}
    return {k: v for k, v in facts.items() if not isinstance(v, dict)} | flat


def _provenance(found: Findings) -> Html:
    s, config = found.summary, found.config
    problems = (found.manifest("problems.parquet") or {}).get("facts", {})
    facts = {
        "model": s["model"],
        "model fingerprint": _fingerprint(found),
        "suite": f"{s['suite']}, version {s['suite_version']}",
        "suite licence": problems.get("licence", ""),
        "comparison mode": s["mode"],
        "seeds": f"run {config.seed}, splits {config.suite.seed}",
        "libraries": ", ".join(f"{name} {' / '.join(vs)}" for name, vs in libraries(found).items()),
    }
    again = shlex.quote(f"runs/{found.path.name}/run.yaml")
    commands = f"codelutra run {again}\ncodelutra status {s['run']} --json\ncodelutra report {s['run']}"
    artifacts = [
        [name, m["stage"], m["key"][:12], m["digest"][:16], m["made_at"], f"{m['seconds']:,.1f}"]
        for name, m in found.artifacts
    ]
    columns = ("in the run's directory", "stage", "key", "digest", "made at", "seconds")
    return join(
        _facts(facts),
        tag("h3", "Made again by"),
        tag("pre", commands, class_="plain"),
        folded(f"{len(artifacts)} artifacts and their digests", table(columns, artifacts, numbers=(5,)))
        if artifacts
        else "",
    )


def _fingerprint(found: Findings) -> str:
    """Of the model the run started from: what its first policy's answers were keyed by."""
    first = next(iter(found.policies), None)
    sampled = found.manifest(f"{first['folder']}/dev-samples-000") if first else None
    return sampled["inputs"]["policy"] if sampled else ""


def _facts(facts: Mapping[str, Any]) -> Html:
    rows = [[k.replace("_", " "), _value(v)] for k, v in facts.items() if v not in ("", None)]
    return table(("", ""), rows, wide=(1,))


def _value(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _footer(found: Findings) -> Html:
    from codelutra import __version__

    text = f"codelutra {__version__}. Every number here is from the run's summary.json; statuses: {', '.join(STATUSES)}."
    return tag("footer", text)
