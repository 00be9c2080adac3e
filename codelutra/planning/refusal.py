"""What `codelutra run` asks before it starts: is the model surely too large, or of other sizes than settings ask for? And
the plan in a line.

Nothing is refused that might work: only weights, and what Adam keeps of them, that are more than all of the memory, and
settings that no model of these sizes can follow.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from codelutra.config import RunConfig
from codelutra.config.idle import idle_lines
from codelutra.errors import UserError
from codelutra.planning.fit import fit_of, hopeless
from codelutra.planning.history import History
from codelutra.planning.machine import this_machine
from codelutra.planning.misfits import misfits
from codelutra.planning.plan import plan_of, summary
from codelutra.planning.shape import Shape, shape_of, shape_of_folder
from codelutra.planning.work import work_of


def require_room(config: RunConfig, home: Path, policy: Path | None = None) -> None:
    """Raise UserError, with the way out, where the model is surely larger than this machine's memory, or where settings
    contradict its sizes.

    `policy`: the model's folder, once it is there. Where nothing is known of the model, nothing is said; a model that
    cannot be read is told by the stage that needs it.
    """
    shape: Shape | None = None
    with suppress(UserError, OSError):
        shape = shape_of_folder(policy) if policy else shape_of(config.model, home)
    if not shape:
        return
    if wrong := misfits(config, shape):
        told = "\n".join(f"  {text}" for text in wrong)
        raise UserError(f"run {config.name} does not suit its model, so nothing was started:\n{told}")
    if config.cluster:  # what its nodes have is not what this machine has
        return
    machine = this_machine()
    if hopeless(config, shape, machine):
        fit = fit_of(config, shape, work_of(config, None, History()), machine)
        if fit.sure:
            told = "\n".join(f"  {text}" for text in fit.refusals)
            raise UserError(f"run {config.name} cannot fit this machine, so nothing was started:\n{told}")


def first_lines(config: RunConfig, home: Path) -> list[str]:
    """The plan in a line where one can be made, what may not fit, and settings without effect. Takes about a second."""
    lines, told = list[str](), list[str]()
    with suppress(UserError, OSError):
        plan = plan_of(config, home, count=False)
        lines, told = [f"plan: {summary(plan)}"], [*plan.fit.refusals, *plan.fit.warnings]
    return [*lines, *(f"! {text}" for text in (*told, *idle_lines(config)))]
