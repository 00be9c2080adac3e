"""Tables as values: columns and rows of text. Each medium has one renderer: `cli.tables` for the terminal,
`reporting.html` for a page, `Table.markdown` for Markdown and Prefect's UI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from codelutra.results import text
from codelutra.results.escapes import inline
from codelutra.results.summary import PolicyResult, RunSummary, policy_name


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()
    """Columns set flush right."""
    best: int | None = None
    """The row that stands out."""

    @staticmethod
    def of(rows: Sequence[Mapping[str, str]], numbers: Sequence[str] = (), best: int | None = None) -> Table:
        """Of flat rows that all have the same keys."""
        columns = list(rows[0]) if rows else []
        return Table(columns, [[r[c] for c in columns] for r in rows], frozenset(numbers), best)

    def without(self, *names: str) -> Table:
        """The same with fewer columns."""
        kept = [i for i, c in enumerate(self.columns) if c not in names]
        return replace(self, columns=[self.columns[i] for i in kept], rows=[[r[i] for i in kept] for r in self.rows])

    def renamed(self, **names: str) -> Table:
        """The same with other names for some columns."""
        return replace(self, columns=[names.get(c, c) for c in self.columns])

    def records(self) -> list[dict[str, str]]:
        """A dict a row, as Prefect's table artifacts take it."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def markdown(self) -> str:
        lines = [[f"**{c}**" if c and n == self.best else c for c in map(inline, row)] for n, row in enumerate(self.rows)]
        marks = ["---:" if c in self.numbers else "---" for c in self.columns]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(map(inline, self.columns)), marks, *lines])


# The one table of a run's policies: column → cell. A column is a number unless it is one of the two that are words.
_POLICIES: dict[str, Callable[[PolicyResult], str]] = {
    "policy": lambda p: p.name,
    "dev pass@1 [95 %]": text.dev_rate,
    "executable": lambda p: f"{p.executable:.0%}" if p.dev.n else "",
    "ends": text.ended,
    "tokens": text.length,
    "against the one before": lambda p: text.paired(p.paired.previous),
    "pairs": lambda p: f"{p.pairs:,}" if p.pairs else "",
    "answers": lambda p: f"{p.trained_answers:,}" if p.trained_answers else "",
    "min": lambda p: f"{p.minutes:.1f}",
}
POLICIES_EXPLAINED = (
    "pass@1: share of dev problems whose greedy answer is correct when it is run, with Wilson's interval. executable: "
    "answers that ran to their end. ends: answers that stopped at an end token, not at sample.max_tokens. tokens: mean "
    "length of an answer, and how much longer than the policy before. +a −b: problems solved that the policy before did "
    "not solve, and the other way round; p of the exact McNemar test. pairs, answers: what it was trained on. min: minutes "
    "to make and measure it. The chosen policy stands out."
)


def policies_table(summary: RunSummary) -> Table:
    """One row a policy, the chosen one standing out."""
    answers = any(p.trained_answers for p in summary.policies)
    used = {"answers": answers, "pairs": not answers or any(p.pairs for p in summary.policies)}
    columns = {name: cell for name, cell in _POLICIES.items() if used.get(name, True)}
    rows = [[cell(p) for cell in columns.values()] for p in summary.policies]
    numbers = frozenset(columns) - {"policy", "against the one before"}
    best = next((i for i, p in enumerate(summary.policies) if p.label == summary.best), None)
    return Table(list(columns), rows, numbers, best)


def policies_notes(summary: RunSummary) -> list[str]:
    """What the table has no column for, a sentence each: names, gains over policy 0, what taught the policies, samples of
    test problems."""
    notes = [text.who_is_who(summary)] if summary.policies else []
    for p in summary.policies:
        start = p.paired.start
        if start and p.paired.previous and start.against != p.paired.previous.against:
            notes.append(f"{p.name} against {policy_name(start.against)}: {text.paired(start)}")
    shares = [(p.name, p.training.dpo_share) for p in summary.policies if p.training and p.training.dpo_share is not None]
    if shares:
        told = ", ".join(f"{share:.0%} ({name})" for name, share in shares)
        notes.append(f"DPO's part of the gradient, beside the SFT term's: {told}")
    strict = [(f"{p.name} {text.rate(p.dev_on_copies)}") for p in summary.policies if p.dev_on_copies]
    if strict:
        of_test = f"; test {text.rate(summary.test.on_copies)}" if summary.test and summary.test.on_copies else ""
        notes.append(f"right on the copies of the database, too (suite.copies): dev {', '.join(strict)}{of_test}")
    if (test := summary.test) and test.mean and test.vote:
        drawn = f"{test.samples:,} answers drawn to test problems"
        best = f"; of what the verifier prefers {text.rate(test.ranked)}" if test.ranked else ""
        notes.append(f"{drawn}: {text.rate(test.mean)} right; of the result that most give {text.rate(test.vote)}{best}")
    return notes


def held_out_table(summary: RunSummary) -> Table | None:
    """How likely held-out answers are, a row a policy; None where nobody asked (`select.held_out`)."""
    rows = [
        [
            p.name,
            f"{h.chosen:.2f}",
            f"{h.rejected:.2f}",
            f"{h.chosen - h.rejected:.2f}",
            f"{h.chosen_a_token:.3f}",
            f"{h.right_likelier:.1%}",
        ]
        for p in summary.policies
        if (h := p.held_out) and h.pairs
    ]
    columns = ["policy", "log-probability of right", "of wrong", "margin", "of right, a token", "right likelier"]
    return Table(columns, rows, frozenset(columns[1:])) if rows else None


HELD_OUT_LEGEND = (
    "Right and wrong answers to dev problems, paired, drawn from policy 0; no policy was trained on them. Mean "
    "log-probability of an answer in nats. Imitation alone tends to raise both sides; learning from failures widens the "
    "margin."
)


def other_modes_table(summary: RunSummary) -> Table | None:
    """pass@1 under the comparison modes that are reported beside the label's own; None where there are none."""
    modes = list(dict.fromkeys(m for p in summary.policies for m in p.other_modes))
    rows = [
        [p.name, *(f"{p.other_modes[m].value:.1%}" if m in p.other_modes else "" for m in modes)] for p in summary.policies
    ]
    return Table(["policy", *modes], rows, frozenset(modes)) if modes else None
