"""Where data is found: in a folder, or in the hub's cache under a hub id; broken files are refused with their place."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codelutra.errors import ConfigError
from codelutra.suites.folder import first_file, located, read_lines


def offline(path: str, home: Path) -> str:
    """What `located` says in a fresh process whose hub cache is `home` and which may not go online."""
    program = (
        "from codelutra.suites.folder import located\nfrom codelutra.errors import ConfigError\n"
        f"try: print(located({path!r}))\nexcept ConfigError as e: print('refused:', e)"
    )
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_a_hub_id_is_the_snapshot_of_its_revision_in_the_hubs_own_cache(tmp_path: Path) -> None:
    repo, commit = tmp_path / "hub" / "datasets--org--name", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "test.jsonl").write_text("{}\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(commit)
    assert offline("hf:org/name@v1", tmp_path) == str(snapshot)
    assert offline(f"hf:org/name@{commit}", tmp_path) == str(snapshot)
    assert offline("hf:org/name@v2", tmp_path).startswith("refused: suite.path hf:org/name@v2 is not in the local hub cache")
    assert "give the folder" in offline("hf:org/other", tmp_path)


def test_what_is_no_hub_id_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match=r"'hf:name' is not hf:org/name@revision"):
        located("hf:name")


def test_compressed_lines_read_as_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress('{"a": 1}\n\n{"a": "ä"}\n'.encode()))
    path = first_file(tmp_path, "a.jsonl", "a.jsonl.gz")
    assert list(read_lines(path)) == [(1, {"a": 1}), (3, {"a": "ä"})]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz is not a whole gzip file: .*; download it again"):
        list(read_lines(path))
    with pytest.raises(ConfigError, match=r"no b\.jsonl or c\.jsonl in .*; check suite\.path"):
        first_file(tmp_path, "b.jsonl", "c.jsonl")
