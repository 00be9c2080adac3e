"""Addresses of servers in a config. A config is written to disk, shown in reports and published: it holds no credentials."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

KEY = "CODELUTRA_ENDPOINT_KEY"


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
