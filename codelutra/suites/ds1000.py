"""ds1000: 1,000 data-science questions from Stack Overflow (Lai et al., 2023, arXiv 2211.11501; CC BY-SA 4.0).

    <suite.path>/ds1000.jsonl[.gz]  or  test.jsonl[.gz]

The current format: prompt, reference_code, code_context, metadata. There are no official splits: half of each library
trains, a tenth is dev, the rest test, and the perturbations of one origin problem stay in one split. The benchmark's own
checks need the answer's process, so every verdict is `in-process`. Some answers depend on library versions: the
`datascience` image has the benchmark's. It lacks torch, tensorflow, seaborn, xgboost and statsmodels, so 174 references
fail there (4 of Pandas and Numpy; choose with `suite.libraries`), and one needs the network. The authors ask that the
problems stay out of general training corpora.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.folder import find, first_file, read_lines, require_known
from codelutra.suites.parsing import Unparsable, parse
from codelutra.suites.python import PLACE, PythonSuite, judging
from codelutra.suites.splits import cap, divide, normalise_prompt
from sandbox.protocol import PythonJob

VERSION = "2"
LICENCE = "CC-BY-SA-4.0"
SYSTEM = "Complete the solution. Answer with one Python code block: only the code that is missing, nothing given before."
SHARES = {"train": 0.5, "test": 0.4, "dev": 0.1}
FILES = tuple(f"{stem}.jsonl{end}" for stem in ("ds1000", "test") for end in ("", ".gz"))
_END = re.compile(r"</code>|```|^(?:# SOLUTION END|END SOLUTION).*", re.MULTILINE)  # as the official postprocessing cuts


class Ds1000(PythonSuite):
    """Answers are pieces of a program: `piece` brings them into the shape that the benchmark inserts."""

    def answer_job(self, problem: Mapping[str, Any], code: str, job_id: str, timeout_seconds: float) -> PythonJob:
        return super().answer_job(problem, piece(code, problem["reference"]), job_id, timeout_seconds)


def load(section: SuiteSection) -> PythonSuite:
    path = first_file(find(section, "ds1000"), *FILES)
    entries = [entry for _, entry in read_lines(path)]
    if not entries:
        raise ConfigError(f"{path} is empty; take ds1000.jsonl.gz of its repository")
    try:
        libraries = sorted({entry["metadata"]["library"] for entry in entries})
        require_known("libraries", section.libraries, libraries, "DS-1000")
        chosen = section.libraries or libraries
        entries = [entry for entry in entries if entry["metadata"]["library"] in chosen]
        rows = [_row(entry) for entry in entries]
        origins = [(e["metadata"]["library"], e["metadata"]["perturbation_origin_id"]) for e in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ConfigError(f"{path} is not DS-1000's current format (no {e}); take ds1000.jsonl.gz of its repository") from e
    frame = pl.DataFrame(rows, schema=PROBLEMS)
    same = [(origin, normalise_prompt(prompt)) for origin, prompt in zip(origins, frame["prompt"], strict=True)]
    frame = divide(frame, same, SHARES, section.seed)
    return Ds1000("ds1000", VERSION, LICENCE, cap(frame, section), system=SYSTEM, image="datascience")


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    about, context = entry["metadata"], entry["code_context"]
    calls = [f"{check}(_solution)" for check in ("test_execution", "test_string") if f"def {check}(" in context]
    return {
        "problem_id": f"{about['library']}-{about['problem_id']:04d}",
        "split": "train",
        "prompt": entry["prompt"].strip(),
        "reference": entry["reference_code"].strip("\n").rstrip(),
        "language": "python",
        "group": about["library"],
        "difficulty": about["perturbation_type"],
        "judge": judging(calls, setup=context, wrap=f"_solution = {PLACE}", in_process=True),
    }


def piece(code: str, reference: str) -> str:
    """`code` without what models write after it, and indented like the reference where that continues a function.

    Extraction strips the blanks before an answer's first line; this adds them again.
    """
    code = _END.split(code.replace("<code>", "").removeprefix("```python\n"), maxsplit=1)[0].strip("\n").rstrip()
    first = reference.split("\n", 1)[0]
    indent = first[: len(first) - len(first.lstrip())]
    if not indent or code.startswith(indent):
        return code
    try:
        parse(code)
    except Unparsable:  # only the first line lost its blanks
        return indent + code
    return textwrap.indent(code, indent)
