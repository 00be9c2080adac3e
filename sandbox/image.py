"""The Docker images that the runner is in, built with a registry or without one.

    python       Python's standard library
    duckdb       the same and DuckDB, for suites over DuckDB files
    datascience  pandas, numpy, scipy, scikit-learn and matplotlib, at the versions DS-1000 was written for

A tag is the hash of what went into the image, so an image that exists is up to date. `python -m sandbox.image KIND` builds
one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import docker.errors
import requests.exceptions

from sandbox.client import connect
from sandbox.errors import SandboxError

HERE = Path(__file__).parent
RECIPES = HERE / "images"
REGISTRY_BASE = "python@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"  # 3.11.16-slim-bookworm
OWN_BASE = "codelutra/base:bookworm-1"
LABEL = "codelutra.image"
PIP_OPTIONS = (
    "--quiet --disable-pip-version-check --no-compile --no-deps --only-binary=:all: --implementation cp "
    "--python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64"
)
Progress = Callable[[str], None]


class Recipe(NamedTuple):
    """Everything that decides what is in an image."""

    kind: str
    dockerfile: str
    preload: list[str]
    pins: str
    runner: dict[str, bytes]

    @property
    def tag(self) -> str:
        parts = [f"{REGISTRY_BASE} {OWN_BASE}".encode(), self.dockerfile.encode()]
        parts += [json.dumps(self.preload).encode(), self.pins.encode()]
        for name, text in sorted(self.runner.items()):
            parts += [name.encode(), text]
        return f"codelutra/{self.kind}:{hashlib.sha256(b'|'.join(parts)).hexdigest()[:12]}"


def kinds() -> list[str]:
    return sorted(path.name.removesuffix(".preload") for path in RECIPES.glob("*.preload"))


def recipe(kind: str) -> Recipe:
    """The recipe of a kind. Raises SandboxError with the known kinds."""
    if kind not in kinds():
        raise SandboxError(f"unknown image {kind!r}; known: {', '.join(kinds())}")
    pins = RECIPES / f"{kind}.txt"
    return Recipe(
        kind=kind,
        dockerfile=(RECIPES / "runner.Dockerfile").read_text(),
        preload=(RECIPES / f"{kind}.preload").read_text().split(),
        pins=pins.read_text() if pins.exists() else "",
        runner={path.name: path.read_bytes() for path in sorted((HERE / "runner").glob("*.py"))},
    )


def ensure_image(kind: str = "python", *, progress: Progress | None = None) -> str:
    """The tag of the image of this kind, which is built first where it is absent. Raises SandboxError."""
    wanted = recipe(kind)
    say = progress or (lambda line: None)
    with contextlib.closing(connect()) as client:
        if not exists(client, wanted.tag):
            with building(wanted.tag):
                if not exists(client, wanted.tag):
                    build(client, wanted, say)
    return wanted.tag


@contextlib.contextmanager
def building(tag: str) -> Iterator[None]:
    """One build of a tag at a time for this user; the second process finds the image of the first. Raises SandboxError."""
    folder = Path(os.environ.get("CODELUTRA_CACHE") or "~/.cache/codelutra").expanduser()  # not /tmp, which others write to
    path = folder / f"{re.sub('[^a-z0-9]+', '-', tag)}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SandboxError(
            f"the lock {path} cannot be opened: {error.strerror}; remove it if it is a link, "
            "or set CODELUTRA_CACHE to a folder you may write to"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def exists(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def superseded(client: docker.DockerClient) -> list[str]:
    """Tags of images that this version does not use, nor any container: another version made them, or another checkout
    does. Those to remove first come first."""
    ours, in_use = {recipe(kind).tag for kind in kinds()}, {c["ImageID"] for c in client.api.containers(all=True)}
    runners = client.api.images(filters={"label": LABEL})
    old = [i for i in runners if i["Id"] not in in_use and not ours.intersection(i["RepoTags"] or ())]
    below = {
        tag for i in runners if i not in old for layer in client.images.get(i["Id"]).history() for tag in layer["Tags"] or ()
    }
    tags = {tag for i in client.api.images() for tag in i["RepoTags"] or ()}
    layers = {tag for tag in tags - below if re.fullmatch(r"codelutra/[a-z]+-packages:[0-9a-f]{12}", tag)}
    return [*sorted(tag for i in old for tag in i["RepoTags"] or ()), *sorted(layers)]


def build(client: docker.DockerClient, wanted: Recipe, say: Progress) -> None:
    with building(OWN_BASE):
        base = ensure_base(client, say)
    if wanted.pins:
        base = ensure_packages(client, wanted, base, say)
    files = {f"sandbox/runner/{name}": content for name, content in wanted.runner.items()}
    files |= {"Dockerfile": wanted.dockerfile.encode(), "sandbox/__init__.py": b""}
    labels = {LABEL: wanted.kind, f"{LABEL}.preload": json.dumps(wanted.preload)}
    say(f"building {wanted.tag} on {base}")
    build_layer(client, wanted.tag, base, files, labels=labels)


def ensure_packages(client: docker.DockerClient, wanted: Recipe, base: str, say: Progress) -> str:
    """The layer with the pinned packages; changes of the runner do not rebuild it."""
    dockerfile = (RECIPES / "packages.Dockerfile").read_text()
    digest = hashlib.sha256("|".join((base, dockerfile, wanted.pins)).encode()).hexdigest()[:12]
    tag = f"codelutra/{wanted.kind}-packages:{digest}"
    if not exists(client, tag):
        with tempfile.TemporaryDirectory(prefix="codelutra-image-") as scratch:
            site = Path(scratch) / "site"
            install_packages(wanted, site, say)
            say(f"building {tag} on {base}")
            build_layer(client, tag, base, {"Dockerfile": dockerfile.encode()}, site=site)
    return tag


def build_layer(
    client: docker.DockerClient,
    tag: str,
    base: str,
    files: dict[str, bytes],
    *,
    site: Path | None = None,
    labels: dict[str, str] | None = None,
) -> None:
    """Build one image on another from these files, `Dockerfile` among them, and the folder `site`. Raises SandboxError."""
    with tempfile.TemporaryFile(prefix="codelutra-image-") as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
            if site is not None:
                tar.add(site, "site")
        context.seek(0)
        try:
            client.images.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                labels=labels,
                buildargs={"BASE": base},
                rm=True,
                forcerm=True,
                network_mode="none",
                timeout=1800,
            )
        except (docker.errors.BuildError, docker.errors.APIError) as error:
            raise SandboxError(f"building {tag} failed: {error}") from error


def install_packages(wanted: Recipe, site: Path, say: Progress) -> None:
    """The pinned wheels for the image's Python (3.11, glibc), by the host's pip and its configuration."""
    say(f"installing {', '.join(wanted.pins.split())}")
    where = ["--target", str(site), "-r", str(RECIPES / f"{wanted.kind}.txt")]
    failed = f"pip could not install the packages of image {wanted.kind!r}:"
    run([sys.executable, "-m", "pip", "install", *PIP_OPTIONS.split(), *where], failed)


def run(command: list[str], failed: str) -> None:
    """Run a command. Raises SandboxError with `failed` and the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"{failed}\n{(done.stdout + done.stderr)[-1500:]}")


