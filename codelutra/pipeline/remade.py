"""The message for a finished run that is started again and has to make its work anew, as after an upgrade."""

from __future__ import annotations

import contextlib
from pathlib import Path

from codelutra.errors import UserError
from codelutra.results.load import finished_summary
from codelutra.store.artifacts import Event, libraries, read_manifest
from codelutra.store.files import UNREADABLE
from codelutra.store.run_dir import RunDir


class Remade:
    """Hears what the store does in this start of a run, and knows what the start before it met."""

    def __init__(self, run: RunDir, store: Path) -> None:
        self._run, self._store = run, store
        self._reused: set[str] = set()  # keys
        self._told = False

    def heard(self, event: Event) -> str:
        """What is to be told of an event; "" for most.

        Its first step that is made decides. One that the start before had too has other inputs now; one that it had not is
        what the run goes on with.
        """
        if event["event"] == "reused":
            self._reused.add(event["key"])
        if event["event"] != "start" or self._told:
            return ""
        self._told = True
        met = self._met_before()
        same = sorted(key for stage, label, key in met if (stage, label) == (event["stage"], event["label"]))
        if not same or event["key"] in same:  # new, or damaged
            return ""
        left = len({key for _, _, key in met} - self._reused)
        return (
            f"{self._why(event['stage'], same[0])}: remaking up to {left} artifacts. The numbers that "
            f"{self._run.path.name} had stay until the new ones are whole"
        )

    def _met_before(self) -> set[tuple[str, str, str]]:
        """(stage, label, key) of all that the start before this one met, if the run had finished."""
        with contextlib.suppress(UserError):
            if finished_summary(self._run.path):
                events = [
                    e
                    for e in self._run.events()
                    if e["event"] in ("made", "reused") and {"stage", "label", "key", "pid"} <= e.keys()
                ]
                return {(e["stage"], e["label"], e["key"]) for e in events if e["pid"] == events[-1]["pid"]}
        return set()

    def _why(self, stage: str, key: str) -> str:
        with contextlib.suppress(*UNREADABLE):
            version, here = read_manifest(self._store / stage / key)["libraries"]["codelutra"], libraries()["codelutra"]
            if version != here:
                return f"made by another version (codelutra {version}, this is {here})"
        return "made of something that has changed since (problems, suite version, sandbox image or model)"
