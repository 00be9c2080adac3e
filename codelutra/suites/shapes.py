"""What `suite.yaml` and the lines of suite custom may say, and by which other names."""

from __future__ import annotations

import ast
import keyword
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, model_validator

from codelutra.reading.numbers import require_number
from codelutra.reading.text import missing
from codelutra.suites.lines import Shape, Strict, Wrong, meant, renamed

MAX_ROWS = 500  # expected rows of a line
MAX_QUERIES = 20  # accepted for one question
SOURCE = "source"  # who wrote a solution: for people
Split = Literal["train", "dev", "test"]
SPLITS_AS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "eval"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The usual names of splits → ours."""


def _not_blank(text: str) -> str:
    if not any(unicodedata.category(c)[0] not in "ZC" for c in text):
        raise ValueError("it is blank")
    return text


def _as_text(value: Any) -> Any:
    """Numbers that name something as text; a whole one as data frames write it (17.0) without its point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def _statements(value: Any) -> Any:
    """Several asserts in one text, or in one of a list, as a list of one each; what is no Python stays, to be named."""
    if isinstance(value, list):
        asserts = re.compile(r"\s*assert\b.*[;\n]\s*assert\b", re.DOTALL)
        parts = [_statements(v) if isinstance(v, str) and asserts.match(v) else [v] for v in value]
        return [text for part in parts for text in part]
    if not isinstance(value, str):
        return value
    if not _parses(value) or "def check(" in value:  # HumanEval's, which is judged as a whole
        return [value]
    return [text for node in ast.parse(value).body if (text := ast.get_source_segment(value, node))]


