"""Examples, and what the tests of training look at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import torch

from codelutra.config import TrainSection
from codelutra.schema import GROUPS, PAIRS, PROBLEMS
from codelutra.training import launch as train
from codelutra.training.batches import Example, pair_examples
from tests.helpers.tiny_model import tiny_tokenizer

SYSTEM = "Write SQL."
TABLES = {"shop": "product(id, name, price)", "school": "pupil(id, name, age, town)"}
SMALL = {"batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3, "checkpoint_steps": 1, "max_length": 256}
Train = Callable[..., dict[str, Any]]


def some_pairs(count: int) -> pl.DataFrame:
    """Two problems' worth of schema, `count` pairs, answers that begin alike, one chosen answer used twice."""
    rows = []
    for i in range(count):
        table = list(TABLES)[i % 2]
        asked = 0 if i == 2 else i  # pairs 0 and 2 are of one problem and share their chosen answer
        rows.append(
            {
                "problem_id": f"p{asked}",
                "prompt": f"{TABLES[table]}\nhow many {table} things cost {asked}?",
                "chosen": f"SELECT count(*) FROM {table} WHERE price = {asked}",
                "rejected": f"SELECT {'id, ' * (i % 4)}name FROM {table}",
                "chosen_source": "sample",
                "rejected_status": "wrong",
                "chosen_sample": 0,
                "rejected_sample": i,
                "rejected_ended": True,
            }
        )
    return pl.DataFrame(rows, schema=PAIRS)


def some_problems(count: int) -> pl.DataFrame:
    same = {"split": "train", "language": "sql", "group": "shop", "difficulty": "", "judge": ""}
    rows = [
        {"problem_id": f"q{i}", "prompt": f"{TABLES['shop']}\nwhich cost {i}?", "reference": f"SELECT name WHERE price={i}"}
        for i in range(count)
    ]
    return pl.DataFrame([row | same for row in rows], schema=PROBLEMS)


def some_groups(problems: int, count: int = 1) -> pl.DataFrame:
    """Per problem a right answer and three wrong ones, the last cut off, each given by `count` samples but the second."""
    rows = []
    for i in range(problems):
        right, wrong = f"SELECT name FROM product WHERE id = {i}", [f"SELECT {i}", "SELECT id, name, price FROM product"]
        said = [
            (right, "correct", True, count),
            *((w, "wrong", True, 1) for w in wrong),
            ("SELECT (", "wrong", False, count),
        ]
        n = sum(times for *_, times in said)
        for completion, status, ended, times in said:
            reward = float(status == "correct")
            rows.append(
                {
                    "problem_id": f"q{i}",
                    "prompt": f"{TABLES['shop']}\nwhich has the number {i}?",
                    "completion": completion,
                    "ended": ended,
                    "count": times,
                    "status": status,
                    "reward": reward,
                    "advantage": reward - count / n,
                }
            )
    return pl.DataFrame(rows, schema=GROUPS)


def answers_of(problems: pl.DataFrame) -> pl.DataFrame:
    return problems.select("problem_id", "prompt", completion="reference")


def encoded(pairs: pl.DataFrame) -> list[Example]:
    return pair_examples(pairs, tiny_tokenizer(), SYSTEM, 256)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Between the weights of two models, or adapters."""
    return sum((a[name] - b[name]).square().sum().item() for name in b) ** 0.5


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its prompts as the tiny model's template writes them."""
    system, tokenizer = {"role": "system", "content": SYSTEM}, tiny_tokenizer()
    asked = [[system, {"role": "user", "content": prompt}] for prompt in frame["prompt"]]
    return frame.with_columns(
        prompt=pl.Series(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    )


@lru_cache(maxsize=2)
def loaded(folder: Path, written: int) -> Any:
    """The policy in `folder`, whose newest file is of `written`: loading it takes longer than what is asked of it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def answer_log_probs(folder: Path, example: Example) -> list[float]:
    """Sums over each answer's tokens under the policy in `folder`, by plain transformers in float32."""
    model, sums = loaded(folder, max(file.stat().st_mtime_ns for file in folder.iterdir())), []
    with torch.no_grad():
        for answer in example.answers:
            logits = model(torch.tensor([example.prompt + answer])).logits[0, len(example.prompt) - 1 : -1]
            sums.append(logits.log_softmax(-1)[range(len(answer)), answer].sum().item())
    return sums


def place(policy: Path, at: Path, progress: train.Progress | None = None) -> train.Training:
    return train.Training(policy, SYSTEM, 0, at / "out", at / "work", at / "log", at / "lock", progress)


PARENT = """
import json, sys
from pathlib import Path
import polars as pl
from codelutra.training import launch as train
from codelutra.config import TrainSection

at = Path(sys.argv[1])
show = lambda done, total, more: print(json.dumps([done, total, more]), flush=True)
here = train.Training(Path(sys.argv[2]), "Write SQL.", 0, at / "out", at / "work", at / "log", at / "lock", show)
summary = train.refine(here, pl.read_parquet(at / "pairs.parquet"), TrainSection(**json.loads(sys.argv[3])))
print(json.dumps(summary), flush=True)
"""


def parent(at: Path, policy: Path, **settings: Any) -> subprocess.Popen[str]:
    at.mkdir(exist_ok=True)
    some_pairs(12).write_parquet(at / "pairs.parquet")
    command = [sys.executable, "-c", PARENT, str(at), str(policy), json.dumps(SMALL | settings)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def until_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        done, _, more = json.loads(line)
        if more["doing"] == "progress" and done >= step:
            return
    raise AssertionError(f"ended before step {step}")


def launched(at: Path, policy: Path, pairs: pl.DataFrame, references: pl.DataFrame, **settings: Any) -> dict[str, Any]:
    """As `run`, in processes of their own."""
    at.mkdir(exist_ok=True)
    here = place(policy, at)
    spec = train._spec("preference", here, TrainSection(**(SMALL | settings))) | {"bf16": False}
    return train._run(here, spec, pairs, answers_of(references))
