"""The errors this package raises on purpose.

    CodelutraError
    ├── UserError        something the user can put right: bad config, missing file, no Docker  (exit code 2)
    │   ├── ConfigError  the config itself
    │   ├── NoSandboxError  Docker does not answer, or starts no container
    │   └── BusyError    another process is at the run
    └── StageError       a stage cannot go on: training diverged                                (exit code 1)
        └── OutageError  too many outages: of the sandbox, of servers that sample
            └── LostError  a machine of the cluster is gone, with what it was doing

Every message carries the value, the rule and the way out.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_IN_AN_ADDRESS = re.compile(r"(?<=://)\S*@")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How libraries that keep no errno say it: polars, SQLite, torch, the end of another process's log.
_SAY_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "File too large",
    "PytorchStreamWriter failed",
    "disk full at",  # ours, below
)
# How torch and what it calls say that memory ran out. torch has a type for its own allocator on a GPU alone.
_SAY_NO_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cuda failure 2",  # NCCL
)
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
EXTRAS = {
    "prefect": "prefect",
    "ray": "ray",
    "s3fs": "s3",
    "fsspec": "s3",
    "botocore": "s3",
    "vllm": "gpu",
} | dict.fromkeys(  # what pyproject.toml makes optional
    (
        "accelerate",
        "datasets",
        "gguf",
        "huggingface_hub",
        "peft",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
        "trl",
    ),
    "train",
)
_FREE_SPACE = "free some space (`codelutra prune` shows what no run uses) and give the same command again"


def redacted(text: str) -> str:
    """Without what stands before the host in an address: http://***@host for http://user:secret@host."""
    return _IN_AN_ADDRESS.sub("***@", text)


class CodelutraError(Exception):
    """Base of all errors raised on purpose; printed as one message, never as a traceback."""

    exit_code = 1
    transient = False
    """Whether the same command may well work a little later, though nobody has changed anything."""

    def __str__(self) -> str:
        return redacted(super().__str__())


class UserError(CodelutraError):
    """Something the user can put right."""

    exit_code = 2


class ConfigError(UserError):
    """The run config is not usable."""


class NoSandboxError(UserError):
    """There is no sandbox to be had now."""

    transient = True


class BusyError(UserError):
    """Another process is at it."""

    transient = True


class StageError(CodelutraError):
    """A stage cannot go on with what it was given or what it saw."""


class OutageError(StageError):
    """What a stage needs beside itself has failed too often."""

    transient = True


class LostError(OutageError):
    """The machine that did a piece of work is gone: another may do it again."""


def disk_is_full(error: BaseException | str) -> bool:
    """Whether a full disk, or a quota or limit of file sizes, is behind an error or a text, whichever library met it."""
    if isinstance(error, str):
        return any(said in error for said in _SAY_FULL)
    return any(
        (isinstance(e, OSError) and e.errno in _FULL) or (not isinstance(e, CodelutraError) and disk_is_full(str(e)))
        for e in _chain(error)
    )


def memory_ran_out(error: BaseException) -> bool:
    """Whether memory that did not suffice is behind an error: the machine's, or with torch's message a GPU's."""
    return any(
        isinstance(e, MemoryError)
        or type(e).__name__ == "OutOfMemoryError"
        or (isinstance(e, OSError) and e.errno == errno.ENOMEM)
        or (not isinstance(e, CodelutraError) and any(said in str(e) for said in _SAY_NO_MEMORY))
        for e in _chain(error)
    )


def full_disk(where: object) -> UserError:
    """The error for a full disk; `where` names the file or folder."""
    return UserError(f"disk full at {where}; nothing half-written was kept; {_FREE_SPACE}")


def of_the_system(error: BaseException) -> UserError | None:
    """What the operating system refused (space, access, a file of another kind), with the way out; None for other errors."""
    if disk_is_full(error):
        named = next(filter(None, map(_named, _chain(error))), "")
        return full_disk(named or f"this machine ({error})")
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # tempfile's, which names no file
        return UserError(f"{error.strerror}: none of these can be written. Set TMPDIR to a folder that can")
    refused = next((e for e in (error, error.__cause__) if isinstance(e, OSError) and _named(e)), None)
    if refused is None:
        return None
    said = f"{_named(refused)}: {refused.strerror}"
    if refused.errno in _REFUSED:
        return UserError(
            f"{said}. Get the right to use it, or choose other folders: --home or CODELUTRA_HOME for runs and store, "
            "CODELUTRA_CACHE for models and locks"
        )
    return UserError(f"{said}. Put it right, or move it away, and give the same command again")


def of_the_installation(error: BaseException) -> UserError | None:
    """What is not installed, with the way to install it, where a library of an extra was looked for; None for other
    errors. The package alone, without extras, reads and judges; it neither samples nor trains."""
    for e in _chain(error):
        if isinstance(e, ModuleNotFoundError) and (extra := EXTRAS.get(library := (e.name or "").partition(".")[0])):
            return UserError(f"this needs {library}, which is not installed: pip install 'codelutra[{extra}]'")
    return None


def _named(error: BaseException) -> str:
    """The file an OSError names; of a rename, what it was to become."""
    return str(error.filename2 or error.filename or "") if isinstance(error, OSError) and error.strerror else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from or while handling, the newest first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
