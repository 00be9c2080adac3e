"""Real HTTP servers that misbehave: each way is a fault that names the server, and none of them brings the sampler down."""

from __future__ import annotations

import gzip
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import parse_config, to_yaml
from codelutra.errors import CodelutraError, ConfigError, OutageError, StageError, UserError, redacted
from codelutra.sampling.endpoints import sample_endpoints
from codelutra.sampling.engine import ShardRequest, ShardResult
from tests.helpers.ports import free_port
from tests.helpers.tiny_model import write_tiny_model

GOOD = {"choices": [{"text": "SELECT 1", "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}
MODELS = {"data": [{"id": "the-policy"}]}
Reply = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "the-policy")


def says(content: Any, status: int = 200, **headers: str) -> Reply:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    def reply(to: BaseHTTPRequestHandler) -> None:
        to.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(body)

    return reply


def completion(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "choices": [GOOD["choices"][0] | changes]}


def endless(piece: bytes, pause: float = 0.0) -> Reply:
    def reply(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.end_headers()
        for _ in range(1 << 14):
            to.wfile.write(piece)
            to.wfile.flush()
            time.sleep(pause)

    return reply


def hangs_up(to: BaseHTTPRequestHandler) -> None:
    to.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")


def garbage(to: BaseHTTPRequestHandler) -> None:
    to.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")


FAULTS: dict[str, tuple[Reply, str]] = {
    "HTML": (says(b"<html><h1>Log in</h1></html>"), r"an answer that is none \(.*<h1>Log in"),
    "nothing": (says(b""), "an answer that is none"),
    "no content": (says(b"", 204), "an answer that is none"),
    "null": (says(b"null"), "an answer that is none"),
    "a list": (says([GOOD]), "an answer that is none"),
    "an error with 200": (says({"error": {"message": "out of memory"}}), "choices: Field required.*out of memory"),
    "no choices": (says({**GOOD, "choices": []}), r"choices: List should have at least 1 item"),
    "two choices": (says({**GOOD, "choices": GOOD["choices"] * 2}), "choices: List should have at most 1 item"),
    "null choices": (says({**GOOD, "choices": None}), "choices"),
    "a null choice": (says({**GOOD, "choices": [None]}), r"choices\.0"),
    "null text": (says(completion(text=None)), r"choices\.0\.text"),
    "a number for text": (says(completion(text=7)), r"choices\.0\.text"),
    "no reason": (says(completion(finish_reason=None)), r"choices\.0\.finish_reason"),
    "another reason": (says(completion(finish_reason="tool_calls")), r"choices\.0\.finish_reason"),
    "no usage": (says({**GOOD, "usage": None}), "usage"),
    "tokens in words": (says({**GOOD, "usage": {"completion_tokens": "many"}}), r"usage\.completion_tokens"),
    "fewer than no tokens": (says({**GOOD, "usage": {"completion_tokens": -1}}), r"usage\.completion_tokens"),
    "half a token": (says({**GOOD, "usage": {"completion_tokens": 2.5}}), r"usage\.completion_tokens"),
    "a yes for tokens": (says({**GOOD, "usage": {"completion_tokens": True}}), r"usage\.completion_tokens"),
    "NaN tokens": (says({**GOOD, "usage": {"completion_tokens": float("nan")}}), r"usage\.completion_tokens"),
    "more tokens than asked": (says({**GOOD, "usage": {"completion_tokens": 4000}}), "counts 4,000 tokens, of 10"),
    "half a character": (says(json.dumps(completion(text="\ud800")).encode()), "an answer that is none"),
    "no UTF-8": (says(b'{"choices": [{"text": "\xff"}]}'), "an answer that is none"),
    "deep": (says(b"[" * 100_000), "an answer that is none"),
    "long": (says(completion(text="x" * (64 << 20))), r"more than [\d,]+ bytes"),
    "endless": (endless(b"x" * (1 << 16)), r"more than [\d,]+ bytes"),
    "drip": (endless(b" ", pause=0.05), "gave no whole answer in 1 s"),
    "gzip bomb": (says(gzip.compress(bytes(64 << 20)), content_encoding="gzip"), r"compressed its answer \(gzip\)"),
    "hangs up": (hangs_up, "RemoteProtocolError"),
    "garbage": (garbage, "RemoteProtocolError"),
    "teapot, for a while": (says(b"busy", 503), "503 busy"),
}
REFUSALS: dict[str, tuple[Reply, str]] = {
    "redirect": (says(b"", 302, location="https://login.example/"), "302: it leads to https://login.example/"),
    "redirect to nowhere": (says(b"", 307), "307: it leads to"),
    "no such path": (says(b"<h1>Not Found</h1>", 404), "404: <h1>Not Found"),
    "no key": (says({"error": "unauthorized"}, 401), "401.*unauthorized"),
    "long refusal": (says(b"x" * 900_000, 400), "400: x{300}$"),
}


@contextmanager
def serving(
    completions: Reply, models: Reply | None = None, bodies: list[Any] | None = None
) -> Iterator[tuple[str, list[Any]]]:
    asked = list[Any]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers)
            (models or says(MODELS))(self)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if bodies is not None:
                bodies.append(json.loads(body))
            asked.append(self.headers)
            completions(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def sample(policy: Path, *urls: str, patience: float = 0.3) -> list[ShardResult]:
    shard = ShardRequest("s", "Write SQL.", ("p0", "p1"), ("a", "b"), 2, 0.7, 0.9, 10)
    return list(
        sample_endpoints(
            urls, policy, [shard], max_model_len=128, connections=2, patience_seconds=patience, timeout_seconds=1
        )
    )


@pytest.mark.parametrize("way", FAULTS)
def test_a_server_that_answers_wrongly_is_named_with_what_it_did(way: str, policy: Path) -> None:
    reply, said = FAULTS[way]
    for completions, models in ((reply, None), (says(GOOD), reply)):
        with (
            serving(completions, models) as (url, _),
            pytest.raises(StageError, match="no sampling endpoint is left") as told,
        ):
            sample(policy, url)
        if not models:
            assert told.match(f"(?s){url}: .*{said}")
        assert len(str(told.value)) < 1500


def test_whoever_waits_hears_of_a_server_that_is_not_there(policy: Path) -> None:
    waited: list[str] = []
    url, shard = f"http://127.0.0.1:{free_port()}/v1", ShardRequest("s", "", ("p0",), ("a",), 1, 0.0, 1.0, 10)
    given: dict[str, Any] = {"max_model_len": 128, "connections": 2, "patience_seconds": 0.5, "waiting": waited.append}
    with pytest.raises(OutageError, match="no sampling endpoint is left"):
        list(sample_endpoints([url], policy, [shard], **given))
    assert [line.split(" (")[0] for line in waited] == [f"{url}, which does not answer"]


@pytest.mark.parametrize("way", FAULTS)
def test_what_one_server_spoils_another_one_does(way: str, policy: Path) -> None:
    with serving(FAULTS[way][0]) as (bad, _), serving(says(GOOD)) as (good, _):
        (result,) = sample(policy, bad, good, patience=1.5)
    assert [c.text for c in result.completions] == ["SELECT 1"] * 4


@pytest.mark.parametrize("way", REFUSALS)
def test_a_refusal_ends_the_stage_with_the_server_and_its_words(way: str, policy: Path) -> None:
    reply, said = REFUSALS[way]
    with serving(reply) as (url, asked), pytest.raises(StageError, match=f"{url} refused /completions with {said}"):
        sample(policy, url, patience=60)
    assert len(asked) <= 4, "not asked again"  # model, weights, and two connections
    with serving(says(GOOD), reply) as (url, _), pytest.raises(StageError, match=f"{url} refused /models with"):
        sample(policy, url, patience=60)


def test_what_is_not_used_may_be_anything(policy: Path) -> None:
    odd = json.dumps({**completion(logprobs={"token_logprobs": [float("nan")]}, index="x"), "id": None, "created": 1e300})
    with serving(says(odd.encode())) as (url, _):
        (result,) = sample(policy, url)
    assert len(result.completions) == 4


def test_a_bomb_costs_no_memory(policy: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for way in ("gzip bomb", "endless"):
        with serving(FAULTS[way][0]) as (url, _), pytest.raises(StageError):
            sample(policy, url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize(
    ("key", "header"), [("s3cret", "Bearer s3cret"), ("Basic dTpw", "Basic dTpw"), (" zz9\n", "Bearer zz9")]
)
def test_a_key_comes_from_the_environment_and_no_message_repeats_it(
    key: str, header: str, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELUTRA_ENDPOINT_KEY", key)
    with serving(says({"error": f"no such key: {key}"}, 401)) as (url, asked), pytest.raises(StageError) as told:
        sample(policy, url)
    assert {h["authorization"] for h in asked} == {header}
    assert "no such key: ***" in str(told.value).replace("Basic ", "")
    monkeypatch.setenv("CODELUTRA_ENDPOINT_KEY", "two\nlines")
    with pytest.raises(UserError, match="CODELUTRA_ENDPOINT_KEY holds characters"):
        sample(policy, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "http://secret@host/v1",
        "https://user:se/cret@host:1",
        "http://user:se#cret@host",
        "http://user:s'ecret@host",
        "http://user:pass secret@host",
        "http://host/v1?api_key=secret",
        "http://host/#secret",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    raw = {"name": "t", "suite": {"name": "starter-sql"}, "sample": {"endpoints": ["http://ok:8000/v1", url]}}
    with pytest.raises(
        ConfigError, match=r"sample\.endpoints\.1: an address with credentials.*CODELUTRA_ENDPOINT_KEY"
    ) as told:
        parse_config(raw)
    assert "secret" not in str(told.value)
    assert "ecret" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://host:99999", "http://ho st", "http://h\x1b[m"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    raw = {"name": "t", "suite": {"name": "starter-sql"}, "sample": {"endpoints": [url]}}
    with pytest.raises(ConfigError, match=r"sample\.endpoints\.0: not the address of a server; write http://host:port"):
        parse_config(raw)


def test_addresses_of_servers_are_kept_as_written() -> None:
    urls = ["http://127.0.0.1:8000", "https://gpu.example.org/a/v1", "http://[::1]:8000/v1/"]
    config = parse_config({"name": "t", "suite": {"name": "starter-sql"}, "sample": {"endpoints": urls}})
    assert all(url in to_yaml(config) for url in urls)


def test_an_error_shows_no_credentials_of_an_address_in_it() -> None:
    assert str(CodelutraError("at http://user:secret@host/v1: refused")) == "at http://***@host/v1: refused"
    assert redacted("no address: a@b, 3@4") == "no address: a@b, 3@4"
