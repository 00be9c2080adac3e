"""Memory: the formulas against a trainer really run, and the ways out against the formulas."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelutra.config import RunConfig, TrainSection, WarmStartSection, parse_config
from codelutra.planning import memory
from codelutra.planning.fit import fit_of, needs, ways_out
from codelutra.planning.machine import GIB, Gpu, Machine, free_bytes, gpu, memory_bytes, this_machine
from codelutra.planning.shape import Shape, shape_of_folder
from codelutra.planning.work import NOTHING, Work
from codelutra.training import launch
from codelutra.training.worker.prefix_sharing import grow
from tests.helpers.tiny_model import tiny_tokenizer
from tests.helpers.training import encoded, place, some_pairs

LLAMA_8B = Shape(8_030_261_248, 32, 4096, 32, 8, 128, 14_336, 128_256, 8192, "test")
QWEN_1_5B = Shape(1_543_714_304, 28, 1536, 12, 2, 128, 8960, 151_936, 32_768, "test")
SMOL = Shape(134_515_008, 30, 576, 9, 3, 64, 1536, 49_152, 8192, "test")
WORK = Work(400, 178, 150, 400, 83.0, 60.0, 22.0, 130.0, 140.0, 40.0, 96, 560.0, 2, "sql", {})
CPU = Machine(24 * GIB, 22 * GIB, 2, (), True)
CARD = Machine(64 * GIB, 60 * GIB, 16, (Gpu("card", 24 * GIB, 23 * GIB),), True)


def config(**changes: Any) -> RunConfig:
    return parse_config({"name": "r", "suite": {"name": "starter-sql"}, "warm_start": {}, **changes})


@pytest.fixture(scope="module")
def mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that weighs enough to be seen beside the libraries: 37M weights, half of them in a large vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    at, tokenizer = tmp_path_factory.mktemp("mid"), tiny_tokenizer()
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6, "vocab_size": 32_000}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, tie_word_embeddings=True)).save_pretrained(at)
    tokenizer.save_pretrained(at)
    return at


def test_the_formula_of_full_training_is_near_what_a_trainer_really_takes(mid: Path, tmp_path: Path) -> None:
    """In a process of its own, as `launch` starts it; what the libraries take is the largest part here."""
    section = TrainSection(batch_size=32, micro_batch=32, max_length=256, learning_rate=1e-5, epochs=2)
    facts = launch.refine(place(mid, tmp_path), some_pairs(32), section)
    examples = encoded(some_pairs(32))
    forest = grow([e.prompt + a for e in examples for a in e.answers])
    answers = sum(len(a) for e in examples for a in e.answers)
    known = replace(WORK, pairs=32, longest=max(len(e.prompt) + len(e.answers[0]) for e in examples))
    work: Any = Measured(len(forest.tokens), answers, known)
    need = memory.trainer(shape_of_folder(mid), section, work, this_machine(), "t")
    formula = (need.expected - memory.FLOW - need.parts["fragmentation"]) / GIB
    assert formula == pytest.approx(facts["peak_memory_gib"], rel=0.25)


class Measured:
    """A `Work` whose micro-batch is known to the token."""

    def __init__(self, forest_tokens: int, answers: int, known: Work) -> None:
        self.sizes, self.longest, self.examples = (float(forest_tokens), float(answers)), known.longest, known.examples

    def micro_batch(self, section: Any) -> tuple[float, float]:
        return self.sizes

    largest_micro_batch = micro_batch


def test_the_formula_has_the_peaks_that_were_measured_on_smollm2() -> None:
    """Two cores with bfloat16, pairs of starter-sql: GiB, micro-batch, batch, distinct tokens and predicted ones."""
    for peak, micro, batch, tokens, answers in (
        (3.27, 1, 2, 115, 34),
        (4.25, 8, 16, 658, 339),
        (4.53, 16, 16, 1212, 676),
        (6.09, 32, 32, 2142, 1332),
    ):
        known: Any = Measured(tokens, answers, WORK)
        need = memory.trainer(SMOL, TrainSection(micro_batch=micro, batch_size=batch), known, CPU, "t")
        formula = (need.expected - memory.FLOW - need.parts["fragmentation"]) / GIB
        assert formula == pytest.approx(peak, rel=0.08), (micro, batch)


def test_a_whole_training_takes_what_the_demo_s_took() -> None:
    """docs/results/demo.json: `peak_memory_gib` of its warm start and of its first iteration."""
    for section, peak in ((WarmStartSection(epochs=2), 4.97), (TrainSection(), 5.64)):
        need = memory.trainer(SMOL, section, WORK, CPU, "t")
        assert (need.expected - memory.FLOW) / GIB == pytest.approx(peak, rel=0.15)


def test_gradients_are_held_beside_activations_only_where_a_step_has_several_micro_batches() -> None:
    one, two = (
        memory.trainer(SMOL, TrainSection(micro_batch=8, batch_size=batch), WORK, CPU, "t").parts["gradients, activations"]
        for batch in (8, 16)
    )
    assert two - one == pytest.approx(memory.GRADIENTS * SMOL.parameters)


def test_an_adapter_takes_less_than_all_weights_and_four_bits_less_than_sixteen() -> None:
    values = TrainSection().model_dump()
    full, lora, qlora = (
        memory.trainer(LLAMA_8B, TrainSection.model_construct(**values | {"method": method}), WORK, CARD, "t")
        for method in ("full", "lora", "qlora")
    )
    assert full.expected > lora.expected > qlora.expected
    assert full.surely == 16 * LLAMA_8B.parameters
    assert lora.surely == 2 * LLAMA_8B.parameters
    assert 0.5 < qlora.surely / LLAMA_8B.parameters < 0.8


def test_an_adapter_is_merged_in_the_machine_s_own_memory() -> None:
    """So the card may suffice where the machine does not."""
    asked = parse_config(config(warm_start=None).model_dump() | {"train": {"method": "lora", "micro_batch": 1}})
    assert not fit_of(asked, LLAMA_8B, WORK, CARD).refusals
    refusal = fit_of(asked, LLAMA_8B, WORK, replace(CARD, memory=16 * GIB)).refusals[0]
    assert refusal.startswith("merging after training: needs about 31")
    assert "this machine has 16.0 GiB" in refusal


def test_the_adapter_s_weights_are_counted_as_peft_makes_them(mid: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(mid), lora)
    assert memory.adapter(shape_of_folder(mid), TrainSection(lora_rank=8)) == made.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("shape", "machine", "changes", "what", "way"),
    [
        (SMOL, CPU, {}, "", ""),
        (SMOL, replace(CPU, memory=5 * GIB, free=5 * GIB), {}, "warm start", "--set warm_start.micro_batch=4"),
        (SMOL, CPU, {"engine": {"cache_gib": 40.0}}, "sampler", "--set engine.cache_gib=2"),
        (QWEN_1_5B, CPU, {"warm_start": None}, "training", "--set train.method=lora"),
        (LLAMA_8B, CPU, {"warm_start": None}, "training", "at most about"),
        (LLAMA_8B, replace(CARD, memory=16 * GIB), {"iterations": 0}, "warm start", "at most about"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out_that_fits(
    shape: Shape, machine: Machine, changes: dict[str, Any], what: str, way: str
) -> None:
    asked = config(**changes)
    refusals = fit_of(asked, shape, WORK, machine).refusals
    found = [r for r in refusals if r.startswith(f"{what}:")] if what else list(refusals)
    assert len(found) == (1 if what else 0), refusals
    if what:
        assert way in found[0], found[0]
        if "--set" in way:
            changed = parse_config(_laid_over(asked, found[0].partition("It fits with ")[2]))
            assert not [r for r in fit_of(changed, shape, WORK, machine).refusals if r.startswith(f"{what}:")]


def _laid_over(asked: RunConfig, said: str) -> dict[str, Any]:
    values = asked.model_dump(mode="json")
    for change in said.split("--set ")[1:]:
        name, _, value = change.strip().partition("=")
        section, _, key = name.partition(".")
        values[section][key] = yaml.safe_load(value)
    return values


def test_the_largest_model_that_is_named_leaves_room_for_what_adam_keeps() -> None:
    said = ways_out(config(warm_start=None), LLAMA_8B, WORK, CPU, "training")
    largest = float(said.partition("at most about ")[2].partition("B weights")[0]) * 1e9
    assert 0.3 * CPU.memory < 16 * largest < CPU.memory
    nothing = ways_out(config(warm_start=None), LLAMA_8B, WORK, replace(CPU, memory=2 * GIB), "training")
    assert "take a smaller model" in nothing, "the logits of one pair over its vocabulary are too many"


def test_only_weights_that_are_more_than_all_memory_are_sure_not_to_fit() -> None:
    small = replace(CPU, memory=20 * GIB)
    assert not fit_of(config(sample={"max_tokens": 64}), SMOL, WORK, small).sure
    assert fit_of(config(), LLAMA_8B, WORK, small).sure, "16 bytes of 8B weights are 120 GiB"
    tight = fit_of(config(warm_start=None), SMOL, WORK, replace(CPU, memory=int(2.2 * GIB)))
    assert tight.refusals
    assert not tight.sure, "2.0 GiB of weights and Adam could be there: a doubt, no certainty"
    assert surely_of(config(), small, "sampler") == 2 * LLAMA_8B.parameters


def test_more_tokens_than_the_model_attends_to_are_refused() -> None:
    fit = fit_of(config(engine={"max_model_len": 9000}), SMOL, WORK, CPU)
    assert fit.sure
    assert "--set engine.max_model_len=8192" in fit.refusals[-1]


def test_memory_that_others_use_now_is_a_warning() -> None:
    fit = fit_of(config(), SMOL, WORK, replace(CPU, free=2 * GIB))
    assert not fit.refusals
    assert ["are free now" in text for text in fit.warnings] == [True] * 3


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine_files(root: Path, **files: str) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemAvailable: 9000000 kB\nHugePages_Total:   0\n")
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_limits_of_control_groups_count_whichever_version_they_are_and_above_as_well(tmp_path: Path) -> None:
    plain = machine_files(tmp_path / "a")
    assert (memory_bytes(plain), free_bytes(plain)) == (16_000_000 * 1024, 9_000_000 * 1024)
    second = machine_files(tmp_path / "b")
    for name, text in {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": "4294967296\n",
        "sys/fs/cgroup/outer/memory.current": "3221225472\n",
        "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 1073741824\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    }.items():
        (second / name).parent.mkdir(parents=True, exist_ok=True)
        (second / name).write_text(text)
    assert (memory_bytes(second) / GIB, free_bytes(second) / GIB) == (4, 2), "cached files can go"
    first = machine_files(tmp_path / "c")
    for name, text in {
        "proc/self/cgroup": "4:memory:/job\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2147483648\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1073741824\n",
    }.items():
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_text(text)
    assert (memory_bytes(first) / GIB, free_bytes(first) / GIB) == (2, 1)


@pytest.mark.parametrize(
    ("told", "part", "wanted"),
    [
        ("81920, 80000, A100, 80 GB", "", Gpu("A100, 80 GB", 80 * GIB, 80000 << 20)),
        ("40960, 40000, A100", "3g.20gb", Gpu("A100, 3g.20gb", 20 * 10**9, 20 * 10**9)),
        ("40960, 40000, A100", "", Gpu("A100", 40 * GIB, 40000 << 20)),
    ],
)
def test_a_gpu_is_as_large_as_it_or_its_part_is(told: str, part: str, wanted: Gpu) -> None:
    assert gpu(told, part) == wanted


def test_a_gpu_without_memory_of_its_own_has_the_machine_s() -> None:
    for told in ("[N/A], [N/A], NVIDIA GB10", "[Not Supported], [Not Supported], Orin"):
        assert gpu(told, "").memory == memory_bytes()


@pytest.mark.parametrize("text", [None, "", "MemFree: 10 kB\n", "MemTotal:\n", "MemTotal: many kB\n", "Total of\tall\n"])
def test_where_the_kernel_lists_no_memory_it_is_counted_in_pages(text: str | None, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    if text is not None:
        (tmp_path / "proc/meminfo").write_text(text)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_bytes(tmp_path) == free_bytes(tmp_path) == pages


def test_this_machine_is_seen() -> None:
    here = this_machine()
    assert 0 < here.free <= here.memory
    assert 1 <= here.cores <= len(os.sched_getaffinity(0))


def test_activations_are_computed_again_where_a_gpu_would_not_hold_them_or_the_section_says_so() -> None:
    lora, long = {"method": "lora", "micro_batch": 32}, replace(WORK, longest_prompt=2000.0, max_tokens=2000)
    asked = TrainSection.model_validate(lora | {"max_length": 4096})
    assert memory.checkpointing(asked, QWEN_1_5B, long, CARD)
    assert not memory.checkpointing(asked, QWEN_1_5B, long, CPU), "never on a CPU where it is open"
    assert not memory.checkpointing(asked.model_copy(update={"micro_batch": 1}), QWEN_1_5B, WORK, CARD)
    assert not memory.checkpointing(asked.model_copy(update={"gradient_checkpointing": False}), QWEN_1_5B, long, CARD)
    assert memory.checkpointing(asked.model_copy(update={"gradient_checkpointing": True}), SMOL, WORK, CPU)


def test_parts_fit_several_cards_where_a_whole_model_fits_none() -> None:
    """8B with all weights: 96 GB of weights and Adam, an eighth on each of eight cards, and what is whole beside it."""
    cards = replace(CARD, memory=512 * GIB, gpus=(Gpu("card", 80 * GIB, 79 * GIB),) * 8)
    train = {"processes": 8, "gradient_checkpointing": True}
    whole = config(train=train, warm_start=None)
    parts = config(train=train | {"sharding": "full"}, warm_start=None)
    assert surely_of(whole, cards) == pytest.approx(16 * LLAMA_8B.parameters)
    outside = 2 * LLAMA_8B.vocabulary * LLAMA_8B.hidden
    layer = (LLAMA_8B.parameters - outside) / LLAMA_8B.layers
    assert surely_of(parts, cards) == pytest.approx(2 * LLAMA_8B.parameters + 8 * (outside + 2 * layer), rel=0.01)
    assert fit_of(whole, LLAMA_8B, WORK, cards).sure
    assert not fit_of(parts, LLAMA_8B, WORK, cards).refusals
    assert "--set train.sharding=full" in " ".join(fit_of(whole, LLAMA_8B, WORK, cards).refusals)


def surely_of(config: RunConfig, machine: Machine, what: str = "training") -> float:
    return next(need.surely for need, _ in needs(config, LLAMA_8B, NOTHING, machine) if need.what == what)
