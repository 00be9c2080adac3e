"""A problem into token ids, and an answer into those that follow them; what a tokenizer's chat template makes of both.

Sampling and training both use `prompt_ids` and `answer_ids`, so a policy is trained on the tokens it was sampled with.
For ordinary text they give the ids of the template's own rendering of the whole conversation. Special tokens that a
question or an answer spells stay text. What a template does is found out by rendering it, never by its name.

`thinking` (the config's `prompt.thinking`): the template is told to let the model think, and the prompt may end inside a
thought. Without it the template is told not to, and a thought that it opens all the same is closed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from codelutra.completions import extract_code as extract_code
from codelutra.completions.thoughts import Thought, first_marked, left_open
from codelutra.errors import UserError

VERSION = 2  # of the ids; see `in_keys`
# Templates that print today's date (Llama 3.1 and later, gpt-oss) print this one, which is what Llama's own fall back to:
# a prompt is the same when it is sampled and when it is trained, whatever day it is.
TODAY = date(2024, 7, 26)
_SYSTEM, _QUESTION, _ANSWER = "codelutra-system", "codelutra-question", "codelutra-answer"


@dataclass(frozen=True)
class _Format:
    """What a tokenizer and its template make of a conversation, with thinking or without."""

    apart: bool
    """The template has a place for the system text; otherwise it goes before the question."""
    closing: str
    """Closes a thought that the template opens, so that the answer begins outside of it."""
    tail: str
    """What stands between a question and its answer: the context in which answers become tokens."""
    before: str
    """Blanks the template puts between `tail` and an answer."""
    after: str
    """What it puts between an answer and the end token."""
    end: int
    special: re.Pattern[str] | None
    """Tokens that a prompt's text must not become."""
    unspoken: re.Pattern[str] | None
    """Tokens that an answer's text must not become: those, but for the marks of thoughts."""
    thought: Thought | None = None
    """With thinking: how thoughts are marked."""
    empty: str = ""
    """With thinking: what stands before an answer without a thought, as the template has it."""


def prompt_ids(tokenizer: Any, system: str, prompt: str, *, thinking: bool = False) -> list[int]:
    """Token ids of the conversation up to the start of the assistant's answer, or of its thought.

    A tokenizer without a chat template gets the plain text "system, blank line, prompt, newline", behind whatever the
    tokenizer itself puts before a text (BOS). Raises UserError if the template cannot render it, or cannot let the model
    think where it should.
    """
    made, messages = _format(tokenizer, thinking), as_messages(tokenizer, system, prompt, thinking=thinking)
    special = made.special
    if isinstance(messages, str):
        return [*_beginning(tokenizer, messages), *_ids(tokenizer, messages, special, (0, len(messages)))]
    text = _render(tokenizer, messages, thinking=thinking) + made.closing
    if not special or not any(special.search(m["content"]) for m in messages):
        return _ids(tokenizer, text, special)
    blank = [m | {"content": _ANSWER if m["role"] == "system" else _QUESTION} for m in messages]
    first, *between, last = re.split(f"{_ANSWER}|{_QUESTION}", _render(tokenizer, blank, thinking=thinking) + made.closing)
    cut, asked = len(first), len(text) - len(last)
    if not between:
        return _ids(tokenizer, text, special, (cut, asked))
    told = text.find(between[0], cut + len(messages[0]["content"].strip()))
    return _ids(tokenizer, text, special, (cut, told), (told + len(between[0]), asked))


def answer_ids(
    tokenizer: Any, completion: str, *, ended: bool = True, thinking: bool = False, written: bool = True
) -> list[int]:
    """Token ids of an answer, as they follow a prompt's, with exactly one end token: the one the template puts behind
    answers. None where the answer was cut off (`ended` False).

    With thinking an answer is all that the model has written, its thought included. What it has not written (`written`
    False, a reference) stands behind the empty thought of the template.
    """
    made = _format(tokenizer, thinking)
    ends = tuple(tokenizer.convert_ids_to_tokens(end_ids(tokenizer)))
    while completion.endswith(ends):
        completion = completion.removesuffix(next(end for end in ends if completion.endswith(end)))
    before = made.before if completion[:1].strip() else ""
    text = (before if written else made.empty or before) + completion
    if not ended:
        return _ids(tokenizer, text, made.unspoken, (0, len(text)), context=made.tail)
    after = "" if text.endswith(made.after) else made.after
    return [*_ids(tokenizer, text + after, made.unspoken, (0, len(text)), context=made.tail), made.end]


def answer_text(tokenizer: Any, ids: list[int], *, thinking: bool = False) -> str:
    """The text of sampled ids, without special tokens other than the marks of thoughts. Decoded behind other text: some
    tokenizers drop a blank that begins a text, and the answer would be trained on other tokens than it was sampled with."""
    keep = frozenset[int]()
    if thinking:
        made, added = thought(tokenizer), tokenizer.get_added_vocab()
        keep = frozenset(added[mark] for mark in (made.opens, made.closes) if mark in added)
    context: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    known, whole = (_decoded(tokenizer, some, keep) for some in (context, [*context, *ids]))
    return whole[len(known) :] if whole.startswith(known) else _decoded(tokenizer, ids, keep)