def _parses(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _joined(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _queries(value: Any) -> Any:
    """One query or several as a list, without blank ones; the cell of a table may hold a list as text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = meant(value)
    if isinstance(value, list | tuple):
        return [query for query in value if not missing(query) and (not isinstance(query, str) or query.strip())]
    if isinstance(value, str):
        return [value] if value.strip() else []
    raise ValueError("Input should be a query, or a list of queries")


def _rows(value: Any) -> Any:
    """Rows of cells; NaN, as data frames write NULL, is None."""
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) for row in value):
        raise ValueError('give a list of rows, each a list of its cells: [["cup", 3]]')
    return [[None if missing(cell) else cell for cell in row] for row in value]


def _side(value: Any) -> Any:
    return SPLITS_AS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _written(value: Any) -> Any:
    """Cases that are given as text, as Python writes them: JSON has no tuples."""
    return meant(value) if isinstance(value, str) else value


def runs_of(value: Any) -> Any:
    """Tests as a list of runs, where they are text, or as contests write them: inputs and outputs side by side."""
    value = _written(value)
    sides = {key.rstrip("s"): side for key, side in value.items()} if isinstance(value, dict) else {}
    if not sides or not {*sides} <= {"input", "output"} or not all(isinstance(side, list) for side in sides.values()):
        return value
    given, printed = sides.get("input", []), sides.get("output")
    if printed is not None and len(printed) != len(given):
        raise ValueError(f"{len(given)} inputs and {len(printed)} outputs; each input needs its output")
    return [{"stdin": text} | ({} if printed is None else {"stdout": printed[n]}) for n, text in enumerate(given)]


def _first(value: Any) -> Any:
    """The first of several solutions."""
    several = meant(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    return next(iter(several), "") if isinstance(several, list) and all(isinstance(v, str) for v in several) else value


def _callable(name: str) -> str:
    """A name that stands before brackets: `f`, `module.f`, `Class().f`."""
    parts = re.split(r"(?:\(\))?\.", name)
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise ValueError("not the name of a function")
    return name


def _literals(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no value of a case; write it in an assert, as float('{value}')")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _literals(inner)
    return value


def _file_name(name: str) -> str:
    if "\0" in name or not name.strip():
        raise ValueError("not the name of a file")
    return name


Text = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]
Name = Annotated[str, BeforeValidator(_as_text)]
Share = Annotated[FiniteFloat, BeforeValidator(require_number), Field(gt=0, le=1e6)]
FileName = Annotated[str, AfterValidator(_file_name)]
Solution = Annotated[str, BeforeValidator(_first)]
_SOLUTION = (
    *("solution", "solutions", "code", "answer", "canonical_solution", "reference_solution", "reference_code", "program"),
    "gold",
)
_PROMPT = ("instruction", "question", "text", "description", "task", "problem", "problem_description", "question_content")


class About(Strict):
    """suite.yaml"""

    kind: Literal["sql", "python-function", "python-program"]
    problems: FileName = "problems.jsonl"
    databases: Annotated[tuple[FileName, ...], BeforeValidator(_listed)] = ()
    shares: dict[Split, Share] = Field({"train": 0.6, "test": 0.25, "dev": 0.15}, min_length=1)
    system: str | None = None
    licence: str = ""


class Line(Shape):
    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("question_id", "problem_id", "task_id", "instance_id", "qid"),
        "difficulty": ("hardness", "level"),
    }
    id: Name = ""
    split: Annotated[Split | None, BeforeValidator(_side)] = None
    group: Name = ""
    difficulty: Name = ""


class SqlLine(Line):
    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Line.ALIASES,
        "question": ("nl", "nl_question", "utterance", "text", "prompt", "instruction", "sql_prompt"),
        "query": ("sql", "sql_query", "gold", "gold_sql", "gold_query", "answer", "reference", "solution", "queries"),
        "database": ("db_id", "db", "db_name", "database_id", "database_name"),
        "evidence": ("hint", "external_knowledge"),
    }
    IGNORED: ClassVar[tuple[str, ...]] = ("query_toks", "query_toks_no_value", "question_toks", SOURCE)
    SEVERAL: ClassVar[tuple[str, ...]] = ("query",)
    question: Text
    query: Annotated[tuple[str, ...], BeforeValidator(_queries), Field(max_length=MAX_QUERIES)] = ()
    """What is right: the result of any of these. The first one is the reference."""
    rows: Annotated[tuple[tuple[str | int | FiniteFloat | None, ...], ...], BeforeValidator(_rows)] = ()
    ordered: bool = False
    database: Name = ""
    evidence: str = ""

    @model_validator(mode="after")
    def _judged(self) -> SqlLine:
        if not self.query and not self.rows:
            raise ValueError("give `query`, or `rows` (what a right query returns), or both: then the rows judge")
        if len({len(row) for row in self.rows}) > 1 or not all(self.rows):
            raise ValueError("rows differ in length, or have no cells; each is a list of one cell a column")
        if len(self.rows) > MAX_ROWS:
            raise ValueError(f"{len(self.rows)} rows; at most {MAX_ROWS} can be given, above that give a `query`")
        if self.ordered and not self.rows:
            raise ValueError("`ordered` goes with `rows`; a query says so itself, by an outermost ORDER BY")
        return self


class FunctionLine(Line):
    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Line.ALIASES,
        "prompt": _PROMPT,
        "reference": _SOLUTION,
        "asserts": ("test_list", "tests", "test", "assertions"),
        "function": ("entry_point", "function_name", "fn_name", "func_name"),
        "cases": ("inputs", "test_inputs"),
        "setup": ("test_setup_code", "test_imports"),
    }
    IGNORED: ClassVar[tuple[str, ...]] = ("challenge_test_list", "source_file", SOURCE)
    prompt: Text
    reference: Solution = ""
    setup: Annotated[str, BeforeValidator(_joined)] = ""
    asserts: Annotated[tuple[str, ...], BeforeValidator(_statements)] = ()
    function: Annotated[str, AfterValidator(_callable)] = ""
    cases: Annotated[tuple[tuple[Any, ...], ...], BeforeValidator(_written), AfterValidator(_literals)] = ()

    @property
    def check(self) -> str:
        """HumanEval's `def check(candidate)`, where that is what the line is judged by."""
        return next((text for text in self.asserts if re.search(r"^def check\(", text, re.MULTILINE)), "")

    @property
    def continues(self) -> bool:
        """Whether the reference is the body of the function that the prompt begins, as in HumanEval."""
        return self.reference[:1] in (" ", "\t") and not _parses(self.reference) and _parses(self.prompt + self.reference)

    @model_validator(mode="after")
    def _judged(self) -> FunctionLine:
        if self.check and not self.function:
            raise ValueError("`check(candidate)` needs `function` (or `entry_point`), the name of what it is called with")
        if not self.asserts and not (self.function and self.cases):
            raise ValueError("nothing to judge by: give `asserts`, or `function` and `cases` (a list of argument lists)")
        if not self.asserts and not self.reference.strip():
            raise ValueError("no reference, so the cases have no expected values: give a reference, or `asserts` instead")
        return self


class Run(Shape):
    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stdin": ("input",),
        "stdout": ("output", "expected_output", "expected"),
    }
    IGNORED: ClassVar[tuple[str, ...]] = ("testtype",)
    stdin: Name = ""
    stdout: Annotated[str | None, BeforeValidator(_as_text)] = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        try:
            return renamed(value, cls) if isinstance(value, dict) else value
        except Wrong as e:
            raise ValueError("; ".join(e.reasons)) from e


class ProgramLine(Line):
    ALIASES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Line.ALIASES,
        "prompt": _PROMPT,
        "reference": _SOLUTION,
        "tests": ("test_cases", "test", "cases", "examples", "input_output"),
    }
    IGNORED: ClassVar[tuple[str, ...]] = (SOURCE,)
    prompt: Text
    reference: Solution = ""
    tests: Annotated[tuple[Run, ...], BeforeValidator(runs_of)] = Field(min_length=1)

    @model_validator(mode="after")
    def _judged(self) -> ProgramLine:
        if not self.reference.strip() and any(run.stdout is None for run in self.tests):
            raise ValueError("no reference, so the tests have no expected output: give a reference, or each test a stdout")
        return self
