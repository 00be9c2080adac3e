"""Claim: training is at least 2.5 times as fast on CPU as TRL's DPOTrainer as it comes, with the same losses to 1e-3, and
at least 0.8 of the floor (forward and backward of the same tokens in plain PyTorch).

    python -m benchmarks.training [--model DIR] [--suite NAME --suite-path DIR --databases A,B] [--out FILE]

Every way trains the same pairs (chosen: a problem's reference; rejected: another problem's, over the same database) in a
process of its own, whose peak memory and CPU time are taken; pairs and steps are in the same order, the first quarter of
the steps warms up. tokens/s count
prompt + answer of every sequence, as if nothing were shared or padded, and include the reference model's part. "floor" is
a bare loop over the padded batches: no reference model, no optimizer, output layer only where answers are. Losses are
compared in float32, where rounding does not hide a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from codelutra import models, schema
from codelutra.config import DEFAULT_MODEL, SuiteSection, TrainSection, WarmStartSection
from codelutra.suites.base import open_suite

BATCH, MICRO, SEED, RATE = 16, 8, 0, 1e-5
ROOT = Path(__file__).parents[1]


def pairs_of(section: SuiteSection, count: int) -> tuple[pl.DataFrame, str]:
    """`count` pairs and the system message; a problem's neighbour in its group (a database) gives the wrong answer."""
    suite = open_suite(section)
    problems = suite.problems().filter(pl.col("split") == "train").sample(fraction=1.0, shuffle=True, seed=SEED)
    pairs = problems.select(
        "problem_id",
        "prompt",
        "group",
        chosen="reference",
        rejected=pl.col("reference").shift(1).over("group"),
        chosen_source=pl.lit("reference"),
        rejected_status=pl.lit("wrong", schema.SETTLED),
        chosen_sample=pl.lit(-1, pl.Int32),
        rejected_sample=pl.lit(0, pl.Int32),
        rejected_ended=pl.lit(True),
    )
    kept = pairs.filter(pl.col("rejected").is_not_null(), pl.col("chosen") != pl.col("rejected"))
    return schema.check(kept.head(count), schema.PAIRS), suite.system


def ours(spec: dict[str, Any]) -> dict[str, Any]:
    from codelutra.training.worker.train import train

    work = Path(spec["work"])
    summary = train(spec, lambda event: None)
    rows = pl.read_ndjson(work / "training.jsonl")
    assert summary["shared_prefixes"]
    reference = summary["reference_seconds"] / rows.height
    seconds = [s + reference for s in rows["seconds"]]
    return {"losses": rows["loss"].to_list(), "step_tokens": rows["tokens"].to_list(), "step_seconds": seconds}


