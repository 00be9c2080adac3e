"""The report of a run: one HTML page that needs nothing else, and its figures as files beside it.

    runs/NAME/report/index.html     the numbers, figures, pairs or groups, failures, config and provenance
    runs/NAME/report/FIGURE.svg …   .png for slides, .json and .csv with what is drawn
    runs/NAME/report/dev-answers.jsonl   what every policy answered to every dev problem

It can be written at any time: what is not there yet is left out, and the state of the run stands on top.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codelutra import __version__
from codelutra.reporting import lessons
from codelutra.reporting.answers import Answered, answered, as_lines
from codelutra.reporting.failures import ANSWERS_FILE, failures, gains
from codelutra.reporting.figures.drawing import Drawing, draw
from codelutra.reporting.figures.policies import run_figures
from codelutra.reporting.figures.runs import figures_beside
from codelutra.reporting.figures.stages import STAGES
from codelutra.reporting.html import Html, folded, grid, join, page, tag
from codelutra.results import text
from codelutra.results.findings import Findings, headline, libraries, read_findings
from codelutra.results.summary import PolicyResult, policy_name
from codelutra.results.table import (
    HELD_OUT_LEGEND,
    POLICIES_EXPLAINED,
    Table,
    held_out_table,
    other_modes_table,
    policies_notes,
    policies_table,
)
from codelutra.schema import STATUSES
from codelutra.scoring.scores import breakdown
from codelutra.store.files import write_atomic

Row = dict[str, Any]  # of a frame
_STATE_LOOKS = {"finished": "good", "running": "wait", "interrupted": "wait"}


def write_report(
    run_path: Path,
    beside: Sequence[Path] = (),
    out: Path | None = None,
    progress: Callable[[str, int, int, str], None] = lambda *_: None,
    *,
    every_answer: bool = True,
) -> Path:
    """Write what the run has so far to `out`, by default runs/NAME/report/, and figures that put it beside other runs;
    returns its index.html. `progress` hears how many figures are drawn, of how many. `every_answer`: with all dev problems
    and what each policy answered, not only examples. Raises UserError without results."""
    found, others = read_findings(run_path), [read_findings(path) for path in beside]
    own = run_figures(found.summary, found.training)
    figures = [*own, *(figures_beside([found, *others]) if others else [])]
    drawn = list[Drawing]()
    for figure in figures:
        progress("report", len(drawn), len(figures), "figures")
        drawn.append(draw(figure))
    drawings, compared = drawn[: len(own)], drawn[len(own) :]
    out = out or run_path / "report"
    out.mkdir(exist_ok=True)
    for drawing in [*drawings, *compared]:
        drawing.save(out)
    answers = answered(found, others)
    if answers and every_answer:
        write_atomic(out / ANSWERS_FILE, as_lines(answers))
    index = out / "index.html"
    write_atomic(index, render(found, drawings, compared, answers, every_answer=every_answer))
    return index


def render(
    found: Findings,
    drawings: list[Drawing],
    compared: Sequence[Drawing] = (),
    answers: Answered | None = None,
    *,
    every_answer: bool = True,
) -> str:
    """The page. `answers`: those of the run, None to read them here."""
    answers = answers or answered(found)
    parts = {
        "numbers": ("Numbers", _numbers(found)),
        "figures": ("Figures", _figures([d for d in drawings if d.figure.name != "minutes"])),
        "beside": ("Beside other runs", _figures(list(compared))),
        "pairs": ("Pairs it learned from", lessons.pairs(found)),
        "answers": ("Answers it learned from", lessons.answers(found)),
        "gains": ("Gained and lost", gains(found, answers)),
        "failures": ("What still fails", failures(answers, every=every_answer)),
        "groups": ("By group", _groups(found)),
        "cost": ("Time and tokens", _cost(found, _figures([d for d in drawings if d.figure.name == "minutes"]))),
        "config": ("Config", tag("pre", found.config_text, class_="plain")),
        "provenance": ("Provenance", _provenance(found)),
    }
    present = {anchor: (title, body) for anchor, (title, body) in parts.items() if body}
    links = tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, (title, _) in present.items()))
    sections = [join(tag("h2", title, id=anchor), body) for anchor, (title, body) in present.items()]
    return page(f"{found.summary.run}: {found.summary.suite}", [_top(found), links, *sections, _footer()])


def _top(found: Findings) -> Html:
    s = found.summary
    state = tag("span", s.state, class_=f"pill {_STATE_LOOKS.get(s.state, 'bad')}")
    asked = text.problem_counts(s) or "not loaded yet"
    facts = [f"model {s.model}", f"suite {s.suite} ({asked} problems)", f"judged by {s.mode}", f"{s.minutes:.1f} minutes"]
    said = headline(found)
    if s.test:
        tested = f"{policy_name(s.test.policy)} solves {text.rate(s.test)} of {s.test.n} problems"
        said.append(f"On the test split, scored once after it was chosen, {tested}.")
    return join(
        tag("p", "codelutra run", class_="kicker"),
        tag("h1", s.run, " ", state),
        _banner(found),
        tag("p", said[0], class_="lead"),
        *(tag("p", sentence) for sentence in said[1:]),
        *(tag("p", alarm, class_="banner bad") for alarm in s.alarms),
        tag("p", "  ·  ".join(facts), class_="facts"),
    )


def _banner(found: Findings) -> Html:
    """Why the run is where it is, when it did not simply finish."""
    s = found.summary
    if s.finished:
        return tag("p", f"Ended: {s.reason}", class_="facts") if s.reason else Html("")
    parts = [s.reason] if s.reason else []
    if s.now:
        parts.append(f"now: {s.now.stage}, {s.now.done:,} of {s.now.total:,} {s.now.unit}")
    told = [e for e in found.events if e["event"] != "refused"]  # that was another start, while this one went on
    errors = [str(e.get("text")) for e in told[-1:] if e["event"] == "error"]
    said = " · ".join([f"This run is {s.state}; the report shows what is there so far.", *parts, *errors])
    return tag("p", said, class_="banner bad" if errors else "banner")


def _numbers(found: Findings) -> Html | None:
    s = found.summary
    if not s.policies:
        return None
    explained = POLICIES_EXPLAINED
    if broken := s.problems.reference_errors:
        explained += (
            f" {broken} problem(s) have a reference that fails itself: they stay in the denominator and out of the pairs."
        )
    others, held_out = other_modes_table(s), held_out_table(s)
    return join(
        grid(policies_table(s)),
        *(tag("p", note) for note in policies_notes(s)),
        tag("p", explained, class_="facts"),
        join(tag("h3", "Under comparison modes that are reported, never trained on"), grid(others)) if others else "",
        join(tag("h3", "Answers that nobody was trained on"), grid(held_out), tag("p", HELD_OUT_LEGEND, class_="facts"))
        if held_out
        else "",
    )


def _figures(drawings: list[Drawing]) -> Html:
    if not drawings:
        return Html("")
    return tag("div", *map(_figure, drawings), class_="figures")


def _figure(drawing: Drawing) -> Html:
    name, caption = drawing.figure.name, drawing.figure.caption
    files = [join(" ", tag("a", kind, href=f"{name}.{kind}")) for kind in ("svg", "png", "csv", "json")]
    return tag("figure", Html(drawing.inline()), tag("figcaption", caption, *files))


def _groups(found: Findings) -> Html | None:
    """dev pass@1 by database or library, for the first, policy 0 and the chosen policy."""
    shown = [p for i, p in enumerate(found.policies) if i == 0 or p is found.summary.start or p is found.best]
    rates = {p.name: breakdown(f) for p in shown if (f := found.dev_scores(p)) is not None}
    groups = dict.fromkeys(g for frame in rates.values() for g in frame["group"])
    if len(groups) < 2:
        return None
    shares = {
        (title, r["group"]): f"{r['value']:.0%} ({r['correct']} of {r['n']})"
        for title, frame in rates.items()
        for r in frame.rows(named=True)
    }
    cells = [[g, *(shares.get((title, g), "") for title in rates)] for g in groups]
    note = "Dev problems solved, of those asked. Few problems each: most differences between groups are noise."
    return join(grid(Table(["group", *rates], cells, frozenset(rates))), tag("p", note, class_="facts"))


def _cost(found: Findings, drawn: Html) -> Html | None:
    if not found.policies:
        return None
    stages = [k for k in STAGES if any(k in p.seconds for p in found.policies)]
    rows = [
        {
            "policy": p.name,
            **{f"{k}, min": f"{p.seconds[k] / 60:.1f}" if k in p.seconds else "" for k in stages},
            "tokens sampled": f"{p.tokens:,}",
            "tokens / s": f"{p.tokens / p.seconds['sample']:,.0f}" if p.seconds.get("sample") else "",
        }
        for p in found.policies
    ]
    made, reused = (sum(e["event"] == kind for e in found.events) for kind in ("made", "reused"))
    note = (
        f"Training is the time to make the policy of the row. Work shared through the store counts here even where this run "
        f"took it over: the ledger tells of {made:,} artifacts made and {reused:,} reused."
    )
    shown = grid(Table.of(rows, numbers=list(rows[0])[1:]))
    return join(shown, tag("p", note, class_="facts"), drawn, _training(found.policies))


def _training(policies: Sequence[PolicyResult]) -> Html:
    """What the trainer said about each policy it made, one column a policy."""
    trained = {p.name: _flat(p.training.facts) for p in policies if p.training}
    names = dict.fromkeys(k for said in trained.values() for k, v in said.items() if v is not None)
    if not names:
        return Html("")
    cells = [[n.replace("_", " "), *(_value(said.get(n)) for said in trained.values())] for n in names]
    return join(tag("h3", "Training"), grid(Table(["", *trained], cells, frozenset(trained))))


def _flat(facts: Row) -> Row:
    flat = {f"{k} {sub}": x for k, v in facts.items() if isinstance(v, dict) for sub, x in v.items()}
    return {k: v for k, v in facts.items() if not isinstance(v, dict)} | flat


def _provenance(found: Findings) -> Html:
    s, config = found.summary, found.config
    problems = (found.manifest("problems.parquet") or {}).get("facts", {})
    sampled = found.manifest(f"{s.first.folder}/dev-samples-000") if s.policies else None
    facts = {
        "model": s.model,
        "taken from": s.model_source,
        "model fingerprint": sampled["inputs"]["policy"] if sampled else "",  # what its answers were keyed by
        "number format of the sampler": sampled["config"].get("dtype", "") if sampled else "",
        "suite": f"{s.suite}, version {s.suite_version}",
        "suite licence": problems.get("licence", ""),
        "comparison mode": s.mode,
        "seeds": f"run {config.seed}, splits {config.suite.seed}",
        "libraries": ", ".join(f"{name} {' / '.join(vs)}" for name, vs in libraries(found).items()),
    }
    again = shlex.quote(f"runs/{found.path.name}/run.yaml")
    commands = f"codelutra run {again}\ncodelutra status {s.run} --json\ncodelutra report {s.run}"
    artifacts = [
        [name, m["stage"], m["key"][:12], m["digest"][:16], m["made_at"], f"{m['seconds']:,.1f}"]
        for name, m in found.artifacts
    ]
    columns = ("in the run's directory", "stage", "key", "digest", "made at", "seconds")
    listed = folded(f"{len(artifacts)} artifacts and their digests", grid(Table(columns, artifacts, frozenset({"seconds"}))))
    facts_shown = grid(Table(("", ""), [[k, v] for k, v in facts.items() if v]), wide=1)
    return join(facts_shown, tag("h3", "Made again by"), tag("pre", commands, class_="plain"), listed if artifacts else "")


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


def _footer() -> Html:
    said = f"codelutra {__version__}. Every number here is from the run's summary.json; statuses: {', '.join(STATUSES)}."
    return tag("footer", said)
