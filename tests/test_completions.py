"""Completions into code: fences as models write them, thoughts, queries with prose around them."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.completions import extract_code

F = "```"

# ---- fences --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "completion",
    [
        f"{F} sql\nSELECT a\n{F}",
        f"{F}SQL\nSELECT a",
        f"{F}mysql\nSELECT a\n{F}",
        f"{F}tsql\nSELECT a\n{F}",
        f"{F}{{.sql .numberLines}}\nSELECT a\n{F}",
        f"{F}sql:query.sql\nSELECT a\n{F}",
        f"{F}language-sql\nSELECT a\n{F}",
        f"{F}query\nSELECT a\n{F}",
        f"{F}\nSELECT a\n{F}",
        f"{F}SELECT a{F}",
        f"{F}sql SELECT a\n{F}\nIt lists a.",
        f"{F}sql\nSELECT a{F}\nIt lists a.",
        f"{F}sql\nSELECT a\n{F} lists a.",
        f"The query: {F}sql\nSELECT a\n{F}",
        f"The query: {F}sql SELECT a{F}.",
        "~~~~ {.sql}\nSELECT a\n~~~~",
        f"{F}sql\r\nSELECT a\r\n{F}\r\nDone.\r\n",
        f"> {F}sql\n> SELECT a\n> {F}\n",
        f"> > {F}sql\n> > SELECT a\n> > {F}\n",
        f"- {F}sql\n  SELECT a\n  {F}\n",
        f"`{F}markdown\n{F}sql\nSELECT a\n{F}\n`{F}",
        f"SELECT a\n{F}",
        f"SELECT a\n{F}\n| a |\n|---|\n{F}",
        f"SELECT 1\n{F}\nBetter:\n{F}sql\nSELECT a\n{F}",
        f"{F}sql\nSELECT 1\n{F}sql\nSELECT a\n{F}",
        f"{F}sql\nCREATE TABLE t (a int);\n{F}\nThe query:\n{F}sql\nSELECT a\n{F}",
        f"{F}sqlSELECT a{F}",
        f"It is so!{F}sql\nSELECT a\n{F}",
        f"({F}sql\nSELECT a\n{F})",
        f"Answer:{F}SELECT a{F}",
        f"{F}sql\nSELECT a\n{F}\nover\n{F}sql\nt(a, b)\n{F}",
        f"{F}sql\nSELECT a\n{F}\nover\n{F}sql\nCREATE TABLE t (a, b);\n{F}",
        f"{F}sql\n\n{F}\n{F}\nSELECT a\n{F}",
    ],
)
def test_a_fenced_query_is_found_however_it_is_fenced(completion: str) -> None:
    assert extract_code(completion, "sql") == "SELECT a"


@pytest.mark.parametrize(
    "tag", ["Python", "py", "py3", "python3.11", "ipython", "{.python}", "{python}", 'python title="a.py"']
)
def test_a_language_has_many_names(tag: str) -> None:
    assert extract_code(f"{F}{tag}\nx = 1\n{F}\nprints\n{F}text\ny = 2\n{F}", "python") == "x = 1"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (f"{F}\ndef f(x):\n    return x\n{F}\n{F}\n>>> f(1)\n1\n{F}", "def f(x):\n    return x"),
        (f"{F}\nn = int(input())\nprint(n)\n{F}\nOutput:\n{F}\n3\n{F}", "n = int(input())\nprint(n)"),
        (f"{F}python\nclass A: pass\n{F}\nUsage:\n{F}python\na = A()\n{F}", "class A: pass"),
        (f"{F}python\ndef f(): ...\n{F}\nTests:\n{F}python\ndef test_f():\n    assert f() is None\n{F}", "def f(): ..."),
        (f"{F}python\nx = 1\n{F}\nBetter:\n{F}python\nx = 2\n{F}", "x = 2"),
        (f"{F}bash\npip install x\n{F}\n{F}python\nx = 1\n{F}", "x = 1"),
        (f"{F}pythondef f(): return 1\n{F}", "def f(): return 1"),
        (">>> def f():\n...     return 1\n>>> f()\n1", "def f():\n    return 1\nf()"),
        ("'''python\ndef f():\n    return 1\n'''", "def f():\n    return 1"),
        (f"{F}pycon\n>>> def f():\n...     return 1\n>>> f()\n1\n{F}", "def f():\n    return 1\nf()"),
        (f"{F}python\n\ufeffx = 1\n{F}", "x = 1"),
        (f"{F}json\n{{}}\n{F}\n{F}\n{F}", f"{F}json\n{{}}\n{F}\n{F}\n{F}"),
        (f"{F}\n{F}", ""),
        (F, ""),
        (" \n\t", ""),
    ],
)
def test_the_block_that_is_a_program_beats_output_and_usage(completion: str, program: str) -> None:
    assert extract_code(completion, "python") == program


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", f'import re\nP = re.compile(r"{F}(.*?){F}")\ndef f(s): return P.findall(s)'),
        ("python", f'T = """\n{F}python\nx\n{F}\n"""\ndef f(): return T'),
        ("python", f'def f():\n    """Doc:\n    {F}python\n    f()\n    {F}\n    """\n    return 1'),
        ("python", f"def f():\n    # closes with {F}\n    return 1"),
        ("python", f"def f():\n    return 'it\\'s {F}'"),
        ("sql", f"SELECT 'a\n{F}\nb' AS x"),
        ("sql", f"SELECT replace(a, '{F}', '') -- no {F}, it's gone\nFROM t"),
    ],
)
def test_backticks_in_literals_and_comments_close_no_block(language: str, program: str) -> None:
    assert extract_code(f"So:\n{F}{language}\n{program}\n{F}\nDone.", language) == program
    assert extract_code(program, language) == program


@pytest.mark.parametrize("query", ["SELECT a FROM t WHERE n = 'O'Brien'", "SELECT a -- it's", 'SELECT "a FROM t'])
def test_a_quote_that_is_never_closed_hides_no_fence(query: str) -> None:
    assert extract_code(f"{F}sql\n{query}\n{F}\nIt's odd.\n{F}\nout\n{F}", "sql") == query


@pytest.mark.parametrize("within", ["    ", "   ", "\t"])
def test_a_block_in_a_list_is_dedented_whether_or_not_its_lines_are_indented(within: str) -> None:
    indented = f"1. Code:\n\n{within}{F}python\n{within}def f():\n{within}    return 1\n{within}{F}\n2. Done."
    assert extract_code(indented, "python") == "def f():\n    return 1"
    assert extract_code(indented.replace(f"\n{within}", "\n", 9), "python") == "def f():\n    return 1"
    bare = f"1. Code:\n{within}{F}python\ndef f():\n    return 1\n{within}{F}\n2. Done."
    assert extract_code(bare, "python") == "def f():\n    return 1"


# ---- thoughts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thought",
    [
        f"<think>\n{F}sql\nSELECT 1\n{F}\n</think>\n\n",
        "<thinking>One <think> more.</thinking>\n",
        "[THINK]One?[/THINK]",
        f"opened in the prompt\n{F}sql\nSELECT 1\n{F}\n</think>\n\n",
        "<think>a</think>\n<think>b</think>\n",
        "<think>a <think> b </think> c\n</think>\n",
        f"<|begin_of_thought|>\n{F}sql\nSELECT 1\n{F}\n<|end_of_thought|>\n<|begin_of_solution|>\n",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>",
        *(
            f"{opens}\n{F}sql\nSELECT 1\n{F}\nor SELECT 3{closes}\n"
            for opens, closes in [
                ("<Think>", "</Think>"),
                ("<think >", "</think >"),
                ('<think time="3">', "</think>"),
                ("<think>", "</thinking>"),
                ("<thinking>", "<\\thinking>"),
                ("<thoughts>", "</thoughts>"),
                ("<thought_process>", "</thought_process>"),
                ("<chain_of_thought>", "</chain_of_thought>"),
                ("<REASONING>", "</REASONING>"),
                ("<reasoning_content>", "</reasoning_content>"),
                ("<antThinking>", "</antThinking>"),
                ("<mm:think>", "</mm:think>"),
                ("<longcat_think>", "</longcat_think>"),
                ("<|think|>", "<|/think|>"),
                ("<|START_THINKING|>", "<|END_THINKING|>"),
                ("<|thought_start|>", "<|thought_end|>"),
                ("<|startofthink|>", "<|endofthink|>"),
                ("<\uff5cbegin\u2581of\u2581thinking\uff5c>", "<\uff5cend\u2581of\u2581thinking\uff5c>"),
                ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
                ("[REASONING]", "[/REASONING]"),
                ("<unused94>thought", "<unused95>"),
                ("<|channel>thought", "<channel|>"),
                ("<|im_start|>think", "<|im_end|>\n<|im_start|>answer"),
                ("<analysis>", "</analysis>"),
                ("<scratchpad>", "</scratchpad>"),
                ("<plan>", "</plan>\n<reflection>fine</reflection>"),
                ("<details>\n<summary>Thoughts</summary>", "</details>"),
            ]
        ),
    ],
)
def test_thoughts_are_cut_off(thought: str) -> None:
    assert extract_code(f"{thought}SELECT 2", "sql") == "SELECT 2"
    assert extract_code(f"{thought}{F}sql\nSELECT 2\n{F}", "sql") == "SELECT 2"


@pytest.mark.parametrize(
    "program",
    [
        "def f(s): return '<think>' in s",
        "def f(s):\n    return s.split('</think>')[-1]",
        "T = '''\n<plan>\n</plan>\n<details>x</details>\n'''\ndef f(s): return T",
        "T = '''\n<rethink>'''\ndef f(s): return T",
        "[reasons for reasons in 'ab']\nprint(1)",
    ],
)
def test_a_programs_own_tags_are_no_thoughts(program: str) -> None:
    assert extract_code(program, "python") == program


@pytest.mark.parametrize("tag", ["plan", "analysis", "details"])
def test_what_stands_in_tags_is_the_answer_where_nothing_follows_them(tag: str) -> None:
    assert extract_code(f"<{tag}>\n{F}sql\nSELECT 2\n{F}\n</{tag}>", "sql") == "SELECT 2"


@pytest.mark.parametrize("opening", ["<think>", "<thinking>\n", "[THINK]", "\n<reasoning>"])
def test_a_thought_without_end_leaves_nothing(opening: str) -> None:
    assert extract_code(f"{opening} so\n{F}python\ndef f(): ...\n{F}", "python") == ""


# ---- queries in prose ----------------------------------------------------------------------------------------------------


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
        ("(SELECT 1)", "(SELECT 1)"),
        ("I do not know.", "I do not know."),
        ("", ""),
    ],
)
def test_a_query_without_a_fence_ends_where_prose_begins(completion: str, query: str) -> None:
    assert extract_code(completion, "sql") == query


@pytest.mark.parametrize(
    "prose",
    [
        "With this we list all a.",
        "Select only rows of t to see it.",
        "Update the table first if a is missing.",
        "Delete nothing here.",
        "Create an index for speed.",
        "Create table t if there is none.",
        "Begin with the table t.",
        "Explain: it lists a.",
        "Replace t by your table.",
        "Insert rows to try it.",
        "Drop table names are not needed here.",
        "Values are unique.",
        "Commit to it.",
        "Analyze what it gives.",
        "SELECT statement lists all a.",
    ],
)
def test_prose_that_begins_like_a_statement_is_prose(prose: str) -> None:
    assert extract_code(f"SELECT a FROM t;\n{prose}", "sql") == "SELECT a FROM t;"


@pytest.mark.parametrize(
    "second",
    [
        "SELECT 2",
        "drop table t",
        "-- two\n  WITH a AS (SELECT 1) SELECT 2",
        "; PRAGMA x",
        "END",
        "Select b From t",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "VALUES (1)",
        "CREATE TABLE s (a)",
        "BEGIN TRANSACTION",
        "ATTACH 'x' AS y",
    ],
)
def test_a_second_statement_stays_and_is_not_hidden(second: str) -> None:
    assert extract_code(f"SELECT 1;\n{second};", "sql") == f"SELECT 1;\n{second};"


@pytest.mark.parametrize(
    "completion",
    [
        "Here is the query:\n\nSELECT a FROM t\n\nIt lists all a.",
        "Answer: SELECT a FROM t",
        "**Query:** SELECT a FROM t",
        "Select all names:\nSELECT a FROM t",
        "The query is `SELECT a FROM t`.",
        "SELECT a FROM t\nThis query lists all a.",
        "SELECT a FROM t\n\n### Explanation\nAll a.",
        "SELECT a FROM t\n\nExplanation:\n- all a",
    ],
)
def test_prose_around_a_query_without_a_semicolon_is_cut(completion: str) -> None:
    assert extract_code(completion, "sql") == "SELECT a FROM t"


@pytest.mark.parametrize(
    "query",
    ["SELECT a FRM t\nWHERE x = 1", "SELECT a FROM t\nWHERE x = = 1", "SELECT (\nSELECT 1\nFROM t", "SELEC a FROM t"],
)
def test_a_wrong_query_stays_as_it_is(query: str) -> None:
    assert extract_code(query, "sql") == query


def test_what_is_left_of_a_query_and_its_explanation_runs_in_sqlite() -> None:
    connection = sqlite3.connect(":memory:")
    completion = "SELECT ';' AS mark; -- done\nThis query returns a semicolon; it's one row."
    assert connection.execute(extract_code(completion, "sql")).fetchall() == [(";",)]


def test_the_last_block_in_the_language_is_the_program_and_stays_whole() -> None:
    completion = "First:\n```sql\nSELECT 1;\n```\nBetter:\n```sqlite\nSELECT 2; SELECT 3\n```\nand\n```python\nx\n```"
    assert extract_code(completion, "sql") == "SELECT 2; SELECT 3"
    assert extract_code(completion, "python") == "x"
    assert extract_code("x = 1; This is no SQL", "python") == "x = 1; This is no SQL"


@pytest.mark.parametrize(
    "completion",
    [
        "Here you are:\n\ndef f(x):\n    return x",
        "Here is the function:\n\ndef f(x):\n    return x",
        "def f(x):\n    return x\n\nThis function returns x.",
        "Sure! This does it:\ndef f(x):\n    return x\nNote: it's short.\nUse it as f(1).",
        "    def f(x):\n        return x\n",
    ],
)
def test_sentences_around_a_function_without_a_fence_are_cut(completion: str) -> None:
    assert extract_code(completion, "python") == "def f(x):\n    return x"


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    return x +",
        "def f(:\n    return 1\ndef g():\n    return",
        "retrun 1",
        "x = = 1\ndef f(): return 1",
        "print 1\ndef f(): return 1",
    ],
)
def test_a_wrong_program_stays_as_it_is(program: str) -> None:
    assert extract_code(program, "python") == program


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", "def f(x):\n    y = x\n    # Double it now\n    return y * 2"),
        ("python", "def f(x):\n    return g(x)\n\n# The helper is here\ndef g(x):\n    return 1"),
        ("python", "import math\n\n# Reads a number\nn = int(input())\n# Prints its root\nprint(math.isqrt(n))"),
        ("sql", "Select a From t\nWhere name Like 'x'\nGroup By a\nOrder By a Desc"),
        ("sql", "SELECT a\nFROM t\nWHERE b\n> 5\nORDER BY a"),
        ("sql", "SELECT gr\u00f6\u00dfe,\n\u00fcber\nFROM t WHERE a = 1"),
    ],
)
@pytest.mark.parametrize(
    "prose",
    [
        "This is what it gives.",
        "It's so.",
        "It is so.\nDone.",
        "***\n\nIt's so!",
        "\u8fd9\u662f\u7b54\u6848\u3002",
        "Voil\u00e0 la r\u00e9ponse !",
        "> Note: it's short",
        "| a |\n|---|\n| 1 |",
        "Q: another?",
        "Step 1: it's read.",
        "<note>\nIt's so\n</note>",
        "\u2022 it's short",
    ],
)
def test_a_program_without_a_fence_stays_whole_before_prose(language: str, program: str, prose: str) -> None:
    assert extract_code(f"{program}\n\n{prose}", language) == program
    assert extract_code(f"Here it is:\n\n{program}\n\n{prose}", language) == program


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a\nFROM t\nASOF JOIN u USING (k)",
        "SELECT a\nFROM t\nQUALIFY row_number() OVER (ORDER BY a) = 1",
        "SELECT a FROM t\nFETCH FIRST 5 ROWS ONLY",
        "Select a From t\nWhere name Liek 'x'",
        "Select a From t\nLeft Outer Join u Usin (k)",
        "SELECT\n  a,\n  \u00fcber FRM t",
    ],
)
def test_a_line_that_sqlite_does_not_take_is_no_prose(query: str) -> None:
    """Another dialect's, or wrong: without the line it would be another query, and perhaps right."""
    assert extract_code(query, "sql") == query


