"""How much there is to do: problems, tokens of prompts and answers, examples and steps of training, programs to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig, TrainSection, WarmStartSection
from codelutra.errors import UserError
from codelutra.planning.history import History
from codelutra.prompts import prompt_ids
from codelutra.suites.base import open_suite
from codelutra.suites.examples import with_examples
from codelutra.suites.splits import shown
from codelutra.training.batches import alike

CHARACTERS_A_TOKEN = 3.3  # where no tokenizer is at hand
TEMPLATE = 20  # tokens of a chat template around a question
PAIRED = 0.8  # of `pairs.per_problem`, where nothing is known: the demo's iterations made 0.77 and 0.63, cut ones up to 1
ANSWER = 0.4  # of `sample.max_tokens`, where there is neither a reference nor a sample to go by


@dataclass(frozen=True)
class Work:
    """Sizes of a run's data; lengths are tokens."""

    train: int
    dev: int
    test: int
    shown: int
    """Train problems whose reference the model may learn from."""
    prompt: float
    """Mean length of a prompt."""
    shared: float
    """Of it, what a prompt has in common with the next one of its group."""
    answer: float
    """Mean length of an answer of a policy that knows the task."""
    longest: float
    """Prompt and answer that only one in twenty exceeds."""
    longest_prompt: float
    longest_reference: float
    max_tokens: int
    """Of an answer, its thought included."""
    pairs: float
    """Pairs of an iteration."""
    per_problem: int
    language: str
    basis: dict[str, str]
    """What is not counted but assumed, or known from elsewhere: name → from where."""
    databases: float = 0.0
    """Bytes of the suite's databases."""

    def examples(self, section: TrainSection | WarmStartSection, samples: int = 8) -> int:
        """Of one training: pairs, references, or a policy's own answers."""
        match objective(section):
            case "preference":
                return round(self.pairs)
            case "warm start" | "sft":
                return self.shown
            case "rft":
                return self.train  # the demo's problems have 0.97 distinct right programs of eight samples each
            case _:
                return self.train * samples

    def tokens(self, section: TrainSection | WarmStartSection, samples: int = 8) -> float:
        """Of one pass, as trainers count: as if no prefix were shared."""
        one, examples = self.prompt + self.answer, self.examples(section, samples)
        replayed = self.shown if getattr(section, "replay_references", False) else 0
        return one * (examples * (2 if objective(section) == "preference" else 1) + replayed)

    def micro_batch(self, section: TrainSection | WarmStartSection) -> tuple[float, float]:
        """(distinct tokens, predicted tokens) of a long micro-batch, prefixes shared. Pairs of a problem are together, and
        problems of a group."""
        size, longer = min(section.micro_batch, section.batch_size), self.longest / max(1.0, self.prompt + self.answer)
        answers = size * (1 if objective(section) in ("warm start", "sft", "rft") else 2)
        prompts = size if answers == size else math.ceil(size / self.per_problem)
        own = prompts * (self.prompt - self.shared) + answers * self.answer
        return (self.shared + own) * longer, answers * self.answer * longer

    def largest_micro_batch(self, section: TrainSection | WarmStartSection) -> tuple[float, float]:
        """The same where every example is as long as any may be, and nothing is shared."""
        size = min(section.micro_batch, section.batch_size)
        imitated = objective(section) in ("warm start", "sft")
        answers = size if imitated or objective(section) == "rft" else 2 * size
        answer = min(self.longest_reference if imitated else self.max_tokens, section.max_length)
        return answers * min(self.longest_prompt + answer, section.max_length), answers * answer


NOTHING = Work(0, 0, 0, 0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1, 0.0, 1, "", {})  # before a suite is read


def objective(section: TrainSection | WarmStartSection) -> str:
    return str(getattr(section, "objective", "warm start"))


def steps(examples: int, section: TrainSection | WarmStartSection) -> int:
    """Optimizer steps, as `training.batches.plan` makes them."""
    return max(1, round(section.epochs * math.ceil(examples / section.batch_size))) if examples else 0


