"""An Ollama `Modelfile` for a GGUF file: the prompt a policy was trained on, as a Go template, and where answers end.

The template is found by asking: a conversation is put into tokens as for sampling, and read back. What stands around the
system text and the question is the template. It is for one question; Ollama repeats it for the turns of a chat.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codelutra.prompts import answer_ids, end_ids, prompt_ids
from codelutra.sampling.engine import stop_ids

_SYSTEM, _QUESTION, _ANSWER = "codelutra-system", "codelutra-question", "codelutra-answer"
_QUOTES = '"""'  # ends a text in a Modelfile, which has no escape for it


@dataclass(frozen=True)
class Wanted:
    """What a Modelfile is to say."""

    file: str
    """Name of the GGUF file, in the same folder."""
    adds_bos: bool
    """Whoever loads the file puts BOS before the prompt."""
    system: str
    thinking: bool
    context: int
    """Tokens of prompt and answer together."""
    max_tokens: int
    licence: str


def modelfile(tokenizer: Any, policy: Path, wanted: Wanted) -> str:
    """The text of the Modelfile. Greedy, as the policy is scored; and no penalty for repetition, which Ollama has by itself
    and SQL, full of repeated names, cannot bear."""
    head, between, tail, alone = parts(tokenizer, thinking=wanted.thinking)
    bos = tokenizer.bos_token if wanted.adds_bos else ""
    head, alone = (_text(text.removeprefix(bos)) for text in (head, alone))
    held = wanted.system and _QUOTES not in wanted.system and '"' not in (wanted.system[0], wanted.system[-1])
    if wanted.system and not held:  # a Modelfile's SYSTEM cannot have it, so it is part of the template
        template = head + _text(wanted.system) + _text(between)
    else:
        template = f"{{{{ if .System }}}}{head}{{{{ .System }}}}{_text(between)}{{{{ else }}}}{alone}{{{{ end }}}}"
    end = tokenizer.decode(answer_ids(tokenizer, _ANSWER, thinking=wanted.thinking)).rpartition(_ANSWER)[2]
    template += f"{{{{ .Prompt }}}}{_text(tail)}{{{{ .Response }}}}{_text(end)}"
    stops = tokenizer.convert_ids_to_tokens(stop_ids(policy, *end_ids(tokenizer)))
    lines = [f"FROM ./{wanted.file}", f"TEMPLATE {_QUOTES}{template}{_QUOTES}"]
    lines += [f"SYSTEM {_QUOTES}{wanted.system}{_QUOTES}"] if held else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines += [f"PARAMETER num_ctx {wanted.context}", f"PARAMETER num_predict {wanted.max_tokens}"]
    if wanted.licence and _QUOTES not in wanted.licence:
        lines.append(f"LICENSE {_QUOTES}{wanted.licence}{_QUOTES}")
    return "\n".join(lines) + "\n"


def parts(tokenizer: Any, *, thinking: bool) -> tuple[str, str, str, str]:
    """What stands before the system text, between it and the question, and behind the question; and before the question
    where there is no system text."""
    both = tokenizer.decode(prompt_ids(tokenizer, _SYSTEM, _QUESTION, thinking=thinking))
    bare = tokenizer.decode(prompt_ids(tokenizer, "", _QUESTION, thinking=thinking))
    head, _, rest = both.partition(_SYSTEM)
    between, _, tail = rest.partition(_QUESTION)
    return head, between, tail, bare.partition(_QUESTION)[0]


def _text(text: str) -> str:
    """Text that neither a Go template nor a Modelfile takes for its own marks."""
    return text.replace("{{", '{{ "{{" }}').replace(_QUOTES, r'{{ "\x22\x22\x22" }}')
