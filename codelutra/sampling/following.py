"""What a server serves, and how a new policy reaches one that is running: through vLLM's own API, without a restart.

an adapter    `/v1/load_lora_adapter`, where the server holds the model that the policy's `adapter/` belongs to
all weights   `/collective_rpc` with `reload_weights`, between `/pause` and `/resume`. `/v1/models` then names the model from
              before, so the server's `weight_version` is set to the policy's folder, and whoever samples asks for it

The server reads the policy's folder itself, under the path that the folder has here. While weights change their version
names no policy: where this process is killed in between, the next one begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codelutra.sampling.answers import Card, FaultError, Models, RefusedError, WeightInfo, ask, said
from codelutra.store.files import UNREADABLE, require_plain_file

if TYPE_CHECKING:
    import httpx

_OURS = "codelutra"  # what our weight versions begin with: `codelutra NONCE FOLDER`
_LOOK_SECONDS = 30.0  # what it serves a busy server tells at once: no request waits for a model
_NO_SUCH_PATH = {404, 405, 501}
# Of a model's config, what says nothing about what its weights mean.
_NO_MATTER = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "pad_token_id"}


@dataclass(frozen=True)
class Follow:
    """How the servers of a run get its next policy."""

    seconds: float
    """How long a server may take, from when it is first asked, and again after it was away."""
    start: Path
    """The model the run starts from: what servers are started on."""
    adapter: bool = False
    """Whether the policy's `adapter/` belongs to `start`."""
    owner: str = ""
    """Names the run in the names of its adapters: those of others are left alone."""
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Seen:
    """What a server says it serves."""

    base: Card
    adapters: tuple[Card, ...]
    version: str
    """Of its weights; "" where it has no development mode, so that nobody can have changed them."""

    @property
    def weights(self) -> str:
        """What the base model's weights are: a folder or a name; "" while they are being changed."""
        if self.version in ("", "default"):
            return self.base.root or self.base.id
        return f"weights of version {self.version!r}" if self.foreign else self.version.split(" ", 2)[2]

    @property
    def foreign(self) -> bool:
        """Whether somebody else has changed its weights."""
        return self.version not in ("", "default") and not re.match(rf"{_OURS} \w+ ", self.version)

    def name_of(self, policy: Path, start: Path | None) -> str:
        """The server's name for the policy; "" where it serves others. `start`: what the policy's adapter belongs to."""
        if serves(self.weights, policy):
            return self.base.id
        if start and serves(self.weights, start):
            for card in self.adapters:
                root = Path(card.root or "")
                if root.name == "adapter" and root.parent.name == policy.name:
                    return card.id
        return ""


class CannotError(Exception):
    """The server did not take the policy. What it serves is what it served before, unless this says otherwise."""


def serves(served: str, policy: Path) -> bool:
    """Whether a server's name for its model is this policy: the same folder, here or copied to another machine under its own
    name, or the hub model whose snapshot it is."""
    return Path(served).name == policy.name or f"models--{served.replace('/', '--')}" in policy.parts


