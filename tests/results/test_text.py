"""Numbers as people read them: one format of an interval, real minus signs, one way to write a p."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codelutra.experiments.evaluate import evaluation
from codelutra.experiments.method_table import comparison
from codelutra.experiments.plan import conclude
from codelutra.experiments.sweep import sweep
from codelutra.reporting.export import export
from codelutra.reporting.report import write_report
from codelutra.results import text
from codelutra.results.findings import headline, read_findings
from codelutra.results.load import load_summary, read_summary
from codelutra.results.summary import Answers, PairedTest, PolicyResult, Problems
from codelutra.results.table import policies_table
from codelutra.scoring.statistics import Estimate
from tests.helpers.example_run import example_run
from tests.helpers.tiny_model import write_tiny_model

POLICY = PolicyResult(label="policy-1", folder="policy-1", path="/x")


def test_a_rate_is_per_cent_with_its_interval() -> None:
    assert text.rate(Estimate(0.472, 0.4, 0.545, 178, 84)) == "47.2% [40.0 – 54.5]"
    assert text.rate(Estimate(0.0, 0.0, 1.0, 1, 0)) == "0.0% [0.0 – 100.0]"
    assert text.rate(None) == ""


def test_a_difference_has_its_sign_on_all_three_numbers_and_a_real_minus() -> None:
    assert text.points(0.097, 0.034, 0.16) == "+9.7 [+3.4 – +16.0] points"
    assert text.points(-0.05, -0.12, 0.02) == "−5.0 [−12.0 – +2.0] points"
    assert text.signed(-0.04) == "−0.0"
    assert "-" not in text.points(-0.5, -0.6, -0.4)


@pytest.mark.parametrize(
    ("p", "says"), [(1.0, "p = 1"), (0.0201, "p = 0.02"), (0.099, "p = 0.099"), (0.001, "p = 0.001"), (0.00099, "p < 0.001")]
)
def test_a_p_has_two_digits_and_is_never_zero(p: float, says: str) -> None:
    assert text.p_value(p) == says


def test_a_paired_test_reads_as_gained_lost_p() -> None:
    assert text.paired(PairedTest(gained=23, lost=9, p=0.0201, n=178)) == "+23 −9, p = 0.02"
    assert text.paired(None) == ""


def test_a_policy_without_answers_has_nothing_to_say_of_them() -> None:
    assert (text.ended(POLICY), text.length(POLICY), text.dev_rate(POLICY)) == ("", "", "")
    answered = POLICY.model_copy(update={"answers": {"dev": Answers(n=4, ended=0.9, tokens=21.4, length_drift=-0.1)}})
    assert (text.ended(answered), text.length(answered)) == ("90%", "21 (−10%)")
    assert (text.ended(answered, "train"), text.length(answered, "train")) == ("", "")
    thinks = Answers(n=4, ended=0.9, tokens=210.4, thinking=190.2, length_drift=0.5)
    assert text.length(POLICY.model_copy(update={"answers": {"dev": thinks}})) == "210 (190 thought, +50%)"


def test_a_step_of_training_reads_as_loss_log_probabilities_with_their_drift_margin_and_divergence() -> None:
    step = {
        "loss": 1.5,
        "chosen_log_prob": -4.0,
        "chosen_drift": 0.5,
        "rejected_log_prob": -9.0,
        "rejected_drift": -2.0,
        "margin": 0.25,
        "kl": 0.01,
        "learning_rate": 1e-5,
    }
    assert text.training(step, "") == "loss 1.500  chosen −4.0 (+0.5)  rejected −9.0 (−2.0)  margin 0.250  KL 0.010"
    assert text.training({"loss": 0.5}) == "  ·  loss 0.500"
    assert text.training(None) == text.training({}) == ""


def test_problems_are_counted_by_split_and_with_those_that_have_a_reference(tmp_path: Path) -> None:
    summary = load_summary(example_run(tmp_path, skills=(0.1,), finished=False))
    assert summary
    summary.problems = Problems(train=1400, dev=178, test=150, train_with_reference=100)
    assert text.problem_counts(summary) == "1,400 train (100 with a reference), 178 dev, 150 test"
    summary.problems = Problems(dev=178)
    assert text.problem_counts(summary) == "178 dev"


def test_the_names_of_policies_are_explained_by_what_the_run_has(tmp_path: Path) -> None:
    def said(name: str, **more: object) -> str:
        example_run(tmp_path, name=name, finished=False, **more)  # type: ignore[arg-type]
        return text.who_is_who(read_summary(tmp_path / "runs", name))

    warmed = "policy 0: the model after the warm start (SFT on references)"
    assert said("all") == f"base: the model as it came; {warmed}; policy t: made by iteration t"
    assert said("warm", skills=(0.1, 0.2)) == f"base: the model as it came; {warmed}"
    assert said("base", skills=(0.1,)) == "base: the model as it came"
    cold = said("cold", warm_start=None, skills=(0.1, 0.2))
    assert cold == "policy 0: the model as it came; policy t: made by iteration t"


INTERVAL = re.compile(r"\[(\d+\.\d – \d+\.\d|[+−]\d+\.\d – [+−]\d+\.\d)\]")


def test_an_interval_looks_the_same_wherever_it_is_read(tmp_path: Path) -> None:
    """Terminal, report, model card, comparison, sweep and evaluation: each bracket that has a dash in it is one."""
    weights = write_tiny_model(tmp_path / "tiny")
    run = example_run(tmp_path, weights=weights)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nsuite: {name: starter-sql}\n")
    source = str(tmp_path / "tiny.yaml")
    compared = comparison(source, (), ["sft", "codelutra"], [0])
    swept = sweep(source, (), ["train.beta=0.1"])
    evaluated = evaluation(source, (), [f"path:{weights}"], tmp_path)
    for experiment in (compared, swept):
        for arm in experiment.arms:
            example_run(tmp_path, arm=arm.config, skills=(0.05, 0.4, 0.6))
    example_run(tmp_path, arm=evaluated.arms[0].config, skills=(0.3,), warm_start=None)
    shown = {
        "terminal": policies_table(read_summary(run.parent, run.name)).markdown(),
        "headline": "\n".join(headline(read_findings(run))),
        "page": re.sub(r"<svg.*?</svg>|<pre.*?</pre>", "", write_report(run).read_text(), flags=re.DOTALL),
        "card": (export(run, tmp_path / "out") / "README.md").read_text().partition("## How")[0].partition("\n---\n")[2],
        **{e.kind: conclude(e, tmp_path).table.markdown() for e in (compared, swept, evaluated)},
    }
    for where, said in shown.items():
        found = re.findall(r"\[[^\[\]\n]*–[^\[\]\n]*\]", said)
        assert found, where
        assert all(INTERVAL.fullmatch(bracket) for bracket in found), (where, found)
