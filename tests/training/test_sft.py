"""SFT on a tiny real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.training import Train, some_problems

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def test_a_warm_start_learns_the_references(policy: Path, run: Train, tmp_path: Path) -> None:
    problems = some_problems(8)
    summary = run(problems, epochs=8, learning_rate=1e-2)
    assert summary["last_loss"] < 0.5 * summary["first_loss"]
    for kept in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "a/out" / kept).read_bytes() == (policy / kept).read_bytes()
