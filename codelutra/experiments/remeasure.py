"""`codelutra export --measure`: scores an export on dev as its users would load it, and compares that with the run's score.

It is one run without iterations, as `codelutra evaluate` makes: the export is resolved as any model (a GGUF file is
dequantised, an adapter merged into its base), the engine answers every dev problem once, greedily, and the sandbox judges.
Test stays closed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from codelutra.errors import UserError
from codelutra.experiments.evaluate import evaluation
from codelutra.experiments.plan import Arm, finished_runs
from codelutra.reporting.card_use import Kind, To
from codelutra.reporting.export import exported_policy, form_of
from codelutra.reporting.model_card import card
from codelutra.results import text
from codelutra.results.escapes import code
from codelutra.scoring.scores import mcnemar
from codelutra.store.files import sha256_file, write_atomic

_THROUGH = {
    "transformers": "as it lies here",
    "gguf": "the GGUF file, dequantised to float32",
    "adapter": "the adapter, merged into its base in float32",
}


def reference_of(exported: Path, to: To) -> str:
    """The model reference of an export."""
    if to == "gguf":
        (file,) = exported.resolve().glob("*.gguf")
        return f"gguf:{file}#sha256={sha256_file(file)}"
    return f"{'path' if to == 'transformers' else 'adapter'}:{exported.resolve()}"


def remeasuring(home: Path, run_path: Path, exported: Path, policy: str | None, to: To) -> Arm:
    """The run that measures the export. Raises UserError where the run had no dev problem."""
    found, row = exported_policy(run_path, policy)
    if not row.dev.n:
        raise UserError(f"run {run_path.name!r} has no dev problem, so there is nothing to measure its export on")
    only_dev = ("select.test=false", "sample.endpoints=[]")
    experiment = evaluation(str(found.path / "run.yaml"), only_dev, [reference_of(exported, to)], home)
    return experiment.arms[0]


def tell(home: Path, arm: Arm, run_path: Path, exported: Path, policy: str | None, to: To, kind: Kind) -> str:
    """What the run `arm` found, in a sentence; also written into the export's card. Raises UserError where it has not
    finished, or the run's own scores are gone."""
    found, row = exported_policy(run_path, policy)
    finished, _ = finished_runs(home, [arm])
    own, again = found.dev_scores(row), finished[0].scores().get("dev")
    if own is None or again is None:
        raise UserError(f"the dev scores of {row.name} or of its export are gone; {found.mend}")
    seen, test = finished[0].summary.first.dev, mcnemar(own, again)
    same = "the same problems solved" if not test.gained + test.lost else f"{text.paired(test)} against the run's own"
    said = (
        f"Measured again on dev through its own loader ({_THROUGH[to]}, then vLLM): **{text.rate(seen)}** of {seen.n} "
        f"problems; the run itself had {text.rate(row.dev)} ({same})."
    )
    how = f"`codelutra evaluate` of run {code(run_path.name)}'s config with the export as the model, greedy."
    write_atomic(exported / "README.md", card(found, row, form_of(found, to, kind), f"{said} {how}"))
    return said.replace("**", "")


def as_json(home: Path, arm: Arm) -> dict[str, object]:
    """The numbers of the measuring run."""
    finished, _ = finished_runs(home, [arm])
    return {"run": arm.config.name, "model": arm.label, "dev": asdict(finished[0].summary.first.dev)}
