"""The errors this package raises on purpose.

    CodelutraError
    ├── UserError        something the user can put right: bad config, missing file, no Docker  (exit code 2)
    │   └── ConfigError  the config itself
    └── StageError       a stage cannot go on: too many outages, training diverged              (exit code 1)

Every message carries the value, the rule and the way out.
"""

from __future__ import annotations

import re

_IN_AN_ADDRESS = re.compile(r"(?<=://)\S*@")


def redacted(text: str) -> str:
    """Without what stands before the host in an address: http://***@host for http://user:secret@host."""
    return _IN_AN_ADDRESS.sub("***@", text)


class CodelutraError(Exception):
    """Base of all errors raised on purpose; printed as one message, never as a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        return redacted(super().__str__())


class UserError(CodelutraError):
    """Something the user can put right."""

    exit_code = 2


class ConfigError(UserError):
    """The run config is not usable."""


class StageError(CodelutraError):
    """A stage cannot go on with what it was given or what it saw."""
