"""What a server answers: asked for within limits, and checked. Nothing it says is trusted.

An answer that is too large, too slow, compressed or not what was asked for is a fault of the server, as no answer is. The
key, for servers that want one, is in $CODELUTRA_ENDPOINT_KEY; no message repeats it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from codelutra.addresses import KEY
from codelutra.errors import UserError, redacted

if TYPE_CHECKING:
    import httpx

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_ANSWER_BYTES, _BYTES_A_TOKEN = 1 << 20, 1 << 10


class _Served(BaseModel):
    id: str
    root: str | None = None


class Models(BaseModel):
    data: Annotated[list[_Served], Field(min_length=1)]


class _Choice(BaseModel):
    text: str
    finish_reason: Literal["stop", "length"]
    """A server that is shutting down ends requests with "abort"."""


class _Usage(BaseModel):
    completion_tokens: Annotated[int, Field(strict=True, ge=0)]


class Completions(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    usage: _Usage


Answer = TypeVar("Answer", Models, Completions)


class FaultError(Exception):
    """Another try, or another server, may do better."""


class RefusedError(Exception):
    """The same request would be refused again."""


def asking(timeout_seconds: float) -> httpx.AsyncClient:
    """A client that is not connected yet. Raises UserError for a key that no header can hold."""
    import httpx

    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"${KEY} holds characters that no key has (a line break?); set it to the server's key alone")
    headers = {"accept-encoding": "identity"}  # what is compressed may be a thousand times larger than it looks
    if key:
        headers["authorization"] = key if " " in key else f"Bearer {key}"
    return httpx.AsyncClient(timeout=timeout_seconds, limits=httpx.Limits(max_connections=None), headers=headers)


async def ask(client: httpx.AsyncClient, url: str, path: str, kind: type[Answer], body: Any = None) -> Answer:
    """The server's answer, GET or, with a body, POST. Raises FaultError and RefusedError."""
    import httpx

    most = _ANSWER_BYTES + _BYTES_A_TOKEN * (body["max_tokens"] if body else 0)
    try:
        async with asyncio.timeout(client.timeout.read):  # httpx has limits between two bytes only
            async with client.stream("POST" if body else "GET", f"{url}{path}", json=body) as response:
                content = await _content(response, most)
    except TimeoutError as e:
        raise FaultError(f"gave no whole answer in {client.timeout.read:g} s") from e
    except (httpx.RequestError, httpx.InvalidURL) as e:
        raise FaultError(redacted(_without_key(f"{type(e).__name__} {e}".strip()))) from e
    if response.status_code in _TRANSIENT:
        raise FaultError(f"{response.status_code} {_shown(content)}")
    if response.is_redirect:
        raise RefusedError(f"{response.status_code}: it leads to {_shown(response.headers.get('location', '').encode())}")
    if not response.is_success:
        raise RefusedError(f"{response.status_code}: {_shown(content)}")
    return _checked(content, kind, body)


async def _content(response: httpx.Response, most: int) -> bytes:
    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise FaultError(f"compressed its answer ({packed[:40]}), which nobody asked for")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > most:
            raise FaultError(f"answered with more than {most:,} bytes")
    return bytes(content)


def _checked(content: bytes, kind: type[Answer], body: Any) -> Answer:
    try:
        answer = kind.model_validate_json(content)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        if first["loc"][-1:] == ("finish_reason",) and b'"abort"' in content:
            raise FaultError("aborted a request") from e
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else "no JSON object"
        raise FaultError(f"gave an answer that is none ({why}): {_shown(content)}") from e
    if isinstance(answer, Completions) and answer.usage.completion_tokens > body["max_tokens"]:
        raise FaultError(f"counts {answer.usage.completion_tokens:,} tokens, of {body['max_tokens']:,} asked for at most")
    return answer


def _shown(content: bytes) -> str:
    """The beginning of what a server said, without the key should it repeat that."""
    return _without_key(" ".join(content[:2000].decode(errors="replace").split())[:300])


def _without_key(text: str) -> str:
    key = os.environ.get(KEY, "").strip()
    return text.replace(key.split(" ")[-1], "***") if key else text
