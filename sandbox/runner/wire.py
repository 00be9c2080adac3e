"""Frames between host and runner. Many small jobs share a frame, so the stream is never the bottleneck.

    frame   = length of payload (u32), kind (1 byte), payload
    program = token (u32), timeout (f64), max_bytes (u32), length (u32), inputs (u32), body: JSON;
              then, where it is a whole program, each input of stdin: length (u32), bytes
    result  = token (u32), status (u8), seconds (f64), lengths of value, stdout, error (u32 each), those three

Tokens are the host's, new for every attempt: an answer to a question nobody asks any more is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PROTOCOL = 2
FRAME = struct.Struct(">IB")
PROGRAM = struct.Struct(">IdIII")
INPUT = struct.Struct(">I")
RESULT = struct.Struct(">IBdIII")
MAX_FRAME = 256 << 20

# host to runner
PYTHON, SQL, CHUNK, STORED, MOUNTED, DROP = b"PSKEMD"
# runner to host
HELLO, RESULTS, FATAL = b"HRF"

STATUSES = ("ok", "runtime_error", "syntax_error", "timeout", "resource_limit", "blocked", "infra_error")
OK, RUNTIME_ERROR, SYNTAX_ERROR, TIMEOUT, RESOURCE_LIMIT, BLOCKED, INFRA_ERROR = range(len(STATUSES))


class BrokenFrame(ValueError):
    """The stream carries something that is not a frame: the other end is not who we think."""


class Record(NamedTuple):
    """One result as it travels: bytes, not yet believed."""

    token: int
    status: int
    seconds: float
    value: bytes
    stdout: bytes
    error: bytes


def frame(kind: int, payload: bytes) -> bytes:
    return FRAME.pack(len(payload), kind) + payload


def take_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove and yield every whole frame at the start of `buffer`. Raises BrokenFrame."""
    start = 0
    try:
        while len(buffer) - start >= FRAME.size:
            length, kind = FRAME.unpack_from(buffer, start)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
            end = start + FRAME.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[start + FRAME.size : end])
            start = end
            yield kind, payload
    finally:
        del buffer[:start]


def pack_result(
    token: int, status: int, seconds: float, value: bytes = b"", stdout: bytes = b"", error: bytes = b""
) -> bytes:
    head = RESULT.pack(token, status, seconds, len(value), len(stdout), len(error))
    return b"".join((head, value, stdout, error))


def unpack_results(payload: bytes) -> Iterator[Record]:
    """Yield the results of one RESULTS payload. Raises BrokenFrame."""
    at, total = 0, len(payload)
    while at < total:
        if total - at < RESULT.size:
            raise BrokenFrame("a result is cut off")
        token, status, seconds, n_value, n_stdout, n_error = RESULT.unpack_from(payload, at)
        at += RESULT.size
        stdout_at, error_at = at + n_value, at + n_value + n_stdout
        end = error_at + n_error
        if end > total or status >= len(STATUSES):
            raise BrokenFrame("a result is cut off or has no known status")
        yield Record(token, status, seconds, payload[at:stdout_at], payload[stdout_at:error_at], payload[error_at:end])
        at = end


def pack_program(token: int, timeout: float, max_bytes: int, body: bytes, inputs: Sequence[bytes]) -> bytes:
    parts = [PROGRAM.pack(token, timeout, max_bytes, len(body), len(inputs)), body]
    for text in inputs:
        parts += [INPUT.pack(len(text)), text]
    return b"".join(parts)


def unpack_programs(payload: bytes) -> Iterator[tuple[int, float, int, bytes, list[bytes]]]:
    """Yield (token, timeout seconds, max bytes, body, inputs) of one PYTHON payload."""
    at = 0
    while at < len(payload):
        token, timeout, max_bytes, length, count = PROGRAM.unpack_from(payload, at)
        at += PROGRAM.size + length
        body, inputs = payload[at - length : at], list[bytes]()
        for _ in range(count):
            (length,) = INPUT.unpack_from(payload, at)
            at += INPUT.size + length
            inputs.append(payload[at - length : at])
        yield token, timeout, max_bytes, body, inputs
