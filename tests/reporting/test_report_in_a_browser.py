"""The report's page in a real browser: desk and phone, light and dark, with and without scripts, with hostile content.

Screenshots go to the test's folder, or to $CODELUTRA_SCREENSHOTS to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codelutra.reporting.answers import Answered, answered
from codelutra.reporting.failures import failures
from codelutra.reporting.html import Html, page
from codelutra.reporting.report import write_report
from codelutra.results.findings import read_findings
from tests.helpers.browser import Tab, browser, opened
from tests.helpers.example_run import example_run

if browser() is None:
    pytest.skip("no browser here: apt-get install chromium", allow_module_level=True)

HOSTILE = (
    "</script></pre><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><svg onload=window.hacked=1>"
    "<!--<script>\"';window.hacked=1;// \\u003cscript> {{constructor.constructor('window.hacked=1')()}} javascript:hacked=1 "
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe><a href=javascript:a=1>x</a> \u2028 \u202e \x00 \x1b[31m"
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with opened() as tab:
        yield tab


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def index(run: Path) -> Path:
    return write_report(run)


def choose(tab: Tab, label: str, value: str) -> None:
    """Set one of the explorer's controls as a user would."""
    done = tab.run(
        f"""(() => {{
          const label = [...document.querySelectorAll('.controls label')].find((l) => l.firstChild.data === {label!r});
          const field = label.querySelector('select, input');
          field.value = {value!r};
          field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input'));
          return field.value;
        }})()"""
    )
    assert done == value


def listed(tab: Tab) -> list[str]:
    """What the explorer lists, all pages of it: the line of facts of each problem."""
    tab.run("(() => { const more = document.querySelector('#explorer > button'); while (!more.hidden) more.click(); })()")
    return list(tab.run("[...document.querySelectorAll('.rows > details > summary > .soft')].map((e) => e.textContent)"))


