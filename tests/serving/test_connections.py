"""Slow, silent and hostile clients of the engine: they are ended, and whoever asks plainly is answered meanwhile."""

import asyncio
import itertools
import json
import select
import socket
import subprocess
import sys
import time

import httpx
import pytest
from starlette.requests import ClientDisconnect

from fingerpost.cli.stack.ports import free_ports
from fingerpost.packed_message import MAX_MESSAGE_BYTES, message
from fingerpost.serving.http import Bodies, RefusedRequestError
from fingerpost.window_report import MEDIA_TYPE
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet

pytestmark = pytest.mark.process

TOKEN = "one-of-our-own"  # noqa: S105
MOST = 64
SEQUENCE = itertools.count(1)
POST = f"POST /v1/reports HTTP/1.1\r\nhost: localhost\r\ncontent-type: {MEDIA_TYPE}\r\n"
WITH_TOKEN = f"{POST}authorization: Bearer {TOKEN}\r\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = {
        "mlflow_url": "http://127.0.0.1:9",
        "engine_token": TOKEN,
        "engine_max_connections": MOST,
        "engine_head_timeout_s": 2,
        "engine_body_timeout_s": 2,
        "engine_stalled_s": 2,
    }
    with RunningEngine(tmp_path_factory.mktemp("connections") / "engine", free_ports(1)[0], **settings) as running:
        yield running


@pytest.fixture
def connect(engine):
    """Opens connections, which are closed in the end."""
    opened = []

    def open_one(text="", receive_buffer=None):
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(engine.url.rpartition(":")[2])))
        connection.sendall(text.encode())
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


def ask(engine):
    answer = httpx.get(f"{engine.url}/v1/health", timeout=10, trust_env=False)
    assert answer.status_code == 200
    return answer.json()


def status(connection):
    """The status of the next answer; None: the connection was ended."""
    try:
        line = connection.recv(4096).split(b" ", 2)
    except ConnectionError:
        return None
    return int(line[1]) if len(line) > 1 else None