@pytest.mark.parametrize(
    "before",
    ["\u7b54\u6848\u5982\u4e0b\uff1a", "Voil\u00e0 la fonction :", "Let's use `y = 1` first.", "Sure.\n\nWe take x = 1."],
)
def test_what_stands_before_a_function_is_cut_in_any_language(before: str) -> None:
    assert extract_code(f"{before}\n\ndef f(x):\n    return x", "python") == "def f(x):\n    return x"


@pytest.mark.parametrize(
    "before",
    ["The question asks for 'a'; therefore: ", "It's ", "I don't know, but maybe ", "Here's what you'd write for \"a\": "],
)
def test_a_query_is_found_within_a_sentence(before: str) -> None:
    for end in ("", ".", "\n", "\n\nIt's all of it."):
        assert extract_code(f"{before}SELECT a FROM t{end}", "sql") == "SELECT a FROM t"


DUCKDB = [
    "FROM staff\nSELECT name\nWHERE id = 1",
    "FROM staff SELECT name",
    "from staff s\nselect s.name",
    "FROM staff",
    "FROM (SELECT a FROM t)\nSELECT a",
    "PIVOT sale ON day USING sum(amount)",
    "SELECT a::date\nFROM t",
    "SELECT * EXCLUDE (a)\nFROM t\nQUALIFY row_number() OVER (ORDER BY a) = 1",
    "WITH x AS (FROM t)\nFROM x",
]


