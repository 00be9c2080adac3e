"""The model card of an exported policy: Hugging Face front matter, then what was measured, how, and what it is not."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from codelutra import __version__
from codelutra.config import RunConfig
from codelutra.reporting.card_use import Form, use
from codelutra.results import text
from codelutra.results.escapes import code, inline, one_line, paragraph
from codelutra.results.findings import Findings, headline, libraries
from codelutra.results.lineage import lineage
from codelutra.results.summary import PolicyResult, TestResult, policy_name
from codelutra.results.table import POLICIES_EXPLAINED, policies_table
from codelutra.scoring.statistics import Estimate

WHOLE = Form()
_PAPER = "[CodeLutra](https://arxiv.org/abs/2411.05199) (Tao et al., TMLR 2025)"
_SAMPLED = "sample programs from the current policy, run them in a sandbox, "
_OBJECTIVES = {  # train.objective → how one iteration went, tags
    "preference": (f"refined with {_PAPER}: {_SAMPLED}pair right with wrong answers, train with {{}}, repeat.", ["dpo"]),
    "rft": (
        f"refined by rejection sampling (Yuan et al. 2308.01825): {_SAMPLED}fine-tune on the right ones, repeat.",
        ["rft", "sft"],
    ),
    "sft": ("fine-tuned on the references of the suite's train problems (SFT).", ["sft"]),
    "grpo": (
        f"trained by GRPO (Shao et al. 2402.03300): {_SAMPLED}weigh right against wrong ones of a problem, repeat.",
        ["grpo"],
    ),
}


def card(found: Findings, row: PolicyResult, form: Form = WHOLE, measured: str = "") -> str:
    """README.md of the export of `row`'s policy. `measured`: what measuring the export itself has shown."""
    s, config = found.summary, found.config
    first, *later = lineage(found)
    model, source = first.summary.model, first.summary.model_source
    problems = (found.manifest("problems.parquet") or {}).get("facts", {})
    suite_licence, licence = problems.get("licence") or "not recorded", base_licence(found)
    drawn, budget, (made, training, tags) = config.sample, config.prompt.budget, _made(found, row)
    used = {"codelutra": [__version__]} | libraries(found)
    digest = (found.manifest(row.path) or {}).get("digest")
    facts = {
        "base model": f"{code(model)}, licence {inline(licence) or 'not recorded'}",
        **({"taken from": code(source)} if source else {}),
        **({"trained before": "; ".join(map(_earlier, [first, *later][:-1]))} if later else {}),
        "suite": inline(f"{s.suite}, version {s.suite_version}, licence {suite_licence}"),
        "problems": text.problem_counts(s),
        "sampling": f"{drawn.samples_per_problem} samples a train problem, temperature {drawn.temperature:g}",
        **({"thinking": f"on, at most {budget:,} tokens a thought; an engine ends longer ones"} if budget else {}),
        "training": training,
        "seeds": f"run {config.seed}, splits {config.suite.seed}",
        "weights": f"sha256 `{digest}`" if digest else "of the base model, unchanged",
        "made with": inline(", ".join(f"{k} {' / '.join(v)}" for k, v in used.items())),
    }
    licence_note = "" if licence else "- The base model's licence is not recorded here; find it before passing this on.\n"
    template = Template(resources.files("codelutra.reporting").joinpath("templates/model_card.md").read_text())
    return template.substitute(
        front=yaml.safe_dump(_front(found, row, licence, tags, form.library), sort_keys=False, allow_unicode=True).strip(),
        title=inline(f"{s.run}: {model} refined on {s.suite}"),
        headline="\n\n".join(map(paragraph, [*_so_far(found), *headline(found)])),
        policies=replace(policies_table(s), best=s.policies.index(row)).markdown(),
        explained=POLICIES_EXPLAINED.replace(" The chosen policy stands out.", ""),
        policy=inline(row.name),
        mode=code(s.mode),
        tested="\n\n".join(filter(None, (_tested(found, row), measured))),
        model=code(model),
        run=one_line(s.run),
        suite=inline(s.suite),
        facts="\n".join(f"| {k} | {v} |" for k, v in facts.items()),
        made=f"{code(model)}, {made}",
        use=use(found, row, form),
        licence_note=licence_note,
    )


def _so_far(found: Findings) -> list[str]:
    """That the run had not finished, where it had not."""
    s = found.summary
    state = "was going on" if s.state == "running" else f"had {s.state}" if s.state == "failed" else "was interrupted"
    return [] if s.finished else [f"The run {state} when this was exported: the numbers are those it had by then."]