def as_it_comes(spec: dict[str, Any]) -> dict[str, Any]:
    """TRL's own trainer, its own tokenisation, collator and defaults; only batch size, rate and order are ours."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    examples, steps = planned(spec)
    frame, order = pl.read_parquet(spec["examples"]), [i for step in steps for micro in step for i in micro]
    tokenizer = AutoTokenizer.from_pretrained(spec["policy"])

    def prompt(text: str) -> str:
        messages = [{"role": "system", "content": spec["system"]}] if spec["system"] else []
        return tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )

    preference = spec["kind"] == "preference"
    answers = ["chosen", "rejected"] if preference else ["completion"]
    rows = [
        {"prompt": prompt(r["prompt"])} | {a: r[a] + tokenizer.eos_token for a in answers} for r in frame[order].to_dicts()
    ]
    c = spec["config"]
    settings: dict[str, Any] = {
        "output_dir": spec["work"],
        "seed": spec["seed"],  # of an adapter's first weights
        "use_cpu": not torch.cuda.is_available(),
        "num_train_epochs": 1,
        "per_device_train_batch_size": c["micro_batch"],
        "gradient_accumulation_steps": len(steps[0]),
        "learning_rate": c["learning_rate"],
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    if spec["bf16"] is not None:
        settings["bf16"] = spec["bf16"]
    lora, four_bit = adapter(c)
    base = torch.bfloat16 if lora and spec["bf16"] is not False else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=base, quantization_config=four_bit)
    if preference:
        args: Any = DPOConfig(**settings, beta=c["beta"], loss_type=["sigmoid", "sft"], loss_weights=[1.0, c["sft_weight"]])
        data: Any = Dataset.from_list(rows)
        trainer: Any = DPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
        ids = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
        assert ids == [(examples[i].prompt, *examples[i].answers) for i in order], "TRL tokenises otherwise than prompts.py"
    else:
        rows = [{"prompt": r["prompt"], "completion": r["completion"]} for r in rows]
        trainer = SFTTrainer(
            model=model, args=SFTConfig(**settings), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    seconds = timed(trainer)
    losses = [r["loss"] for r in trainer.state.log_history if "grad_norm" in r]
    tokens = [sum(examples[i].tokens for micro in step for i in micro) for step in steps]
    attention = trainer.accelerator.unwrap_model(trainer.model).config._attn_implementation
    return {"losses": losses, "step_tokens": tokens, "step_seconds": seconds, "attention": attention}


def adapter(config: dict[str, Any]) -> tuple[Any, Any]:
    """The adapter of `method` lora or qlora, and how the base is loaded for qlora, in the terms of PEFT and transformers."""
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    if config.get("method", "full") == "full":
        return None, None
    lora = LoraConfig(
        r=config["lora_rank"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    if config["method"] == "lora":
        return lora, None
    return lora, BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def timed(trainer: Any) -> list[float]:
    """Train; returns the seconds of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.seconds.append(time.monotonic() - self.began)

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def floor(spec: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    examples, steps = planned(spec)
    model = AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=torch.float32).train()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    made: dict[str, list[Any]] = {"losses": [], "step_tokens": [], "step_seconds": []}
    for step in steps:
        began, tokens = time.monotonic(), 0
        for micro in step:
            sequences = [(e.prompt + a, len(e.prompt)) for e in (examples[i] for i in micro) for a in e.answers]
            longest = max(len(s) for s, _ in sequences)
            ids = torch.tensor([s + [0] * (longest - len(s)) for s, _ in sequences], device=device)
            mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s, _ in sequences], device=device)
            row = torch.tensor([i for i, (s, p) in enumerate(sequences) for _ in s[p:]], device=device)
            column = torch.tensor([j for s, p in sequences for j in range(p, len(s))], device=device)
            with torch.autocast(device, torch.bfloat16):
                states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                loss = torch.nn.functional.cross_entropy(model.lm_head(states[row, column - 1]).float(), ids[row, column])
            loss.backward()
            tokens += sum(len(s) for s, _ in sequences)
        synchronize()
        made["step_seconds"].append(time.monotonic() - began)
        made["step_tokens"].append(tokens)
        model.zero_grad()
    return made


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def planned(spec: dict[str, Any]) -> tuple[list[Any], list[list[list[int]]]]:
    from transformers import AutoTokenizer

    from codelutra.training.batches import answer_examples, pair_examples, plan

    tokenizer, frame = AutoTokenizer.from_pretrained(spec["policy"]), pl.read_parquet(spec["examples"])
    make = pair_examples if spec["kind"] == "preference" else answer_examples
    examples = make(frame, tokenizer, spec["system"], spec["config"]["max_length"])
    assert len(examples) == frame.height, "some are too long; raise max_length"
    c = spec["config"]
    return examples, plan(examples, c["epochs"], c["batch_size"], c["micro_batch"], spec["seed"])


WAYS = {"ours": ours, "trl": as_it_comes, "floor": floor}


