"""Addresses of servers in a config. A config is written to disk, shown in reports and published: it holds no credentials."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

KEY = "CODELUTRA_ENDPOINT_KEY"
API_KEY, OPENAI_KEY, OPENAI_URL = "CODELUTRA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"


def _address(url: str) -> str:
    """Raises an error that does not repeat what could be a password."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        known = False
    if "@" in url or (known and (parts.query or parts.fragment)):
        raise PydanticCustomError(
            "address",
            f"an address with credentials or a query; a config holds none: write http://host:port, give the key in ${KEY}",
        )
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise PydanticCustomError("address", "not the address of a server; write http://host:port or https://host/path")
    return url


Address = Annotated[str, AfterValidator(_address)]

STORE = "CODELUTRA_STORE"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*")


def _store(text: str) -> str:
    """Raises an error that does not repeat what could be a password."""
    if "@" in text or "?" in text or "#" in text:
        raise PydanticCustomError(
            "address",
            "a store's address with credentials or a query; a config holds none: write s3://bucket/prefix and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    text = text if text == "/" else text.rstrip("/")
    if "://" in text:
        parts = text.split("/")[3:]
        if not _BUCKET.fullmatch(text) or {".", ".."} & set(parts):
            raise PydanticCustomError("store", "not the address of a store; write s3://bucket/prefix, or an absolute folder")
    elif text and not folder_of_store(text).is_absolute():
        raise PydanticCustomError(
            "store", "neither s3://bucket/prefix nor an absolute folder: other hosts have another current folder"
        )
    return text


def folder_of_store(address: str) -> Path:
    """The folder of a store's address, with `~` and `$NAME` put in."""
    with suppress(RuntimeError):  # no such user
        return Path(os.path.expandvars(address)).expanduser()
    return Path(address)


StoreAddress = Annotated[str, AfterValidator(_store)]


@dataclass(frozen=True)
class ApiModel:
    """`api:URL#NAME`: a model behind a server's chat completions. It can be asked; there are no weights of it here."""

    url: str
    """Up to and without /chat/completions."""
    name: str
    """As the server calls it."""

    @staticmethod
    def of(reference: str) -> ApiModel | None:
        """None for other references. Raises ValueError, without what could be a password, for a malformed one."""
        scheme, colon, rest = reference.partition(":")
        if scheme != "api" or not colon:
            return None
        url, _, name = rest.partition("#")
        try:
            _address(url)
        except PydanticCustomError as e:
            wrong = str(e).replace(f"${KEY}", f"${API_KEY}").replace("http://host:port or ", "")
            raise ValueError(f"a model api:URL#NAME: {wrong}") from None
        if len(rest) > 250:
            raise ValueError(f"a model api:URL#NAME of {len(rest)} characters; at most 250 are taken")
        if not name or not name.isprintable() or name != name.strip():
            raise ValueError("a model api:URL#NAME needs the server's name of it behind #, e.g. api:https://host/v1#name")
        return ApiModel(url.rstrip("/").removesuffix("/chat/completions"), name)

    @property
    def digest(self) -> str:
        """What stands in the store's keys. A server may put other weights behind a name; nothing tells."""
        return hashlib.sha256(f"api\0{self.url}\0{self.name}".encode()).hexdigest()

    def key(self, environment: Mapping[str, str]) -> str:
        """The server's key, "" where there is none: $CODELUTRA_API_KEY; $OPENAI_API_KEY goes to OpenAI's own server, or the
        one that $OPENAI_BASE_URL names, and to nobody else."""
        host, theirs = urlsplit(self.url).hostname, {"api.openai.com"}
        with suppress(ValueError):
            theirs.add(urlsplit(environment.get(OPENAI_URL, "")).hostname or "api.openai.com")
        return (environment.get(API_KEY, "") or (environment.get(OPENAI_KEY, "") if host in theirs else "")).strip()
