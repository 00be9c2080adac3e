"""Asks a server within limits of size and time, and checks what it answers. Nothing that it says is trusted.

An answer that is too large, too slow, compressed or not what was asked for is a fault of the server, as no answer is. The
key, for servers that want one, comes from the environment; no message repeats it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from codelutra.addresses import API_KEY, KEY, OPENAI_KEY
from codelutra.errors import UserError, redacted

if TYPE_CHECKING:
    import httpx

_TRANSIENT, _NEVER = {408, 425, 429}, {501, 505}  # beside all other faults of a server (5xx)
_FROM_THE_ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
# What another try does not mend, as OpenSSL says it, and the way out.
_NO_TRUST = {
    "CERTIFICATE_VERIFY_FAILED": "set SSL_CERT_FILE to the certificates of whoever signed the server's",
    "WRONG_VERSION_NUMBER": "it speaks no TLS there; write http:// in its address, or the port where it does",
}
_UNKNOWN_HOST = ("[Errno -2]", "[Errno -5]")  # getaddrinfo's; -3 is a name server that does not answer
_CONNECT_SECONDS = 20.0  # a host that is away swallows what is sent to it
_ANSWER_BYTES, _BYTES_A_TOKEN = 1 << 20, 1 << 10
_LONG = 16  # characters of a key that can be nothing else in a text
_MOST_TOKENS = 1_000_000  # of one prompt or answer
# Why servers say an answer ended. One that was filtered was cut off.
_ENDS = dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "complete", "tool_calls", "function_call"), "stop")
_ENDS |= dict.fromkeys(("max_tokens", "max_output_tokens", "model_length"), "length")
_ENDS |= dict.fromkeys(("content_filter", "safety", "recitation", "refusal", "blocklist", "prohibited_content"), "length")


class Card(BaseModel):
    id: str
    root: str | None = None


class Models(BaseModel):
    data: Annotated[list[Card], Field(min_length=1)]
    """The model, and behind it the adapters that are loaded over it."""


class WeightInfo(BaseModel):
    weight_version: str | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: Literal["stop", "length"]
    """A server that is shutting down ends requests with "abort"."""


class _Usage(BaseModel):
    completion_tokens: Annotated[int, Field(strict=True, ge=0)]


class Completions(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    usage: _Usage


def _spoken(content: Any) -> Any:
    """The text of a message; some servers give it in parts. Halves of characters become marks of what cannot be read."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for text in parts if isinstance(text, str))
    if not isinstance(content, str):
        return content
    return without_long_keys(content.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _ending(said: Any) -> Any:
    return _ENDS.get(said.lower(), said.lower()) if isinstance(said, str) else said


class _Message(BaseModel):
    content: Annotated[str | None, BeforeValidator(_spoken)] = None


class _ChatChoice(BaseModel):
    message: _Message
    finish_reason: Annotated[Literal["stop", "length"], BeforeValidator(_ending)]


class _ChatUsage(BaseModel):
    prompt_tokens: Annotated[int, Field(strict=True, ge=0, le=_MOST_TOKENS)]
    completion_tokens: Annotated[int, Field(strict=True, ge=0, le=_MOST_TOKENS)]


class ChatCompletions(BaseModel):
    choices: Annotated[list[_ChatChoice], Field(min_length=1, max_length=1)]
    usage: _ChatUsage


Answer = TypeVar("Answer", Models, WeightInfo, Completions, ChatCompletions)


class FaultError(Exception):
    """Another try, or another server, may do better."""

    status = 0
    """0: no answer came."""
    broken = False
    """Whether the connection was not there, or broke."""
    unknown_host = False
    """Whether there is no address for the host's name."""
    wait = 0.0
    """Seconds that the server asks to be left alone for (Retry-After)."""


class RefusedError(Exception):
    """The same request would be refused again."""

    status = 0


def asking(timeout_seconds: float, key: str | None = None, name: str = KEY) -> httpx.AsyncClient:
    """A client that is not connected yet, with `key` or else the one in the variable `name`. It follows no redirect, so
    nobody else is shown the key. Raises UserError for a key that no header can hold, and for proxies and certificates in the
    environment that are none."""
    import httpx

    key = os.environ.get(name, "").strip() if key is None else key
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"${name} holds characters that no key has (a line break?); set it to the server's key alone")
    headers = {"accept-encoding": "identity"}  # what is compressed may be a thousand times larger than it looks
    if key:
        headers["authorization"] = key if " " in key else f"Bearer {key}"
    timeout = httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS))
    try:
        return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=None), headers=headers)
    except (httpx.InvalidURL, ValueError, OSError, ImportError) as e:
        raise UserError(
            f"no server can be asked with this environment ({type(e).__name__}: {redacted(str(e))}): look at "
            f"{', '.join(_set()) or 'its proxies'}; `env -u NAME …` leaves a variable out"
        ) from e


