"""A store that other hosts see: the local one as a cache, and a place where what is finished is published.

What is not here is fetched from there, checked against the hashes of its manifest, and renamed into place: all paths stay
paths of the local disk. What is made here is published in the background. A place that is away stops nothing; what it has
not got then is published later, or by the next start of the same command.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from codelutra.addresses import folder_of_store
from codelutra.errors import UserError
from codelutra.store.artifacts import Artifact, Event, Manifest, Recipe, Step, Store, read_manifest
from codelutra.store.files import UNREADABLE, cause, fsync, locked, refusing_full_disk, sha256_file
from codelutra.store.leases import Lease, Pace, take
from codelutra.store.place import Place, PlaceError
from codelutra.store.places import open_place, require_shared
from codelutra.store.publisher import MOST_MANIFEST, Job, Publisher, Shown, at
from codelutra.store.reach import Reach

_PATIENCE = 90.0  # seconds
_SHOWN_FROM = 64 << 20  # bytes of an artifact whose coming is shown
_LATEST = 1 << 62  # ns


def open_store(root: Path, address: str, on_event: Callable[[Event], None], shown: Shown) -> Store:
    """The store at `root`, shared through `address` if there is one. Raises UserError where that cannot be a store's."""
    if not address:
        return Store(root, on_event)
    place = open_place(address)
    if not address.startswith("s3://"):
        _refuse_inside(root, Path(os.path.realpath(folder_of_store(address))), address)
    require_shared(place)
    return SharedStore(root, place, on_event, shown)


def _refuse_inside(root: Path, folder: Path, address: str) -> None:
    here = Path(os.path.realpath(root))
    if folder == here or folder in here.parents or here in folder.parents:
        raise UserError(
            f"store {address}: the shared folder and this home's own store ({root}) must not lie in each other; give --home "
            "a folder of the local disk, or the shared store another one"
        )


