"""The one error that this package raises on purpose.

A program that fails is data (a `Result`); an error means that the sandbox itself cannot work.
"""

from __future__ import annotations


class SandboxError(Exception):
    """No Docker, no image, a container that will not start: the message says what to do about it."""
