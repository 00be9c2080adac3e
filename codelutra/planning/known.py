"""Memory that the known models take, for `codelutra models`: by the formulas of `codelutra plan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from codelutra import models
from codelutra.config import RunConfig, SuiteSection, TrainSection
from codelutra.models import Known, listing
from codelutra.planning import memory
from codelutra.planning.machine import GIB, Gpu, Machine
from codelutra.planning.shape import shape_of_known
from codelutra.planning.work import Work

TYPICAL = Work(1000, 200, 200, 1000, 80.0, 55.0, 27.0, 165.0, 113.0, 96.0, 96, 3200.0, 4, "sql", {})
"""Questions over small schemas, as those of spider-lora: prompts of 80 tokens, answers of 27."""
_CARD = (Gpu("a GPU", 24 * GIB, 24 * GIB),)


def listed(cache: Path, machine: Machine) -> list[dict[str, Any]]:
    """What `models.listing` tells of each known model, and `gib`: what it takes on such a machine."""
    return [told | {"gib": gib(model, machine)} for model, told in zip(models.KNOWN, listing.listed(cache), strict=True)]


def gib(model: Known, machine: Machine) -> dict[str, float]:
    """GiB that default settings take on such a machine, by use: `sample`; `full`, `lora` and `qlora` to train. qlora needs a
    GPU: where there is none, what it takes of one of 24 GiB."""
    shape, config = shape_of_known(model), RunConfig(name="x", suite=SuiteSection(name="x"))
    found = {"sample": memory.sampler(shape, config, machine).expected}
    for method in ("full", "lora", "qlora"):
        section = TrainSection(method=method)
        where = replace(machine, gpus=_CARD) if method == "qlora" and not machine.cuda else machine
        needs = [memory.trainer(shape, section, TYPICAL, where, method)]
        if not where.cuda:  # where its merging takes the same memory
            needs.append(memory.merging(shape, section, method))
        found[method] = max(need.expected for need in needs)
    return {use: size / GIB for use, size in found.items()}
