"""Any file gives data, or one `Unreadable` that says where and why; nothing else, and nothing hangs."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.config import load_config, parse_config, to_yaml
from codelutra.errors import ConfigError, UserError
from codelutra.reading import plain_yaml, text
from codelutra.reading.plain_yaml import parse_yaml, read_yaml
from codelutra.reading.separated import parse_table
from codelutra.reading.text import Unreadable, parse_json, read_text

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30))]
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_reads_the_same_whatever_editor_saved_it(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(f"name: grün{end}other: 'ß'{end}".encode(encoding))
    assert read_text(path) == "name: grün\nother: 'ß'\n"
    assert read_yaml(path) == {"name": "grün", "other": "ß"}
    (tmp_path / "c.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_text(tmp_path / "c.gz") == read_text(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: 1\nb: ä".encode("latin-1"), r"line 2 is not UTF-8 text: byte 0xe4 at position 8; save the file as UTF-8"),
        ("a: b".encode("utf-16-le"), r"line 1 holds a NUL: .*UTF-16 without its mark"),
        (b"\xff\xfea", r"not UTF-16 text"),
        (b"\x00\x01\x02", r"holds a NUL"),
        (b"SQLite format 3\0....", r"is not text: it is a SQLite database"),
        (b"PK\3\4....", r"an Excel file; save it as CSV"),
        (b"PAR1....", r"a parquet file"),
        (gzip.compress(b"a: 1", mtime=0)[:-3], r"is not a whole gzip file: .*; download it again"),
        (gzip.compress(random.Random(0).randbytes(999), mtime=0)[:40] + b"\xff" * 40, r"is not a whole gzip file"),
        (gzip.compress(b"a: 1", mtime=0)[:-6] + b"\0" * 6, r"is not a whole gzip file"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_the_way_out(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(Unreadable, match=says):
        read_text(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=says):
        load_config(tmp_path / "c.yaml")


def test_what_is_no_regular_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for name, says in {
            "pipe": "is a pipe, not a file",
            "folder": "is a folder",
            "socket": "is a socket",
            "/dev/zero": "is a device",
            "loop": "symbolic links",
            "nothing": "no nothing in .*No such file",
            "a\0b": "is no path",
            "x" * 5000: "File name too long",
            "\ud800": "is no path",
        }.items():
            with pytest.raises(Unreadable, match=says):
                read_text(tmp_path / name)


def test_size_is_bounded_packed_and_unpacked(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(text.MAX_BYTES + 1)
    with pytest.raises(Unreadable, match="has 256 MiB; at most 256 are read"):
        read_text(tmp_path / "large")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(5000)))
    with pytest.raises(Unreadable, match="unpacks to more than"):
        read_text(tmp_path / "bomb.gz", 4000)
    (tmp_path / "long.yaml").write_text("a: 1\n" * 300_000)
    with pytest.raises(Unreadable, match="has 1 MiB; at most 1 are read"):
        read_yaml(tmp_path / "long.yaml")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is on line 1 already; keep one"),
        ("s: {a: 1, b: 1, a: 2}", "line 1, column 17: the key 'a' is on line 1"),
        ("s:\n  a: 1\n  'a': 1", "line 3, column 3: the key 'a' is on line 2"),
        ("a: " + "9" * 5000, "line 1, column 4: a number of 5000 digits"),
        ("a: 0x" + "f" * 5000, "a number of 5002 digits"),
        ("[" * 50_000, "nested more than 100 deep"),
        ("- " * 50_000, "nested more than 100 deep"),
        ("{a: " * 50_000, "nested more than 100 deep"),
        ("a0: &a0 []\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)), "nested more than 100 deep"),
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", r"line 1, column 8: \*a stands inside what it names"),
        ("a: &a\n  <<: *a", "stands inside"),
        ('a: "\\ud800"', "half a character"),
        ('a: "\\UFFFFFFFF"', "no such character|not in range"),
        ('a: "\\U00110000"', "no such character|not in range"),
        ("a: !!timestamp 2020-13-45", "the tag .*timestamp is not taken"),
        ("a: !!python/object/apply:os.system [true]", "the tag .* is not taken"),
        ("a: !!int foo", "is not taken"),
        ("a: b: c", "line 1, column 5: mapping values"),
        ("a: \x07", r"a character that text does not have: '\\x07'"),
        ("---\na: 1\n---\nb: 1", "line 3, column 1: but found another document"),
        ("[a]: 1", "unhashable"),
    ],
)
def test_yaml_that_says_two_things_or_too_much_is_refused_with_its_place(written: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_yaml(written)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2020-13-45", "2020-13-45"),
        ("2020-01-02", "2020-01-02"),
        ("190:20:30", "190:20:30"),
        ("190:20:30.5", "190:20:30.5"),
        ("0x_", "0x_"),
        ("010", "010"),
        ("0x10", 16),
        ("-1_000", -1000),
        ("1.5e-5", 1.5e-5),
        ("4.0e-5", 4e-5),
        ("!!str 12", "12"),
        ("~", None),
        ("", None),
        ("yes", True),
        ("=", "="),
    ],
)
def test_yaml_reads_what_people_mean(written: str, value: Any) -> None:
    assert parse_yaml(f"a: {written}") == {"a": value}


def test_json_with_tabs_is_yaml_too_and_other_tabs_say_what_to_write() -> None:
    assert parse_yaml('{\n\t"a": [1,\t2],\n\t"b": {"c": null}\n}\n') == {"a": [1, 2], "b": {"c": None}}
    with pytest.raises(ValueError, match="write blanks in the place of tabs"):
        parse_yaml("a:\n\tb: 1")


def test_yaml_takes_anchors_and_merge_keys() -> None:
    assert parse_yaml("b: &b {x: 1, y: 1}\nc:\n  <<: *b\n  y: 2\nd: [*b, *b]")["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('{"a": 1, "b": 1, "a": 2}', "the key 'a' is there twice; keep one"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("[" * 102 + "]" * 102, "nested more than 100 deep"),
        ('{"a": "x\\ud800"}', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ("9" * 5000, "a number of 5000 digits"),
        ('{"a": ', "not JSON: Expecting value at column 7"),
        ('{"a":\n 1\n,}', "not JSON: .* at line 3, column 2"),
        ("-" * 5000, "not JSON: Expecting value at column 1"),
    ],
)
def test_json_that_says_two_things_or_too_much_is_refused(written: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_json(written)


@given(
    st.integers(2, 4).flatmap(
        lambda n: st.lists(st.lists(st.text("ab,;|\"' \t\n0", max_size=6), min_size=n, max_size=n), min_size=1)
    ),
    st.sampled_from(",;\t|"),
)
def test_a_table_gives_back_what_was_written(rows: list[list[str]], separator: str) -> None:
    """Blanks before a cell are kept: programs begin with them."""
    rows = [[f"{cell}x" for cell in row] for row in rows]
    names = [f"c{n}" for n in range(len(rows[0]))]
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows([names, *rows])
    assert list(parse_table(out.getvalue())) == [(n, dict(zip(names, row, strict=True))) for n, row in enumerate(rows, 2)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@given(VALUES)
def test_json_and_yaml_give_back_what_was_written(value: Any) -> None:
    assert repr(parse_json(json.dumps(value))) == repr(json.loads(json.dumps(value)))
    written = json.dumps(value).replace("\\ud", "\\u1")  # YAML has no pairs of surrogates
    read = parse_yaml(yaml.safe_dump(json.loads(written), allow_unicode=False, sort_keys=False))
    assert repr(read) == repr(json.loads(written)) or "e" in written  # 1e+16 is text in YAML 1.1


@settings(max_examples=300)
@given(
    st.binary()
    | st.text().map(lambda t: t.encode("utf-8", "surrogatepass"))
    | st.text(alphabet="[]{}:-,&*!%|>'\"#\n a1~?<.\\uUx0_\t").map(str.encode)
    | VALUES.map(lambda v: yaml.safe_dump(v).encode("utf-8", "surrogatepass"))
)
def test_any_bytes_as_a_config_give_a_config_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except UserError as e:
        str(e).encode()
    assert path.stat().st_size <= plain_yaml.MAX_BYTES


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["name", "model", "seed", "iterations", "suite", "train", "engine", "x"]), VALUES))
def test_any_values_in_a_config_give_a_config_or_one_message(raw: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        config = parse_config({"name": "n", "suite": {"name": "starter-sql"}, **raw})
        assert parse_config(parse_yaml(to_yaml(config))) == config, "a run refuses no config that it wrote itself"