def measure(way: str, spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """One way in a process of its own."""
    work = scratch / f"{way}-{spec['kind']}-{spec['bf16']}"
    work.mkdir()
    spec = spec | {"work": str(work), "out": str(work / "out")}
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--way", way, "--spec", json.dumps(spec)],
        cwd=ROOT,
        env=quiet,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    tokens, seconds = found.pop("step_tokens"), found.pop("step_seconds")
    warm = len(tokens) // 4  # the first steps load kernels and grow buffers
    rate = sum(tokens[warm:]) / sum(seconds[warm:])
    return found | {
        "tokens_per_second": round(rate, 1),
        "tokens": sum(tokens[warm:]),
        "seconds": round(sum(seconds[warm:]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--suite", default="starter-sql")
    parser.add_argument("--suite-path")
    parser.add_argument("--databases", default="")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/training.json")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        found = WAYS[given.way](json.loads(given.spec))
        used = resource.getrusage(resource.RUSAGE_SELF)
        found |= {"peak_gib": round(used.ru_maxrss / 2**20, 2), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)}
        print(json.dumps(found | accelerator()))
        return
    databases = tuple(d for d in given.databases.split(",") if d)
    protocol: Any = "in-domain" if databases else "cross-domain"
    section = SuiteSection(name=given.suite, path=given.suite_path, databases=databases, protocol=protocol)
    model = given.model or models.resolve(DEFAULT_MODEL, Path.home() / ".cache/codelutra/models").path
    result = compare(model, section, given.steps)
    print(table(result))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(table(result))


def compare(model: Path, section: SuiteSection, steps: int) -> dict[str, Any]:
    pairs, system = pairs_of(section, BATCH * steps)
    dpo = TrainSection(batch_size=BATCH, micro_batch=MICRO, learning_rate=RATE, warmup=0, sft_norm="token")
    small = dpo.model_copy(update={"batch_size": 4, "micro_batch": 4})
    sft = WarmStartSection(epochs=1, batch_size=BATCH, micro_batch=BATCH, learning_rate=RATE, warmup=0)
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pairs.write_parquet(scratch / "pairs.parquet")
        pairs.head(8).write_parquet(scratch / "few.parquet")
        pairs.select("problem_id", "prompt", completion="chosen").write_parquet(scratch / "answers.parquet")
        base = {"policy": str(model), "system": system, "seed": SEED, "bf16": None}

        def spec(kind: str, config: Any, examples: str) -> dict[str, Any]:
            return base | {"kind": kind, "config": config.model_dump(mode="json"), "examples": str(scratch / examples)}

        kinds = {"dpo": spec("preference", dpo, "pairs.parquet"), "sft": spec("supervised", sft, "answers.parquet")}
        exact = spec("preference", small, "few.parquet") | {"bf16": False}
        found: dict[str, Any] = {k: {way: measure(way, s, scratch) for way in WAYS} for k, s in kinds.items()}
        losses = {way: measure(way, exact, scratch)["losses"] for way in ("ours", "trl")}

    def times(kind: str, way: str) -> float:
        return round(found[kind]["ours"]["tokens_per_second"] / found[kind][way]["tokens_per_second"], 2)

    return {
        "command": " ".join(["python -m benchmarks.training", *sys.argv[1:]]),
        "model": model.name,
        "suite": section.name,
        "pairs": pairs.height,
        "batch_size": BATCH,
        "micro_batch": MICRO,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average_before": round(load, 1),
        "seconds": round(time.monotonic() - began),
        "losses_float32": losses,
        "largest_loss_gap_float32": max(abs(a - b) for a, b in zip(losses["ours"], losses["trl"], strict=True)),
        "times_trl": {k: times(k, "trl") for k in kinds},
        "times_floor": {k: times(k, "floor") for k in kinds},
        **found,
    }


def accelerator() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"device": "cpu"}
    return {"device": torch.cuda.get_device_name(), "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def table(result: dict[str, Any]) -> str:
    lines = ["| | way | tokens/s | peak GiB | CPU s in all |", "|---|---|---|---|---|"]
    for kind in ("dpo", "sft"):
        for way, label in (
            ("ours", "codelutra"),
            ("trl", "TRL as it comes"),
            ("floor", "plain PyTorch, forward + backward"),
        ):
            r = result[kind][way]
            peak = r.get("peak_gpu_gib", r["peak_gib"])
            speed = f"{r['tokens_per_second']:,.0f} | {peak:.1f} | {r['cpu_seconds']:.0f}"
            lines.append(f"| {kind.upper()} | {label} | {speed} |")
    trl, least, gap = result["times_trl"], result["times_floor"], result["largest_loss_gap_float32"]
    return "\n".join(
        [
            *lines,
            "",
            f"DPO: {trl['dpo']} × TRL, {least['dpo']} × the floor. SFT: {trl['sft']} × TRL, {least['sft']} × the floor.",
            f"Largest difference of a loss from TRL's, in float32: {gap:.1e}.",
            (
                f"{result['pairs']} pairs of {result['suite']}, {result['model']}; {result['dpo']['ours']['device']}, "
                f"{result['cores']} cores."
            ),
            f"`{result['command']}`",
            "",
        ]
    )


if __name__ == "__main__":
    main()
