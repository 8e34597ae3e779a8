"""What the record of a request says, also of failures and clients that went away."""

import asyncio

import pytest

from fingerpost.clock import clock_us
from fingerpost.middleware.wire import RECORD_KEYS
from fingerpost.records import REQUEST_RECORD, refusal
from tests.support.middleware_requests import call, in_request, measured, scope_of, starlette, taken

pytestmark = pytest.mark.process


def test_a_record_has_what_the_host_knows_and_no_secret(receiver, agent_socket):
    headers = {
        "authorization": "Bearer SECRET",
        "cookie": "SECRET",
        "x-api-key": "SECRET",
        "user-agent": "x" * 1000,
        "cf-ipcountry": "DE",
        "x-forwarded-client-cert": "Hash=SECRET",
        "x-forwarded-for": "1.2.3.4",
    }
    app = measured(starlette({"/users/{id}": in_request(asyncio.sleep.__get__(0))}), agent_socket)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(call(app, scope_of("/users/42", headers=raw), (b"12", b"345")))
    record = taken(receiver, 1)["/users/*"]
    assert "SECRET" not in str(record)
    assert set(record) == set(RECORD_KEYS)
    expected = {"auth": "bearer", "client_cert": True, "user_agent": "x" * 256, "region_header": "DE"}
    expected |= {"client": "10.0.0.7", "forwarded_for": "1.2.3.4", "bytes_out": 2, "method": "GET", "status": 200}
    assert {name: record[name] for name in expected} == expected
    now = clock_us()
    row = {**record, "user_agent_class": "other", "region": "DE"}
    assert refusal(row, REQUEST_RECORD, now - 60_000_000, now) is None


def test_bodies_are_counted_and_waiting_for_the_client_is_not_service_time(receiver, agent_socket):
    async def echo(_scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for size in (10, 30, 5):
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def slow_client():
        pieces = [b"a" * 100, b"b" * 50]

        async def receive():
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(_message):
            await asyncio.sleep(0.01)

        await measured(echo, agent_socket)(scope_of("/echo/4711/x"), receive, send)

    asyncio.run(slow_client())
    record = taken(receiver, 1)["/echo/*/x"]
    assert (record["bytes_in"], record["bytes_out"], record["mem_bytes"]) == (150, 45, 180)
    assert record["duration_s"] > 0.14
    assert record["service_time_s"] < 0.1


def test_memory_by_tracing_is_the_peak_of_a_request_that_is_alone(receiver, agent_socket):
    import tracemalloc

    async def hungry():
        assert len(bytearray(5_000_000)) == 5_000_000
        await asyncio.sleep(0.02)

    async def run():
        await call(app, scope_of("/alone"))
        await asyncio.gather(call(app, scope_of("/first")), call(app, scope_of("/second")))

    handlers = {name: in_request(hungry) for name in ("/alone", "/first", "/second")}
    app = measured(starlette(handlers), agent_socket, memory="tracemalloc")
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()
    records = taken(receiver, 3)
    assert 5_000_000 <= records["/alone"]["mem_bytes"] < 5_500_000
    assert "mem_bytes" not in records["/first"]
    assert "mem_bytes" not in records["/second"]


def test_failures_are_500_and_go_on_up(receiver, agent_socket):
    async def raises(_scope, _receive, _send):
        raise RuntimeError("broken")

    async def silent(_scope, _receive, _send):
        return

    async def run():
        with pytest.raises(RuntimeError, match="broken"):
            await call(measured(raises, agent_socket), scope_of("/raises"))
        with pytest.raises(RuntimeError, match="also"):
            await call(measured(starlette({"/starlette": failing}), agent_socket), scope_of("/starlette"))
        await call(measured(silent, agent_socket), scope_of("/silent"))

    async def failing(_request):
        raise RuntimeError("also")

    asyncio.run(run())
    assert {route: record["status"] for route, record in taken(receiver, 3).items()} == {
        "/raises": 500,
        "/starlette": 500,
        "/silent": 500,
    }


def test_a_client_that_went_away_is_499(receiver, agent_socket):
    async def listens(_scope, receive, _send):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def streams(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def waits(_scope, _receive, _send):
        await asyncio.sleep(10)

    async def run():
        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                raise OSError("connection lost")

        await measured(listens, agent_socket)(scope_of("/listens"), receive, send)
        with pytest.raises(OSError, match="lost"):
            await measured(streams, agent_socket)(scope_of("/streams"), receive, send)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(measured(waits, agent_socket)(scope_of("/waits"), receive, send), 0.01)

    asyncio.run(run())
    assert {record["status"] for record in taken(receiver, 3).values()} == {499}
