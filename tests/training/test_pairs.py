from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codelutra import schema
from codelutra.config import PairsSection
from codelutra.store.artifacts import write_frame
from codelutra.training.pairs import make_pairs, mix, right_answers

ORDERS = get_args(PairsSection.model_fields["order"].annotation)
NOT_REJECTED = {"correct", *schema.NOT_THE_MODELS_DOING}


def problems_of(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """PROBLEMS from (problem_id, split, reference)."""
    frame = pl.DataFrame(rows, schema=["problem_id", "split", "reference"], orient="row")
    rest = {c: pl.lit("sql" if c == "language" else "") for c in ("language", "group", "difficulty", "judge")}
    frame = frame.with_columns(pl.col("split").cast(schema.SPLIT), prompt=pl.format("question {}", "problem_id"), **rest)
    return schema.check(frame, schema.PROBLEMS)


def outcomes_of(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """OUTCOMES from (problem_id, sample, status, code[, completion[, greedy[, finish_reason]]])."""
    filled = []
    for problem, sample, status, code, *more in rows:
        completion, greedy, finish_reason = (*more, *(code, False, "stop")[len(more) :])
        filled.append(
            {
                "problem_id": problem,
                "sample": sample,
                "status": status,
                "code": code,
                "completion": completion,
                "greedy": greedy,
                "finish_reason": finish_reason,
                "mode": "sql-strict/v1",
                "verdict": "host",
                "answer": "",
                "output": "",
                "seconds": 0.0,
                "error": "",
            }
        )
    return pl.DataFrame(filled, schema=schema.OUTCOMES)


def expected_of(problems: pl.DataFrame) -> pl.DataFrame:
    """EXPECTED in which every reference is usable."""
    return problems.select("problem_id", status=pl.lit("correct", schema.STATUS), expected=pl.lit("1"), error=pl.lit(""))


def paired(outcomes: pl.DataFrame, problems: pl.DataFrame, config: PairsSection, **more: Any) -> pl.DataFrame:
    return make_pairs(outcomes, problems, expected_of(problems), config, **more)[0]


def bytes_of(frame: pl.DataFrame) -> bytes:
    """What a stage would leave in the store."""
    written = io.BytesIO()
    write_frame(frame, written)
    return written.getvalue()


def norm(code: str) -> str:
    return " ".join(code.split())


CODES = st.text(alphabet="ab \n", max_size=4)
TEXTS = st.one_of(st.none(), CODES)  # None: the completion is the code
PROBLEMS = st.lists(
    st.tuples(st.sampled_from(["train", "train", "train", "dev", "test"]), st.sampled_from(["a", "b a", "zz", " "])),
    min_size=2,
    max_size=3,
).map(lambda rows: problems_of(*((f"p{i}", split, reference) for i, (split, reference) in enumerate(rows))))
STATUSES = ["correct"] * 6 + ["wrong"] * 6 + [s for s in schema.STATUSES if s not in ("correct", "reference_error")]
ROWS = st.builds(
    lambda rows, broken: [
        (p, k, s, code, code if text is None else text, *more) for p, k, s, code, text, *more in rows + broken
    ],
    st.lists(
        st.tuples(
            st.sampled_from(["p0", "p0", "p0", "p1", "p1", "p2", "elsewhere"]),
            st.integers(0, 9),
            st.sampled_from(STATUSES),
            CODES,
            TEXTS,
            st.sampled_from([False] * 7 + [True]),
            st.sampled_from(["stop"] * 6 + ["length", "length", "dropped"]),
        ),
        min_size=5,
        max_size=40,
    ),
    st.sampled_from([[], [], [], [("p0", 0, "reference_error", "a", None, False, "stop")]]),
)
CONFIGS = st.builds(
    PairsSection,
    per_problem=st.integers(1, 9),
    order=st.sampled_from(ORDERS),
    references=st.booleans(),
    timeouts=st.booleans(),
)
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(PROBLEMS, ROWS, CONFIGS, st.integers(0, 2**70))
def test_pairs_are_what_a_slow_reading_of_the_rules_allows(problems, rows, config, seed):
    pairs = paired(outcomes_of(*rows), problems, config, seed=seed)
    references = {r["problem_id"]: r for r in problems.filter(pl.col("split") == "train").rows(named=True)}
    mine = [r for r in rows if r[0] in references and not r[5] and r[6] != "dropped"]
    broken = {r[0] for r in mine if r[2] == "reference_error"}
    right, wrong = defaultdict(set), defaultdict(set)
    for problem, sample, status, code, completion, _, finish in mine:
        ended = finish == "stop"
        if problem in broken or (status == "timeout" and not config.timeouts):
            continue
        if status == "correct" and completion.strip() and ended:
            right[problem].add((norm(code), completion.rstrip(), sample))
        elif status not in NOT_REJECTED and (completion.strip() or ended):
            wrong[problem].add((norm(code), completion.rstrip(), sample, status, ended))
    for problem, row in references.items():
        if config.references and not right[problem] and row["reference"].strip():
            right[problem].add((norm(row["reference"]), row["reference"].strip(), -1))

    by_problem = pairs.partition_by("problem_id", as_dict=True)
    for (problem,), some in by_problem.items():
        taken = set()
        for pair in some.rows(named=True):
            good = [n for n, text, k in right[problem] if (text, k) == (pair["chosen"], pair["chosen_sample"])]
            bad = [
                n
                for n, *rest in wrong[problem]
                if rest == [pair[f"rejected{x}"] for x in ("", "_sample", "_status", "_ended")]
            ]
            assert good
            assert bad
            assert pair["chosen"] != pair["rejected"]
            assert pair["prompt"] == f"question {problem}"
            assert (pair["chosen_source"] == "reference") == (pair["chosen_sample"] == -1)
            taken.add((pair["chosen"], pair["chosen_sample"], pair["rejected"], pair["rejected_sample"]))
        assert some.height <= config.per_problem
    for problem in references:
        rights = {n for n, *_ in right[problem]}
        wrongs = {n for n, *_ in wrong[problem]} - rights
        clash = {t for _, t, _ in right[problem]} & {t for _, t, *_ in wrong[problem]}
        if not clash:  # else pairs of equal texts under different codes were dropped
            made = by_problem.get((problem,), pairs.clear()).height
            assert made == min(config.per_problem, len(rights) * len(wrongs))


@quick
@given(PROBLEMS, ROWS, CONFIGS, st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_shards_changes_no_byte(problems, rows, config, seed, random):
    once = paired(outcomes_of(*rows), problems, config, seed=seed)
    shuffled = random.sample(rows, len(rows))
    again = paired(outcomes_of(*shuffled), problems.reverse(), config, seed=seed)
    assert bytes_of(again) == bytes_of(once)
    shards = [outcomes_of(*(r for r in shuffled if r[0] == p)) for p in ("elsewhere", "p0", "p1", "p2")]
    by_shard = pl.concat([paired(shard, problems, config, seed=seed) for shard in shards])
    assert bytes_of(by_shard.rechunk()) == bytes_of(once)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
@settings(max_examples=60)
def test_no_answer_is_used_again_before_all_are_used(rights, wrongs, per_problem, seed):
    rows = [("p", i, "correct", f"right {i}") for i in range(rights)]
    rows += [("p", 100 + i, ("wrong", "timeout")[i % 2], f"wrong {i}") for i in range(wrongs)]
    for order in ("round-robin", "error-balanced", "nearest", "farthest"):
        config = PairsSection(order=order, per_problem=per_problem)
        pairs = paired(outcomes_of(*rows), problems_of(("p", "train", "r")), config, seed=seed)
        assert pairs.height == min(per_problem, rights * wrongs) == pairs.select("chosen", "rejected").unique().height
        for side, there in (("chosen", rights), ("rejected", wrongs)):
            uses = Counter(pairs[side].to_list())
            least = min(uses.values()) if len(uses) == there else 0
            # A wrong answer may be passed over where the right one whose turn it is met it before.
            spread = 2 if side == "rejected" and order in ("nearest", "farthest") else 1
            assert max(uses.values()) - least <= spread, (order, uses)


TWO = problems_of(("a", "train", "ref a"), ("b", "train", "ref b"))


def test_timeouts_are_rejected_but_outages_are_not():
    outcomes = outcomes_of(
        ("a", 0, "correct", "good"),
        ("a", 1, "timeout", "slow"),
        ("a", 2, "infra_error", "lost"),
        ("b", 0, "infra_error", "x"),
    )
    pairs = paired(outcomes, TWO, PairsSection(), seed=0)
    assert pairs.select("chosen", "rejected", "rejected_status").rows() == [("good", "slow", "timeout")]
    assert paired(outcomes, TWO, PairsSection(timeouts=False), seed=0).is_empty()


def test_the_reference_is_chosen_only_where_no_sample_is_right():
    outcomes = outcomes_of(("a", 0, "wrong", "bad"), ("b", 0, "wrong", "bad"), ("b", 1, "correct", "good"))
    pairs = paired(outcomes, TWO, PairsSection(), seed=0)
    assert pairs.select("problem_id", "chosen", "chosen_source", "chosen_sample").rows() == [
        ("a", "ref a", "reference", -1),
        ("b", "good", "sample", 1),
    ]
    assert paired(outcomes, TWO, PairsSection(references=False), seed=0)["problem_id"].to_list() == ["b"]


def test_an_empty_completion_is_rejected_but_never_chosen():
    outcomes = outcomes_of(
        ("a", 0, "no_code", "", " \n"), ("a", 1, "correct", "good"), ("b", 0, "correct", "", "\n"), ("b", 1, "wrong", "bad")
    )
    pairs = paired(outcomes, TWO, PairsSection(), seed=0)
    assert pairs.select("chosen", "rejected").rows() == [("good", ""), ("ref b", "bad")]


def test_an_answer_that_was_cut_off_is_never_chosen_and_a_prompt_that_was_not_asked_is_no_answer():
    cut, unasked = ("length",), ("dropped",)
    outcomes = outcomes_of(
        ("a", 0, "correct", "good", "good", False, *cut),
        ("a", 1, "wrong", "bad", "bad and", False, *cut),
        ("a", 2, "no_code", "", " ", False, *cut),
        ("b", 0, "correct", "good"),
        ("b", 1, "no_code", "", "", False, *unasked),
    )
    pairs = paired(outcomes, TWO, PairsSection(), seed=0)
    assert pairs.select("chosen", "rejected", "rejected_ended").rows() == [("ref a", "bad and", False)]


def test_the_suites_normal_form_decides_what_is_the_same_program():
    outcomes = outcomes_of(
        ("a", 0, "correct", "select 1"),
        ("a", 1, "correct", "SELECT 1"),
        ("a", 2, "wrong", "Select  1"),
        ("a", 3, "wrong", "no"),
        ("b", 0, "wrong", "REF B"),
        ("b", 1, "wrong", "bad"),
    )
    codes = [
        ("a", "select 1"),
        ("a", "SELECT 1"),
        ("a", "Select  1"),
        ("b", "REF B"),
        ("b", "ref b"),
        ("b", "never sampled"),
    ]
    normalised = pl.DataFrame(codes, schema=["problem_id", "code"], orient="row").with_columns(
        normalised=pl.col("code").str.to_lowercase().str.replace_all(" +", " ")
    )
    pairs = paired(outcomes, TWO, PairsSection(per_problem=9), seed=0, normalised=normalised)
    assert pairs["chosen"].str.to_lowercase().to_list() == ["select 1", "ref b"]
    assert pairs["rejected"].to_list() == ["no", "bad"]
    assert paired(outcomes, TWO, PairsSection(per_problem=9), seed=0).height == 2 * 2 + 2


def test_nearest_and_farthest_go_by_edit_distance():
    outcomes = outcomes_of(
        ("a", 0, "correct", "SELECT name FROM t"),
        ("a", 1, "wrong", "SELECT nome FROM t"),
        ("a", 2, "wrong", "DROP"),
        ("a", 3, "wrong", "SELECT name, age FROM t"),
    )
    rejected = {
        order: paired(outcomes, TWO, PairsSection(order=order, per_problem=3), seed=0)["rejected_sample"].to_list()
        for order in ("nearest", "farthest")
    }
    assert rejected == {"nearest": [1, 3, 2], "farthest": [2, 3, 1]}


def test_error_balanced_lets_statuses_take_turns():
    rows = [("a", 0, "correct", "good"), *(("a", i, "wrong", f"bad {i}") for i in range(1, 9))]
    rows += [("a", 9, "timeout", "slow"), ("a", 10, "syntax_error", "(")]
    rows = [(problem, *row[1:]) for problem in "ba" for row in rows]
    for seed in range(5):
        pairs = paired(outcomes_of(*rows), TWO, PairsSection(order="error-balanced"), seed=seed)
        for problem in "ab":
            statuses = pairs.filter(pl.col("problem_id") == problem)["rejected_status"].to_list()
            assert Counter(statuses) == {"wrong": 2, "timeout": 1, "syntax_error": 1}


@pytest.mark.parametrize("order", ["round-robin", "random", "error-balanced"])
def test_another_seed_gives_other_pairs(order):
    rows = [("a", i, "correct" if i < 8 else "wrong", f"code {i}") for i in range(16)]
    made = [paired(outcomes_of(*rows), TWO, PairsSection(order=order), seed=s).rows() for s in range(20)]
    assert len({tuple(m) for m in made}) > 15
    assert {c for m in made for c in (row[6] for row in m)} == set(range(8)), "every right answer has its chance"


def test_the_order_is_ours_and_not_of_a_polars_version():
    rows = [("a", i, "correct" if i % 2 else "wrong", f"code {i}") for i in range(8)]
    pairs = paired(outcomes_of(*rows), TWO, PairsSection(), seed=7)
    assert pairs.select("chosen_sample", "rejected_sample").rows() == [(1, 2), (3, 4), (7, 0), (5, 6)]


def test_mix_is_splitmix64():
    def reference(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    given = [0, 1, 2**31, 2**63, 2**64 - 1, 1234567]
    assert mix(pl.Series(given, dtype=pl.UInt64)).to_list() == [reference(x) for x in given]
    assert mix(pl.Series([0], dtype=pl.UInt64)).to_list() == [0xE220A8397B1DCDAF]  # the published first output of seed 0


EXPECTED = pl.DataFrame(
    [("a", "correct", "1", ""), ("b", "correct", "1", ""), ("c", "reference_error", "", "no rows")],
    schema=schema.EXPECTED,
    orient="row",
)
THREE = problems_of(("a", "train", "ref a"), ("b", "train", "ref b"), ("c", "train", "ref c"), ("d", "dev", "ref d"))


def test_the_funnel_counts_what_was_lost_where():
    outcomes = outcomes_of(
        ("a", 0, "correct", "good"),
        ("a", 1, "wrong", "bad"),
        ("a", 2, "infra_error", "?"),
        ("a", 0, "correct", "g", "g", True),
        ("b", 0, "syntax_error", "("),
        ("c", 0, "reference_error", "x"),
        ("d", 0, "wrong", "x"),
        ("b", 9, "no_code", "", "", False, "dropped"),
        ("a", 3, "correct", "good", "good, and", False, "length"),
    )
    _, facts = make_pairs(outcomes, THREE, EXPECTED, PairsSection(), seed=0)
    assert facts == {
        "problems": 3,
        "usable_reference": 2,
        "samples": 4,
        "executable": 3,
        "correct": 2,
        "correct_but_cut_off": 1,
        "all_right": 0,
        "all_wrong": 1,
        "right_and_wrong": 1,
        "paired_problems": 2,
        "pairs": 2,
        "pairs_from_references": 1,
        "why": "",
    }


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "no train problem with a usable reference has a sample"),
        ([("a", 0, "correct", "x"), ("b", 0, "correct", "y")], "every sample is correct"),
        ([("a", 0, "wrong", "x"), ("b", 0, "timeout", "y")], "every sample is wrong"),
        ([("a", 0, "wrong", "x"), ("a", 1, "correct", "y", "y", False, "length")], "every right answer was cut off"),
        ([("a", 0, "correct", "x"), ("a", 1, "wrong", "x"), ("b", 0, "correct", "y")], "a wrong one that differs"),
    ],
)
def test_without_pairs_the_frame_is_empty_and_the_funnel_says_why(rows, why):
    outcomes = outcomes_of(*rows)
    for order in ORDERS:
        pairs, facts = make_pairs(outcomes, THREE, EXPECTED, PairsSection(references=False, order=order), seed=0)
        assert pairs.is_empty()
        assert pairs.schema == schema.PAIRS
        assert why in str(facts["why"])


def test_references_join_the_right_answers_and_a_program_that_is_both_counts_once() -> None:
    """Rejection-sampling fine-tuning: the union, in the policy's words where it has some."""
    asked = problems_of(("a", "train", "SELECT 1"), ("b", "train", "SELECT 2"), ("c", "train", "SELECT 3"))
    outcomes = outcomes_of(
        ("a", 0, "correct", "select  1", "Well: select  1"),
        ("a", 1, "correct", "select 4 - 3"),
        ("b", 0, "wrong", "select 9"),
        ("c", 0, "correct", "select 3", "select 3", True),
    )
    said = [*outcomes.select("problem_id", "code").rows(), *asked.select("problem_id", "reference").rows()]
    same = [(i, c, c.lower().replace("  ", " ")) for i, c in said]
    normalised = pl.DataFrame(same, schema=["problem_id", "code", "normalised"], orient="row").unique()
    shown = asked.filter(pl.col("problem_id") != "c")
    found, facts = right_answers(outcomes, asked, expected_of(asked), normalised=normalised, references=shown)
    assert found.rows() == [
        ("a", "question a", "Well: select  1"),
        ("a", "question a", "select 4 - 3"),
        ("b", "question b", "SELECT 2"),
    ]
    assert (facts["answers"], facts["answers_from_references"], facts["why"]) == (3, 1, "")
    nothing, facts = right_answers(outcomes.filter(pl.col("problem_id") == "b"), asked, expected_of(asked))
    assert (nothing.height, facts["why"]) == (0, "no sample was right")
    assert "answers_from_references" not in facts
