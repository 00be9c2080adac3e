"""Every column that one stage passes to another. Read this file first.

    problems ──► samples ──► outcomes ──► pairs or groups ──► (a trained policy)
        └──────► expected ──────┘└──────► scores

`check` matches each frame that leaves a stage to its schema. Columns are named here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

STATUSES = (
    "correct",
    "wrong",
    "runtime_error",
    "syntax_error",
    "timeout",
    "resource_limit",
    "blocked",  # the sandbox refused what it tried
    "no_code",  # nothing to run in the completion
    "infra_error",  # infrastructure failure: our container died or our protocol broke; never the model's doing
    "reference_error",  # the reference itself fails, times out, is nondeterministic or (SQL) returns nothing
    "undecided",  # the judge could not compare the output: neither right nor wrong, so never in a pair
)
NOT_THE_MODELS_DOING = ("infra_error", "reference_error", "undecided")
EXECUTABLE = ("correct", "wrong")  # the program ran to its end and gave a result
STATUS: pl.DataType = pl.Enum(STATUSES)
# Of references and pairs, which are never undecided. A type of its own keeps their bytes, by which training is keyed.
SETTLED: pl.DataType = pl.Enum([status for status in STATUSES if status != "undecided"])
SPLITS = ("train", "dev", "test")
SPLIT: pl.DataType = pl.Enum(SPLITS)


def _schema(columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.Schema:
    return pl.Schema(columns)


PROBLEMS = _schema(
    {
        "problem_id": pl.String,  # unique in the suite, stable between releases
        "split": SPLIT,
        "prompt": pl.String,  # the user message, whole: context (schema, signature) and question
        "reference": pl.String,  # reference program; "" where there are only checks (Python)
        "language": pl.String,  # "sql" | "python"
        "group": pl.String,  # by which results are broken down: database, library
        "difficulty": pl.String,  # "" where the suite has none
        "judge": pl.String,  # judging material as JSON, written and read by the suite alone
    }
)

EXPECTED = _schema(
    {
        "problem_id": pl.String,
        "status": SETTLED,  # "correct" or "reference_error"
        "expected": pl.String,  # the output of a right answer, in the sandbox's canonical JSON; "" for reference_error
        "error": pl.String,  # why it is a reference_error, else ""
    }
)

SAMPLES = _schema(
    {
        "problem_id": pl.String,
        "sample": pl.Int32,  # 0 … K-1 within (problem, greedy)
        "greedy": pl.Boolean,  # temperature 0; such samples are scored and never trained on
        "completion": pl.String,  # what the policy wrote, without special tokens
        "code": pl.String,  # the program in it, as it was found then; "" where there is none
        "finish_reason": pl.String,  # "stop" | "length" | "dropped" (prompt too long: empty completion)
        "prompt_tokens": pl.Int32,
        "completion_tokens": pl.Int32,
    }
)

OUTCOMES = _schema(
    {
        "problem_id": pl.String,
        "sample": pl.Int32,
        "greedy": pl.Boolean,
        "completion": pl.String,
        "code": pl.String,  # the program in it, as it was found when it was judged
        "finish_reason": pl.String,  # as in SAMPLES
        "status": STATUS,
        "mode": pl.String,  # the comparison mode that judged it, e.g. "sql-strict/v2"
        "verdict": pl.String,  # "host" | "in-process" | "copies": right on the database alone, so undecided
        "answer": pl.String,  # digest of the compared output, equal for equal answers; "" where there is none
        "output": pl.String,  # the first bytes of the output, for people
        "seconds": pl.Float64,  # in the sandbox
        "error": pl.String,  # tail of the error, "" where there is none
    }
)

ENDED = pl.col("finish_reason") == "stop"  # the answer ended by itself; else it was cut off, or never begun
RIGHT_BY_LUCK = pl.col("verdict") == "copies"  # on the database, and not on its copies
ASKED = pl.col("finish_reason") != "dropped"  # the prompt was not too long

COPIES = _schema(
    {
        "database": pl.String,  # digest of the original
        "copy": pl.Int32,  # 0 … N-1 within a database
        "digest": pl.String,  # of the copy, which is DIGEST.sqlite in the artifact
        "rows": pl.Int64,  # of all its tables
    }
)

EXPECTED_ON_COPIES = _schema({**EXPECTED, "copy": pl.Int32})  # only where the reference still judges

LUCKY = _schema(  # of samples that are correct on the real database
    {
        "problem_id": pl.String,
        "sample": pl.Int32,
        "greedy": pl.Boolean,
        "copies_run": pl.Int32,  # copies on which the reference and the answer can be compared
        "copies_agreed": pl.Int32,  # fewer: the answer is right by luck
    }
)

PAIRS = _schema(
    {
        "problem_id": pl.String,
        "prompt": pl.String,  # the user message, as in PROBLEMS
        "chosen": pl.String,  # a completion, as the policy would write it
        "rejected": pl.String,
        "chosen_source": pl.String,  # "sample" | "reference"
        "rejected_status": SETTLED,
        "chosen_sample": pl.Int32,  # -1 for the reference
        "rejected_sample": pl.Int32,
        "rejected_ended": pl.Boolean,  # False where it was cut off at max_tokens: training adds no end token then
    }
)

GROUPS = _schema(
    {
        "problem_id": pl.String,
        "prompt": pl.String,  # the user message, as in PROBLEMS
        "completion": pl.String,  # a distinct one of the problem's samples
        "ended": pl.Boolean,  # False where it was cut off at max_tokens: training adds no end token then
        "count": pl.Int32,  # samples that said this
        "status": SETTLED,
        "reward": pl.Float64,  # 1 for correct, else 0; between them where equal programs had other statuses
        "advantage": pl.Float64,  # of one such sample against its problem's others
    }
)

LIKELIHOODS = _schema(  # of pairs, under one policy; nats, over all tokens of an answer and its end token
    {
        "problem_id": pl.String,
        "chosen": pl.Float64,
        "rejected": pl.Float64,
        "chosen_tokens": pl.Int32,
        "rejected_tokens": pl.Int32,
    }
)

SCORES = _schema(
    {
        "problem_id": pl.String,
        "split": SPLIT,
        "group": pl.String,
        "difficulty": pl.String,
        "mode": pl.String,
        "greedy_status": STATUS,  # null where no greedy sample was taken
        "samples": pl.Int32,  # drawn at temperature, infra_error left out
        "correct": pl.Int32,  # of those
        "executable": pl.Int32,  # of those
        "unique_answers": pl.Int32,  # distinct outputs among those
        "unique_correct": pl.Int32,  # distinct programs among the correct ones, runs of whitespace made one blank
    }
)


def check(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return `frame` with exactly the schema's columns in the schema's order.

    Raises ValueError naming the missing and mistyped columns.
    """
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise ValueError(f"columns missing: {missing}; the schema has {list(schema)}")
    frame = frame.select(list(schema))
    off = {n: (frame.schema[n], t) for n, t in schema.items() if frame.schema[n] != t}
    if off:
        raise ValueError("columns of another type (have, want): " + ", ".join(f"{n}: {h}, {w}" for n, (h, w) in off.items()))
    return frame


def usable(problems: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """The problems that can be judged: those whose reference came out right in EXPECTED."""
    right = expected.filter(pl.col("status") == "correct")
    return problems.join(right, on="problem_id", how="semi", maintain_order="left")


def collapse(code: pl.Expr) -> pl.Expr:
    """Code with each run of whitespace made one space: what programs are compared by that no parser has normalised."""
    # Not \s+: it would also find every single space and replace it by itself, at three times the cost.
    return code.str.strip_chars().str.replace_all(r"\s\s+|[^\S ]", " ")
