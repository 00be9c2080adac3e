"""`codelutra solve`: plans the run that asks a model for solutions (pipeline/solve.py), and writes the new suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codelutra.config import RunConfig, load_config
from codelutra.experiments.evaluate import cost, is_api, name_of, tokens_of, untrained
from codelutra.experiments.plan import Overrides
from codelutra.pipeline.run import Progress, Run
from codelutra.pipeline.solve import Solved, solve
from codelutra.pipeline.startable import require_startable
from codelutra.planning.refusal import require_room
from codelutra.suites.solutions import OwnLines


@dataclass(frozen=True)
class Teaching:
    solved: Solved
    config: RunConfig
    written: Path | None
    """The new suite's YAML; None where nothing was solved."""

    @property
    def data(self) -> dict[str, Any]:
        """As JSON."""
        told, given = tokens_of(self.solved.summary)
        return {
            "run": self.config.name,
            "model": self.config.model,
            "without_solution": self.solved.wanting,
            "asked": self.solved.asked,
            "solved": len(self.solved.solutions),
            "tokens_in": told if is_api(self.config.model) else None,
            "tokens_out": given,
            "price": cost(told, given, self.config.api) if is_api(self.config.model) else None,
            "suite": str(self.written) if self.written else None,
        }


def solutions(
    source: str,
    overrides: Overrides,
    model: str,
    home: Path,
    *,
    samples: int = 4,
    unsolved_by: str = "",
    out: Path | None = None,
    on_progress: Progress | None = None,
) -> Teaching:
    """Ask `model` for solutions to the train problems of a config that have none, and write a suite with those that are
    right. Raises ConfigError and UserError, before anything is asked where that can be told."""
    config = solving(source, overrides, model, home, samples)
    require_startable(config, home)
    own = OwnLines.read(config.suite)
    require_room(config, home)
    with Run(home, config) as run, run.refining():
        run.on_progress = on_progress
        solved = solve(run, own, unsolved_by)
    written = own.write(solved.solutions, model, out) if solved.solutions else None
    return Teaching(solved, config, written)


def solving(source: str, overrides: Overrides, model: str, home: Path, samples: int) -> RunConfig:
    """The run's config: another run for each model and number of samples."""
    base = load_config(source, overrides)
    name = name_of(f"{base.name}-solve", model, f" {samples}")
    more = (*overrides, *untrained(base, model, home, name), f"sample.samples_per_problem={samples}")
    return load_config(source, more)
