"""The agent's own HTTP port: slow, idle and hostile clients are ended, and who asks plainly is answered meanwhile."""

import contextlib
import http.client
import select
import socket
import threading
import time

import pytest

from fingerpost.agent.http import AgentHTTPServer
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