@pytest.mark.parametrize("query", DUCKDB)
@pytest.mark.parametrize(
    "around",
    [
        "Here it is:\n\n{}",
        "Query:\n{}",
        "{}\n\nThis lists all of it.",
        "The query is `{}`.",
        f"{F}\n{{}}\n{F}\nOutput:\n{F}\nname\nAna\n{F}",
        "<sql>{}</sql>",
    ],
)
def test_a_query_that_only_duckdb_takes_is_found_whole(query: str, around: str) -> None:
    assert extract_code(around.format(query), "sql") == query


@pytest.mark.parametrize("prose", ["From t we select a:", "From the table, we take all a.\n", "Pivot the table on a:"])
def test_prose_that_begins_like_duckdb_s_queries_is_prose(prose: str) -> None:
    assert extract_code(f"{prose}\nSELECT a FROM t", "sql") == "SELECT a FROM t"
    assert extract_code(f"SELECT a FROM t;\n{prose}", "sql") == "SELECT a FROM t;"


# ---- several blocks ------------------------------------------------------------------------------------------------------

HELPER, SOLVE = "def helper(n):\n    return n", "def solve(n):\n    return helper(n)"


@pytest.mark.parametrize(
    ("blocks", "program"),
    [
        ([HELPER, SOLVE], [HELPER, SOLVE]),
        ([SOLVE, HELPER], [HELPER, SOLVE]),
        (["def main():\n    print(helper(1))\nmain()", HELPER], [1, 0]),
        (["def f(n):\n    return g(n)", "def f(n):\n    return 1\ndef g(n):\n    return 2"], [1]),
        (["def check():\n    assert helper(1) == 2\ncheck()", HELPER], [1]),
        (["import math", "def f(x):\n    return math.pi"], ["import math", "def f(x):\n    return math.pi"]),
        (["M = 7", "x = 1", "def f(n):\n    return n % M"], ["M = 7", "def f(n):\n    return n % M"]),
        (["class N: ...", HELPER, "class L:\n    def add(self):\n        return N()"], [0, 2]),
        ([SOLVE, HELPER, "def main():\n    print(solve(1))\nmain()"], [0, 1, 2]),
        (["f = lambda x: x", "result = f(1)\nprint(result)"], [0, 1]),
        ([HELPER, "def helper(m):\n    return m"], [1]),
        ([HELPER, "print(helper(1))"], [0]),
        ([HELPER, "def test_helper():\n    assert helper(1) == 1"], [0]),
        (["n = 5", "def solve(n):\n    return n"], [1]),
        (["def broken(:", "def solve(n):\n    return broken(n)"], [1]),
    ],
)
@pytest.mark.parametrize("tag", ["python", ""])
def test_blocks_that_use_each_others_names_are_one_program(blocks: list[str], program: list[str | int], tag: str) -> None:
    completion = "\n\nThen:\n\n".join(f"{F}{tag}\n{block}\n{F}" for block in blocks)
    wanted = [blocks[part] if isinstance(part, int) else part for part in program]
    assert extract_code(completion, "python") == "\n\n".join(wanted)


