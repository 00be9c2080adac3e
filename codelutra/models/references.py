"""How models are named in a config: what can be said of a reference before anything is looked up."""

from __future__ import annotations

import os
import re
from pathlib import Path

from codelutra.addresses import ApiModel
from codelutra.config import RUN_NAME
from codelutra.errors import UserError
from codelutra.models.known import KNOWN, find
from codelutra.reading.keys import nearest

FORMS = (
    "path:DIR, hf:org/name@revision, gguf:FILE, adapter:DIR, pypi:PACKAGE==VERSION, run:NAME, api:URL#NAME (it cannot be "
    "trained), or a name of `codelutra models`"
)
_MOST_WHEELS = 200
_PACKAGE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]|\{\d+\.\.\d+\})*"


class UnavailableError(UserError):
    """A source that does not have the model or cannot be reached; another one may have it."""


def check_reference(reference: str) -> None:
    """Raise UserError where a reference is malformed."""
    scheme, colon, rest = reference.partition(":")
    if not colon:
        if not find(reference):
            _refuse_name(reference)
        return
    match scheme if rest else "":
        case "path" | "adapter":
            place(reference, rest)
        case "gguf":
            place(reference, digest_suffix(reference, rest)[0])
        case "hf":
            _check_hub_name(rest)
        case "api":
            try:
                ApiModel.of(reference)
            except ValueError as e:
                raise UserError(str(e)) from e
        case "pypi":
            wheels_of(*digest_suffix(reference, rest))
        case "run":
            if not re.fullmatch(RUN_NAME, rest):
                raise UserError(f"model {shown(reference)}: no run has such a name; `codelutra status` lists the runs")
        case _:
            meant = f"api:{reference}" if scheme in ("http", "https") else _found_at(reference)
            near = f"; did you mean {meant}?" if meant else ""
            raise UserError(f"model {shown(reference)} is not a model reference; known: {FORMS}{near}")


def _found_at(name: str) -> str:
    """The reference to what lies at a path, or ""."""
    try:
        found = Path(name).expanduser()
        if not name or len(name) > 200 or not found.exists():
            return ""
        if found.is_file():
            return f"gguf:{name}"
        return f"adapter:{name}" if (found / "adapter_config.json").exists() else f"path:{name}"
    except (OSError, RuntimeError, ValueError):
        return ""


def require_there(reference: str) -> None:
    """Raise UserError where a reference names a folder or a file on this machine, and it is not there."""
    scheme, _, rest = reference.partition(":")
    if scheme in ("path", "adapter") and not place(reference, rest).is_dir():
        if place(reference, rest).is_file():
            raise UserError(f"model {shown(reference)} is a file; did you mean gguf:{rest}?")
        holds = "config.json" if scheme == "path" else "adapter_config.json"
        raise UserError(f"model {shown(reference)} is not there; give the directory that holds {holds}{_from(rest)}")
    if scheme == "gguf":
        name, _ = digest_suffix(reference, rest)
        if not place(reference, name).is_file():
            if place(reference, name).is_dir():
                raise UserError(f"model {shown(f'gguf:{name}')} is a folder; did you mean {_found_at(name)}?")
            raise UserError(f"model {shown(f'gguf:{name}')} is not there; give the path of a .gguf file{_from(name)}")


def _from(path: str) -> str:
    return "" if path.startswith(("/", "~", "$")) else f" (it was looked for in {Path.cwd()})"


def require_kind(reference: str) -> None:
    """Raise UserError where the folder or file of `require_there` is at first sight neither a model nor an adapter."""
    require_there(reference)
    scheme, _, rest = reference.partition(":")
    if scheme == "path" and not any((place(reference, rest) / f).exists() for f in ("config.json", "adapter_config.json")):
        raise UserError(f"model {shown(reference)} is no model: the folder holds no config.json; give the one that does")
    if scheme == "gguf":
        name, _ = digest_suffix(reference, rest)
        with place(reference, name).open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(
                    f"model {shown(f'gguf:{name}')} is no GGUF file (its first bytes say otherwise); fetch it again"
                )