class SharedStore(Store):
    """Makes artifacts once on this machine and, as far as leases reach, once among all that share the place. Close it."""

    def __init__(
        self,
        root: Path,
        place: Place,
        on_event: Callable[[Event], None] = lambda event: None,
        shown: Shown = lambda what, done, total: None,
        *,
        patience: float = _PATIENCE,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(root, on_event)
        self._place, self._shown, self._pace, self._patience = place, shown, pace, patience
        self.reach = Reach(place.address, self._tell)
        self._publisher = Publisher(place, self.reach, on_event, shown, patience)
        self._met = set[str]()  # keys of what was fetched, or handed to the publisher
        self._damaged = dict[str, bytes]()  # key → the manifest of what is damaged there

    def _tell(self, text: str) -> None:
        self.on_event({"event": "note", "text": text})

    def find(self, recipe: Recipe) -> Artifact | None:
        """As of a local store, and what others have published is fetched. None where it cannot be reached now."""
        if found := self.here(recipe):
            return found
        if not self._is_published(recipe):
            return None
        try:
            with locked(self.root / ".locks" / f"{recipe.stage}-{recipe.key}", wait=False):
                return self.here(recipe) or self._fetch(recipe)
        except BlockingIOError:  # another process here makes or fetches it
            return None

    def reused(self, step: Step, found: Artifact) -> None:
        super().reused(step, found)
        self._publish(Job(found))

    @contextlib.contextmanager
    def turn(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        with super().turn(name, waiting):
            lease = self._lease(name, lambda host: waiting())
            try:
                yield
                if lease:
                    self._publisher.settle()  # whoever comes next finds what was made
            finally:
                if lease:
                    lease.release()

    def close(self, *, wait: bool = True) -> None:
        self._publisher.close(wait=wait)

    def _build(self, step: Step) -> Artifact:
        """Fetched, where another host has made it by now."""
        recipe = step.recipe
        if found := self._fetch(recipe):
            self.reused(step, found)
            return found

        def waiting(host: str) -> None:
            self.on_event({"event": "waiting", "what": f"{host}, which makes {step.label or recipe.stage}"})

        lease = self._lease(f"{recipe.stage}-{recipe.key}", waiting, lambda: self._is_published(recipe))
        try:
            if found := self._fetch(recipe):
                self.reused(step, found)
                return found
            made = super()._build(step)
            self._publish(Job(made, lease, self._damaged.get(recipe.key)))
            lease = None  # the publisher's
            return made
        finally:
            if lease:
                lease.release()

    def _publish(self, job: Job) -> None:
        key = job.artifact.key
        if key not in self._met:
            self._met.add(key)
            self._publisher.add(job)

    def _lease(self, name: str, waiting: Callable[[str], None], made: Callable[[], bool] = lambda: False) -> Lease | None:
        with contextlib.suppress(PlaceError):
            return self.reach.ask(lambda: take(self._place, f"leases/{name}", self._pace, waiting, made))
        return None

    def _published(self, recipe: Recipe) -> bytes | None:
        """What the place has as the artifact's manifest, None where it has none or does not answer. Not one whose artifact
        was found to be damaged."""
        name = f"{at(recipe.stage, recipe.key)}/manifest.json"
        with contextlib.suppress(PlaceError):
            found = self.reach.ask(lambda: self._place.read(name, MOST_MANIFEST))
            return None if found == self._damaged.get(recipe.key) else found
        return None

    def _is_published(self, recipe: Recipe) -> bool:
        return self._published(recipe) is not None

    def _fetch(self, recipe: Recipe) -> Artifact | None:
        """The artifact that others have made; for whoever holds its lock. What breaks off is tried again for as long as the
        place answers at all, and no longer than patience lasts: made anew, it may take hours."""
        end = time.monotonic() + self._patience
        while (manifest := self._published(recipe)) is not None:
            if (found := self._fetched(recipe, manifest)) or time.monotonic() > end:
                return found
            time.sleep(self.reach.wait)
        return None

    def _fetched(self, recipe: Recipe, content: bytes) -> Artifact | None:
        """The artifact of a manifest, brought here; None, told, where it is damaged there or does not come."""
        partial, began = self._partial(recipe), time.monotonic()
        folder, final = partial / "fetched" / recipe.key, self.root / recipe.stage / recipe.key
        try:
            with refusing_full_disk(self.root, folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                try:
                    (folder / "manifest.json").write_bytes(content)
                    manifest = _described(folder, recipe)
                    self._receive(recipe, manifest, folder)
                except _DamagedError as e:
                    self._damaged[recipe.key] = content
                    there = f"{self._place.address}/{at(recipe.stage, recipe.key)}"
                    self._tell(f"{there} is damaged ({e}); it is made again and replaced")
                    return None
                except PlaceError:
                    return None
                final.parent.mkdir(parents=True, exist_ok=True)
                fsync(folder)
                os.rename(folder, final)
                fsync(final.parent)
            shutil.rmtree(partial, ignore_errors=True)
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)
            with contextlib.suppress(OSError):  # checkpoints of our own are in it
                partial.rmdir()
        self._met.add(recipe.key)
        size, took = sum(f["size"] for f in manifest["files"].values()), round(time.monotonic() - began, 3)
        self.on_event({"event": "fetched", "stage": recipe.stage, "key": recipe.key, "bytes": size, "seconds": took})
        return Artifact(recipe.stage, recipe.key, manifest["digest"], str(final), manifest["facts"], manifest["seconds"])

    def _receive(self, recipe: Recipe, manifest: Manifest, folder: Path) -> None:
        """Bring the files of an artifact into `folder`. Raises _DamagedError where they are not those of its manifest."""
        files, there, done = manifest["files"], at(recipe.stage, recipe.key), 0
        total = sum(want["size"] for want in files.values())

        def moved(count: int) -> None:
            nonlocal done
            done += count
            if total >= _SHOWN_FROM:
                self._shown(f"fetch {recipe.stage}/{recipe.key}", done, total)

        for name, want in files.items():
            source, file = f"{there}/{want['sha256']}", folder / name
            size = self.reach.ask(partial(self._place.size, source))
            if size != want["size"]:
                raise _DamagedError(f"{name} is not there" if size is None else f"{name} has {size} bytes")
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.reach.ask(partial(self._place.get, source, file, moved))
            except FileNotFoundError as e:
                raise _DamagedError(f"{name} is not there") from e
            if sha256_file(file) != want["sha256"]:
                raise _DamagedError(f"the sha256 of {name} is not that of its manifest")
            os.utime(file, ns=(want["mtime_ns"], want["mtime_ns"]))
            fsync(file)


def _described(folder: Path, recipe: Recipe) -> Manifest:
    """The manifest in `folder`, which is of this recipe and names nothing outside. Raises _DamagedError for another one."""
    try:
        manifest = read_manifest(folder)
        of = Recipe(manifest["stage"], manifest["version"], manifest["config"], manifest["inputs"])
        if of.key != recipe.key:
            raise ValueError("it is another artifact's")
        for name, want in manifest["files"].items():
            _require_inside(name, want)
    except (*UNREADABLE, UserError) as e:
        raise _DamagedError(f"manifest.json: {cause(e)}") from e
    return manifest


def _require_inside(name: str, want: dict[str, Any]) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name in (".", "manifest.json") or "\0" in name:
        raise ValueError("a file's name leads out of its folder")
    if not re.fullmatch("[0-9a-f]{64}", want["sha256"]):
        raise ValueError("a file's hash is none")
    if not (type(want["size"]) is type(want["mtime_ns"]) is int and min(want["size"], want["mtime_ns"]) >= 0):
        raise ValueError("a file's size or time is none")
    if want["mtime_ns"] > _LATEST:
        raise ValueError("a file's time is none")


class _DamagedError(Exception):
    """An object is not what was published."""
