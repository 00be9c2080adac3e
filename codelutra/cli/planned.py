"""A plan on a terminal: the stages, what the machine has, and what the figures are based on."""

from __future__ import annotations

from codelutra.cli import tables
from codelutra.errors import UserError
from codelutra.planning.machine import GIB
from codelutra.planning.plan import Plan, told_time
from codelutra.results.table import Table


def show(plan: Plan) -> None:
    """At most 80 columns; in a pipe a row is a line."""
    s, w = plan.shape, plan.work
    title = f"{plan.run}: {plan.model}, {s.parameters / 1e6:,.0f}M weights ({s.source})"
    tables.say(title)
    tables.show(stages_table(plan))
    have = f"{plan.fit.memory / GIB:.1f} GiB" + (f" ({plan.machine.gpus[0].name})" if plan.machine.cuda else "")
    tables.say(f"memory:  {plan.memory / GIB:.1f} GiB at the largest, of {have}")
    tables.say(f"disk:    {plan.disk_peak / GIB:.1f} GiB at the largest, of {plan.disk_free / GIB:.1f} GiB free")
    cost = f"; cost {plan.cost:,.2f} at {plan.price:g} an hour" if plan.cost is not None else ""
    tables.say(f"time:    {told_time(plan.seconds / 60)} ({plan.basis}){cost}")
    per_step = ", ".join(f"{n} steps of {what}" for what, n in plan.steps.items())
    tables.say(
        f"data:    {w.train} train, {w.dev} dev, {w.test} test; prompts of {w.prompt:.0f} tokens, answers of {w.answer:.0f} "
        f"({w.basis['answer']})"
    )
    if plan.steps:
        tables.say(f"         {w.pairs:.0f} pairs an iteration ({w.basis['pairs']}); {per_step}")
    tables.say(f"         {plan.programs:,} programs in Docker, while later ones are sampled")
    if "lengths" in w.basis:
        tables.say(f"         tokens are {w.basis['lengths']}: the model's tokenizer is not here", style="dim")
    for text in plan.fit.warnings:
        tables.say(f"! {text}", style="yellow")


def stages_table(plan: Plan) -> Table:
    rows = [
        {
            "stage": stage.name,
            "tokens": f"{stage.tokens:,.0f}" if stage.tokens else "",
            "GiB memory": f"{stage.memory / GIB:.1f}" if stage.memory else "",
            "GiB disk": f"{stage.disk / GIB:.1f}" if stage.disk >= 0.05 * GIB else "",
            "minutes": f"{stage.seconds / 60:.1f}",
            "based on": stage.basis,
        }
        for stage in plan.stages
    ]
    total = {
        "stage": "all",
        "tokens": f"{sum(s.tokens for s in plan.stages):,.0f}",
        "GiB memory": f"{plan.memory / GIB:.1f}",
        "GiB disk": f"{sum(s.disk for s in plan.stages) / GIB:.1f}",
        "minutes": f"{plan.seconds / 60:.1f}",
        "based on": plan.basis,
    }
    return Table.of([*rows, total], ["tokens", "GiB memory", "GiB disk", "minutes"], best=len(rows))


def refuse(plan: Plan) -> None:
    """Raise UserError with everything that does not fit."""
    raise UserError(f"{plan.run} does not fit this machine:\n" + "\n".join(f"  {text}" for text in plan.fit.refusals))
