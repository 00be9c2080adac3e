"""LoRA (Hu et al. 2106.09685) and QLoRA (Dettmers et al. 2305.14314) for every trainer: TRL gets a model with its adapter.

load        policy t-1 as it is trained: all weights in float32, or an adapter in float32 over a frozen base (bfloat16
            where the hardware multiplies it, else float32; for qlora in 4 bits)
settle      undo what a trainer of TRL does to an adapter that it is given
save        adapter/, and the policy: the adapter merged in float32 into the unquantised base
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

from codelutra.errors import UserError
from codelutra.store.files import write_atomic
from codelutra.training.bases import RECORD, require_adapter_of
from codelutra.training.checkpoints import Job
from codelutra.training.worker.log_probs import load_causal


def load(job: Job) -> Any:
    """Policy t-1 to be trained as `job.config.method` says. Raises UserError for what transformers cannot load, and for an
    adapter of another base."""
    config, base = job.config, job.base
    if config.method == "full" or base is None:
        return load_policy(job.policy)
    dtype = torch.bfloat16 if job.bf16 else torch.float32
    if config.method == "qlora":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
        model = load_policy(base.path, dtype=dtype, quantization_config=four_bits(dtype), device_map={"": device})
    else:
        model = load_policy(base.path, dtype=dtype)
    if job.continued:
        require_adapter_of(job.policy, base)
        return PeftModel.from_pretrained(model, job.policy / "adapter", is_trainable=True, torch_device=str(model.device))
    set_seed(job.seed)  # a new adapter is drawn at random: the same one, whatever was done before
    return get_peft_model(model, lora(config.lora_rank, config.lora_alpha))


def load_policy(policy: Path, **how: Any) -> Any:
    """A causal language model, in float32 unless `how` says else. Raises UserError for what transformers cannot load."""
    try:
        return load_causal(str(policy), **how)
    except (ValueError, OSError, KeyError) as e:
        raise UserError(
            f"{policy} does not load as a causal language model: {e}. It takes config.json of an architecture transformers "
            "knows, and safetensors weights"
        ) from e


def lora(rank: int, alpha: int) -> LoraConfig:
    """An adapter on every linear layer but the output layer: what trains as well as all weights where the rank suffices."""
    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules="all-linear", task_type="CAUSAL_LM"
    )


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with quantised constants: about half a byte a weight; multiplied in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def settle(model: Any) -> None:
    """TRL's trainers round a 4-bit model's adapter to bfloat16, where small updates are lost. And DPO adds a frozen copy
    of an adapter as the reference, which we have as log-probabilities."""
    if not isinstance(model, PeftModel):
        return
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save(job: Job, model: Any, whole: dict[str, Any] | None = None) -> None:
    """Write policy t to `job.out`. The model is of no use afterwards: its memory goes to the weights that are merged.

    `whole`: the trained weights by name, of a model that has only parts of its own.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(job.out, state_dict=whole)
        return
    assert job.base is not None
    adapter = job.out / "adapter"
    model.save_pretrained(adapter, save_embedding_layers=False, state_dict=whole)
    _name_base(job, adapter)
    if whole is None and all(p.dtype == torch.float32 for p in model.parameters()):
        merged = model.merge_and_unload()
    else:
        for tensor in (*model.parameters(), *model.buffers()) if whole is None else ():
            tensor.data = tensor.data.new_empty(0)
        whole = AutoModelForCausalLM.from_pretrained(job.base.path, dtype=torch.float32)
        merged = PeftModel.from_pretrained(whole, adapter, torch_device="cpu").merge_and_unload()  # a layer at a time
    merged.save_pretrained(job.out)


def _name_base(job: Job, adapter: Path) -> None:
    """Say whose adapter it is: in our record, and in PEFT's config where it would name a folder of this machine."""
    assert job.base is not None
    hub = job.base.reference.removeprefix("hf:").partition("@")[0] if job.base.reference.startswith("hf:") else None
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order differs from process to process
    file.write_text(json.dumps(config | {"base_model_name_or_path": hub}, indent=2, sort_keys=True) + "\n")
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's form, with nothing filled in but that folder
    record = {"base": job.base.reference, "fingerprint": job.base.fingerprint, "method": job.config.method}
    write_atomic(adapter / RECORD, json.dumps(record, indent=1) + "\n")