# ---- what stands around beside fences -------------------------------------------------------------------------------------

FUNCTION = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "around",
    [
        "{}<|endoftext|>",
        "{}\n<|im_end|>\n<|im_start|>user\nThanks, it's good",
        "{}<|eot_id|>\n\nQuestion: another?",
        "{}\n</s>",
        "{}<\uff5cend\u2581of\u2581sentence\uff5c>",
        "\ufeff{}",
        "<answer>\n{}\n</answer>",
        "<response>{}</response>",
        "So:\n<code>\n{}",
        f"<solution>\n{F}\n{{}}\n{F}\n</solution>",
        "Here is the code:\n{}\n\n- it is really short\n- it is fast",
        "{}\n\n1. It gives what it takes.",
        "{}<|EOT|>",
        "{}<|END_OF_TURN_TOKEN|>",
        "{}\n<|user|>\nThanks",
        "{}<|endoftext|>Human: and g?",
        "{}</s><s>[INST] more",
        "[BEGIN]\n{}\n[DONE]",
        "{}\n[DONE]\nMore of it",
        "{}\n</answer>",
        "{}</code>\n\nSo it is.",
        "<|assistant|>\n{}",
        "<|im_start|>assistant\n{}",
        "<|python_tag|>{}",
        "assistant\n\n{}",
        "<final_answer>\n{}\n</final_answer>",
        '<code class="x">\n{}\n</code>',
        "<pre><code>\n{}\n</code></pre>",
        "<response>none</response>\n<answer>{}</answer>",
        f"{{}} {F}",
        f"{{}}{F}\nSo it is.",
    ],
)
def test_end_tokens_tags_and_lists_around_a_program_are_cut(around: str) -> None:
    assert extract_code(around.format(FUNCTION), "python") == FUNCTION
    assert extract_code(around.format("SELECT a FROM t"), "sql") == "SELECT a FROM t"


