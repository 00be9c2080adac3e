"""Numbers that people give, before pydantic converts them: it would take `yes` for 1 and `010` for 10."""

from __future__ import annotations

import re
from typing import Any, get_args

_LEADING_ZERO = re.compile(r"\s*[-+]?0[0-9_]+\s*")


def require_number(value: Any) -> Any:
    """The value, or each of a list. Raises ValueError for a truth value, and for text with a leading 0."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, bool):
            raise ValueError("Input should be a number; yes, no, on, off, true and false are none")
        if isinstance(one, str) and _LEADING_ZERO.fullmatch(one):
            raise ValueError("Input should be a number without a leading 0, which may mean base 8")
    return value


def means_number(annotation: Any) -> bool:
    """Whether a type takes numbers, and neither truth values nor text."""
    inside = {annotation, *_all_args(annotation)}
    return bool(inside & {int, float}) and not inside & {bool, str}


def _all_args(annotation: Any) -> set[Any]:
    args = {a for a in get_args(annotation) if isinstance(a, type) or get_args(a)}
    return args.union(*map(_all_args, args))