def _made(found: Findings, row: PolicyResult) -> tuple[str, str, list[str]]:
    """How this row's policy came to be: a sentence, the settings, tags."""
    config, train = found.config, found.config.train
    if row.label == "base" or (row.label == "policy-0" and not config.warm_start):
        return "as it came: nothing of it was trained here.", "none", []
    warm = config.warm_start
    first = next((p for p in found.policies if p.label == "policy-0"), row)
    settings = ""
    if warm:
        how = "" if warm.method == "full" else f"{warm.method}, "
        settings = f"SFT on references, {how}{_rate(warm.learning_rate, first)}, {warm.epochs:g} epochs"
    if row.label == "policy-0":
        return _OBJECTIVES["sft"][0], settings, ["sft"]
    how, tags = _OBJECTIVES[train.objective]
    after = f"; after a warm start ({settings})" if warm else ""
    rate = _rate(train.learning_rate, row)
    if train.objective != "preference":
        by = "" if train.method == "full" else f"{train.method}, "
        return how, f"{_objective(config)}, {by}{rate}{after}", tags
    pairs = sum(p.pairs or 0 for p in found.policies[: found.policies.index(row) + 1])
    right = {"chosen": "the right ones", "right": "all right ones", "right+references": "all right ones and references"}
    imitation = f"an SFT term on {right[train.sft_on]}" if train.sft_weight else ""
    loss = " and ".join(filter(None, ("DPO" if train.dpo_weight else "", imitation)))
    weights = f"β {train.beta:g}, λ {train.sft_weight:g} ({train.sft_norm})"
    settings = f"{train.method}, {weights}, {rate}; {pairs:,} pairs in all{after}"
    return how.format(loss), settings, [t for t in tags if t != "dpo" or train.dpo_weight]


def _objective(config: RunConfig) -> str:
    """The objective and, of GRPO, what decides its loss."""
    g = config.grpo
    if config.train.objective != "grpo":
        return config.train.objective
    clipped = f"ε {g.epsilon:g}" + ("" if g.epsilon_high is None else f" to {g.epsilon_high:g}")
    return f"grpo (advantage {g.advantage}, loss {g.loss}, {g.importance_sampling_level} ratio, {clipped}, KL {g.kl:g})"


def _rate(configured: float | None, row: PolicyResult) -> str:
    """The learning rate a policy was made with; where the config leaves it open, the trainer says what it took."""
    rate = configured or (row.training.facts.get("learning_rate") if row.training else None)
    return f"learning rate {rate:g}" if rate else "learning rate by size"


def _earlier(found: Findings) -> str:
    s = found.summary
    asked = f"{s.suite} {s.suite_version}, {s.problems.train:,} train problems"
    return f"run {code(s.run)} on {inline(asked)}: its {policy_name(s.best or '')}"


def base_licence(found: Findings) -> str:
    """Of the model everything started from, as its source names it; "" where it does not."""
    base = Path(lineage(found)[0].summary.first.path)
    with contextlib.suppress(FileNotFoundError):
        return str(json.loads((base / "codelutra-model.json").read_text())["licence"])
    with contextlib.suppress(FileNotFoundError):
        if named := re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", (base / "README.md").read_text(errors="replace")):
            return named[1]
    return ""


def _front(found: Findings, row: PolicyResult, licence: str, tags: list[str], library: str) -> dict[str, Any]:
    s = found.summary
    named = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(@.*)?", lineage(found)[0].summary.model_taken)
    metrics = [_metric("dev", row.dev)] if row.dev.n else []
    if s.test and s.test.policy == row.label:
        metrics.append(_metric("test", s.test))
    results = {
        "task": {"type": "text-generation"},
        "dataset": {"name": s.suite, "type": s.suite, "revision": s.suite_version},
        "metrics": metrics,
    }
    return {
        "license": licence or "other",
        **({"base_model": named[1]} if named else {}),
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["codelutra", *tags, "code", s.suite],
        "model-index": [{"name": s.run, "results": [results]}],
    }


def _metric(split: str, e: Estimate | TestResult) -> dict[str, Any]:
    interval = f"95 % interval {e.low:.4f} to {e.high:.4f}, {e.n} problems"
    return {"type": "pass@1", "name": f"{split} pass@1 ({interval})", "value": round(e.value, 4)}


def _tested(found: Findings, row: PolicyResult) -> str:
    test = found.summary.test
    if not test or test.policy != row.label:
        return "It was not scored on a test split."
    return f"On the test split, scored once after it was chosen: **{text.rate(test)}** of {test.n} problems."