@pytest.mark.parametrize(
    "completion",
    [
        '{"sql": "SELECT a FROM t"}',
        f'{F}json\n{{"explanation": "Select all a.", "query": "SELECT a FROM t"}}\n{F}',
        f'So:\n{F}json\n{{"sql": "SELECT a FROM t"}}\n{F}\nIt lists all.',
        "<sql_query>SELECT a FROM t</sql_query>",
        '"SELECT a FROM t"',
        "'SELECT a FROM t'",
        "SELECT a FROM t.",
        "[SQL]\nSELECT a FROM t\n[/SQL]",
        "<sql>SELECT a FROM t</sql>",
        "sqlite\nSELECT a FROM t",
        f"{F}\nsql\nSELECT a FROM t\n{F}",
        f"{F}\nsqlite> SELECT a\n   ...> FROM t\n1\n2\n{F}".replace("a\n   ...> FROM", "a FROM"),
        "sqlite> SELECT a FROM t",
        "- SELECT a FROM t",
        "1. SELECT a FROM t",
        "**SELECT a FROM t**",
        "SQLQuery: SELECT a FROM t\nSQLResult: 3\nAnswer: 3",
        "SELECT a FROM t\n(This returns all.)",
    ],
)
def test_a_query_is_found_in_what_models_put_around_it(completion: str) -> None:
    assert extract_code(completion, "sql") == "SELECT a FROM t"


@pytest.mark.parametrize(
    "completion",
    [
        "[PYTHON]\n{}\n[/PYTHON]",
        "<python>\n{}\n</python>",
        "python\n{}",
        "Here is the program:\n\n{}\n\nThis program doubles n.",
        "{}\n\nThis program doubles n.",
    ],
)
def test_a_program_that_defines_nothing_is_found_too(completion: str) -> None:
    for program in ("n = int(input())\nprint(n * 2)", "import sys\nfor n in sys.stdin:\n    print(int(n) * 2)", FUNCTION):
        assert extract_code(completion.format(program), "python") == program
    assert extract_code('{"code": "def f(x):\\n    return x"}', "python") == FUNCTION
    assert extract_code("`def f(x): return x`", "python") == "def f(x): return x"


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", "def f(s): return s.split('<|endoftext|>')"),
        ("python", "T = '''<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n'''\ndef f(): return T"),
        ("python", "def f():  # closes with <|im_end|>\n    return 1"),
        ("python", 'def f():\n    """\n    <code>\n    x = 1\n    </code>\n    """\n    return 1'),
        ("python", "T = '''\n<sql>\nSELECT 1\n</sql>\n'''\ndef f(): return T"),
        ("python", "x = {\n'a': 1,\n}\nprint(x)"),
        ("python", "def f(a):\n    return (a\n- 1)"),
        ("python", "html = '<b>x</b></s>'\nprint(html)"),
        ("python", "def f(s):\n    return s.split('<|user|>')"),
        ("python", "T = [1]\nDONE = 0\nx = T[DONE]\nprint(x)"),
        ("python", "assistant = 1\nprint(assistant)"),
        ("python", "T = '''\n[DONE]\n</code>\n'''\ndef f(): return T"),
        ("python", '"Doc."\ndef f(): return "x"'),
        ("sql", "SELECT '<|user|>x' FROM t"),
        ("sql", "SELECT [DONE] FROM t WHERE b = '</sql>'"),
        ("sql", "SELECT a FROM t WHERE b = '<|endoftext|>'"),
        ("sql", "SELECT a, -- <|im_end|>\n b FROM t"),
        ("sql", "SELECT a\n- 1 FROM t"),
        ("sql", "SELECT a FROM t WHERE s = 'x\n- some words here\nAnswer: y'"),
        ("sql", "SELECT a FROM t\nWHERE b IN\n(SELECT c FROM u)"),
    ],
)
def test_a_program_that_holds_such_marks_itself_stays_whole(language: str, program: str) -> None:
    assert extract_code(program, language) == program
    assert extract_code(f"So:\n{F}{language}\n{program}\n{F}\nDone.", language) == program


# ---- characters and listings -------------------------------------------------------------------------------------------

QUERY = "SELECT a FROM t WHERE b > 1"
ADDS = "def f(x):\n    return x + 1"