def _refuse_name(name: str) -> None:
    known = [n for model in KNOWN for n in (model.name, *model.aliases)]
    near = nearest(name.rpartition("/")[2], known)
    if (found := _found_at(name)) and not near:
        near = f"; did you mean {found}?"
    elif re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
        near += f"{',' if near else '; did you mean'} or hf:{name}?" if near else f"; did you mean hf:{name}?"
    raise UserError(f"model {shown(name)} is not a model reference; known: {FORMS}{near}")


def place(reference: str, rest: str) -> Path:
    """The path that a reference names. Raises UserError where there can be no such path."""
    try:
        named = Path(os.path.expandvars(rest)).expanduser()
        named.exists()
    except (OSError, RuntimeError) as e:  # a name too long, a folder that may not be read, `~` of nobody
        raise UserError(f"model {shown(reference)} names no path on this machine ({last_line(str(e))[:200]})") from e
    return named


def _check_hub_name(rest: str) -> None:
    repo, at, revision = rest.partition("@")
    wrong = f"model {shown(f'hf:{rest}')} is not hf:org/name@revision, e.g. hf:meta-llama/Meta-Llama-3-8B-Instruct@main"
    check_repository(repo, wrong)
    if at and (not re.fullmatch(r"[\w][\w./+-]{0,200}", revision) or ".." in revision):
        raise UserError(f"{wrong}; a revision is a branch, a tag or a commit, not {shown(revision)}")


def check_repository(repo: str, wrong: str) -> None:
    """Raise UserError, which says what is `wrong`, for what is no org/name of a repository on the Hugging Face hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not listed

    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise UserError(f"{wrong} ({last_line(str(e))[:200]})") from e
    if repo.count("/") != 1:
        raise UserError(wrong)


def wheels_of(spec: str, digest: str) -> list[str]:
    """The wheels of `PACKAGE==VERSION`, in order. `{1..6}` in the package's name gives one a number, as a shell expands
    it; `{01..12}` keeps the zeros.

    Raises UserError where `spec` is no such thing, and where several wheels come without the `digest` of the whole.
    """
    reference = f"pypi:{spec}"
    parts = re.fullmatch(rf"({_PACKAGE})==([A-Za-z0-9][A-Za-z0-9._!+-]*)", spec)
    ranges = re.findall(r"\{(\d+)\.\.(\d+)\}", spec)
    if not parts or len(ranges) > 1:
        raise UserError(
            f"model {shown(reference)} is not pypi:PACKAGE==VERSION; the version must be pinned with ==, and a model in "
            "several wheels is pypi:NAME{1..6}==VERSION#sha256=…"
        )
    if not ranges:
        return [spec]
    (first, last), known = ranges[0], digest or digest_of(spec)
    if not int(first) < int(last) or int(last) - int(first) >= _MOST_WHEELS:
        raise UserError(
            f"model {shown(reference)}: {{{first}..{last}}} must count upwards, over at most {_MOST_WHEELS} wheels"
        )
    if not known:
        raise UserError(
            f"model {shown(reference)} is in several wheels: add #sha256= and the digest of the whole GGUF file, which "
            "tells whether the parts belong together"
        )
    width = len(first) if first.startswith("0") else 0
    return [f"{re.sub(r'[{].*[}]', str(n).zfill(width), parts[1])}=={parts[2]}" for n in range(int(first), int(last) + 1)]


def digest_of(spec: str) -> str:
    """The sha256 of the GGUF inside wheels that the table of known models has; "" for others."""
    return _known_wheels().get(spec, ("", ""))[0]


def licence_of(spec: str) -> str:
    """The licence of the model inside wheels that the table of known models has; "" for others."""
    return _known_wheels().get(spec, ("", ""))[1]


def _known_wheels() -> dict[str, tuple[str, str]]:
    """PACKAGE==VERSION → digest and licence."""
    sources = [(model, *s.partition("#sha256=")) for model in KNOWN for s in model.sources if s.startswith("pypi:")]
    return {source.removeprefix("pypi:"): (digest, model.licence) for model, source, _, digest in sources}


def digest_suffix(reference: str, rest: str) -> tuple[str, str]:
    name, mark, digest = rest.partition("#sha256=")
    if mark and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"model {shown(reference)}: #sha256= wants 64 hex digits, not {shown(digest)}")
    return name, digest


def shown(text: str) -> str:
    """Quoted for a message: escaped, and cut where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:100]}…{text[-15:]}")


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