def is_ended(connection):
    """Whether the other side has ended a connection, on which nothing is to come."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(65536) == b"" or is_ended(connection)
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "text", ["", "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nx-a: "], ids=["silent", "half a head"]
)
def test_silent_connections_make_room_and_are_ended(engine, connect, text):
    silent = [connect(text) for _ in range(3 * MOST)]
    assert ask(engine)["status"]
    assert "connections" in ask(engine)["problems"]
    engine.wait_for(lambda: all(map(is_ended, silent)))
    assert engine.metric("connections_ended_total", '{how="no_room"}') >= 2 * MOST
    assert engine.metric("connections_ended_total", '{how="slow"}') >= MOST // 2
    assert "connections" not in ask(engine)["problems"]


def test_a_head_that_never_ends_is_refused(engine, connect):
    endless = connect("GET /v1/health HTTP/1.1\r\nhost: localhost\r\n")
    with pytest.raises(ConnectionError):
        for number in range(100):
            endless.sendall(f"x-{number}: {'a' * 8192}\r\n".encode())
            time.sleep(0.01)
    assert ask(engine)["status"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (POST, 401),
        (POST.replace("\r\n\r\n", "authorization: Bearer wrong\r\n"), 401),
        (WITH_TOKEN.replace(MEDIA_TYPE, "text/plain"), 415),
        (WITH_TOKEN + f"content-length: {MAX_MESSAGE_BYTES + 1}\r\n", 413),
        (WITH_TOKEN + f"content-length: {'9' * 5000}\r\n", 413),
        (
            "POST /v1/route HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            "content-length: 2000000\r\n",
            413,
        ),
        ("POST /v1/route HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n", 415),
        ("POST /v1/unknown HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n", 404),
    ],
)
def test_what_will_be_refused_is_refused_before_its_body_comes(connect, head, expected):
    length = "" if "content-length" in head else "content-length: 1000000\r\n"
    refused = connect(f"{head}{length}\r\nthe body begins")
    assert status(refused) in (expected, 400 if "9" * 5000 in head else expected)


def test_a_body_that_does_not_come_is_given_up(engine, connect):
    slow = [connect(f"{WITH_TOKEN}content-length: 1000\r\n\r\nx") for _ in range(5)]
    with engine.client() as client:
        assert client.send_reports(MadeFleet.make(2, 2).packed(next(SEQUENCE)))["accepted"] == 2
    assert [status(each) for each in slow] == [408] * 5


def test_who_does_not_take_his_answer_is_ended(engine, connect):
    made = MadeFleet.make(300, 60)
    with engine.client() as client:
        for begin in range(0, 300, 100):
            client.send_reports(made.packed(next(SEQUENCE))[begin : begin + 100])
        engine.wait_for(lambda: len(json.loads(client.table("shop").body)["hosts"]) == 300)
    connect("GET /v1/services/shop/table HTTP/1.1\r\nhost: localhost\r\n\r\n" * 16, receive_buffer=4096)
    engine.wait_for(lambda: engine.metric("connections_ended_total", '{how="stalled"}') >= 1)
    assert ask(engine)["status"]


def test_a_connection_has_a_few_requests_under_way(engine, connect):
    many = connect("GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
    answers = b""
    while part := many.recv(65536):
        answers += part
    assert answers.count(b"HTTP/1.1 200") < 40
    assert ask(engine)["status"]


def test_an_upgrade_is_answered_as_if_it_was_not_asked_for(connect):
    head = "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    key = "sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==\r\nsec-websocket-version: 13\r\n"
    assert status(connect(f"{head}{key}\r\n")) == 200


def test_those_who_wait_for_a_table_leave_room_for_others(engine, connect):
    with engine.client() as client:
        client.send_reports(MadeFleet.make(2, 2, "polled").packed(next(SEQUENCE)))
        etag = engine.wait_for(lambda: client.table("polled")).etag
    text = f"GET /v1/services/polled/table?wait=20 HTTP/1.1\r\nhost: localhost\r\nif-none-match: {etag}\r\n\r\n"
    polls = [connect(text) for _ in range(MOST - 8)]
    engine.wait_for(lambda: sum(map(bool, select.select(polls, [], [], 0)[0])) >= MOST // 2 - 8)
    waiting = [poll for poll in polls if not select.select([poll], [], [], 0)[0]]
    assert len(waiting) <= MOST // 2
    assert ask(engine)["status"]


def test_fewer_files_make_fewer_connections():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024));"
        "from fingerpost.serving.connections import limits_of_process; print(limits_of_process().most);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["768", "1024"]
    assert "ulimit" in done.stderr


def given(parts, then=None):
    """What an application is given: parts of a body; `then` is awaited before the rest."""
    left = list(parts)

    async def receive():
        if not left:
            await then.wait()
            return {"type": "http.request", "body": b"", "more_body": False}
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or then is not None}

    return receive


def test_bodies_under_way_are_bounded_and_the_oldest_makes_room():
    async def run():
        bodies = Bodies(60.0, most_bytes=100)
        never = asyncio.Event()
        slow = [asyncio.create_task(bodies.read(given([b"x" * 40], never), 64)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await bodies.read(given([b"ab", b"c"]), 64) == b"abc"
        assert not any(each.done() for each in slow)
        assert await bodies.read(given([b"y" * 30, b"z" * 10]), 64) == b"y" * 30 + b"z" * 10
        with pytest.raises(RefusedRequestError) as refused:
            await slow[0]
        assert refused.value.status == 408
        assert not slow[1].done()
        never.set()
        assert await slow[1] == b"x" * 40
        with pytest.raises(RefusedRequestError, match="larger than 64"):
            await bodies.read(given([b"x" * 60, b"y" * 60]), 64)
        assert await bodies.read(given([b"x" * 64]), 64) == b"x" * 64

        async def gone():
            return {"type": "http.disconnect"}

        with pytest.raises(ClientDisconnect):
            await bodies.read(gone, 64)
        assert (bodies._held_bytes, bodies._under_way) == (0, {})

    asyncio.run(run())


def test_good_messages_are_taken_over_one_connection(engine):
    made = MadeFleet.make(2, 2)
    headers = {"content-type": MEDIA_TYPE, "authorization": f"Bearer {TOKEN}"}
    with httpx.Client(trust_env=False) as client:
        for number in range(20):
            body = message(made.packed(next(SEQUENCE)))
            if number % 5 == 4:
                assert client.post(f"{engine.url}/v1/reports", content=body).status_code == 401
            answer = client.post(f"{engine.url}/v1/reports", content=body, headers=headers)
            assert answer.json()["accepted"] == 2