@pytest.mark.parametrize("blank", ["\u00a0", "\u2003", "\u3000", "\u202f"])
@pytest.mark.parametrize("around", ["{}", f"{F}\n{{}}\n{F}", "Here's the code:\n\n{}"])
def test_blanks_of_typesetting_are_blanks_outside_of_literals(blank: str, around: str) -> None:
    assert extract_code(around.format(QUERY.replace(" ", blank)), "sql") == QUERY
    assert extract_code(around.format(ADDS.replace(" ", blank)), "python") == ADDS
    query, function = f"SELECT a FROM t WHERE b = 'x{blank}y'", f"def f(x):\n    return 'x{blank}y'  # x{blank}y"
    assert extract_code(around.format(query), "sql") == query
    assert extract_code(around.format(function), "python") == function
    assert extract_code(around.format(query.replace("a FROM", f"a{blank}FROM")), "sql") == query


@pytest.mark.parametrize("mark", ["\u200b", "\u200c", "\u200d", "\u200e", "\ufeff", "\u2060", "\u00ad", "\u202a"])
@pytest.mark.parametrize("around", ["{}", f"{F}\n{{}}\n{F}"])
def test_invisible_marks_are_none_of_a_program(mark: str, around: str) -> None:
    for query in (mark + QUERY, QUERY + mark, QUERY.replace("t ", f"t {mark}")):
        assert extract_code(around.format(query), "sql") == QUERY
    assert extract_code(around.format(ADDS.replace(":", f":{mark}")), "python") == ADDS
    assert extract_code(around.format(f"SELECT 'x{mark}y'"), "sql") == f"SELECT 'x{mark}y'"


def test_joiners_of_letters_stay_in_names() -> None:
    assert extract_code("SELECT \u0646\u0627\u0645\u200c\u0647\u0627 FROM t", "sql") == (
        "SELECT \u0646\u0627\u0645\u200c\u0647\u0627 FROM t"
    )


@pytest.mark.parametrize(
    ("completion", "language", "program"),
    [
        ("SELECT a FROM t WHERE b &gt; 1;", "sql", "SELECT a FROM t WHERE b > 1;"),
        (f"{F}sql\nSELECT a FROM t WHERE b &lt;&gt; &#39;x&#39;\n{F}", "sql", "SELECT a FROM t WHERE b <> 'x'"),
        ("<code>SELECT a FROM t WHERE b = &quot;x&quot;</code>", "sql", 'SELECT a FROM t WHERE b = "x"'),
        ("It's this:\n\nSELECT a FROM t WHERE b &gt;= 1", "sql", "SELECT a FROM t WHERE b >= 1"),
        ("<pre><code>def f(x):\n    return x &gt; 1</code></pre>", "python", "def f(x):\n    return x > 1"),
        (f"{F}python\ndef f(x):\n    return x &lt; 1\n{F}", "python", "def f(x):\n    return x < 1"),
        ("SELECT a FROM t WHERE b = '&amp;' -- &gt;", "sql", "SELECT a FROM t WHERE b = '&amp;' -- &gt;"),
        ("def f(s):\n    return s.replace('&gt;', '>')", "python", "def f(s):\n    return s.replace('&gt;', '>')"),
        ("def f(s):\n    return s&lt", "python", "def f(s):\n    return s&lt"),
    ],
)
def test_entities_outside_of_literals_are_characters(completion: str, language: str, program: str) -> None:
    assert extract_code(completion, language) == program


@pytest.mark.parametrize(
    "completion",
    [
        ">>> def f(x):\n...     return x + 1\n...\n5",
        f"{F}python\n>>> def f(x):\n...     return x + 1\n>>>\n{F}",
        f"{F}\nIn [1]: def f(x):\n   ...:     return x + 1\n\nOut[1]: 2\n{F}",
        f"{F}diff\n+def f(x):\n+    return x + 1\n{F}",
        f"{F}diff\n--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n def f(x):\n-    return x\n+    return x + 1\n{F}",
        f"{F}python\n1 def f(x):\n2     return x + 1\n{F}",
        f"{F}python\n 9 | def f(x):\n10 |     return x + 1\n{F}",
        f"{F}\n  1\tdef f(x):\n  2\t    return x + 1\n{F}",
        "1: def f(x):\n2:     return x + 1",
        f"{F}bash\n$ cat f.py\ndef f(x):\n    return x + 1\n{F}",
        f"{F}bash\ncat > f.py <<'EOF'\ndef f(x):\n    return x + 1\nEOF\npython f.py\n{F}",
        '{"cells": [{"cell_type": "code", "source": ["def f(x):\\n", "    return x + 1"]}], "nbformat": 4}',
        f'{F}json\n{{"cells": [{{"source": ["def f(x):\\n", "    return x + 1"]}}]}}\n{F}',
        '["def f(x):\\n    return x + 1"]',
        f"f.py:\n{ADDS}",
        f"File: f.py\n\n{ADDS}",
        f"{ADDS}\n\nTime complexity: O(1)",
        f"{ADDS}\n\nIt adds",
        "\\`\\`\\`python\n" + ADDS + "\n\\`\\`\\`",
    ],
)
def test_a_function_is_found_in_a_listing(completion: str) -> None:
    assert extract_code(completion, "python") == ADDS


CALLS = [
    {"name": "run", "arguments": {"code": "{}"}},
    {"name": "run", "arguments": json.dumps({"query": "{}"})},  # as OpenAI's API has it
    {"tool_calls": [{"function": {"name": "run", "arguments": json.dumps({"sql": "{}"})}}]},
    [{"type": "text", "text": "Here it is."}, {"type": "tool_use", "input": {"code": "{}"}}],
    {"role": "assistant", "content": f"{F}\n{{}}\n{F}"},
    {"response": f"Here it is:\n{F}\n{{}}\n{F}\nIt works."},
]


