"""Completions into code: fences, and queries without one."""

from __future__ import annotations

import sqlite3

import pytest

from codelutra.prompts import answer_ids, extract_code
from tests.helpers.tiny_model import tiny_tokenizer


@pytest.mark.parametrize(
    ("completion", "query"),
    [
        ("SELECT 1;\nThis query returns one.", "SELECT 1;"),
        ("SELECT 1; -- one\n\nExplanation: it's one; nothing else.", "SELECT 1;"),
        ("SELECT 'a;b' AS \"c;d\" /* e;f */ -- g;h\n;\nIt returns a text.", "SELECT 'a;b' AS \"c;d\" /* e;f */ -- g;h\n;"),
        ("SELECT 'it''s; so';\nHere you are", "SELECT 'it''s; so';"),
        ("SELECT `a;b`, [c;d] FROM t;\nSelected columns of t.", "SELECT `a;b`, [c;d] FROM t;"),
        ("SELECT 1; -- with a comment\nIt returns one.", "SELECT 1;"),
        ("SELECT 1;" + "-" * 5000 + "\nIt returns one.", "SELECT 1;"),
        ("  SELECT 1;\n", "SELECT 1;"),
        ("SELECT 1", "SELECT 1"),
        ("SELECT 1; -- one", "SELECT 1; -- one"),
        ("SELECT 1;;", "SELECT 1;;"),
        ("SELECT 'never closed; so", "SELECT 'never closed; so"),
        ("", ""),
    ],
)
def test_a_query_without_a_fence_ends_where_prose_begins(completion: str, query: str) -> None:
    assert extract_code(completion, "sql") == query


def test_what_is_left_of_a_query_and_its_explanation_runs_in_sqlite() -> None:
    connection = sqlite3.connect(":memory:")
    completion = "SELECT ';' AS mark; -- done\nThis query returns a semicolon; it's one row."
    assert connection.execute(extract_code(completion, "sql")).fetchall() == [(";",)]


@pytest.mark.parametrize(
    "second", ["SELECT 2", "drop table t", "-- two\n  WITH a AS (SELECT 1) SELECT 2", "; PRAGMA x", "END"]
)
def test_a_second_statement_stays_and_is_not_hidden(second: str) -> None:
    assert extract_code(f"SELECT 1;\n{second};", "sql") == f"SELECT 1;\n{second};"


def test_the_last_block_in_the_language_is_the_program_and_stays_whole() -> None:
    completion = "First:\n```sql\nSELECT 1;\n```\nBetter:\n```sqlite\nSELECT 2; SELECT 3\n```\nand\n```python\nx\n```"
    assert extract_code(completion, "sql") == "SELECT 2; SELECT 3"
    assert extract_code(completion, "python") == "x"
    assert extract_code("x = 1; This is no SQL", "python") == "x = 1; This is no SQL"


@pytest.mark.parametrize("completion", ["SELECT 1", "SELECT 1<|im_end|>", "SELECT 1<|im_end|><|im_end|>", ""])
def test_an_answer_ends_with_the_end_token_exactly_once_unless_it_was_cut_off(completion: str) -> None:
    tokenizer = tiny_tokenizer()
    text = tokenizer(completion.partition("<")[0], add_special_tokens=False)["input_ids"]
    assert answer_ids(tokenizer, completion) == [*text, tokenizer.eos_token_id]
    assert answer_ids(tokenizer, completion, ended=False) == text
