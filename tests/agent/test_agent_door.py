"""The agent's own HTTP port: slow, idle and hostile clients are ended, and who asks plainly is answered meanwhile."""

import contextlib
import http.client
import json
import select
import socket
import threading
import time
import urllib.request

import pytest

from fingerpost.agent.http import AgentHTTPServer
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.errors import RefusedError
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

MOST = 32


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:

        def door(take=None, timeout_s=10.0):
            made = AgentHTTPServer(
                "127.0.0.1",
                0,
                lambda: b"metric 1\n",
                lambda: (True, {}),
                take or (lambda *_: (b"ok", "x/y")),
                timeout_s,
            )
            made.start()
            stack.callback(made.stop)
            return made

        yield door


@pytest.fixture
def connect():
    with contextlib.ExitStack() as stack:

        def open_one(door, data=b""):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=10))
            connection.sendall(data)
            return connection

        yield open_one


def ask(door, method="GET", path="/healthz", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    connection.request(method, path, body)
    return connection.getresponse().status


def ended(connection):
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /metrics HTTP/1.1\r\nx: ", b"POST /v1/traces HTTP/1.1\r\ncontent-length: 1000\r\n\r\nx"],
    ids=["silent", "half a head", "half a body"],
)
def test_slow_clients_make_room_and_are_ended(opened, connect, data):
    door = opened(timeout_s=1.0)
    slow = [connect(door, data) for _ in range(2 * MOST)]
    assert ask(door) == 200
    wait_for(lambda: all(map(ended, slow)))
    assert ask(door) == 200


def test_who_trickles_is_ended_in_the_same_time(opened, connect):
    door = opened(timeout_s=0.5)
    slow = connect(door, b"GET /metrics HTTP/1.1\r\n")
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        while time.monotonic() < began + 20:
            slow.sendall(b"x: y\r\n")
            time.sleep(0.1)
    assert time.monotonic() < began + 20


def test_bodies_are_bounded_together_and_the_oldest_make_room(opened, connect):
    door = opened()
    head = b"POST /v1/traces HTTP/1.1\r\ncontent-length: 4194304\r\n\r\n"
    slow = [connect(door, head) for _ in range(8)]
    wait_for(lambda: sum(map(ended, slow)) == 4)
    assert ask(door, "POST", "/v1/traces", b"x" * 1000) == 200
    assert sum(door._bodies.values()) <= 16 * 2**20


@pytest.mark.parametrize(
    ("length", "expected"),
    [("²".encode("latin-1"), 411), (b"9" * 5000, 411), (b"-1", 411), (b"", 411), (b"4194305", 413), (b"1_0", 411)],
)
def test_a_length_that_is_none_is_refused_plainly(opened, connect, capfd, length, expected):
    door = opened()
    connection = connect(door, b"POST /v1/traces HTTP/1.1\r\ncontent-length: " + length + b"\r\n\r\n")
    assert f" {expected} ".encode() in connection.recv(1000)
    assert ask(door) == 200
    assert "Traceback" not in capfd.readouterr().err


def test_while_an_answer_is_made_its_connection_is_not_ended(opened):
    begun, go_on = threading.Event(), threading.Event()

    def take(body, *_):
        begun.set()
        go_on.wait(20)
        if body == b"bad":
            raise RefusedError("body:malformed")
        return b"ok", "x/y"

    door = opened(take, timeout_s=0.2)
    for body, expected in ((b"good", 200), (b"bad", 400)):
        begun.clear()
        go_on.clear()
        found = []
        asking = threading.Thread(
            target=lambda body=body, found=found: found.append(ask(door, "POST", "/v1/traces", body))
        )
        asking.start()
        assert begun.wait(10)
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert ask(door) == 200
        go_on.set()
        asking.join(10)
        assert found == [expected]


# --- bodies in chunks, and bodies that are refused


def send(door, connect, chunks, head=b"transfer-encoding: chunked", version=b"1.1"):
    """The answer's first line to a body as it is on the wire."""
    connection = connect(
        door, b"POST /v1/traces HTTP/" + version + b"\r\nhost: localhost\r\n" + head + b"\r\n\r\n" + chunks
    )
    return connection.recv(4096).partition(b"\r\n")[0].split(b" ")[1].decode()


def test_a_body_in_chunks_is_taken(opened, connect):
    taken = []
    door = opened(lambda body, *_: (taken.append(body), (b"ok", "x/y"))[1])
    assert send(door, connect, b"3\r\nabc\r\n00a;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n") == "200"
    assert send(door, connect, b"0\r\n\r\n") == "200"
    assert taken == [b"abc0123456789", b""]
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    for _ in range(2):  # on one connection
        connection.request("POST", "/v1/traces", iter([b"a" * 70_000, b"b"]), encode_chunked=True)
        assert connection.getresponse().read() == b"ok"
    assert taken[2:] == [b"a" * 70_000 + b"b"] * 2


@pytest.mark.parametrize(
    ("chunks", "head", "status", "reason"),
    [
        (b"zz\r\n", b"transfer-encoding: chunked", "400", "body:malformed"),
        (b"-1\r\n", b"transfer-encoding: chunked", "400", "body:malformed"),
        (b"3\r\nabcdef", b"transfer-encoding: chunked", "400", "body:malformed"),
        (b"7fffffff\r\n", b"transfer-encoding: chunked", "413", "body:too_large"),
        (b"0\r\n\r\n", b"transfer-encoding: gzip, chunked", "400", "body:length"),
        (b"0\r\n\r\n", b"transfer-encoding: chunked\r\ncontent-length: 5", "400", "body:length"),
        (b"", b"content-length: 9999999", "413", "body:too_large"),
        (b"", b"x: y", "411", "body:length"),
    ],
)
def test_a_body_that_is_refused_is_counted_by_its_reason(opened, connect, caplog, chunks, head, status, reason):
    door = opened()
    assert [send(door, connect, chunks, head) for _ in range(2)] == [status] * 2
    assert door.counts[f"refused {reason}"] == 2
    assert caplog.text.count(reason) == 1


def test_what_is_refused_of_bodies_and_spans_is_in_the_metrics_and_a_problem(tmp_path, free_ports):
    each, door, *_ = build_agent(AgentOptions(tmp_path / "lake", "shop", "h1", otlp=True, http_port=free_ports(1)[0]))
    door.start()
    try:
        bad = {"kind": 2, "attributes": [{"key": "http.request.method", "value": {"stringValue": "GET"}}]}
        spans = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [bad] * 30}]}]})
        for body in ("{", "{", spans):
            connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
            connection.request("POST", "/v1/traces", body, {"content-type": "application/json"})
            connection.getresponse().read()
        said = urllib.request.urlopen(f"http://127.0.0.1:{door.port}/metrics").read().decode()
        assert 'fingerpost_agent_refused_total{reason="body:malformed"} 2.0' in said
        assert 'fingerpost_agent_refused_total{reason="time:missing"} 30.0' in said
        each.read()
        each.report()
        assert (
            "32 of the last 32 requests were refused, 30 of them because of time:missing"
            in each.problems.now()["refused"]
        )
    finally:
        door.stop()
