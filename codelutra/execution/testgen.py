"""More cases for problems that have few: new inputs, their expected outputs from the reference (the paper's section 3.3).

    known calls ─► mutated / proposed by a model ─► the reference, twice, in the sandbox ─► kept: finished, the same twice

A generated case is one more call. Its expected value is what the reference gives for the call, computed in each reference
check; so no expected value is stored here, and none enters the process of an answer. Only calls with literal arguments
are understood: `f([1, 2], "a")`, or `set(f(3))`.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import polars as pl

from codelutra.config import EngineSection, SampleSection
from codelutra.errors import OutageError
from codelutra.execution.mutation import Args, habits, literal, new_arguments
from codelutra.execution.outcomes import Progress, Runs
from codelutra.execution.verdicts import decided
from codelutra.sampling.shards import Shard, sample_shards
from codelutra.schema import PROBLEMS, check
from codelutra.suites.parsing import Unparsable, parse, statements, top_level
from codelutra.suites.python import PythonSuite, calls_of, with_calls
from sandbox.protocol import PythonJob

VERSION = 2  # part of the key of what is made
CANDIDATES = 3  # times as many inputs are tried as are kept
PATIENCE = 0.2  # share of an answer's seconds that the reference may take on all kept cases: answers may be slower than it
WRAPPERS = {"set", "sorted", "list", "tuple", "len", "str", "round", "dict", "sum", "bool", "int", "float", "frozenset"}
PROPOSING = SampleSection(samples_per_problem=2, temperature=0.8, top_p=1.0, min_p=0.05, max_tokens=192)
MOST_ARGUMENTS = 20  # of a call: what its arguments have in common is looked for between each two of them
MOST_CALLS, LONGEST_CALL = 200, 2000  # calls that are looked for in a model's text, characters of one
Propose = Callable[[Sequence[str]], Sequence[str]]
Gave = tuple[Any, Any, float]  # what a call gave in one run and in another, and its seconds where it ran alone, else 0


@dataclass(frozen=True)
class Call:
    """`before` + `function(args)` + `after`: a known call, its arguments as values."""

    before: str
    function: str
    args: Args
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.function}({', '.join(map(literal, self.args))}){self.after}"


def extend(
    problems: pl.DataFrame,
    suite: PythonSuite,
    pool: Runs,
    *,
    per_problem: int,
    seed: int,
    timeout_seconds: float,
    propose: Propose | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """PROBLEMS with up to `per_problem` more calls each in their judging material; the same for the same arguments.

    propose: prompts (`proposal_prompt`) → texts that may hold calls; `asking` has a model write them.

    Raises StageError when the sandbox itself failed.
    """
    rows = problems.rows(named=True)
    texts = propose([proposal_prompt(row, per_problem) for row in rows]) if propose else [""] * len(rows)
    tried = [candidates(row, per_problem * CANDIDATES, seed, text) for row, text in zip(rows, texts, strict=True)]
    budget = timeout_seconds * PATIENCE
    found = _twice(rows, tried, suite, pool, budget, progress)
    judges = []
    for row, calls, results in zip(rows, tried, found, strict=True):
        kept = _informative(row, calls, results, suite, budget)[:per_problem]
        judges.append(with_calls(row["judge"], kept) if kept else row["judge"])
    return check(problems.with_columns(judge=pl.Series(judges, dtype=pl.String)), PROBLEMS)


def candidates(problem: Mapping[str, Any], n: int, seed: int, proposed: str = "") -> list[str]:
    """Up to `n` calls unlike the known ones: those proposed first, then mutations. Empty where no call is understood."""
    names = defined(problem["reference"])
    known = [call for text in calls_of(problem["judge"]) if (call := take(text, names))]
    if not known or not 0 < len(known[0].args) <= MOST_ARGUMENTS:
        return []
    first = known[0]
    like = [call.args for call in known if call.function == first.function and len(call.args) == len(first.args)]
    common, seen = habits(like), {literal(args) for args in like}
    asked = [call.args for call in proposed_calls(proposed, {first.function}) if literal(call.args) not in seen]
    asked = [args for args in asked if all(habit.holds(args) for habit in common)]
    chance = random.Random(f"{seed} {problem['problem_id']}")
    made = (args for args in new_arguments(like, chance) if literal(args) not in {literal(a) for a in asked})
    return [str(Call(first.before, first.function, args, first.after)) for args in [*asked, *islice(made, n)][:n]]


def asking(
    model: Path,
    problems: pl.DataFrame,
    system: str,
    *,
    engine: EngineSection,
    seed: int,
    log: Path,
    lock: Path,
    progress: Progress | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Propose:
    """A `propose` that asks this model for further calls, PROPOSING.samples_per_problem answers a problem."""

    def propose(prompts: Sequence[str]) -> list[str]:
        asked = Shard(0, "proposals", problems.with_columns(prompt=pl.Series(prompts, dtype=pl.String)), greedy=False)
        [(_, samples)] = sample_shards(
            model,
            system,
            [asked],
            sample=PROPOSING,
            engine=engine,
            seed=seed,
            log=log,
            lock=lock,
            waiting=waiting,
            progress=(lambda done, total, tokens: progress(done, total)) if progress else None,
        )
        texts = dict(samples.group_by("problem_id").agg(pl.col("completion").str.join("\n")).rows())
        return [texts[problem] for problem in problems["problem_id"]]

    return propose


# ---- calls -----------------------------------------------------------------------------------------------------------


def defined(program: str) -> set[str]:
    """The functions at a program's top level."""
    try:
        return {node.name for node in top_level(statements(program)) if isinstance(node, ast.FunctionDef)}
    except Unparsable:
        return set()  # the reference check reports it