def filled(value: Any, program: str) -> Any:
    """The value with the program in place of {}."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.dumps(filled(json.loads(value), program)) if value != "{}" else program
        return value.replace("{}", program)
    if isinstance(value, dict):
        return {key: filled(inner, program) for key, inner in value.items()}
    return [filled(inner, program) for inner in value]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("language", ["python", "sql"])
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "I run it.\n\n{}",
        "{}<|im_end|>",
        "<tool_call>\n{}\n</tool_call>",
        "I run it.\n<tool_call>\n{}\n</tool_call>\n",
        "[TOOL_CALLS][{}]",
        "<|python_tag|>{}<|eom_id|>",
        "Action: run\nAction Input: {}\nObservation: it ran",
        f"{F}json\n{{}}\n{F}",
    ],
)
def test_a_program_is_found_in_the_call_of_a_tool(around: str, language: str, call: Any) -> None:
    program = ADDS if language == "python" else QUERY
    assert extract_code(around.replace("{}", json.dumps(filled(call, program))), language) == program


@pytest.mark.parametrize(
    "around",
    [
        "<tool_call>\n<function=run>\n<parameter=db>\nmain\n</parameter>\n<parameter=code>\n{}\n</parameter>\n</function>",
        '<invoke name="run"><parameter name="query">{}</parameter></invoke>',
        "<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
        "<assistant>{}</assistant>",
        "<\uff5cAssistant\uff5c>{}<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[/INST]{}</s>",
        "Assistant: {}",
        "**Answer:** {}",
        "\u56de\u7b54\uff1a{}",
        "\\begin{lstlisting}\n{}\n\\end{lstlisting}",
        "You can use `this`:\n\n    {}\n\nThat's all.",
        "{}\n\nthis returns what was asked for",
        "{}\n\nTime Complexity: O(n log n)\nSpace Complexity: O(n)",
        "{}\n\n1. It's short\n2. That's all",
        "{}\n\n- It is short",
        "{}\n\n- It is short\n- It works\n- It is O(n)",
        "{}\n\nHuman: thanks\nAssistant: sure",
    ],
)
def test_a_program_is_found_behind_labels_and_marks_and_before_prose(around: str) -> None:
    for language, program in (("python", ADDS), ("sql", QUERY)):
        indented = program.replace("\n", "\n    ") if "    {}" in around else program
        assert extract_code(around.replace("{}", indented), language) == program, around


PROGRAMS = [
    "(a, b) = map(int, input().split())\nprint(a + b)",
    "'''Adds.'''\nimport sys\nprint(sum(map(int, sys.stdin)))",
    "[print(x) for x in range(3)]\nprint(1)",
    "match input():\n    case x:\n        print(x)",
    "del x\nprint(1)",
    "N: int = 3\nprint(N)",
    "globals()['f'] = 1\nprint(f)",
    "s = '''\nThis is a text.\nIt is long.\n'''\nprint(s)",
]


@pytest.mark.parametrize(
    "before", ["Sure", "OK.", "Answer", "Of course! I can help.", "Voici la solution :", "Let's do it."]
)
def test_a_program_is_found_behind_a_word(before: str) -> None:
    for program in (ADDS, "import sys\nprint(sys.stdin.read())"):
        assert extract_code(f"{before}\n\n{program}", "python") == program


@pytest.mark.parametrize(
    "behind",
    [
        "Explanation",
        "So f(1) == 2.",
        "where x is a number",
        "L'appel f(1) renvoie 2.",
        "https://example.com",
        "![figure](f.png)",
        "$O(n)$",
        "... and so on",
        "etc.",
    ],
)
def test_a_program_ends_where_no_python_follows(behind: str) -> None:
    assert extract_code(f"{ADDS}\n\n{behind}", "python") == ADDS


@pytest.mark.parametrize(
    "wrong",
    [
        "print 'a'",
        "def g(",
        "x = = 1",
        "r'a' 'b",
        "if f(1)",
        "exec x",
        "return f",
        "f(1) f(2)",
        "import a b",
        "else:\n    f(",
    ],
)
def test_a_program_is_not_mended_by_leaving_out_its_faults(wrong: str) -> None:
    assert extract_code(f"{ADDS}\n\n{wrong}", "python") == f"{ADDS}\n\n{wrong}"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("before", ["", "Sure! Here it is:\n\n", "The code:\n", "Here is the code.\n\n"])
def test_a_program_is_whole_however_it_begins(before: str, program: str) -> None:
    for behind in (
        "",
        "\n\nThis adds the numbers.",
        "\n\nExplanation:\n- It reads\n- It prints",
        "\n\nthis is what you need",
    ):
        assert extract_code(before + program + behind, "python") == program


@pytest.mark.parametrize(
    ("program", "language"),
    [
        ("select a\nfrom t\nwhere the_name is null and b is not null", "sql"),
        ("FROM t\nSELECT a::DATE\nwhere a is not null\nQUALIFY x", "sql"),
        ("SELECT a - b\n\n- c FROM t", "sql"),
        ("SELECT a\n- It\n\n- Is FROM t", "sql"),
        ("x: int = 1\nN: int\nprint(x)", "python"),
        ("def f():\n    '''Does.\n\nNote: it does\n'''", "python"),
        ("[print(x) for x in (1, 2)]", "python"),
        ('{"a": "def f(): pass"}["a"]\ndef g(x):\n    return x', "python"),
        ("def f(x)\n    import math\n    return x", "python"),
        ("class A:\n    def f(self)\n        return 1\n    def g(self):\n        return 2", "python"),
    ],
)
def test_a_program_without_prose_stays_as_it_is(program: str, language: str) -> None:
    assert extract_code(program, language) == program


@pytest.mark.parametrize(
    "completion",
    [
        f"{F}\nmysql> {QUERY};\n+---+\n{F}",
        f"{F}\ndb=# {QUERY.replace(' WHERE', chr(10) + 'db-# WHERE')};\n{F}",
        f'$ sqlite3 db.sqlite "{QUERY}"',
        f'{F}bash\nsqlite3 -header db.sqlite "{QUERY}"\n{F}',
        f'{F}python\nquery = "{QUERY}"\n{F}',
        f'{F}python\nimport sqlite3\nc.execute("""\n{QUERY}\n""")\n{F}',
        f'sql: "{QUERY}"',
        f'echo "{QUERY};" | sqlite3 db.sqlite',
        f'duckdb db -c "{QUERY}"',
        f"sql = f'''{QUERY}'''",
        f'[{{"sql": "{QUERY}"}}]',
        f"{{'sql': '{QUERY}'}}",
        f'{{"reasoning": "we SELECT", "answer": {{"sql": "{QUERY}"}}}}',
        f'<tool_call>\n{{"name": "run", "arguments": {{"sql": "{QUERY}"}}}}\n</tool_call>',
        f"{F}xml\n<sql>{QUERY}</sql>\n{F}",
        f"<result>{QUERY}</result>",
        f"<|sql|>{QUERY}<|/sql|>",
        f"\\boxed{{{QUERY}}}",
        f"$\\boxed{{\\text{{{QUERY}}}}}$",
        f"\u201c{QUERY}\u201d",
        f"{QUERY}\n(2 rows)",
        f"{QUERY}\n\nName\n----\nAnn",
        f"{QUERY}\n\nExpected output: Ann",
        f"{QUERY}\n\nAlternatively:\nSELECT a FROM u;",
        f"{QUERY}\nGO",
        f"{QUERY}\n\\G",
        f"{QUERY}\n.exit",
    ],
)
def test_a_query_is_found_in_a_listing(completion: str) -> None:
    assert " ".join(extract_code(completion, "sql").rstrip(";").split()) == QUERY


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", "x = {'sql': 'SELECT 1'}\nprint(x)"),
        ("python", "T = '''\n1 a\n2 b\n'''\nprint(T)"),
        ("python", "-1\n+2"),
        ("python", "1\n2\n3"),
        ("python", "def f(x): return x\nprint f(1)"),
        ("sql", "SELECT a FROM t\nGOOD"),
        ("sql", "SELECT a FROM t\nLimit ten"),
        ("sql", 'SELECT a FROM t WHERE b = "SELECT c FROM d"'),
        ("sql", "SELECT [a&lt;b] FROM t WHERE c = 'SELECT 1'"),
    ],
)
def test_what_only_resembles_a_listing_stays(language: str, program: str) -> None:
    assert extract_code(program, language) == program


# ---- whatever a completion holds -----------------------------------------------------------------------------------------

PIECES = [
    F,
    F + "sql\n",
    F + "python\n",
    "~~~\n",
    "'",
    '"',
    "'''",
    '"""',
    "\\",
    "--",
    "/*",
    "*/",
    "#",
    "> ",
    "- ",
    "1. ",
    "\n",
    " ",
]
PIECES += [
    "<think>",
    "</think>",
    "<rethink>\n",
    "<plan>",
    "</plan>",
    "SELECT ",
    "WITH a AS (",
    "def f():\n",
    "x = 1\n",
    ";",
    "`",
    "(",
    ":",
    "\0",
    "\ud800",
    "\r\n",
    "{",
    "<|im_end|>\n",
    "<code>\n",
    "- a b ",
    "</s>",
    '"""\n',
    "<|end",
    "<|im_start|>",
    "</sql>\n",
    "\n[DONE]",
    "[BEGIN]",
    "<pre>",
    " SELECT a FROM ",
    "\u8fd9 ",
    "This is it.\n",
    "    # It is so\n",
    "\u00a0",
    "\u200d",
    "&lt;",
    "&quot;",
    "In [1]: ",
    "1 x\n2 y\n",
    F + "diff\n",
    "\\boxed{",
    '[{"sql": ',
    "cat <<EOF\n",
    "mysql> ",
]


