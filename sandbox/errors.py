"""The one error this package raises on purpose.

A program that fails is data (a `Result`); only a sandbox that cannot work is an error.
"""

from __future__ import annotations


class SandboxError(Exception):
    """No Docker, no image, a container that will not start: the message says what to do about it."""