def take(text: str, functions: set[str]) -> Call | None:
    """A call of one of `functions` with literal arguments, alone or inside WRAPPERS; None for anything else."""
    try:
        tree = parse(text, "eval")
    except Unparsable:
        return None
    assert isinstance(tree, ast.Expression)
    node = tree.body
    while not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node = node.operand
        elif _wraps(node):
            node = node.args[0]
        else:
            return None
    if node.keywords:
        return None
    try:
        args = tuple(ast.literal_eval(arg) for arg in node.args)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None
    function, node.func, node.args = node.func.id, ast.Name("_here_"), []
    before, _, after = ast.unparse(tree).partition("_here_()")
    return Call(before, function, args, after)


def _wraps(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether a node calls one of WRAPPERS, with nothing but constants after its first argument."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in WRAPPERS
        and len(node.args) > 0
        and not node.keywords
        and all(isinstance(arg, ast.Constant) for arg in node.args[1:])
    )


def proposal_prompt(problem: Mapping[str, Any], n: int) -> str:
    """The prompt that asks a model for `n` more calls."""
    known = "\n".join(calls_of(problem["judge"])[:3])
    return (
        f"{problem['prompt']}\n\nThese calls test it:\n{known}\n\nWrite {n} more calls with other inputs, edge cases among "
        "them, one on each line, and nothing else."
    )


def proposed_calls(text: str, functions: set[str]) -> list[Call]:
    """The calls of `functions` with literal arguments anywhere in a text."""
    found = list[Call]()
    for name in sorted(functions):
        for match in islice(re.finditer(rf"\b{re.escape(name)}\s*\(", text), MOST_CALLS):
            near = text[match.start() : match.start() + LONGEST_CALL]
            tried = (take(near[: close.end()], functions) for close in islice(re.finditer(r"\)", near), 40))
            found += islice(filter(None, tried), 1)
    return found


# ---- the reference decides ---------------------------------------------------------------------------------------------


def _twice(
    rows: Sequence[Mapping[str, Any]],
    tried: Sequence[Sequence[str]],
    suite: PythonSuite,
    pool: Runs,
    seconds: float,
    progress: Progress | None,
) -> list[list[Gave]]:
    """For each problem, what the reference gave for each candidate in two runs, None where it did not finish.

    All candidates of a problem run together. Where that does not finish, they run one by one.
    """
    jobs = [_job(suite, row, calls, seconds) for row, calls in zip(rows, tried, strict=True) if calls]
    together = _run_twice(jobs, pool, progress)
    found = [next(together) if calls else [] for calls in tried]
    stuck = [i for i, results in enumerate(found) if results is None]
    alone = _run_twice([_job(suite, rows[i], [call], seconds) for i in stuck for call in tried[i]], pool, progress)
    for i in stuck:
        found[i] = [pair[0] if (pair := next(alone)) else (None, None, 0.0) for _ in tried[i]]
    return [results or [] for results in found]


def _run_twice(jobs: Sequence[PythonJob], pool: Runs, progress: Progress | None) -> Iterator[list[Gave] | None]:
    """What the calls of each job gave in two runs; None where either did not finish."""
    results = []
    for result in pool.map(job for job in jobs for _ in (1, 2)):
        if result.status == "infra_error":
            raise OutageError(
                f"the sandbox failed while generating cases for {result.id}: {result.error}; see `codelutra doctor`, then "
                "give the same command again"
            )
        results.append(result)
        if progress:
            progress(len(results), 2 * len(jobs))
    for one, two in zip(results[::2], results[1::2], strict=True):
        if one.status == two.status == "ok":
            seconds = max(one.seconds, two.seconds) if len(one.value) == 1 else 0.0
            yield [(first, second, seconds) for first, second in zip(one.value, two.value, strict=True)]
        else:
            yield None


def _job(suite: PythonSuite, row: Mapping[str, Any], calls: Sequence[str], seconds: float) -> PythonJob:
    asked = {**row, "judge": with_calls(row["judge"], calls, instead=True)}
    return suite.answer_job(asked, row["reference"], row["problem_id"], seconds)


def _informative(
    row: Mapping[str, Any], calls: Sequence[str], results: Sequence[Gave], suite: PythonSuite, budget: float
) -> list[str]:
    """The calls that gave the same in both runs, within `budget` seconds together; those with a new output come first."""
    new, again, outputs = list[str](), list[str](), set[str]()
    alone = {**row, "judge": with_calls(row["judge"], calls[:1], instead=True)}
    for call, (one, two, seconds) in zip(calls, results, strict=True):
        if one is None or "value" not in one or seconds > budget:
            continue
        digest, _ = decided(partial(_digest, suite, alone, one, two))
        if not digest:
            continue
        budget -= seconds
        (again if digest in outputs else new).append(call)
        outputs.add(digest)
    return new + again


def _digest(suite: PythonSuite, alone: Mapping[str, Any], one: Any, two: Any) -> str:
    """The digest of what two runs gave; "" where they differ."""
    return suite.answer_digest(alone, [one]) if suite.agrees(alone, [one], [two]) else ""