@pytest.mark.parametrize("language", ["sql", "python"])
@given(pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40))
def test_any_completion_gives_a_text(language: str, pieces: list[str]) -> None:
    completion = "".join(pieces)
    assert isinstance(code := extract_code(completion, language), str)
    assert code == code.strip()
    assert len(code) <= len(completion)


@pytest.mark.parametrize("start", ["", F + "sql\n", F + "python\n", "SELECT 1;\n", "def f():\n", "> "])
@pytest.mark.parametrize(
    "unit",
    [
        *PIECES,
        "[",
        F + "\n",
        F + "sql\n/*\n",
        "SELECT\n",
        "\u00a0'''\\",
        '\u00a0"a',
        "a: SELECT x y z w;\n",
        " " + F + "python",
        "'\\",
        '"\\',
    ],
)
def test_a_long_completion_takes_no_longer_than_its_length_allows(start: str, unit: str) -> None:
    """100 KB: quadratic time would be minutes, linear time is some 0.1 s."""
    completion = start + unit * (100_000 // len(unit))
    began = time.process_time()
    for language in ("sql", "python"):
        extract_code(completion, language)
    assert time.process_time() - began < 2


def test_a_megabyte_of_blanks_behind_a_fence_takes_less_than_a_second() -> None:
    for unit in (" ", "`", ">", "[", "(", "\n", F + "\n"):
        began = time.process_time()
        extract_code(F + unit * (1_000_000 // len(unit)), "sql")
        assert time.process_time() - began < 1, repr(unit)
