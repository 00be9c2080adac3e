"""A plan on a terminal: the stages, what the machine has, and what the figures are based on."""

from __future__ import annotations

from codelutra.cli import tables
from codelutra.errors import UserError
from codelutra.planning.machine import GIB
from codelutra.planning.plan import Plan, told_size, told_time
from codelutra.results.table import Table


def show(plan: Plan) -> None:
    """At most 80 columns, but for names and warnings; in a pipe a row is a line."""
    w, m = plan.work, plan.machine
    tables.say(f"{plan.run}: {plan.model}")
    tables.show(stages_table(plan))
    of = f" ({m.gpus[0].name})" if m.cuda else ""
    cost = f"; cost {plan.cost:,.2f} at {plan.price:g} an hour" if plan.cost is not None else ""
    uncounted = ", counted as characters / 3.3: no tokenizer here" if "lengths" in w.basis else ""
    lines = {
        "model": f"{told_size(plan.shape.parameters)} weights ({plan.shape.source})",
        "memory": f"{plan.memory / GIB:.1f} GiB at the largest, of {plan.fit.memory / GIB:.1f} GiB{of}",
        "disk": f"{plan.disk_peak / GIB:.1f} GiB at the largest, of {plan.disk_free / GIB:.1f} GiB free",
        "time": f"{told_time(plan.seconds / 60)} ({plan.basis}){cost}",
        "data": f"{w.train} train, {w.dev} dev, {w.test} test problems; {plan.programs:,} programs in Docker",
        "tokens": f"{w.prompt:.0f} a prompt{uncounted}",
        "": f"{w.answer:.0f} an answer ({w.basis['answer']})",
        "pairs": f"{w.pairs:.0f} an iteration ({w.basis['pairs']})" if plan.pairs else "",
        "steps": ", ".join(f"{n} of the {what}" for what, n in plan.steps.items()),
        "peaks": ", ".join(f"{what} {peak / GIB:.1f} GiB" for what, peak in plan.peaks.items()),
    }
    for name, text in lines.items():
        if text:
            tables.say(f"{name + ':' if name else '':<9}{text}{' (measured)' if name == 'peaks' else ''}")
    for text in (*plan.fit.warnings, *plan.idle):
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
    raise UserError(f"{plan.run} does not fit {plan.machine.name}:\n" + "\n".join(f"  {text}" for text in plan.fit.refusals))
