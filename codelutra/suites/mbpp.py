"""Short Python functions with three asserts (Austin et al., 2021, arXiv 2108.07732; CC BY 4.0). Sanitized: checked by hand.

    <suite.path>/mbpp.jsonl  or  sanitized-mbpp.json

Official splits by task_id: 601-974 train, 511-600 dev, 11-510 test. 1-10 are few-shot examples and are left out. The prompt
is the paper's, asserts included. The asserts are taken apart (asserts.py), so the expected values never enter the process
of an answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.folder import find, read_entries
from codelutra.suites.python import OFFICIAL, PythonSuite, judging_by_asserts
from codelutra.suites.splits import cap

LICENCE = "CC-BY-4.0"
FILES = {"mbpp": "mbpp.jsonl", "mbpp-sanitized": "sanitized-mbpp.json"}
VERSIONS = {"mbpp": "2", "mbpp-sanitized": "3"}
SIDES = {"test": range(11, 511), "dev": range(511, 601), "train": range(601, 975)}


def load(section: SuiteSection) -> PythonSuite:
    path = find(section, "mbpp") / FILES[section.name]
    raw = read_entries(path, task_id=int, code=str, test_list=list)
    rows = [row(entry, path) for entry in raw if _side(entry["task_id"])]
    frame = pl.DataFrame(rows, schema=PROBLEMS)
    if frame.is_empty():
        raise ConfigError(f"{path} holds no task_id from 11 to 974; take the official release")
    return PythonSuite(section.name, VERSIONS[section.name], LICENCE, cap(frame, section), mode=OFFICIAL)


def row(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """An entry of the release as a row of PROBLEMS; a few-shot example has no split."""
    after = entry.get("test_setup_code", "")
    try:
        setup = "\n".join(entry.get("test_imports", []))
        judge = judging_by_asserts(entry["test_list"], reference=entry["code"], setup=setup, after=after)
    except (SyntaxError, TypeError, ValueError, AttributeError, RecursionError, MemoryError) as e:
        raise ConfigError(f"{path}, task_id {entry['task_id']}: {e or 'a program nested too deeply'}") from e
    text, tests = entry.get("prompt", entry.get("text")), "\n".join(entry["test_list"])
    return {
        "problem_id": f"{entry['task_id']}",
        "split": _side(entry["task_id"]) or None,
        "prompt": f"{text}\nYour code should pass these tests:\n\n{tests}",
        "reference": entry["code"].replace("\r\n", "\n").strip(),
        "language": "python",
        "group": "mbpp",
        "difficulty": "",
        "judge": judge,
    }


def _side(task_id: int) -> str:
    return next((side for side, ids in SIDES.items() if task_id in ids), "")
