"""Methods against each other: each is one config, numbers are of the test split, problems are the unit."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from codelutra.errors import ConfigError, UserError
from codelutra.experiments.method_table import comparison
from codelutra.experiments.methods import METHODS, arm, chosen_methods, chosen_seeds
from codelutra.experiments.plan import conclude, folder
from codelutra.experiments.sweep import sweep
from codelutra.experiments.tuning import GRID, chosen, tuning
from codelutra.schema import EXPECTED, OUTCOMES, PROBLEMS, SCORES
from codelutra.scoring.scores import difference, mcnemar, mean_pass_at_1
from codelutra.suites.examples import with_examples
from codelutra.training.pairs import right_answers
from tests.helpers.example_run import example_run


def scores(*solved: bool) -> pl.DataFrame:
    row = {
        "split": "test",
        "group": "g",
        "difficulty": "",
        "mode": "m",
        "samples": 0,
        "correct": 0,
        "executable": 0,
        "unique_answers": 0,
        "unique_correct": 0,
    }
    rows = [row | {"problem_id": f"p{i}", "greedy_status": "correct" if s else "wrong"} for i, s in enumerate(solved)]
    return pl.DataFrame(rows, schema=SCORES)


def test_every_method_is_a_valid_config_and_they_differ_only_where_they_say() -> None:
    plain = arm("demo", (), "codelutra", 1).config
    assert (plain.name, plain.seed) == ("demo-codelutra-s1", 1)
    for method in METHODS:
        made = arm("demo", ("train.learning_rate=3e-5",), method, 1).config
        assert made.suite.model_copy(update={"shots": 0}) == plain.suite
        assert made.sample == plain.sample
        assert made.train.learning_rate == 3e-5
    assert arm("demo", (), "dpo", 0).config.train.sft_weight == 0
    assert arm("demo", (), "dpo", 0).config.train.learning_rate is None, "that of the preset is for a loss with an SFT term"
    assert arm("demo", (), "base", 0).config.warm_start is None


def test_the_control_and_rft_imitate_what_codelutra_does() -> None:
    """So whatever the control lacks is what wrong answers are worth, and RFT lacks that and the plan of steps."""
    ours, control, rft = (
        arm("demo", ("train.sft_on=right+references",), m, 0).config.train
        for m in ("codelutra", "control", "rft-references")
    )
    assert control == ours.model_copy(update={"dpo_weight": 0.0})
    assert rft == ours.model_copy(update={"objective": "rft"})
    assert rft.imitates_references
    own = arm("demo", ("train.sft_on=right+references",), "rft", 0).config.train
    assert (own.imitates_samples, own.imitates_references) == (True, False)


def test_without_an_sft_term_nothing_is_imitated_whatever_it_would_be() -> None:
    """So pairs are all that is learned from, `batch_size` a step: answers beside them would make steps without any."""
    for sft_on in ("chosen", "right", "right+references"):
        train = arm("demo", (f"train.sft_on={sft_on}", "train.sft_weight=0"), "codelutra", 0).config.train
        assert (train.imitates_samples, train.imitates_references) == (False, False)


@pytest.mark.parametrize("names", ["sft,grop", "", ","])
def test_an_unknown_method_is_named_with_those_there_are(names: str) -> None:
    with pytest.raises(UserError, match="known: base"):
        chosen_methods(names)


def test_seeds_are_whole_numbers() -> None:
    assert chosen_seeds("0, 2") == [0, 2]
    with pytest.raises(UserError, match="0,x"):
        chosen_seeds("0,x")


def test_what_is_given_twice_is_compared_once(tmp_path: Path) -> None:
    """Else one run would be two seeds of its method, with an interval as if they agreed."""
    assert chosen_methods("sft, base,sft") == ["sft", "base"]
    assert chosen_seeds("1,0,01") == [1, 0]
    twice = sweep("demo", (), ["train.beta=0.1,0.1"])
    example_run(tmp_path, arm=twice.arms[0].config)
    assert len(conclude(twice, tmp_path).data) == 1


def test_one_seed_each_is_mcnemar_and_wilson() -> None:
    a = scores(*[True] * 10, *[False] * 30)
    b = scores(*[False] * 2, *[True] * 24, *[False] * 14)
    found, exact = difference([a], [b]), mcnemar(a, b)
    assert (found.value, found.n) == (pytest.approx((exact.gained - exact.lost) / 40), 40)
    assert found.p == pytest.approx(exact.p, rel=0.5)
    assert found.low > 0
    assert mean_pass_at_1([a]).low == pytest.approx(0.142, abs=0.001)  # Wilson of 10 in 40


def test_seeds_are_averaged_within_a_problem_so_repeating_one_adds_no_certainty() -> None:
    a, b = scores(*[True] * 10, *[False] * 20), scores(*[True] * 14, *[False] * 16)
    once, thrice = difference([a], [b]), difference([a] * 3, [b] * 3)
    assert thrice.n == once.n == 30
    assert (thrice.value, thrice.p, thrice.low) == pytest.approx((once.value, once.p, once.low))


def test_a_method_against_itself_is_no_difference() -> None:
    a = scores(True, False, True)
    assert difference([a], [a]).p == 1.0


def test_right_answers_are_distinct_right_samples_of_train_problems_only() -> None:
    outcome = {
        "greedy": False,
        "finish_reason": "stop",
        "mode": "m",
        "verdict": "host",
        "answer": "",
        "output": "",
        "seconds": 0.0,
        "error": "",
    }
    drawn = [
        ("a", 0, "select 1", "correct"),
        ("a", 1, "select  1", "correct"),
        ("a", 2, "select 2", "wrong"),
        ("a", 3, "select 3", "correct"),
        ("d", 0, "select 1", "correct"),
    ]
    rows = [outcome | {"problem_id": p, "sample": i, "completion": c, "code": c, "status": s} for p, i, c, s in drawn]
    other = {"code": "select 9", "completion": "select 9"}
    rows.append(rows[0] | other | {"sample": 9, "greedy": True})
    rows.append(
        rows[0] | other | {"sample": 5, "finish_reason": "length"}
    )  # to end where it was cut off is not to be learned
    asked = [
        {
            "problem_id": p,
            "split": s,
            "prompt": "?",
            "reference": "",
            "language": "sql",
            "group": "",
            "difficulty": "",
            "judge": "",
        }
        for p, s in (("a", "train"), ("d", "dev"))
    ]
    expected = pl.DataFrame(
        [{"problem_id": p, "status": "correct", "expected": "", "error": ""} for p in "ad"], schema=EXPECTED
    )
    made, facts = right_answers(pl.DataFrame(rows, schema=OUTCOMES), pl.DataFrame(asked, schema=PROBLEMS), expected)
    assert made.rows() == [("a", "?", "select 1"), ("a", "?", "select 3")]
    assert (facts["samples"], facts["correct"], facts["correct_but_cut_off"], facts["answers"]) == (5, 4, 1, 2)


def test_worked_examples_are_other_train_problems_of_the_group_between_schema_and_question() -> None:
    same = {"language": "sql", "difficulty": "", "judge": ""}
    rows = [
        {
            "problem_id": f"{g}{i}",
            "split": "train" if i < 3 else "dev",
            "prompt": f"{g}(x)\n\nask {g}{i}",
            "reference": f"select {g}{i}",
            "group": g,
        }
        | same
        for g in "ab"
        for i in range(4)
    ]
    shown = with_examples(pl.DataFrame(rows, schema=PROBLEMS), 2, seed=0)
    for problem_id, split, group, prompt in shown.select("problem_id", "split", "group", "prompt").rows():
        assert prompt.startswith(f"{group}(x)\n\nask {group}")
        assert prompt.endswith(f"ask {problem_id}")
        assert prompt.count("select ") == 2
        assert f"select {problem_id}" not in prompt
        assert f"select {group}3" not in prompt, f"a dev reference in the prompt of a {split} problem"
    assert with_examples(shown, 0, seed=0) is shown


def test_finished_runs_become_one_table_and_what_is_missing_is_named(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text("name: tiny\nsuite: {name: starter-sql}\n")
    methods = ["sft", "rft", "codelutra"]
    experiment = comparison(str(config), (), methods, [0])
    for one, last in zip(experiment.arms, (0.3, 0.3, 0.9), strict=True):
        example_run(tmp_path, arm=one.config, skills=(0.05, 0.4, last), finished=one.label != "rft")
    result = conclude(experiment, tmp_path)
    assert [r["method"] for r in result.data["methods"]] == ["sft", "codelutra"]
    assert result.missing == {"tiny-rft-s0": "not finished"}
    assert result.data["missing"] == ["tiny-rft-s0"]
    sft, ours = result.data["methods"]
    assert sft["against"]["value"] == pytest.approx(ours["test"]["value"] - sft["test"]["value"])
    assert ours["against"] is None
    out = folder(experiment, tmp_path)
    assert json.loads((out / "comparison.json").read_text()) == result.data
    written = (out / "comparison.md").read_text()
    assert "| codelutra |" in written
    assert "tiny-rft-s0" in written
    assert (out / "methods.svg").exists()
    assert {r["method"] for r in result.table.records()} == {"sft", "codelutra"}
    assert result.narrow
    cells = [max(map(len, column)) for column in zip(*result.narrow.rows, strict=True)]
    assert sum(cells) + 3 * len(cells) + len("codelutra-no-reference") - len("codelutra") <= 80


def test_what_comes_of_several_samples_has_columns_of_its_own_where_every_run_of_a_method_drew_some(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text("name: tiny\nsuite: {name: starter-sql}\n")
    experiment = comparison(str(config), ("select.samples=3",), ["sft", "codelutra"], [0, 1])
    for one in experiment.arms:
        drawn = 0 if one.config.name == "tiny-sft-s1" else 3
        example_run(tmp_path, arm=one.config, seed=one.seed, select={"samples": drawn})
    result = conclude(experiment, tmp_path)
    sft, ours = result.data["methods"]
    assert sft["mean_at_n"] is sft["vote"] is sft["vote_against"] is None
    tested = [run["test"] for run in ours["runs"]]
    for name, each, column in (("mean_at_n", "mean", "mean of samples"), ("vote", "vote", "majority vote")):
        assert ours[name]["value"] == pytest.approx(sum(t[each]["value"] for t in tested) / 2)
        assert ours[name]["low"] <= ours[name]["value"] <= ours[name]["high"]
        assert [r[column] for r in result.table.records()] == ["", f"{ours[name]['value']:.1%}"]
        assert result.narrow
        assert column not in result.narrow.columns
    rows = {r["method"]: r for r in pl.read_csv(folder(experiment, tmp_path) / "methods.csv").to_dicts()}
    assert rows["codelutra"]["majority_vote"] == pytest.approx(ours["vote"]["value"])
    assert rows["sft"]["majority_vote"] is None


@pytest.mark.parametrize(
    ("asked", "method", "why"),
    [
        ("train.learning_rate=1e-3", "codelutra", "train.learning_rate: 1e-05 there, 0.001 now"),
        ("iterations=3", "codelutra", "iterations: 4 there, 3 now"),
        ("select.samples=8", "codelutra", "select.samples: 0 there, 8 now"),
        ("engine.dtype=float16", "codelutra", "engine.dtype"),
        ("train.learning_rate=1e-3", "base", ""),  # which trains nothing
        ("train.lora_rank=8", "codelutra", ""),  # read with an adapter alone
        ("execute.workers=7", "codelutra", ""),
        ("train.checkpoint_steps=7", "codelutra", ""),
    ],
)
def test_a_run_made_with_other_settings_is_not_shown_as_made_with_these(
    asked: str, method: str, why: str, tmp_path: Path
) -> None:
    """Nothing is started for a table alone, so nothing else refuses the run."""
    config = tmp_path / "tiny.yaml"
    config.write_text("name: tiny\nsuite: {name: starter-sql}\ntrain: {learning_rate: 1e-5}\n")
    one = comparison(str(config), (), [method], [0]).arms[0]
    example_run(tmp_path, arm=one.config, skills=(0.4,), warm_start=None)
    other = comparison(str(config), (asked,), [method], [0])
    if why:
        with pytest.raises(UserError, match=f"tiny-{method}-s0 .made with other settings: {why}"):
            conclude(other, tmp_path)
    else:
        assert [r["method"] for r in conclude(other, tmp_path).data["methods"]] == [method]


def test_a_run_whose_test_was_not_scored_is_not_called_unfinished(tmp_path: Path) -> None:
    experiment = comparison("demo", (), ["base"], [0])
    run = example_run(tmp_path, arm=experiment.arms[0].config, skills=(0.4,), warm_start=None)
    record = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(record | {"test": None}))
    with pytest.raises(UserError, match="test was not scored"):
        conclude(experiment, tmp_path)


def test_nothing_finished_is_told_with_the_names_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="demo-sft-s0"):
        conclude(comparison("demo", (), ["sft"], [0]), tmp_path)


def test_a_sweep_is_every_combination_each_valid_and_named_before_any_runs() -> None:
    points = sweep("demo", (), ["train.learning_rate=1e-5,4e-5", "pairs.references=true,false"]).arms
    found = [(p.config.train.learning_rate, p.config.pairs.references) for p in points]
    assert found == [(1e-5, True), (1e-5, False), (4e-5, True), (4e-5, False)]
    assert len({p.config.name for p in points}) == 4
    assert not any(p.config.select.test for p in points), "test is not for trying settings"
    with pytest.raises(ConfigError, match="beta"):
        sweep("demo", (), ["train.beta=0.1,-1"])
    long = sweep(
        "demo", (), ["train.learning_rate=1e-5,4e-5", "pairs.references=true", "warm_start.epochs=1,2", "train.beta=0.1"]
    ).arms
    assert len({p.config.name for p in long}) == 4, "cut short, names still differ"


@pytest.mark.parametrize("vary", [[], ["train.beta"], ["=3"]])
def test_nothing_to_vary_is_told_with_an_example(vary: list[str]) -> None:
    with pytest.raises(UserError, match=r"--vary train\.learning_rate"):
        sweep("demo", (), vary)


def test_a_sweep_ranks_finished_points_by_dev(tmp_path: Path) -> None:
    experiment = sweep("demo", (), ["train.beta=0.1,0.2,0.3"])
    for point, skill in zip(experiment.arms, (0.3, 0.9), strict=False):
        example_run(tmp_path, arm=point.config, skills=(0.05, 0.4, skill))
    result = conclude(experiment, tmp_path)
    rows = result.data
    assert [*result.missing] == [experiment.arms[2].config.name]
    assert [r["setting"] for r in rows] == ["beta 0.2", "beta 0.1"]
    assert rows[0]["policy"] == "policy 1"
    assert rows[1]["policy"] == "policy 0"
    out = folder(experiment, tmp_path)
    assert "| beta 0.2 |" in (out / "sweep.md").read_text()
    assert len(json.loads((out / "sweep.json").read_text())) == 2


def test_each_method_takes_the_best_of_as_many_trials_on_dev_and_the_control_what_codelutra_takes(tmp_path: Path) -> None:
    methods = ["base", "sft", "control", "codelutra"]
    trials = tuning("demo", (), methods, 1)
    assert len({a.config.name for a in trials.arms}) == len(trials.arms) == 2 * len(GRID), "the base is not trained"
    assert not any(a.config.select.test for a in trials.arms)
    assert len(
        {(a.config.train.objective, a.config.train.learning_rate, a.config.train.epochs) for a in trials.arms}
    ) == len(trials.arms)
    with pytest.raises(UserError, match="none of these runs can be compared"):
        chosen(tmp_path, trials, methods)
    for i, skill in ((0, 0.5), (3, 0.9)):
        example_run(tmp_path, arm=trials.arms[i].config, skills=(0.05, 0.4, skill))
    with pytest.raises(UserError, match="no trial of control has finished"):
        chosen(tmp_path, trials, methods)
    example_run(tmp_path, arm=trials.arms[len(GRID) + 5].config, skills=(0.05, 0.4, 0.9))
    best = chosen(tmp_path, trials, methods)
    assert best == {"sft": GRID[3], "control": GRID[5], "codelutra": GRID[5]}
    table = conclude(trials, tmp_path).data
    assert [(r["method"], r["setting"]) for r in table][:2] == [
        ("sft", "learning rate 1e-5, epochs 3"),
        ("sft", "learning rate 2e-6, epochs 1"),
    ]
    arms = {a.label: a.config for a in comparison("demo", (), methods, [1], best).arms}
    assert (arms["sft"].train.learning_rate, arms["sft"].train.epochs) == (1e-5, 3)
    assert arms["control"].train == arms["codelutra"].train.model_copy(update={"dpo_weight": 0.0})
    assert arms["sft"].name == "demo-sft-tuned-s1"
    assert arms["base"].name == "demo-base-s1"


@pytest.mark.parametrize("kind", ["tuning", "sweep"])
def test_an_outage_that_leaves_a_dev_problem_out_makes_no_trial_better(kind: str, tmp_path: Path) -> None:
    trials = tuning("demo", (), ["sft"], 0) if kind == "tuning" else sweep("demo", (), ["train.beta=0.1,0.2"])
    for trial in trials.arms[:2]:
        example_run(tmp_path, arm=trial.config, skills=(0.05, 0.4, 0.9))
    file = tmp_path / "runs" / trials.arms[1].config.name / "summary.json"
    record = json.loads(file.read_text())
    for policy in record["policies"]:
        dev = policy["dev"]
        dev |= {"n": dev["n"] - 1, "left_out": 1, "value": dev["correct"] / (dev["n"] - 1)}
    file.write_text(json.dumps(record))
    best = conclude(trials, tmp_path).data[0]["setting"]
    assert best == ("learning rate 2e-6, epochs 1" if kind == "tuning" else "beta 0.1")
    if kind == "tuning":
        assert chosen(tmp_path, trials, ["sft"]) == {"sft": GRID[0]}


def test_what_is_tuned_cannot_be_set() -> None:
    with pytest.raises(UserError, match=r"leave out --set train\.epochs=2"):
        tuning("demo", ("train.beta=0.2", "train.epochs=2"), ["sft"], 0)


@pytest.mark.parametrize(("overrides", "methods"), [((), ["base", "warm-start"]), (("iterations=0",), ["codelutra"])])
def test_tuning_what_has_no_iteration_is_refused(overrides: tuple[str, ...], methods: list[str]) -> None:
    with pytest.raises(UserError, match="Leave --tune out"):
        tuning("demo", overrides, methods, 0)


def test_self_consistency_needs_samples_to_vote_on() -> None:
    assert arm("demo", (), "self-consistency", 0).config.select.samples == 16
    assert arm("demo", ("select.samples=4",), "self-consistency", 0).config.select.samples == 4
    with pytest.raises(UserError, match=r"select\.samples is 0"):
        arm("demo", ("select.samples=0",), "self-consistency", 0)