def ensure_base(client: docker.DockerClient, say: Progress) -> str:
    """A base image with Python 3.11: one on this host, the registry's, or one made with debootstrap."""
    for present in (REGISTRY_BASE, OWN_BASE):
        if exists(client, present):
            return present
    hurried = docker.from_env(timeout=10)
    try:
        hurried.images.get_registry_data(REGISTRY_BASE)
        say(f"pulling {REGISTRY_BASE}")
        repository, _, digest = REGISTRY_BASE.partition("@")
        client.images.pull(repository, digest)
        return REGISTRY_BASE
    except (docker.errors.APIError, requests.exceptions.RequestException) as error:
        say(f"no registry answers ({str(error)[:120]}); making a base image with debootstrap, about a minute")
    finally:
        hurried.close()
    debootstrap(client, say)
    return OWN_BASE


def debootstrap(client: docker.DockerClient, say: Progress) -> None:
    """A Debian 12 with Python 3.11 from the distribution's mirror, imported as an image."""
    tool = shutil.which("debootstrap", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if tool is None or os.geteuid() != 0:
        raise SandboxError(
            f"no registry gives {REGISTRY_BASE}, and making a base image needs debootstrap and root: "
            "`sudo apt-get install debootstrap` and run `sudo python -m sandbox.image python` once, "
            f"or `docker load` an image with Python 3.11 and `docker tag` it {OWN_BASE}"
        )
    with tempfile.TemporaryDirectory(prefix="codelutra-base-") as scratch:
        root = Path(scratch) / "root"
        command = [tool, "--force-check-gpg", "--variant=minbase", "--include=python3", "bookworm", str(root)]
        run(command, "debootstrap failed; is a Debian mirror reachable, and debian-archive-keyring installed?")
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(root / waste, ignore_errors=True)
        say(f"importing {OWN_BASE}")
        archive = Path(scratch) / "root.tar"
        run(["tar", "-C", str(root), "-cf", str(archive), "."], f"tar could not pack {root}; is the disk full?")
        with archive.open("rb") as file:
            repository, tag = OWN_BASE.split(":")
            answer = client.api.import_image_from_data(file, repository=repository, tag=tag)
        if not exists(client, OWN_BASE):
            raise SandboxError(f"the daemon did not take the base image: {str(answer)[:300]}")


def main(arguments: list[str]) -> int:
    try:
        for kind in arguments or ["python"]:
            print(ensure_image(kind, progress=lambda line: print(line, file=sys.stderr, flush=True)))
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