def ids(tab: Tab) -> set[str]:
    return {facts.split(" · ")[0] for facts in listed(tab)}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_and_follows_the_theme(tab: Tab, index: Path, tmp_path: Path, width: int, dark: bool) -> None:
    tab.look(width=width, dark=dark)
    tab.open(index)
    tab.run("document.querySelectorAll('.rows > details').forEach((d, i) => { if (i < 2) d.open = true; })")
    kept = Path(os.environ.get("CODELUTRA_SCREENSHOTS") or tmp_path)
    shot = kept / f"report-{width}-{'dark' if dark else 'light'}.png"
    tab.screenshot(shot)
    assert shot.stat().st_size > 50_000
    assert tab.run("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
    beyond = """[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest('.scroll, pre.plain, figure')).map((e) => e.outerHTML.slice(0, 80))"""
    assert tab.run(beyond) == []
    light = sum(int(part) for part in tab.run("getComputedStyle(document.body).backgroundColor")[4:-1].split(","))
    assert (light < 200) if dark else (light > 600)


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_can_be_read_on_what_lies_behind_it(tab: Tab, index: Path, dark: bool) -> None:
    """WCAG 2: a contrast of 4.5 or more for text."""
    tab.look(width=1400, dark=dark)
    tab.open(index)
    behind = {"paper": ("ink", "soft", "accent", "good", "bad"), "card": ("ink", "soft", "accent")}
    behind |= {f"{kind}-back": (kind,) for kind in ("good", "bad", "wait")}

    def luminance(name: str) -> float:
        colour = tab.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()").lstrip("#")
        colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for back, inks in behind.items():
        for ink in inks:
            low, high = sorted((luminance(back), luminance(ink)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {back}"


def test_it_fetches_nothing_and_complains_of_nothing(tab: Tab, index: Path) -> None:
    tab.look(width=1400)
    tab.requests.clear()
    tab.said.clear()
    tab.open(index)
    assert set(tab.requests) == {index.absolute().as_uri()}
    assert tab.said == []


def test_all_failures_are_listed_and_can_be_filtered(tab: Tab, run: Path, index: Path) -> None:
    found = answered(read_findings(run))
    assert found is not None
    tab.look(width=1400)
    tab.open(index)
    unsolved = found.unsolved()
    assert ids(tab) == {p["problem_id"] for p in unsolved}
    statuses = {p["answers"][found.chosen]["status"] for p in unsolved}
    for status in statuses:
        choose(tab, "status", status)
        assert ids(tab) == {p["problem_id"] for p in unsolved if p["answers"][found.chosen]["status"] == status}
    choose(tab, "status", "")
    one = unsolved[0]
    choose(tab, "group", f"={one['group']}")
    assert ids(tab) == {p["problem_id"] for p in unsolved if p["group"] == one["group"]}
    choose(tab, "group", "")
    choose(tab, "text", one["problem_id"].upper())
    assert one["problem_id"] in ids(tab)
    choose(tab, "text", "no such words anywhere")
    assert ids(tab) == set()
    choose(tab, "text", "")
    choose(tab, "show", "all")
    assert ids(tab) == {p["problem_id"] for p in found.problems}
    choose(tab, "sort by", "group")
    groups = [facts.split(" · ")[1] for facts in listed(tab)]
    assert groups == sorted(groups)
    assert len(set(groups)) > 1


def test_any_two_policies_can_be_compared_problem_by_problem(tab: Tab, run: Path, index: Path) -> None:
    found = answered(read_findings(run))
    assert found is not None
    tab.look(width=1400)
    tab.open(index)
    for before, after in [(0, 3), (1, 2), (2, 1)]:
        gained, lost = found.flips(before, after)
        choose(tab, "policy", str(after))
        choose(tab, "beside", str(before))
        for kind, flipped in (("gained", gained), ("lost", lost)):
            choose(tab, "show", kind)
            assert ids(tab) == {p["problem_id"] for p in flipped}
    choose(tab, "policy", "3")
    choose(tab, "beside", "0")
    choose(tab, "show", "gained")
    first = min(found.flips(0, 3)[0], key=lambda p: str(p["problem_id"]))
    old, new = first["answers"][0], first["answers"][3]
    tab.run("document.querySelector('.rows > details').open = true")
    tab.run("new Promise((done) => requestAnimationFrame(() => done()))")
    shown = "[...document.querySelectorAll('.rows .card .side pre')].map((e) => e.textContent)"
    assert tab.run(shown) == [old["program"] or "(empty)", new["program"], first["reference"]]
    said = str(tab.run("document.querySelector('.rows .card').textContent"))
    assert "expected" in said
    assert f"{found.policies[3]} gave" in said


def test_without_scripts_the_page_still_shows_examples(tab: Tab, index: Path) -> None:
    tab.look(width=400, scripts=False)
    try:
        tab.open(index)
        assert tab.run("document.querySelectorAll('#examples .card').length") > 0
        assert tab.run("document.getElementById('examples').checkVisibility()")
        assert tab.run("document.getElementById('explorer').childElementCount") == 0
    finally:
        tab.look(width=400)


def test_nothing_a_model_wrote_runs(tab: Tab, tmp_path: Path) -> None:
    answer = {"status": "wrong", "program": HOSTILE, "gave": HOSTILE, "error": HOSTILE}
    texts = dict.fromkeys(("problem_id", "group", "difficulty", "prompt", "reference", "expected"), HOSTILE)
    problem: dict[str, Any] = {
        **texts,
        "prompt": f"{HOSTILE}\n{HOSTILE}?",
        "answers": [answer, answer | {"status": HOSTILE}],
    }
    found = Answered([HOSTILE, HOSTILE], 0, [problem])
    shown = failures(found)
    assert shown is not None
    file = tmp_path / "hostile.html"
    file.write_text(page(HOSTILE, [shown]))
    tab.look(width=1400)
    tab.requests.clear()
    tab.said.clear()
    tab.open(file)
    choose(tab, "beside", "1")
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    tab.run("new Promise((done) => setTimeout(done, 200))")
    assert tab.run("document.querySelectorAll('.rows .card pre').length") >= 3, "the hostile problem is opened"
    assert "onerror=" in tab.run("document.querySelector('.rows .card').textContent"), "and seen as text"
    assert tab.run("window.hacked") is None
    assert tab.run("document.querySelectorAll('img, iframe, svg, object, a[href^=javascript]').length") == 0
    assert set(tab.requests) == {file.absolute().as_uri()}
    assert tab.said == []


def test_even_markup_that_slipped_through_would_not_run(tab: Tab, tmp_path: Path) -> None:
    """The page's content security policy; without it the same markup runs, so this test would see it."""
    tab.look(width=1400)
    whole = page("slipped", [Html("<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>")])
    bare = "\n".join(line for line in whole.splitlines() if "Content-Security-Policy" not in line)
    seen = []
    for name, html in (("guarded", whole), ("bare", bare)):
        file = tmp_path / f"{name}.html"
        file.write_text(html)
        tab.open(file)
        seen.append(tab.run("window.hacked"))
    assert seen == [None, 1]


def test_thousands_of_failures_make_a_page_of_some_megabytes(tab: Tab, tmp_path: Path) -> None:
    schema = "CREATE TABLE item (id INTEGER, name TEXT);\n" * 60
    programs = [f"SELECT name, {i} FROM item WHERE id = {i} " + "AND name LIKE '%cup%' " * (i % 70) for i in range(12000)]

    def problem(n: int) -> dict[str, Any]:
        answers = [
            {"status": "wrong", "program": programs[4 * n + i], "gave": "[]", "error": "no such table"} for i in range(4)
        ]
        told = {"problem_id": f"p{n:05}", "group": f"db{n % 40}", "difficulty": "", "prompt": f"{schema}\nQuestion {n}?"}
        return {**told, "reference": programs[4 * n], "expected": '[["cup"]]', "answers": answers}

    shown = failures(Answered(["a", "b", "c", "d"], 3, [problem(n) for n in range(3000)]))
    assert shown is not None
    file = tmp_path / "large.html"
    file.write_text(page("large", [shown]))
    assert file.stat().st_size < 8_000_000
    tab.look(width=400)
    tab.open(file)
    assert tab.run("document.querySelector('#explorer .facts').textContent") == "3000 of 3000 dev problems"
    assert tab.run("document.querySelectorAll('.rows > details').length") == 30
    assert tab.run("document.querySelectorAll('*').length") < 1500