def _set(ending: str = "") -> list[str]:
    """The variables that are set of those that say how servers are reached."""
    both = [name for plain in _FROM_THE_ENVIRONMENT for name in (plain, plain.lower())]
    return [name for name in both if os.environ.get(name) and name.upper().endswith(ending)]


async def ask(
    client: httpx.AsyncClient, url: str, path: str, kind: type[Answer], body: Any = None, most_seconds: float = math.inf
) -> Answer:
    """The server's answer, GET or, with a body, POST, within the client's time or `most_seconds`. Raises FaultError and
    RefusedError."""
    return _checked(await said(client, url, path, body, most_seconds), kind, body)


async def said(client: httpx.AsyncClient, url: str, path: str, body: Any = None, most_seconds: float = math.inf) -> bytes:
    """As `ask`, whatever the server says."""
    import httpx

    wanted = body.get("max_tokens", body.get("max_completion_tokens", 0)) if body else 0
    most, seconds = _ANSWER_BYTES + _BYTES_A_TOKEN * wanted, min(most_seconds, client.timeout.read or math.inf)
    try:
        async with asyncio.timeout(seconds):  # httpx has limits between two bytes only
            async with client.stream("GET" if body is None else "POST", f"{url}{path}", json=body) as response:
                content = await _content(response, most)
    except TimeoutError as e:
        raise FaultError(f"gave no whole answer in {seconds:g} s") from e
    except (httpx.RequestError, httpx.InvalidURL) as e:
        why = redacted(_without_key(f"{type(e).__name__} {e}".strip()))
        if isinstance(e, httpx.InvalidURL):
            raise RefusedError(f"{why}; check the address") from e
        for sign, way in _NO_TRUST.items():
            if sign in why:
                raise RefusedError(f"{why}; {way}") from e
        proxies = [name for name in _set("_PROXY") if name.upper() != "NO_PROXY"]
        fault = FaultError(f"{why}; {' and '.join(proxies)} may send it elsewhere" if proxies else why)
        fault.broken, fault.unknown_host = True, any(sign in why for sign in _UNKNOWN_HOST)
        raise fault from e
    if response.status_code in _TRANSIENT or (response.is_server_error and response.status_code not in _NEVER):
        fault = FaultError(f"{response.status_code} {_shown(content)}")
        fault.status, fault.wait = response.status_code, _wait(response.headers.get("retry-after", ""))
        raise fault
    if not response.is_success:
        told = _shown(content)
        if response.is_redirect:
            told = f"it leads to {_shown(response.headers.get('location', '').encode())}"
        refusal = RefusedError(f"{response.status_code}: {told}")
        refusal.status = response.status_code
        raise refusal
    return content


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


def _wait(said: str) -> float:
    """Retry-After, in seconds or as a date, in seconds from now; 0 where it is neither."""
    try:
        return max(0.0, float(said) if said.strip().isdigit() else parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def _checked(content: bytes, kind: type[Answer], body: Any) -> Answer:
    try:
        if kind is ChatCompletions:  # in which half a character is data
            answer = kind.model_validate(json.loads(content.decode(errors="replace")))
        else:
            answer = kind.model_validate_json(content)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        if first["loc"][-1:] == ("finish_reason",) and b'"abort"' in content:
            raise FaultError("aborted a request") from e
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else "no JSON object"
        raise FaultError(f"gave an answer that is none ({why}): {_shown(content)}") from e
    except (RecursionError, ValueError) as e:  # no JSON, or nested too deeply
        raise FaultError(f"gave an answer that is none (no JSON object): {_shown(content)}") from e
    if isinstance(answer, Completions) and answer.usage.completion_tokens > body["max_tokens"]:
        raise FaultError(f"counts {answer.usage.completion_tokens:,} tokens, of {body['max_tokens']:,} asked for at most")
    return answer


def _shown(content: bytes) -> str:
    """The beginning of what a server said, without the key should it repeat that."""
    return _without_key(" ".join(content[:2000].decode(errors="replace").split())[:300])


def _without_key(text: str, shortest: int = 1) -> str:
    for name in (KEY, API_KEY, OPENAI_KEY):
        key = os.environ.get(name, "").strip().split(" ")[-1]
        text = text.replace(key, "***") if len(key) >= shortest else text
    return text


def without_long_keys(text: str) -> str:
    """A model's text without the key, which a server may hand back there: it would go into the store. A short word that
    stands for a key may be a word of the answer."""
    return _without_key(text, _LONG)