def root_of(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


async def look(client: httpx.AsyncClient, url: str) -> Seen:
    """Raises FaultError and RefusedError."""
    models = await ask(client, f"{root_of(url)}/v1", "/models", Models, most_seconds=_LOOK_SECONDS)
    version = ""
    with contextlib.suppress(RefusedError):
        info = await ask(client, root_of(url), "/weight_info", WeightInfo, most_seconds=_LOOK_SECONDS)
        version = info.weight_version or ""
    return Seen(models.data[0], tuple(models.data[1:]), version)


async def bring(client: httpx.AsyncClient, url: str, policy: Path, follow: Follow, seen: Seen) -> str:
    """Have the server serve `policy`; returns how. Raises CannotError, and FaultError where the server is away."""
    why = []
    if follow.adapter and serves(seen.weights, follow.start):
        try:
            return await _load_adapter(client, root_of(url), policy, follow, seen)
        except CannotError as e:
            why.append(str(e))
    if seen.version:
        return await _reload(client, root_of(url), policy, follow, seen)
    flags = "VLLM_SERVER_DEV_MODE=1 in its environment"
    if follow.adapter:
        flags = (
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment and "
            f"--enable-lora --max-lora-rank {_rank(policy)}, on {follow.start}"
        )
    raise CannotError("; ".join([*why, f"to be sent the policy, it must be started with {flags}"]))


async def _load_adapter(client: httpx.AsyncClient, root: str, policy: Path, follow: Follow, seen: Seen) -> str:
    name, ours = f"{follow.owner}-{policy.name[:24]}", [c for c in seen.adapters if c.id.startswith(f"{follow.owner}-")]
    body = {"lora_name": name, "lora_path": str(policy.absolute() / "adapter")}
    try:
        await said(client, root, "/v1/load_lora_adapter", body)
    except RefusedError as e:
        if e.status in _NO_SUCH_PATH and "detail" in str(e):
            raise CannotError("it loads no adapters while it runs") from e
        raise CannotError(f"it did not load {policy / 'adapter'} ({e}); it reads that path where it runs") from e
    except FaultError as e:
        if e.status != 500:
            raise
        raise CannotError(f"it did not load the adapter of {policy.name}: {e}") from e
    for card in ours:
        with contextlib.suppress(CannotError, FaultError):  # it only takes room there
            await _post(client, root, "/v1/unload_lora_adapter", {"lora_name": card.id})
    return "its adapter was loaded"


async def _reload(client: httpx.AsyncClient, root: str, policy: Path, follow: Follow, seen: Seen) -> str:
    """The server answers what it was asked, and nothing more until it has the new weights, or the old ones again."""
    began_on = seen.base.root or seen.base.id
    if seen.foreign:
        raise CannotError(f"somebody else changes its {seen.weights[:300]}; give the run servers of its own")
    if not (serves(began_on, follow.start) or serves(began_on, policy) or _same_kind(Path(began_on), policy)):
        raise CannotError(
            f"it was started on {began_on[:300]}, and only weights are replaced while it runs: start it on {follow.start}"
        )
    await _post(client, root, "/pause?mode=wait", {})
    await _name(client, root, "")
    try:
        await _load(client, root, str(policy.absolute()))
    except (CannotError, FaultError) as e:
        if isinstance(e, FaultError) and e.status != 500:
            raise  # it is away
        await _restore(client, root, seen.weights or began_on, str(e))
        raise CannotError(
            f"it did not load the weights of {policy} ({e}), which it reads where it runs; it has those from before again"
        ) from e
    await _post(client, root, "/resume", {})
    await _name(client, root, str(policy.absolute()))
    return "its weights were reloaded"


async def _restore(client: httpx.AsyncClient, root: str, before: str, why: str) -> None:
    """What a failed load leaves behind ends vLLM's engine at the next request, unless whole weights are loaded first."""
    try:
        await _load(client, root, before)
    except (CannotError, FaultError) as e:
        raise CannotError(f"it did not load the new weights ({why}), nor the old ones again ({e}): restart it") from e
    await _post(client, root, "/resume", {})
    await _name(client, root, before)


async def _load(client: httpx.AsyncClient, root: str, weights: str) -> None:
    await _post(client, root, "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": weights}})
    await _post(client, root, "/reset_prefix_cache", {})  # what was computed with other weights


async def _name(client: httpx.AsyncClient, root: str, weights: str) -> None:
    """Say what the weights are. The nonce tells two loads of the same weights apart."""
    version = f"{_OURS} {secrets.token_hex(4)} {weights}"
    await _post(client, root, "/update_weight_version", {"new_version": version})


async def _post(client: httpx.AsyncClient, root: str, path: str, body: Any) -> None:
    for left in (2, 1, 0):
        try:
            await said(client, root, path, body)
            return
        except RefusedError as e:
            raise CannotError(f"it refused {path} with {e}") from e
        except FaultError as e:
            if not (e.broken and left):  # after an error vLLM closes a connection that looks open
                raise
            await asyncio.sleep(0.2)


def _same_kind(one: Path, other: Path) -> bool:
    """Whether weights of `other` can take the place of those of `one`: all else about the two models is equal."""
    with contextlib.suppress(*UNREADABLE):
        for folder in (one, other):
            require_plain_file(folder / "config.json")  # the path is a server's word
        a, b = (json.loads((folder / "config.json").read_bytes()) for folder in (one, other))
        return all(a.get(k) == b.get(k) for k in {*a, *b} - _NO_MATTER)
    return False


def _rank(policy: Path) -> int:
    """The smallest --max-lora-rank that vLLM takes for the policy's adapter: a power of two from 8 on."""
    with contextlib.suppress(*UNREADABLE, LookupError, TypeError):
        rank = int(json.loads((policy / "adapter" / "adapter_config.json").read_bytes())["r"])
        return 1 << (max(8, rank) - 1).bit_length()
    return 16
