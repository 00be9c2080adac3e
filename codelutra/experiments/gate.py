"""What a retrained policy has to show before it is promoted.

    gate = Gate(alpha, keep, margin).checked()
    due = next_retraining(…); summary = refine(due.arm)
    for guard in guards(home, due, summary, gate): refine(its arms)
    conclude(home, due, summary, alpha=gate.alpha, guards=judged(home, …))

A guard is another suite on which the policy may not get worse. It is measured as `codelutra evaluate` does, on dev, against
two policies: the one promoted now, and the config's own model. The second is there because many small losses, none of
which is significant, would otherwise add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.changes import Guarded
from codelutra.experiments.evaluate import evaluation
from codelutra.experiments.plan import Experiment, finished_runs
from codelutra.experiments.retrain import ALPHA, Due, Record, gain_on_dev, is_gain
from codelutra.results.summary import PairedTest, RunSummary
from codelutra.scoring.scores import mcnemar
from codelutra.suites.base import open_suite


@dataclass(frozen=True)
class Gate:
    """What promotion asks for."""

    alpha: float = ALPHA
    """The largest exact McNemar p of the gain on dev; 1 takes any gain."""
    keep: tuple[str, ...] = ()
    """Configs of guard suites: presets or paths."""
    margin: float | None = None
    """Points of pass@1 that may be lost on a guard suite; None: any loss that is not significant."""

    def checked(self) -> Gate:
        """Itself. Raises UserError, before a night's work, for what could not be judged after it."""
        if self.margin is not None and not self.keep:
            raise UserError(f"a margin of {self.margin:g} points needs a guard suite: give --keep CONFIG as well")
        seen = dict[str, str]()
        for source in self.keep:
            config = load_config(source)
            if (other := seen.setdefault(config.name, source)) != source:
                raise UserError(f"two guard suites are called {config.name!r} ({other}, {source}): give one another name")
            if not open_suite(config.suite).problems().filter(split="dev").height:
                raise UserError(f"the guard suite {source} has no dev problem to measure on; give it some (suite.shares)")
        return self


def guards(home: Path, due: Due, summary: RunSummary, gate: Gate) -> list[Experiment]:
    """What has to be measured, an experiment for each guard suite: the config's model, the promoted policy, the new one.

    None where the new policy will not be promoted anyway.
    """
    record = Record(home, due.name)
    row = record.row(summary.run)
    assert summary.chosen
    new = summary.chosen.label != "base"  # else it is the config's model itself
    wanted = new and (not record.promoted or is_gain(gain_on_dev(home, summary), gate.alpha))
    models = list(dict.fromkeys((row.base_model, row.model, f"run:{row.run}")))
    return [evaluation(source, ("select.test=false",), models, home) for source in gate.keep] if wanted else []


def judged(home: Path, measured: Sequence[Experiment], margin: float | None) -> list[Guarded]:
    """What `guards` gave, once every arm is refined. Raises UserError where one has not finished."""
    found = []
    for experiment in measured:
        runs, missing = finished_runs(home, experiment.arms)
        if missing:
            raise UserError(f"not measured on the guard suite: {', '.join(missing)}; give the same command again")
        *earlier, new = runs
        for old in earlier:
            paired = mcnemar(old.scores()["dev"], new.scores()["dev"])
            name = load_config(new.arm.source).name
            test = PairedTest(against=old.arm.label, **asdict(paired))
            found.append(Guarded(suite=name, against=old.arm.label, paired=test, margin=margin))
    return found
