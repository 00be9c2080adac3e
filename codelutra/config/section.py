"""What every section of a config is: frozen, bounded, and marked where a value may change between two starts of a run."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from codelutra.reading.numbers import means_number, require_number

LARGEST = 2**31 - 1  # of whole numbers: seeds and counts that every library takes
MANY = 10**7  # problems: more than any suite has
TOKENS = 2**24  # more than any model attends to


class Mark(Enum):
    """What may change between two starts of a run."""

    SAME_RESULT = "hardware, pace or tolerance: no artifact depends on it, so it is in no key of the store"
    HOW_FAR = "when the run stops: the artifacts made so far stay right"


SAME_RESULT, HOW_FAR = Mark.SAME_RESULT, Mark.HOW_FAR


class Added(Enum):
    """Stands on fields that came after version 0.1.0, beside a mark or without one."""

    ADDED = "at its default it is in no key of the store, so what was made before it came is found"


ADDED = Added.ADDED


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_number(cls, value: Any, info: ValidationInfo) -> Any:
        return require_number(value) if means_number(cls.model_fields[info.field_name or ""].annotation) else value

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"Input should be at most {LARGEST}")
        texts = value if isinstance(value, tuple) else (value,)
        if any("\0" in text for text in texts if isinstance(text, str)):
            raise ValueError("Input should hold no NUL")
        return value
