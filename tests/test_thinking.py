"""Thinking on and off: what templates of many kinds make of the switch, how thoughts are cut, counted and kept to a budget.

Each template has the structure of the one it is named for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.completions.thoughts import Thought
from codelutra.config import parse_config, to_yaml
from codelutra.errors import ConfigError, UserError
from codelutra.prompts import answer_ids, answer_text, as_messages, closing, end_ids, in_keys, prompt_ids, thought
from codelutra.sampling.thoughts import within_budget
from codelutra.training.batches import answer_examples, pair_examples
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import some_pairs
from tests.test_prompts import ALWAYS_THINKS, CHATML, GEMMA, QWEN_3

SYSTEM, QUESTION, ANSWER = "Answer with one query.", "How many singers?", "SELECT count(*)\nFROM singer;"

DEEPSEEK_R1 = (  # opens a thought, and drops thoughts of earlier turns
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
DEEPSEEK_V3_1 = (  # closes a thought that was never opened
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
    "{{ '<|Assistant|></think>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)
SMOLLM_3 = (  # says the mode in the system message, and has no empty thought where it is on
    "{% set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' %}"
    "{{ '<|im_start|>system\nReasoning Mode: ' + mode + '\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% set empty = '<think>\n\n</think>\n\n' if mode == '/no_think' else '' %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (empty if m.role == 'assistant' else '') + m.content }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + empty }}{% endif %}"
)
GRANITE_3_3 = (  # a system message of ours would replace the one that asks for thoughts
    "{% if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set messages = messages[1:] %}{% else %}"
    "{% set told = 'You are Granite.' %}{% if thinking %}{% set told = told + ' Write your thoughts between <think></think> "
    "and your response between <response></response>.' %}{% endif %}{% endif %}"
    "{{ '<|start_of_role|>system<|end_of_role|>' + told + '<|end_of_text|>\n' }}{% for m in messages %}"
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
GLM_4_5 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content }}"
    "{{ '/nothink' if enable_thinking is defined and not enable_thinking else '' }}"
    "{% elif m.role == 'system' %}{{ '<|system|>\n' + m.content }}"
    "{% else %}{{ '<|assistant|>\n<think></think>\n' + m.content.strip() + '<|endoftext|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{{ '\n<think></think>\n' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}"
)
MARKED = (  # as Magistral's marks, which are special tokens
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[THINK]' }}{% endif %}"
)
THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Thinker:
    template: str
    on: str
    """What a prompt ends with when thinking is on."""
    off: str
    reference: str
    """What stands before a reference when thinking is on."""
    marks: tuple[str, str] = THINK
    apart: bool = True
    special: tuple[str, ...] = ("<|im_start|>",)
    plain: tuple[str, ...] = THINK
    eos: str = "<|im_end|>"
    bos: str | None = None
    begins: int = 0

    def tokenizer(self) -> Any:
        made = tiny_tokenizer()
        made.add_special_tokens({"additional_special_tokens": [t for t in (*self.special, self.bos, self.eos) if t]})
        made.add_tokens([*self.plain])
        made.bos_token, made.eos_token, made.chat_template = self.bos, self.eos, self.template
        return made


CLOSED, EMPTY = "\n</think>\n\n", "<think>\n\n</think>\n\n"
START = "<|im_start|>assistant\n"
TURNS = ("<|User|>", "<|Assistant|>")
ROLES = ("<|start_of_role|>", "<|end_of_role|>")
END = "<|end_of_sentence|>"
THINKERS = {
    "qwen 3": Thinker(QWEN_3, START, START + EMPTY, EMPTY),
    "qwq": Thinker(ALWAYS_THINKS, START + "<think>\n", START + "<think>\n" + CLOSED, CLOSED),
    "deepseek r1": Thinker(
        DEEPSEEK_R1,
        "<|Assistant|><think>\n",
        "<|Assistant|><think>\n" + CLOSED,
        CLOSED,
        special=TURNS,
        eos=END,
        bos="<|begin|>",
        begins=1,
    ),
    "deepseek v3.1": Thinker(
        DEEPSEEK_V3_1,
        "<|Assistant|><think>",
        "<|Assistant|></think>",
        CLOSED,
        special=TURNS,
        eos=END,
        bos="<|begin|>",
        begins=1,
    ),
    "smollm 3": Thinker(SMOLLM_3, START, START + EMPTY, ""),
    "granite 3.3": Thinker(
        GRANITE_3_3,
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>assistant<|end_of_role|>",
        "",
        apart=False,
        special=ROLES,
        plain=(),
        eos="<|end_of_text|>",
    ),
    "glm 4.5": Thinker(
        GLM_4_5, "<|assistant|>", "<|assistant|>\n<think></think>\n", "\n<think></think>\n", eos="<|endoftext|>", special=()
    ),
    "special marks": Thinker(
        MARKED,
        "[/INST][THINK]",
        "[/INST][THINK]\n[/THINK]\n\n",
        "\n[/THINK]\n\n",
        marks=("[THINK]", "[/THINK]"),
        special=("[INST]", "[/INST]", "[THINK]", "[/THINK]"),
        plain=(),
        eos="</s>",
        bos="<s>",
        begins=1,
    ),
}
TOKENIZERS = {name: thinker.tokenizer() for name, thinker in THINKERS.items()}
every = pytest.mark.parametrize("name", THINKERS)


def said(name: str, thinks: str = "Count them.") -> str:
    """A completion with a thought, as a model of this kind writes it."""
    opens, closes = THINKERS[name].marks
    return f"{'' if thought(TOKENIZERS[name]).prompted else opens}{thinks}{closes}\n{ANSWER}"


@every
def test_a_prompt_lets_the_model_think_or_not_and_begins_the_same(name: str) -> None:
    thinker, tokenizer = THINKERS[name], TOKENIZERS[name]
    for system in (SYSTEM, ""):
        on, off = (prompt_ids(tokenizer, system, QUESTION, thinking=thinking) for thinking in (True, False))
        texts = tokenizer.decode(on), tokenizer.decode(off)
        assert texts[0].endswith(thinker.on)
        assert texts[1].endswith(thinker.off)
        assert all(system in text and text.count(QUESTION) == 1 for text in texts)
        assert texts[0] != texts[1], "the model must see the difference"
        for ids in (on, off):
            assert ids.count(tokenizer.convert_tokens_to_ids(thinker.bos or "<none>")) == thinker.begins
    marks = thought(tokenizer)
    assert (marks.opens, marks.closes) == thinker.marks
    assert marks.prompted is thinker.on.rstrip().endswith(thinker.marks[0])
    messages = as_messages(tokenizer, SYSTEM, QUESTION, thinking=True)
    assert (len(messages) == 2) is thinker.apart
    assert closing(tokenizer, thinking=True) == ""


@every
def test_what_the_model_wrote_is_trained_token_by_token_and_a_reference_gets_the_empty_thought(name: str) -> None:
    thinker, tokenizer = THINKERS[name], TOKENIZERS[name]
    completion = said(name)
    ids = answer_ids(tokenizer, completion, thinking=True)
    assert tokenizer.decode(ids[:-1]) == completion
    assert ids[-1] == end_ids(tokenizer)[0]
    assert ids.count(ids[-1]) == 1
    for mark in thinker.marks if name != "granite 3.3" else ():  # whose marks are no tokens
        one = tokenizer.convert_tokens_to_ids(mark)
        assert ids.count(one) == completion.count(mark), "a mark is the token that the model wrote"
    reference = answer_ids(tokenizer, ANSWER, thinking=True, written=False)
    assert tokenizer.decode(reference[:-1]) == thinker.reference + ANSWER
    bare = answer_ids(tokenizer, ANSWER, thinking=True)
    assert tokenizer.decode(bare[:-1]) == ANSWER, "a model that thought nothing is trained on what it wrote"
    cut = answer_ids(tokenizer, "Count", ended=False, thinking=True)
    assert tokenizer.decode(cut) == "Count"


@every
def test_marks_that_a_question_spells_stay_text(name: str) -> None:
    """Or the engine would take the question for a thought."""
    tokenizer, (opens, closes) = TOKENIZERS[name], THINKERS[name].marks
    known = {i for i, t in tokenizer.added_tokens_decoder.items() if str(t) in (opens, closes)}
    asked = prompt_ids(tokenizer, SYSTEM, QUESTION, thinking=True)
    spelled = prompt_ids(tokenizer, SYSTEM, f"Is {opens} a word? {closes}", thinking=True)
    assert [i for i in spelled if i in known] == [i for i in asked if i in known]
    assert f"Is {opens} a word? {closes}" in tokenizer.decode(spelled)


@every
@settings(max_examples=20)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_thought_is_trained_with_the_tokens_it_was_sampled_with(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = answer_ids(tokenizer, said(name, f"x{text}"), ended=False, thinking=True)
    assert answer_ids(tokenizer, answer_text(tokenizer, ids, thinking=True), ended=False, thinking=True) == ids


def test_pairs_and_examples_say_which_answers_the_policy_wrote() -> None:
    pairs = some_pairs(2).with_columns(chosen_source=pl.Series(["sample", "reference"]))
    tokenizer = TOKENIZERS["qwen 3"]
    first, second = pair_examples(pairs, tokenizer, SYSTEM, 2000, thinking=True)
    assert first.prompt == prompt_ids(tokenizer, SYSTEM, pairs["prompt"][0], thinking=True)
    assert tokenizer.decode(first.answers[0]).startswith("SELECT")
    assert tokenizer.decode(second.answers[0]).startswith(EMPTY + "SELECT")
    assert tokenizer.decode(second.answers[1]).startswith("SELECT")
    references = pairs.select("problem_id", "prompt", completion="chosen")
    written = answer_examples(references, tokenizer, SYSTEM, 2000, thinking=True)
    shown = answer_examples(references, tokenizer, SYSTEM, 2000, thinking=True, written=False)
    texts = [[tokenizer.decode(e.answers[0]) for e in examples] for examples in (shown, written)]
    assert texts[0] == [EMPTY + text for text in texts[1]]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (CHATML, "opens no thought and has no switch"),
        (GEMMA, "opens no thought and has no switch"),
        (CHATML + "{{ '!' if enable_thinking else '' }}", "does not say how thoughts are marked"),
        (None, "it has no chat template"),
    ],
)
def test_a_model_that_cannot_think_on_demand_is_one_clear_message(template: str | None, says: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    prompt_ids(tokenizer, "", QUESTION)
    for asked in (
        lambda: prompt_ids(tokenizer, "", QUESTION, thinking=True),
        lambda: answer_ids(tokenizer, ANSWER, thinking=True),
        lambda: thought(tokenizer),
    ):
        with pytest.raises(UserError, match=rf"prompt.thinking is on, and .*{says}.*turn prompt.thinking off"):
            asked()


# ---- cutting, counting, the budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "prompted", "answer"),
    [
        ("<think>a</think>\nSELECT 1", False, "\nSELECT 1"),
        ("\n<think>a</think>SELECT 1", False, "SELECT 1"),
        ("a</think>SELECT 1", True, "SELECT 1"),
        ("<think>a</think>SELECT 1", True, "SELECT 1"),
        ("<think>```sql\nSELECT 2\n```", False, ""),
        ("```sql\nSELECT 2\n```", True, ""),
        ("SELECT 1", False, "SELECT 1"),
        ("SELECT '<think>'", False, "SELECT '<think>'"),
        ("", True, ""),
        ("", False, ""),
    ],
)
def test_an_answer_is_what_stands_behind_the_thought(completion: str, prompted: bool, answer: str) -> None:
    assert completion[Thought(*THINK, prompted).answer_at(completion) :] == answer


@every
def test_thoughts_are_counted_and_kept_to_their_budget_as_answers_are(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = answer_ids(tokenizer, said(name), ended=False, thinking=True)
    text, answer = (
        answer_text(tokenizer, ids, thinking=True),
        tokenizer("\n" + ANSWER, add_special_tokens=False)["input_ids"],
    )
    whole = within_budget(tokenizer, text, ids, "stop", 20, len(answer))
    assert (whole.text, whole.finish_reason, whole.tokens) == (said(name), "stop", len(ids))
    assert whole.text[whole.answer_at :] == "\n" + ANSWER
    assert whole.thinking_tokens == len(ids) - len(answer)

    short = within_budget(tokenizer, text, ids, "stop", 20, 3)
    assert (short.finish_reason, short.tokens) == ("length", whole.thinking_tokens + 3)
    assert 0 < len(short.text[short.answer_at :]) < len(ANSWER)

    endless = answer_ids(tokenizer, said(name, "and so on " * 30), ended=False, thinking=True)
    cut = within_budget(tokenizer, answer_text(tokenizer, endless, thinking=True), endless, "stop", 10, 50)
    assert (cut.finish_reason, cut.tokens, cut.thinking_tokens, cut.text[cut.answer_at :]) == ("length", 10, 10, "")


# ---- the config ------------------------------------------------------------------------------------------------------

BASE = {"name": "x", "suite": {"name": "starter-sql"}}


def test_the_switch_is_off_and_then_in_no_key(tmp_path: Any) -> None:
    plain = parse_config(BASE)
    assert not plain.prompt.thinking
    assert plain.prompt.budget == 0
    assert parse_config(BASE | {"prompt": {"thinking": True, "thinking_tokens": 300}}).prompt.budget == 300
    assert in_keys(tmp_path, thinking=True) != in_keys(tmp_path)


@pytest.mark.parametrize(("written", "on"), [("off", False), ("on", True), ("true", True), ("'on'", True)])
def test_on_and_off_are_read_as_people_write_them(written: str, on: bool, tmp_path: Any) -> None:
    from codelutra.config import load_config

    (tmp_path / "c.yaml").write_text(f"name: x\nsuite: {{name: starter-sql}}\nprompt: {{thinking: {written}}}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.prompt.thinking is on
    (tmp_path / "d.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "d.yaml", (f"prompt.thinking={written}",)) == config


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            {"prompt": {"thinking": True, "thinking_tokens": 900}},
            "thinking_tokens 900 and sample.max_tokens 256 leave no room",
        ),
        ({"prompt": {"thinking": True}, "train": {"objective": "grpo"}}, "grpo keeps no budget of thoughts"),
        ({"prompt": {"thinking": "sometimes"}}, "prompt.thinking"),
        ({"prompt": {"thinking_tokens": 0}}, "prompt.thinking_tokens"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(BASE | section)
