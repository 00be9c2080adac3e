"""SFT: the token mean over the answers of a whole step."""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import disable_dropout_in_model

from codelutra.training.batches import Example
from codelutra.training.checkpoints import Job
from codelutra.training.worker.steps import Stepping


class Supervised(Stepping, SFTTrainer):
    def __init__(self, job: Job, model: Any) -> None:
        disable_dropout_in_model(model)
        ready = {"dataset_kwargs": {"skip_prepare_dataset": True}}
        super().__init__(job, model, SFTConfig, {"input_ids": [0], "labels": [0]}, ready)

    def collate(self, micro: list[int]) -> Any:
        return collate_answers([self.job.examples[i] for i in micro], self.job.tokenizer)

    def answer_tokens(self, micros: list[Any]) -> Any:
        return self.accelerator.reduce(sum((m["labels"] != -100).sum() for m in micros))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self.parts.append({"sft": loss.item() / self.job.processes})
        return loss


def collate_answers(examples: list[Example], tokenizer: Any) -> Any:
    """Prompts and first answers, padded; the loss sees the answers only."""
    rows = [{"input_ids": e.prompt + e.answers[0], "labels": [-100] * len(e.prompt) + e.answers[0]} for e in examples]
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id or 0)(rows)
