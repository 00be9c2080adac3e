"""An example request to a server of a policy, as a `curl` command: with the prompt it was trained on and its stop tokens."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from codelutra.prompts import as_messages, as_text, end_ids
from codelutra.reporting.card_use import asked_on_dev, system_of
from codelutra.results.findings import policy_row, read_findings
from codelutra.sampling.engine import stop_ids


def example(run: Path, label: str, model: str, url: str, key_variable: str = "") -> str:
    """A curl command that asks the server at `url` a dev problem."""
    found = read_findings(run)
    row = policy_row(found, label)
    system, asked = system_of(found, row), asked_on_dev(found)
    most = found.config.sample.max_tokens + found.config.prompt.budget
    path, body = _question(Path(row.path), system, asked, thinking=found.config.prompt.thinking)
    body = {"model": model, **body, "max_tokens": most, "temperature": 0}
    key = f' -H "Authorization: Bearer ${key_variable}"' if key_variable else ""
    said = json.dumps(body, ensure_ascii=False, indent=1)
    return f"curl -s {url}/v1/{path} -H 'Content-Type: application/json'{key} -d {shlex.quote(said)}"


def _question(policy: Path, system: str, asked: str, *, thinking: bool) -> tuple[str, dict[str, Any]]:
    """The endpoint, and what of a request depends on the tokenizer: messages, or for one without a chat template a text."""
    messages: Any = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": asked}]
    stops: dict[str, Any] = {}
    with suppress(Exception):  # a tokenizer that transformers cannot read: the server says why
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(policy)
        messages = as_messages(tokenizer, system, asked, thinking=thinking)
        ids = stop_ids(policy, *end_ids(tokenizer))
        stops = {} if ids == [tokenizer.eos_token_id] else {"stop_token_ids": ids}
    if isinstance(messages, str):
        return "completions", {"prompt": as_text(system, asked), **stops}
    return "chat/completions", {"messages": messages, **stops}
