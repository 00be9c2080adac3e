"""Chat completions over real HTTP: what goes out, what comes back, and servers that misbehave."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from codelutra.addresses import ApiModel
from codelutra.errors import CodelutraError, StageError, UserError
from codelutra.models import check_reference
from codelutra.sampling.api import Api, sample_api
from codelutra.sampling.engine import Completion, ShardRequest, ShardResult
from tests.helpers.chat import chatting, said
from tests.helpers.http import Raw
from tests.helpers.ports import free_port

KEY = "sk-secret-0123456789abcdef"
SHARD = ShardRequest("s", "Write SQL.", ("p0", "p1"), ("How many?", "Which?"), 2, 0.7, 0.9, 10)
GREEDY = ShardRequest("g", "", ("p0",), ("How many?",), 1, 0.0, 0.9, 10)
LATE = format_datetime(datetime.now(UTC) + timedelta(days=1))


def ask(
    url: str, *shards: ShardRequest, patience: float = 20.0, timeout: float = 5.0, notes: Any = None, waited: Any = None
) -> list[ShardResult]:
    hears = [heard.append if heard is not None else lambda _: None for heard in (notes, waited)]
    api = Api(ApiModel(url, "the/model:7b"), 3, *hears)
    return list(sample_api(api, shards or (GREEDY,), patience_seconds=patience, timeout_seconds=timeout))


def answer_to(reply: Any, **more: Any) -> Completion:
    with chatting(lambda asked, n: reply) as (url, _):
        (result,) = ask(url, **more)
    return result.completions[0]


def test_prompts_go_out_as_messages_and_come_back_in_order_with_what_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_API_KEY", KEY)
    with chatting(lambda asked, n: f"answer to {asked.prompt}") as (url, asked):
        results = {r.key: r for r in ask(f"{url}", SHARD, GREEDY)}
    got = [
        (c.prompt, c.sample, c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in results["s"].completions
    ]
    assert got == [(p, k, f"answer to {SHARD.prompts[p]}", "stop", 11, 7) for p in (0, 1) for k in (0, 1)]
    assert {a.path for a in asked} == {"/v1/chat/completions"}
    assert {a.authorization for a in asked} == {f"Bearer {KEY}"}
    drawn, greedy = ([a.body for a in asked if (a.body["temperature"] > 0) is hot] for hot in (True, False))
    system, user = {"role": "system", "content": "Write SQL."}, {"role": "user", "content": "How many?"}
    assert drawn[0] | {"messages": [system, user]} == {
        "model": "the/model:7b",
        "messages": [system, user],
        "max_tokens": 10,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    assert greedy == [{"model": "the/model:7b", "messages": [user], "max_tokens": 10, "temperature": 0.0}]


def test_faults_are_asked_again_and_retry_after_is_honoured() -> None:
    def reply(asked: Any, n: int) -> Any:
        return {1: Raw(503, {}), 2: Raw(429, {}, {"retry-after": "1"}), 3: Raw(200, b"nonsense")}.get(n, "SELECT 1")

    with chatting(reply) as (url, asked):
        (result,) = ask(url, GREEDY)
    assert result.completions[0].text == "SELECT 1"
    assert len(asked) == 4
    assert asked[2].at - asked[1].at >= 1.0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Raw(200, b"<html>"), "no JSON object): <html>"),
        (Raw(200, said("x") | {"choices": []}), "choices: "),
        (Raw(200, b'data: {"choices": []}\n\n'), 'no JSON object): data: {"choices"'),
        (Raw(429, {}, {"retry-after": "1"}), "429"),
        (Raw(503, {"error": "overloaded"}), "overloaded"),
    ],
)
def test_whoever_watches_hears_once_why_a_server_gives_nothing(fault: Raw, says: str) -> None:
    waits: list[str] = []
    with chatting(lambda asked, n: fault if n < 3 else "SELECT 1") as (url, _):
        ask(url, GREEDY, patience=6.0, waited=waits)
    assert len(waits) == 1
    assert says in waits[0]
    assert url in waits[0]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524, 529, 599])
def test_every_fault_of_a_server_is_asked_again(status: int) -> None:
    with chatting(lambda asked, n: Raw(status, {}) if n == 1 else "SELECT 1") as (url, asked):
        ask(url, GREEDY)
    assert len(asked) == 2


@pytest.mark.parametrize("status", [400, 402, 409, 410, 418, 451, 501, 505])
def test_what_would_be_refused_again_is_asked_once(status: int) -> None:
    with (
        chatting(lambda asked, n: Raw(status, {"error": "no"})) as (url, asked),
        pytest.raises(UserError, match=f"{status}: "),
    ):
        ask(url, GREEDY)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY"),
        ({"https_proxy": "foo:bar:baz"}, "https_proxy"),
        ({"HTTP_PROXY": "ftp://user:hidden@x:1"}, "HTTP_PROXY"),
        ({"NO_PROXY": "[::1,*.."}, "NO_PROXY"),
        ({"SSL_CERT_FILE": "/nonexistent.pem"}, "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": "/dev/null"}, "SSL_CERT_FILE"),
    ],
)
def test_an_environment_that_reaches_no_server_is_told_by_its_variable(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        for written in (name, name.lower()):
            monkeypatch.delenv(written, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"look at {says}; `env -u") as told:
        ask("http://127.0.0.1:9/v1")
    assert "hidden" not in str(told.value)


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hidden@127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StageError, match="http_proxy may send it elsewhere") as told:
        ask("http://127.0.0.1:9/v1", patience=0.3)
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize(
    ("host", "patience"),
    [("nobody.invalid", 300), ("a..b", 0.3), (f"{'x' * 70}.example", 0.3), ("%41.invalid", 0.3), ("300.1.1.1", 300)],
)
def test_a_host_that_there_is_not_ends_it_early(host: str, patience: float) -> None:
    waited, began = list[str](), time.monotonic()
    with pytest.raises(UserError, match="check the address") as told:
        ask(f"http://{host}/v1", patience=patience, waited=waited)
    assert time.monotonic() - began < 60
    assert f"http://{host}/v1" in str(told.value)
    assert [line.split(" (")[0] for line in waited] in ([], [f"http://{host}/v1, which does not answer"])


@pytest.mark.parametrize("fault", [None, Raw(503, "busy"), Raw(429, {}, {"retry-after": "1"}), Raw(200, b"nonsense")])
def test_faults_are_told_at_once_and_once(fault: Raw | None) -> None:
    waited: list[str] = []

    def reply(asked: Any, n: int) -> Any:
        assert fault
        return fault if n < 3 else "SELECT 1"

    if fault is None:  # nobody listens there
        with pytest.raises(StageError, match="nothing but faults"):
            ask(f"http://127.0.0.1:{free_port()}/v1", patience=0.5, waited=waited)
    else:
        with chatting(reply) as (url, _):
            ask(url, SHARD, waited=waited)
    assert len(waited) == 1
    assert "which does not answer (" in waited[0]


def test_a_server_without_tls_is_told_at_once() -> None:
    with chatting(lambda asked, n: "SELECT 1") as (url, _), pytest.raises(UserError, match="write http:// in its address"):
        ask(url.replace("http://", "https://"), GREEDY)


def test_a_certificate_that_nobody_trusts_is_told_at_once(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(UserError, match=r"CERTIFICATE_VERIFY_FAILED.*set SSL_CERT_FILE"):
            ask(f"https://127.0.0.1:{server.server_port}/v1", GREEDY)
        server.shutdown()


def test_a_server_that_is_slow_is_asked_again() -> None:
    def reply(asked: Any, n: int) -> Any:
        time.sleep(2 if n == 1 else 0)
        return "SELECT 1"

    with chatting(reply) as (url, asked):
        ask(url, GREEDY, timeout=0.5)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("body", "text", "finish"),
    [
        (said("SELECT 1", "eos"), "SELECT 1", "stop"),
        (said("SELECT", "length"), "SELECT", "length"),
        (said("I", "content_filter"), "I", "length"),
        (said("I", "SAFETY"), "I", "length"),
        (said("SELECT", "MAX_TOKENS"), "SELECT", "length"),
        (said("SELECT", "model_length"), "SELECT", "length"),
        (said("SELECT 1", "STOP"), "SELECT 1", "stop"),
        (said("SELECT 1", "eos_token"), "SELECT 1", "stop"),
        (said(None, "tool_calls"), "", "stop"),
        (said([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "SELECT 1"}]), "SELECT 1", "stop"),
        (said("a\0b"), "a\0b", "stop"),
        (said("a\ud800b"), "a\ufffdb", "stop"),  # half a character, which JSON can say
        (said(f"-- {KEY}"), "-- ***", "stop"),
    ],
)
def test_what_a_model_says_is_data(body: Any, text: str, finish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_API_KEY", KEY)
    found = answer_to(Raw(200, body))
    assert (found.text, found.finish_reason) == (text, finish)


@pytest.mark.parametrize(
    ("why", "finish"), [("context_length_exceeded", "dropped"), ("blocked by content_filter", "length")]
)
def test_a_prompt_that_cannot_be_answered_is_data(why: str, finish: str) -> None:
    with chatting(lambda asked, n: Raw(400, {"error": {"code": why}}) if "many" in asked.prompt else "yes") as (url, _):
        (result,) = ask(url, SHARD)
    assert [(c.text, c.finish_reason) for c in result.completions] == [("", finish)] * 2 + [("yes", "stop")] * 2


def test_parameters_that_a_model_does_not_take_are_left_out_and_told() -> None:
    def reply(asked: Any, n: int) -> Any:
        if "max_tokens" in asked.body:
            return Raw(400, {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}})
        if "temperature" in asked.body:
            return Raw(400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.7"}})
        return "SELECT 1"

    notes: list[str] = []
    with chatting(reply) as (url, asked):
        (result,) = ask(url, SHARD, notes=notes)
    assert {c.text for c in result.completions} == {"SELECT 1"}
    assert sorted(asked[-1].body) == ["max_completion_tokens", "messages", "model"]
    assert notes == ["the/model:7b takes no temperature: its answers are drawn as the server draws them, not greedy"]


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (Raw(401, {"error": f"Incorrect API key provided: {KEY}"}), UserError, "check the key in CODELUTRA_API_KEY"),
        (Raw(404, {"error": "no such model"}), UserError, "check the address and the model's name"),
        (Raw(400, {"error": "bad"}), UserError, "refused to answer"),
        (Raw(429, {"error": {"code": "insufficient_quota"}}), UserError, "insufficient_quota"),
        (Raw(302, b"", {"location": f"http://127.0.0.1:1/{KEY}"}), UserError, "302: it leads to http://127.0.0.1:1/***"),
        (Raw(429, {}, {"retry-after": "9999"}), StageError, "asks for a pause of 9999 s"),
        (Raw(429, {}, {"retry-after": LATE}), StageError, "asks for a pause of 8"),
        (Raw(500, b"\xff" * 99), StageError, "gave nothing but faults for 0.3 s (the last: 500"),
        (Raw(200, b"<html>"), StageError, "no JSON object"),
        (Raw(200, b"[" * 99999), StageError, "no JSON object"),
        (Raw(200, b"9" * 9999), StageError, "no JSON object"),
        (Raw(200, b" " * (2 << 20)), StageError, "more than 1,058,816 bytes"),
        (Raw(200, {"usage": {}}), StageError, "choices: Field required"),
        (Raw(200, said("x") | {"usage": None}), StageError, "usage: "),
        (Raw(200, said("x", completion=10**12)), StageError, "usage.completion_tokens"),
        (Raw(200, said("x", completion="7")), StageError, "usage.completion_tokens"),
        (Raw(200, said({"a": 1})), StageError, "choices.0.message.content"),
        (Raw(200, said("x", None)), StageError, "choices.0.finish_reason"),
        (Raw(200, said("x", "\ud800")), StageError, "choices.0.finish_reason"),
        (Raw(200, b"x", {"content-encoding": "gzip"}), StageError, "compressed its answer"),
    ],
)
def test_what_is_no_answer_is_one_message_without_the_key(
    reply: Raw, kind: type[CodelutraError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELUTRA_API_KEY", KEY)
    with chatting(lambda asked, n: reply) as (url, asked), pytest.raises(kind) as caught:
        ask(url, GREEDY, patience=0.3)
    assert says in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(asked) < 9


def test_a_key_goes_to_whom_it_belongs() -> None:
    openai, other = ApiModel("https://api.openai.com/v1", "m"), ApiModel("https://elsewhere.example/v1", "m")
    both = {"OPENAI_API_KEY": "theirs", "CODELUTRA_API_KEY": " mine\n"}
    assert (openai.key(both), other.key(both)) == ("mine", "mine")
    assert openai.key({"OPENAI_API_KEY": "theirs"}) == "theirs"
    assert other.key({"OPENAI_API_KEY": "theirs"}) == ""
    assert other.key({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": "https://elsewhere.example/x"}) == "theirs"
    assert other.key({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": "https://[x"}) == ""


def test_a_reference_is_a_url_and_a_name() -> None:
    assert ApiModel.of("path:x") is None
    assert ApiModel.of("api:https://h/v1/#@cf/org#x") == ApiModel("https://h/v1", "@cf/org#x")
    assert ApiModel.of("api:https://h/v1/chat/completions#m") == ApiModel("https://h/v1", "m")
    assert len({ApiModel(u, m).digest for u in ("https://h", "https://i") for m in "ab"}) == 4
    for wrong in ("api:https://h/v1", "api:h#m", "api:https://h/v1# m", "api:https://h/v1#a\nb", "api:https://h?k=v#m"):
        with pytest.raises(UserError, match=r"api:URL#NAME"):
            check_reference(wrong)
    with pytest.raises(UserError) as caught:
        check_reference("api:https://me:hunter2@h/v1#m")
    assert "hunter2" not in str(caught.value)
