"""Two hosts publish one artifact whose bytes differ, in every order of their steps, and any of them may be killed in any
step: whoever looks finds nothing, or one of the two, whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.store.artifacts import Artifact, Recipe, Step, Store
from codelutra.store.folder import Folder
from codelutra.store.place import Place
from codelutra.store.places import require_place
from codelutra.store.publisher import Job, publish
from codelutra.store.shared import SharedStore

RECIPE = Recipe("train", 1, {}, {})
NAME = f"artifacts/train/{RECIPE.key}"
Hosts = tuple[Artifact, Artifact]


class _KilledError(Exception):
    pass


class Steps:
    """Has two publishers take their steps in the order of `schedule`; whoever's turn it is not waits."""

    def __init__(self, schedule: list[int], deaths: list[int | None]) -> None:
        self._schedule, self._left, self._ended = schedule, list(deaths), [False, False]
        self._change = threading.Condition()

    def __call__(self, who: int) -> None:
        with self._change:
            assert self._change.wait_for(lambda: self._next() in (who, None), 20)
            if self._schedule:
                self._schedule.pop(0)
            left = self._left[who]
            if left is not None:
                self._left[who] = left - 1
                if left == 0:
                    raise _KilledError
            self._change.notify_all()

    def _next(self) -> int | None:
        """Whose turn it is; turns of those that have ended are passed over."""
        while self._schedule and self._ended[self._schedule[0]]:
            self._schedule.pop(0)
        return self._schedule[0] if self._schedule else None

    def end(self, who: int) -> None:
        with self._change:
            self._ended[who] = True
            self._change.notify_all()


class Stepped:
    """A place each of whose operations is one step."""

    def __init__(self, place: Place, step: Callable[[], None]) -> None:
        self._place, self._step, self.address = place, step, place.address

    def __getattr__(self, name: str) -> Any:
        self._step()
        return getattr(self._place, name)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    def made(text: str) -> Artifact:
        def build(out: Path, work: Path) -> dict[str, Any]:
            (out / "config.json").write_text("the same of both")
            (out / "model.safetensors").write_text(text)
            return {"by": text}

        return Store(tmp_path_factory.mktemp(text)).make(Step(RECIPE, build))

    return made("a"), made("b")


def race(place: Place, hosts: Hosts, schedule: list[int], deaths: list[int | None], instead_of: bytes | None) -> list[bool]:
    """Who was told that its artifact is the one."""
    steps, won = Steps(list(schedule), deaths), [False, False]

    def run(who: int) -> None:
        try:
            job = Job(hosts[who], instead_of=instead_of)
            won[who] = publish(Stepped(place, lambda: steps(who)), job, lambda n: None)
        except _KilledError:
            pass
        finally:
            steps.end(who)

    threads = [threading.Thread(target=run, args=(who,)) for who in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return won


def found_by_a_new_host(place: Place, root: Path) -> str | None:
    told: list[dict[str, Any]] = []
    found = SharedStore(root, place, told.append).find(RECIPE)
    assert [e for e in told if e["event"] == "note"] == []
    if found is None:
        return None
    text = found.file("model.safetensors").read_text()
    assert found.facts == {"by": text}
    return text


@settings(max_examples=40)
@given(
    schedule=st.lists(st.integers(0, 1), max_size=14),
    deaths=st.tuples(st.none() | st.integers(0, 6), st.none() | st.integers(0, 6)),
    damaged=st.booleans(),
)
def test_whatever_the_order_there_is_one_whole_artifact_or_none(
    hosts: Hosts,
    tmp_path_factory: pytest.TempPathFactory,
    schedule: list[int],
    deaths: tuple[int | None, int | None],
    damaged: bool,
) -> None:
    root = tmp_path_factory.mktemp("race")
    (root / "shared").mkdir()
    place = Folder(str(root / "shared"))
    require_place(place)
    before = b"{}" if damaged else None
    if before:
        place.create(f"{NAME}/manifest.json", before)
    won = race(place, hosts, schedule, list(deaths), before)
    if damaged and place.read(f"{NAME}/manifest.json", 10) == before:
        assert won == [False, False]  # both were killed before they could replace it
        return
    found = found_by_a_new_host(place, root / "new")
    if damaged and deaths != (None, None):
        return  # one that was killed in between may have taken the other's away: it is made again
    assert found is not None or None not in deaths, "one of them lived"
    if found and not damaged:
        assert sum(won) <= 1
        assert not any(won) or found == "ab"[won.index(True)]
