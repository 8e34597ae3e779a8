"""What callers of the engine's API make of its answers, whatever these are."""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from fingerpost import engine_api
from fingerpost.cli import app
from fingerpost.engine_api import (
    Answer,
    EngineClient,
    EngineError,
    checked,
    get_call,
    post_call,
    receipt_of,
    send_call,
    table_call,
    table_of,
)
from fingerpost.errors import FingerpostError
from fingerpost.packed_message import open_message

COUNTS = {"accepted": 1, "stale": 2, "refused": 3}


def answer(status, content=None, **headers):
    return Answer(status, headers, b"" if content is None else json.dumps(content).encode())


def test_requests_are_what_the_engine_takes():
    assert open_message(send_call([b"one", b"two"]).body) == [b"one", b"two"]
    assert get_call("/v1/hosts", service=None).path == "/v1/hosts"
    assert get_call("/v1/hosts", service="a b&c").path == "/v1/hosts?service=a+b%26c"
    assert json.loads(post_call("/v1/predict", service="shop", hosts=None).body) == {"service": "shop"}
    assert table_call("shop").path == "/v1/services/shop/table"
    waiting = table_call("../x", '"v1"', 5.0)
    assert (waiting.path, waiting.wait_s) == ("/v1/services/..%2Fx/table?wait=5.0", 5.0)
    assert waiting.headers["If-None-Match"] == '"v1"'


@pytest.mark.parametrize(
    ("given", "sent", "wanted"),
    [
        (answer(200, COUNTS), 6, COUNTS),
        (answer(422, {**COUNTS, "accepted": 0, "error": "schema:unknown"}), 5, {**COUNTS, "accepted": 0}),
        (answer(409, {"error": "no counts"}), 4, {"accepted": 0, "stale": 0, "refused": 4}),
        (answer(200, "no object"), 4, {"accepted": 4, "stale": 0, "refused": 0}),
        (answer(204), 4, {"accepted": 4, "stale": 0, "refused": 0}),
    ],
)
def test_a_receipt_counts_every_fingerprint(given, sent, wanted):
    receipt = receipt_of(given, sent)
    assert {name: receipt[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("status", "temporary"),
    [(400, False), (401, True), (403, True), (408, True), (413, False), (429, True), (500, True)],
)
def test_an_error_says_why_and_whether_to_try_again(status, temporary):
    for read in (checked, table_of, lambda given: receipt_of(given, 1)):
        with pytest.raises(EngineError, match="why not") as raised:
            read(answer(status, {"error": "why not"}))
        assert (raised.value.status, raised.value.temporary) == (status, temporary)
    with pytest.raises(EngineError, match="Bad Gateway"):
        checked(Answer(502, {}, b"<html>Bad Gateway</html>" + b"x" * 10_000))


def test_a_table_says_until_when_it_may_be_used():
    headers = {"etag": '"v1"', "x-fingerpost-expires-at": "12.5", "x-fingerpost-stale": "store"}
    table = table_of(answer(200, {}, **headers))
    assert (table.etag, table.expires_at, table.body, table.stale) == ('"v1"', 12.5, b"{}", "store")
    assert table_of(answer(304, None, **headers)).body is None
    with pytest.raises(EngineError, match="expires-at"):
        table_of(answer(200, {}, **{**headers, "x-fingerpost-expires-at": "soon"}))


@pytest.fixture
def server():
    """Answers `/large/...` with 10,000 bytes of JSON, anything else with no JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps("x" * 10_000).encode() if self.path.startswith("/large") else b"no json"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.process
def test_the_client_takes_no_more_than_it_must(server, monkeypatch):
    with EngineClient(server) as client, pytest.raises(EngineError, match="does not answer in JSON"):
        client.health()
    monkeypatch.setattr(engine_api, "MAX_ANSWER_BYTES", 5_000)
    with EngineClient(f"{server}/large/") as client, pytest.raises(EngineError, match="more than 5000 bytes"):
        client.table("shop")
    with EngineClient("http://127.0.0.1:9") as client, pytest.raises(EngineError, match="no answer") as raised:
        client.health()
    assert raised.value.temporary


@pytest.mark.parametrize("url", ["engine:3000", "ftp://engine", ""])
def test_a_url_that_is_none_is_refused_at_once(url):
    with pytest.raises(FingerpostError, match=f"the engine's URL '{url}' must begin with http:// or https://"):
        EngineClient(url)
    if url:  # else it is that of the settings
        # The second is the former name of the option.
        for command in itertools.product(
            (["page"], ["hosts", "list"], ["event", "list"]), ("--engine-url", "--engine")
        ):
            refused = CliRunner().invoke(app, [*command[0], command[1], url])
            assert isinstance(refused.exception, FingerpostError)
            assert f"the engine's URL '{url}' must begin with http:// or https://" in str(refused.exception)
