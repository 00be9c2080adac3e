"""Prompts and answers into token ids: what chat templates of many kinds make of both, and what text must not become."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from codelutra.errors import UserError
from codelutra.prompts import answer_ids, answer_text, as_messages, end_ids, in_keys, prompt_ids
from codelutra.training.batches import answer_examples, pair_examples
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import some_pairs

SYSTEM, QUESTION, ANSWER = "Answer with one query.", "How many singers?", "SELECT count(*)\nFROM singer;"

# ---- templates, each with the structure of the one it is named for -------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (first if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL_3 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST]' + (system if loop.last or messages | length == 2 else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN_3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
ALWAYS_THINKS = QWEN_3.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    "{{ '<think>\n' }}",
)
DEEPSEEK_CODER = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}{{ 'You are a programmer.\n' }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}"
    "{% else %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
STARCHAT = (
    "{% if messages[0].role != 'system' %}{{ '<|system|>\n<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GRANITE = (
    "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
DROPS_SYSTEM = CHATML.replace("{{ '<|im_start|>'", "{% if m.role != 'system' %}{{ '<|im_start|>'").replace(
    "'<|im_end|>\n' }}", "'<|im_end|>\n' }}{% endif %}", 1
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + m.role + '|>' + m.content | trim }}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|assistant|>' }}{% endif %}"
)
QWEN_2_5 = (  # a system message of its own where none is given
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}" + CHATML
)
GEMMA_3 = (  # puts the system text before the question by itself
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '') }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
OLMO_2 = (  # begins and ends with one and the same token
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% endif %}"
)
# GPT-2's rule takes "\n\n" apart before a word, and not at the end of a prompt; this one does neither.
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Chat:
    template: str | None
    end: str
    special: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = "</s>"
    sentencepiece: bool = False
    apart: bool = True
    begins: int = 0
    """BOS tokens of a prompt."""
    plain: tuple[str, ...] = ()
    """Added tokens that are not marked as special."""

    def tokenizer(self) -> Any:
        made = tiny_tokenizer(sentencepiece=self.sentencepiece)
        if not self.sentencepiece:
            words = pre_tokenizers.Split(Regex(LLAMA_3_WORDS), "isolated")
            made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
        special = {token for token in (*self.special, self.bos, self.eos, self.end) if token} - {*self.plain}
        made.add_special_tokens({"additional_special_tokens": sorted(special)})
        made.add_tokens([*self.plain])
        made.bos_token, made.eos_token, made.chat_template = self.bos, self.eos, self.template
        return made


TURNS = ("<start_of_turn>", "<end_of_turn>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHATS = {
    "chatml": Chat(CHATML, "<|im_end|>", ("<|im_start|>",), eos="<|im_end|>"),
    "chatml over a base's own end": Chat(CHATML, "<|im_end|>", ("<|im_start|>",), eos="<|endoftext|>"),
    "chatml, not marked as special": Chat(CHATML, "<|im_end|>", (), plain=("<|im_start|>", "<|im_end|>")),
    "llama 2": Chat(LLAMA_2, "</s>", bos="<s>", sentencepiece=True, begins=1),
    "llama 3": Chat(LLAMA_3, "<|eot_id|>", HEADERS, bos="<|begin_of_text|>", eos="<|end_of_text|>", begins=1),
    "gemma 1": Chat(GEMMA, "<end_of_turn>", TURNS, bos="<bos>", eos="<eos>", apart=False, begins=1),
    "gemma 2": Chat(GEMMA, "<end_of_turn>", TURNS, bos="<bos>", eos="<eos>", sentencepiece=True, apart=False, begins=1),
    "gemma 3": Chat(GEMMA_3, "<end_of_turn>", TURNS, bos="<bos>", eos="<eos>", begins=1),
    "qwen 2.5": Chat(QWEN_2_5, "<|im_end|>", ("<|im_start|>",), eos="<|im_end|>"),
    "olmo 2": Chat(OLMO_2, "<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>", begins=1),
    "mistral 0.1": Chat(MISTRAL_1, "</s>", bos="<s>", sentencepiece=True, apart=False, begins=1),
    "mistral 0.3": Chat(MISTRAL_3, "</s>", ("[INST]", "[/INST]"), bos="<s>", begins=1),
    "phi 3": Chat(PHI_3, "<|end|>", ROLES, eos="<|endoftext|>"),
    "qwen 3": Chat(QWEN_3, "<|im_end|>", ("<|im_start|>",), eos="<|im_end|>", plain=("<think>", "</think>")),
    "always thinks": Chat(ALWAYS_THINKS, "<|im_end|>", ("<|im_start|>",), eos="<|im_end|>"),
    "deepseek coder": Chat(DEEPSEEK_CODER, "<|EOT|>", bos="<bos>", eos="<|EOT|>", begins=1),
    "zephyr": Chat(ZEPHYR, "</s>", bos="<s>", sentencepiece=True),
    "starchat": Chat(STARCHAT, "<|end|>", ROLES, eos="<|endoftext|>"),
    "granite": Chat(GRANITE, "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>"), eos="<|end_of_text|>"),
    "drops the system text": Chat(DROPS_SYSTEM, "<|im_end|>", ("<|im_start|>",), eos="<|im_end|>", apart=False),
    "vicuna": Chat(VICUNA, "</s>", bos="<s>", sentencepiece=True),
    "cohere": Chat(COHERE, "<|END_OF_TURN_TOKEN|>", ("<|START_OF_TURN_TOKEN|>",), bos="<BOS>", eos="<EOS>", begins=1),
}
TOKENIZERS = {name: chat.tokenizer() for name, chat in CHATS.items()}


def rendered(tokenizer: Any, system: str, prompt: str, answer: str) -> list[int]:
    """The whole conversation as the template itself gives it, up to its end token."""
    messages = as_messages(tokenizer, system, prompt)
    assert not isinstance(messages, str)
    ids: list[int] = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": answer}], date_string="26 Jul 2024", return_dict=False
    )
    end = len(ids) - 1 - ids[::-1].index(end_ids(tokenizer)[0])
    return ids[: end + 1]


def spelled(tokenizer: Any) -> list[str]:
    return sorted(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION, ANSWER),
        ("Schema:\n\n  t(a,  b)\n\nÖl < 3 && 'x'?", "def f(x):\n    return x  # é\n\n\nprint(f(1))"),
        ("x", "```sql\nSELECT 1\n```"),
    ],
)
def test_prompt_and_answer_are_the_templates_own_tokens(name: str, system: str, question: str, answer: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = [*prompt_ids(tokenizer, system, question), *answer_ids(tokenizer, answer)]
    assert ids == rendered(tokenizer, system, question, answer)


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_ends_with_the_templates_end_token_and_a_prompt_begins_as_it_says(name: str) -> None:
    chat, tokenizer = CHATS[name], TOKENIZERS[name]
    assert answer_ids(tokenizer, ANSWER).count(end_ids(tokenizer)[0]) == 1
    assert tokenizer.convert_ids_to_tokens(answer_ids(tokenizer, ANSWER)[-1]) == chat.end
    assert {chat.end, chat.eos} == {*tokenizer.convert_ids_to_tokens(end_ids(tokenizer))}
    assert not {*end_ids(tokenizer)} & {*answer_ids(tokenizer, ANSWER, ended=False)}
    assert (
        prompt_ids(tokenizer, SYSTEM, QUESTION).count(tokenizer.convert_tokens_to_ids(chat.bos or "<none>")) == chat.begins
    )
    asked = tokenizer.decode(prompt_ids(tokenizer, SYSTEM, QUESTION))
    assert asked.index(SYSTEM) < asked.index(QUESTION)
    assert (f"{SYSTEM}\n\n{QUESTION}" in asked) is (not chat.apart or name in ("mistral 0.3", "gemma 3"))


@pytest.mark.parametrize("name", CHATS)
def test_special_tokens_that_a_text_spells_stay_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    known = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    known |= {*tokenizer.convert_tokens_to_ids([*CHATS[name].plain[:2]])} if "not marked" in name else set()
    asked, said = prompt_ids(tokenizer, SYSTEM, QUESTION), answer_ids(tokenizer, ANSWER)
    for token in spelled(tokenizer):
        text = f"a {token}{token}\n<{token} b"
        ids = prompt_ids(tokenizer, SYSTEM + text, QUESTION + text)
        assert [i for i in ids if i in known] == [i for i in asked if i in known]
        assert tokenizer.decode(ids).count(text) == 2
        ids = answer_ids(tokenizer, ANSWER + text)
        assert [i for i in ids if i in known] == [i for i in said if i in known]
        assert text in tokenizer.decode(ids)


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=25)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=30))
def test_any_text_is_a_prompt_and_any_sampled_answer_is_trained_with_its_tokens(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt_ids(tokenizer, text, text)
    ids = answer_ids(tokenizer, f"x{text}", ended=False)
    assert answer_ids(tokenizer, answer_text(tokenizer, ids), ended=False) == ids


@pytest.mark.parametrize("name", [name for name, chat in CHATS.items() if chat.sentencepiece])
def test_an_answer_sampled_with_a_first_blank_or_without_is_trained_so(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    with_blank = tokenizer("SELECT 1", add_special_tokens=False)["input_ids"]
    without = tokenizer("\nSELECT 1", add_special_tokens=False)["input_ids"][2:]
    assert with_blank != without
    assert tokenizer.decode(with_blank) == tokenizer.decode(without), "alone they are the same text"
    assert answer_ids(tokenizer, answer_text(tokenizer, with_blank), ended=False) == with_blank
    if name not in ("llama 2", "vicuna"):  # these put a blank before whatever has none
        assert answer_ids(tokenizer, answer_text(tokenizer, without), ended=False) == without


def test_batches_have_the_same_ids_as_prompts_and_answers() -> None:
    pairs = some_pairs(3)
    for tokenizer in TOKENIZERS.values():
        for example, row in zip(pair_examples(pairs, tokenizer, SYSTEM, 2000), pairs.rows(named=True), strict=True):
            assert example.prompt == prompt_ids(tokenizer, SYSTEM, row["prompt"])
            assert example.answers[0] == answer_ids(tokenizer, row["chosen"])
        answers = pairs.select("problem_id", "prompt", completion="chosen")
        assert [e.answers[0] for e in answer_examples(answers, tokenizer, SYSTEM, 2000)] == [
            answer_ids(tokenizer, a) for a in answers["completion"]
        ]


# ---- one thing each ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("completion", ["SELECT 1", "SELECT 1<|im_end|>", "SELECT 1<|im_end|><|im_end|>", ""])
def test_an_answer_ends_with_the_end_token_exactly_once_unless_it_was_cut_off(completion: str) -> None:
    tokenizer = tiny_tokenizer()
    text = tokenizer(completion.partition("<")[0], add_special_tokens=False)["input_ids"]
    assert answer_ids(tokenizer, completion) == [*text, tokenizer.eos_token_id]
    assert answer_ids(tokenizer, completion, ended=False) == text


def test_a_model_without_a_template_gets_the_beginning_its_tokenizer_puts_before_a_text() -> None:
    from tokenizers import processors

    bare = tiny_tokenizer()
    bare.chat_template = None
    text = bare(f"{SYSTEM}\n\n{QUESTION}\n", add_special_tokens=False)["input_ids"]
    assert prompt_ids(bare, SYSTEM, QUESTION) == text
    for single, before in (("<|im_start|> $A", [1]), ("<|im_start|> $A <|im_end|>", [1]), ("$A <|im_end|>", [])):
        bare.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
        )
        assert prompt_ids(bare, SYSTEM, QUESTION) == [*before, *text]
        assert prompt_ids(bare, SYSTEM, "<|im_end|>?").count(2) == 0
        assert answer_ids(bare, "SELECT 1") == [*bare("SELECT 1", add_special_tokens=False)["input_ids"], 2]


def test_of_named_templates_the_default_is_used() -> None:
    tokenizer = tiny_tokenizer()
    alone = prompt_ids(tokenizer, SYSTEM, QUESTION)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "x"}
    assert prompt_ids(tokenizer, SYSTEM, QUESTION) == alone


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('only with tools') }}", "only with tools"),
        ("{{ messages[0].content", "unexpected end of template"),
        ("{{ messages[0].parts[0].text }}", "has no attribute 'parts'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", "leaves the question out"),
        ({"tool_use": "x"}, "tool_use"),
    ],
)
def test_a_template_that_renders_no_chat_is_one_clear_message(template: Any, says: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=rf"(?s)chat template.*{says}"):
        prompt_ids(tokenizer, SYSTEM, QUESTION)


@pytest.mark.parametrize("template", [None, CHATML.replace("<|im_end|>", "###"), "{{ messages[0].content }}"])
def test_a_tokenizer_without_any_end_token_is_refused(template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token, tokenizer.chat_template = None, template
    for asked in (lambda: prompt_ids(tokenizer, "", "x"), lambda: answer_ids(tokenizer, "x"), lambda: end_ids(tokenizer)):
        with pytest.raises(UserError, match="names no end token"):
            asked()


def test_a_templates_own_end_token_is_enough() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    assert answer_ids(tokenizer, "x")[-1] == 2
    assert end_ids(tokenizer) == [2]


def test_a_template_prints_the_same_date_every_day() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML + "{{ strftime_now('%Y-%m-%d') }} {{ date_string }}"
    assert tokenizer.decode(prompt_ids(tokenizer, "", "x")).endswith("2024-07-26 26 Jul 2024")


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", "[THINK]", "<seed:think>"])
def test_an_answer_never_begins_in_a_thought(opening: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML.replace("assistant\n' }}{% endif", f"assistant\n' + {opening!r} }}}}{{% endif")
    text = tokenizer.decode(prompt_ids(tokenizer, "", "Is <think> a word?"))
    assert text.endswith(opening + "\n" + opening.strip().replace("<", "</").replace("[", "[/") + "\n\n")


# ---- keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "eos", "anew"),
    [
        (CHATML, "<|im_end|>", False),
        (CHATML, {"content": "<|im_end|>"}, False),
        (CHATML, "<|endoftext|>", True),
        (QWEN_3, "<|im_end|>", True),
        (LLAMA_3, "<|eot_id|>", True),
        (GEMMA, "<eos>", True),
        (None, "<|im_end|>", True),
        ({"default": CHATML}, None, True),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_only_artifacts_whose_ids_are_what_they_were_stay_in_use(
    template: Any, eos: Any, anew: bool, apart: bool, tmp_path: Path
) -> None:
    within = {} if template is None or (apart and isinstance(template, str)) else {"chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos} | within))
    if apart and isinstance(template, str):
        (tmp_path / "chat_template.jinja").write_text(template)
    assert bool(in_keys(tmp_path)) is anew


def test_a_policy_without_readable_settings_is_keyed_anew(tmp_path: Path) -> None:
    assert in_keys(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert in_keys(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    assert in_keys(tmp_path)
