"""A policy's folder, as sampling and training read it: its sizes, its end tokens, its tokenizer.

A model is somebody else's: its files may be cut short, of another kind, or bring code of their own, which is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codelutra.errors import UserError
from codelutra.reading.policy import settings, size, texts
from codelutra.reading.text import Unreadable


def config_of(policy: Path) -> dict[str, Any]:
    """Its config.json. Raises UserError where there is none, or one that is no config."""
    if not (policy / "config.json").is_file():
        raise UserError(f"policy {policy} is not there or holds no config.json; give a model directory")
    return _settings(policy / "config.json")


def _settings(file: Path) -> dict[str, Any]:
    try:
        return settings(file)
    except Unreadable as e:
        raise UserError(str(e)) from e


def vocabulary(policy: Path) -> int:
    """How many tokens the model in this folder has weights for; a number no id reaches where it does not say."""
    return size(texts(config_of(policy)), 2**40, "vocab_size")


def generation_ends(policy: Path) -> list[int]:
    """The end tokens that generation_config.json names and that the model can write. Raises UserError for what is no id."""
    file = policy / "generation_config.json"
    said = _settings(file).get("eos_token_id") if file.is_file() else None
    named = [i for i in (said if isinstance(said, list) else [said]) if i is not None]
    if wrong := [repr(i)[:80] for i in named if not isinstance(i, int) or isinstance(i, bool)]:
        raise UserError(f"{file} has {wrong[0]} in eos_token_id, which is no token's id; write ids there, or null")
    return [i for i in named if 0 <= i < vocabulary(policy)]


def load_tokenizer(policy: Path) -> Any:
    """The tokenizer in a model's folder. Raises UserError where it does not load, and where it makes tokens of usual text
    that the model has no weights for: on some machines such a token is noise, on others the end of the process."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(policy, trust_remote_code=False)
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(
            f"the tokenizer in {policy} cannot be loaded ({why}); give a model whose folder has what `save_pretrained` of a "
            "tokenizer of transformers writes"
        ) from e
    least = vocabulary(policy)
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= least}
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    ends, template = (tokenizer.eos_token, tokenizer.bos_token), str(tokenizer.chat_template)
    used = sorted(t for t in beyond if t not in special or t in ends or t in template)
    if used:
        raise UserError(
            f"the tokenizer in {policy} makes token {beyond[used[0]]} of {used[0][:80]!r}, and the model has weights for "
            f"{least} tokens (vocab_size); give the tokenizer that belongs to it, or make room with resize_token_embeddings"
        )
    return tokenizer