def thought(tokenizer: Any) -> Thought:
    """How the model marks what it thinks. Raises UserError where its template has no switch for thinking."""
    found = _format(tokenizer, thinking=True).thought
    assert found is not None
    return found


def closing(tokenizer: Any, *, thinking: bool = False) -> str:
    """What is put behind the template's own prompt: it closes a thought that is not wanted. "" for most templates."""
    return _format(tokenizer, thinking).closing


def end_ids(tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the template's, which answers are trained with, and the tokenizer's own.

    Raises UserError if there is none, or if the template cannot be rendered.
    """
    end, eos = _format(tokenizer).end, tokenizer.eos_token_id
    return [end] if eos is None or eos == end else [end, eos]


def as_messages(tokenizer: Any, system: str, prompt: str, *, thinking: bool = False) -> list[dict[str, str]] | str:
    """The conversation as chat messages, or as plain text where there is no template.

    The system text stands before the question where the template has no place for it (Gemma, Mistral 7B), or where a
    system message would turn thinking off (Granite).
    """
    if not tokenizer.chat_template:
        return as_text(system, prompt)
    if system and not _format(tokenizer, thinking).apart:
        return [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


def as_text(system: str, prompt: str) -> str:
    """The conversation as plain text, for a tokenizer without a chat template."""
    return f"{system}\n\n{prompt}\n" if system else f"{prompt}\n"


def in_keys(policy: Path, *, thinking: bool = False) -> dict[str, int]:
    """What the keys of a policy's samples and trainings say of this module. Nothing for plain ChatML, whose ids are those
    that version 0.1.0 made, so its artifacts stay in use."""
    if thinking:
        return {"prompts": VERSION, "thinking": 1}
    template = template_of(policy)
    with suppress(OSError, ValueError, AttributeError):
        eos = json.loads((policy / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
        ends = (eos.get("content") if isinstance(eos, dict) else eos) == "<|im_end|>"
        if ends and "<|im_start|>" in template and not re.search("think|strftime_now|date_string", template):
            return {}
    return {"prompts": VERSION}


def template_of(policy: Path) -> str:
    """The text of a policy's chat template, named ones as JSON; "" where there is none."""
    with suppress(OSError, ValueError):
        return (policy / "chat_template.jinja").read_text(encoding="utf-8")
    with suppress(OSError, ValueError, AttributeError):
        template = json.loads((policy / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template") or ""
        return template if isinstance(template, str) else json.dumps(template)
    return ""


# ---- what a template does --------------------------------------------------------------------------------------------


def _format(tokenizer: Any, thinking: bool = False) -> _Format:
    return _found(tokenizer, str(tokenizer.chat_template), tokenizer.eos_token, tokenizer.bos_token, thinking)


@lru_cache(16)
def _found(tokenizer: Any, template: str, eos: str | None, bos: str | None, thinking: bool) -> _Format:
    """Renders sample conversations; the other arguments are what may change in a tokenizer."""
    added = {str(t): bool(getattr(t, "special", True)) for t in tokenizer.added_tokens_decoder.values()}
    added |= dict.fromkeys(tokenizer.all_special_tokens, True)
    added = {token: special for token, special in added.items() if token.strip()}
    if not tokenizer.chat_template:
        if thinking:
            raise _cannot_think(tokenizer, "it has no chat template")
        special = _any_of(t for t in added if added[t])
        return _Format(False, "", "\n", "", "", _end(tokenizer, ""), special, special)
    asked = [{"role": "user", "content": _QUESTION}]
    prompt = _render(tokenizer, asked, thinking=thinking)
    if _QUESTION not in prompt:
        raise UserError(
            f"{_whose(tokenizer)} leaves the question out; use a model whose template renders plain chat messages"
        )
    tail = prompt.rpartition(_QUESTION)[2]
    closing = "" if thinking else _closing(tail)
    whole = _try(tokenizer, [*asked, {"role": "assistant", "content": _ANSWER}], thinking=thinking)
    turn, _, behind = whole.rpartition(_ANSWER)
    before = turn.removeprefix(prompt + closing) if turn.startswith(prompt + closing) else ""
    ending = re.search(_any_of(added).pattern, behind) if _ANSWER in whole and added else None
    with_system = [{"role": "system", "content": _SYSTEM}, *asked]
    shown = _try(tokenizer, with_system, thinking=thinking, answer=thinking)
    printed = {token for token in added if token in _try(tokenizer, asked, thinking=thinking)}
    printed |= {ending[0]} if ending else set()
    marks = _marks(tokenizer, asked, prompt, [before, template]) if thinking else None
    thinks_so = not marks or marks.prompted or shown != _try(tokenizer, with_system, thinking=False, answer=True)
    of_marks = {marks.opens, marks.closes} & {*added} if marks else set()
    special = {token for token in added if added[token] or token in printed}
    return _Format(
        apart=_SYSTEM in shown and _QUESTION in shown and thinks_so,
        closing=closing,
        tail=tail + closing,
        before="" if before.strip() else before,
        after=behind[: ending.start()] if ending else "",
        end=_end(tokenizer, ending[0] if ending else ""),
        special=_any_of(special | of_marks),
        unspoken=_any_of(special - of_marks),
        thought=marks,
        empty=(_closing(tail) or (before if marks.opens in before else "")) if marks else "",
    )


def _marks(tokenizer: Any, asked: list[dict[str, str]], prompt: str, more: list[str]) -> Thought:
    """How a thought is marked that the template lets the model have. Raises UserError where it has no say in that."""
    without = _render(tokenizer, asked)
    tail = prompt.rpartition(_QUESTION)[2]
    if found := left_open(tail):
        return found
    if prompt == without:
        raise _cannot_think(tokenizer, "its chat template opens no thought and has no switch (enable_thinking, thinking)")
    if found := first_marked([tail, without.rpartition(_QUESTION)[2], *more]):
        return found
    raise _cannot_think(tokenizer, "its chat template does not say how thoughts are marked (<think>, [THINK])")


def _cannot_think(tokenizer: Any, why: str) -> UserError:
    return UserError(
        f"prompt.thinking is on, and {tokenizer.name_or_path} cannot think on demand: {why}; turn prompt.thinking off, or "
        "use a model that thinks"
    )


def _end(tokenizer: Any, token: str) -> int:
    """The id of what the template ends an answer with, or else of the tokenizer's end token."""
    end: int | None = tokenizer.convert_tokens_to_ids(token) if token else tokenizer.eos_token_id
    if end is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} names no end token, and its chat template puts none behind an answer, "
            "so no answer could end; set eos_token in tokenizer_config.json"
        )
    return end


def _closing(tail: str) -> str:
    opened = left_open(tail)
    return f"\n{opened.closes}\n\n" if opened else ""


def _any_of(tokens: Iterable[str]) -> Any:
    """Matches the longest of the tokens at a place; None for none."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _try(tokenizer: Any, messages: list[dict[str, str]], *, thinking: bool, answer: bool = False) -> str:
    """As `_render`, without the beginning of another answer unless asked; "" where the template refuses it."""
    try:
        return _render(tokenizer, messages, answer=answer, thinking=thinking)
    except UserError:
        return ""


def _render(tokenizer: Any, messages: list[dict[str, str]], *, answer: bool = True, thinking: bool = False) -> str:
    """The text of the conversation; `answer`: up to where one begins. Thinking is turned on or off where it can be."""
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=answer,
            enable_thinking=thinking,
            thinking=thinking,
            date_string=TODAY.strftime("%d %b %Y"),
            strftime_now=TODAY.strftime,
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(
            f"{_whose(tokenizer)} does not render a chat of {roles}: {e}; mend its chat_template, or use another model"
        ) from e
    return text


def _whose(tokenizer: Any) -> str:
    return f"the chat template of the tokenizer {tokenizer.name_or_path}"


# ---- text into tokens ------------------------------------------------------------------------------------------------


def _ids(tokenizer: Any, text: str, special: re.Pattern[str] | None, *said: tuple[int, int], context: str = "") -> list[int]:
    """Token ids of a text that follows `context`. In the spans `said` special tokens are text: each is cut in two behind its
    first character, and nothing else changes."""
    cuts = []
    for begin, end in said if special else ():
        while found := special.search(text, begin, end):  # type: ignore[union-attr]
            begin = found.start() + 1
            cuts += [begin] if begin < found.end() else []
    edges = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in pairwise(edges)]
    return [i for n, part in enumerate(parts) for i in _behind(tokenizer, part, "\n" if n else context)]


def _behind(tokenizer: Any, text: str, context: str) -> list[int]:
    """Token ids of a text that follows `context`: some tokenizers put a blank before whatever they take as a whole text."""
    alone, both = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (context, context + text))
    if context and both[: len(alone)] == alone:
        return list(both[len(alone) :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _beginning(tokenizer: Any, text: str) -> list[int]:
    """What the tokenizer puts before a text: BOS, or nothing."""
    whole, bare = list(tokenizer(text)["input_ids"]), tokenizer(text, add_special_tokens=False)["input_ids"]
    return next((whole[:n] for n in range(len(whole) - len(bare) + 1) if whole[n : n + len(bare)] == bare), [])


def _decoded(tokenizer: Any, ids: list[int], keep: frozenset[int]) -> str:
    """The text of ids without special tokens but for those to keep."""
    if keep:
        left_out = {*tokenizer.all_special_ids, *end_ids(tokenizer)} - keep
        left_out |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in keep}
        ids = [i for i in ids if i not in left_out]
    text: str = tokenizer.decode(ids, skip_special_tokens=not keep, clean_up_tokenization_spaces=False)
    return text
