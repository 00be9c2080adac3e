"""Tab completion of presets, runs, keys and settings (`codelutra --install-completion`). The shell completes files."""

from __future__ import annotations

import contextlib

import typer

from codelutra.errors import UserError
from codelutra.store.paths import home_dir


def preset_starting(incomplete: str) -> list[str]:
    from codelutra.config import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def run_starting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs of the home that the words before name."""
    from codelutra.results.load import run_names

    with contextlib.suppress(UserError, OSError):
        return [name for name in run_names(home_dir(ctx.params.get("home")) / "runs") if name.startswith(incomplete)]
    return []


def key_starting(incomplete: str) -> list[str]:
    from codelutra.config.explain import explained

    return [key for key in explained() if key.startswith(incomplete)]


def setting_starting(incomplete: str) -> list[str]:
    from codelutra.config.explain import explained

    return [f"{e.key}=" for e in explained().values() if not e.section and e.key.startswith(incomplete)]
