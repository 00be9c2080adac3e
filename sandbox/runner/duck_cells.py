"""DuckDB's values as cells of a table: None, int, float, str and bytes.

    BOOLEAN                     1 or 0
    integers up to 128 bits     an int                           BIGNUM         an int; beyond 128 bits its digits
    FLOAT, DOUBLE               a float; NaN is the text "NaN"   DECIMAL        an int where it is whole, else a float
    VARCHAR, ENUM, BIT, JSON    their text                       UUID           its text
    BLOB, GEOMETRY              bytes                            INTERVAL       "[-]D days HH:MM:SS[.ffffff]", months of 30
    DATE                        YYYY-MM-DD                       TIME           HH:MM:SS[.ffffff], and its offset
    TIMESTAMP, of any kind      YYYY-MM-DD HH:MM:SS[.ffffff] in UTC; at midnight as the DATE
    LIST, ARRAY, STRUCT, MAP    JSON, keys in alphabetical order, floats to 9 digits

So values that DuckDB's `=` calls equal are equal cells: a DATE and its midnight, 1.0 and 1, an INTERVAL of 30 days and of a
month. Times are kept to the microsecond. A date beyond Python's years is DuckDB's own text.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

_LARGEST = 1 << 128
_DAY = 86_400_000_000  # microseconds
_DIGITS = 9  # of a float inside a list or struct, which is compared as text


def cell(value: Any, kind: str = "") -> Any:
    """A value as the client gives it; kind: its column's type, as DuckDB names it."""
    if value is None or type(value) is bytes:
        return value
    if type(value) is str:
        return _whole(value) if kind == "BIGNUM" else value
    if type(value) is bool:
        return int(value)
    if type(value) is int:
        return value if abs(value) <= _LARGEST else str(value)
    if type(value) is float:
        return "NaN" if math.isnan(value) else value
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime):  # before date, whose subclass it is
        return _moment(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return _length(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(_nested(value), ensure_ascii=False, sort_keys=True)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return str(value)


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) < 39 else digits


def _moment(value: datetime.datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value.isoformat(" ") if value.time() != datetime.time() else value.date().isoformat()


def _length(value: datetime.timedelta) -> str:
    total = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    days, rest = divmod(abs(total), _DAY)
    clock = (datetime.datetime.min + datetime.timedelta(microseconds=rest)).time().isoformat()
    return f"{'-' if total < 0 else ''}{days} days {clock}"


def _nested(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_nested(v) for v in value]
    if isinstance(value, dict):
        return {k if isinstance(k, str) else json.dumps(_nested(k), sort_keys=True): _nested(v) for k, v in value.items()}
    plain = cell(value)
    if type(plain) is bytes:
        return plain.hex()
    if type(plain) is float:
        if math.isinf(plain):
            return "Infinity" if plain > 0 else "-Infinity"
        near = float(f"{plain:.{_DIGITS}g}")
        return int(near) if near.is_integer() and abs(near) < 2**53 else near
    return plain