def work_of(config: RunConfig, folder: Path | None, history: History) -> Work:
    """`folder`: the model's, whose tokenizer counts; without one characters are."""
    suite, section = open_suite(config.suite), config.suite
    plain = suite.problems()
    problems = with_examples(plain, section.shots, section.seed, shown(plain, section))
    train = problems.filter(pl.col("split") == "train").sort("group", "problem_id")
    asked = train if train.height else problems
    count, basis = _counter(folder, suite.system, config.prompt.thinking), dict[str, str]()
    if count is None:
        basis["lengths"] = f"characters / {CHARACTERS_A_TOKEN}"
        count = _by_characters(suite.system)
    prompts, answers = count(asked["prompt"].to_list(), True), count([r for r in asked["reference"] if r], False)
    common = [alike(*pair) for pair in _neighbours(asked)]
    sharing = sum(common) / max(1, sum(len(p) for p in asked["prompt"]))
    most, thought = config.sample.max_tokens + config.prompt.budget, config.prompt.budget
    answer, basis["answer"] = sum(answers) / len(answers) + 1 + thought if answers else 0.0, "references"
    if thought:
        basis["answer"] += ", thoughts as long as they may be"
    if not answers:
        answer, basis["answer"] = ANSWER * config.sample.max_tokens + thought, f"assumed: {ANSWER} of sample.max_tokens"
    if history.answer:
        answer, basis["answer"] = history.answer, "earlier samples"
    answer = min(answer, most)
    share, basis["pairs"] = history.paired, "earlier pairs"
    if not share:
        share, basis["pairs"] = PAIRED, f"assumed: {PAIRED} of pairs.per_problem"
    per_problem = min(config.pairs.per_problem, max(1, config.sample.samples_per_problem - 1))
    sizes = dict(problems.group_by("split").len().rows())
    mean = sum(prompts) / max(1, len(prompts))
    seen = shown(plain, section).filter(pl.col("split") == "train", pl.col("reference") != "").height
    system = len(suite.system) / max(1.0, sum(len(p) for p in asked["prompt"]) / max(1, asked.height) + len(suite.system))
    return Work(
        train=sizes.get("train", 0),
        dev=sizes.get("dev", 0),
        test=sizes.get("test", 0) if config.select.test else 0,
        shown=seen,
        prompt=mean,
        shared=mean * min(0.95, system + (1 - system) * sharing),
        answer=answer,
        longest=_high(prompts) + min(_high(answers) + thought if answers else answer, most),
        longest_prompt=max(prompts, default=0.0),
        longest_reference=max(answers, default=0.0) + 1,
        max_tokens=most,
        pairs=share * per_problem * sizes.get("train", 0),
        per_problem=per_problem,
        language=str(asked["language"][0]) if asked.height else "sql",
        basis=basis,
        databases=float(sum(file.stat().st_size for file in suite.databases().values())),
    )


def _neighbours(asked: pl.DataFrame) -> list[tuple[str, str]]:
    """Prompts with the next one of their group."""
    rows = asked.select("group", "prompt").rows()
    return [(a, b) for (g, a), (h, b) in pairwise(rows) if g == h]


def _high(lengths: Sequence[float]) -> float:
    """What one in twenty exceeds."""
    return sorted(lengths)[int(0.95 * (len(lengths) - 1))] if lengths else 0.0


def _by_characters(system: str) -> Any:
    def count(texts: list[str], prompts: bool) -> list[float]:
        more = len(system) / CHARACTERS_A_TOKEN + TEMPLATE if prompts else 0.0
        return [len(t) / CHARACTERS_A_TOKEN + more for t in texts]

    return count


def _counter(folder: Path | None, system: str, thinking: bool) -> Any:
    """Counts texts in tokens; None where there is no tokenizer."""
    if folder is None:
        return None
    try:
        from transformers import PreTrainedTokenizerFast  # AutoTokenizer would import torch as well: seconds

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        prompt_ids(tokenizer, system, "?", thinking=thinking)
    except (ImportError, OSError, ValueError, KeyError, TypeError, UserError):
        return None

    def count(texts: list[str], prompts: bool) -> list[float]:
        if prompts:
            return [float(len(prompt_ids(tokenizer, system, text, thinking=thinking))) for text in texts]
        return [float(len(ids)) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    return count
