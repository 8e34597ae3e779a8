"""The middleware around real applications: whom CPU is charged to, what is reported, and what it never breaks."""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import msgpack
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from flask import Flask, Response
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
from werkzeug.serving import make_server

from fingerpost.records import REQUEST_RECORD, refusal
from fleet.middleware import (
    FingerpostMiddleware,
    FingerpostWsgiMiddleware,
    MeteredExecutor,
    MiddlewareReceiver,
    Reporter,
    charge_thread,
    charge_threads,
    metered,
    uncharge_threads,
)
from fleet.middleware.wire import MAX_DATAGRAM, RECORD_KEYS, VERSION, allowed

BURN_S = 0.05


@pytest.fixture
def receiver(tmp_path) -> Iterator[MiddlewareReceiver]:
    made = MiddlewareReceiver(tmp_path / "agent.sock")
    yield made
    made.close()


@pytest.fixture
def path(receiver) -> Path:
    return receiver.path


def burn(seconds: float = BURN_S) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(b"x" * 1000).digest()


def taken(receiver: MiddlewareReceiver, count: int) -> dict[str, dict[str, Any]]:
    """The records by route; waits until there are `count`."""
    records: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while len(records) < count and time.monotonic() < deadline:
        records += receiver.records()
        time.sleep(0.02)
    assert len(records) == count
    return {record["route"]: record for record in records}


def measured(app, path, **options):
    return FingerpostMiddleware(app, service="shop", host="h1", socket=path, **options)


def scope_of(path: str, method: str = "GET", headers=()) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": list(headers), "client": ("10.0.0.7", 1234)}


async def call(app, scope, body: tuple[bytes, ...] = (b"",)) -> list[dict[str, Any]]:
    """Calls an ASGI application as a server would; the client stays until the response is over."""
    pieces, sent = list(body), []

    async def receive():
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


def starlette(handlers: dict[str, Any]) -> Starlette:
    return Starlette(routes=[Route(path, handler) for path, handler in handlers.items()])


def in_request(handler):
    async def endpoint(_request: Request):
        await handler()
        return PlainTextResponse("ok")

    return endpoint


def test_concurrent_requests_are_not_charged_to_each_other(receiver, path):
    async def burner():
        for _ in range(20):
            burn(BURN_S / 10)
            await asyncio.sleep(0.001)

    async def sleeper():
        for _ in range(20):
            await asyncio.sleep(0.005)

    async def both():
        await asyncio.gather(call(app, scope_of("/burn")), call(app, scope_of("/sleep")))

    app = measured(starlette({"/burn": in_request(burner), "/sleep": in_request(sleeper)}), path)
    asyncio.run(both())
    records = taken(receiver, 2)
    assert 2 * BURN_S <= records["/burn"]["cpu_s"] < 3 * BURN_S
    assert records["/sleep"]["cpu_s"] < BURN_S / 5
    assert records["/sleep"]["duration_s"] > 0.09
    assert sorted(record["inflight"] for record in records.values()) == [0, 1]
    assert app.inflight == 0


async def child_tasks():
    async def child():
        burn(BURN_S / 2)
        await asyncio.sleep(0.001)
        burn(BURN_S / 2)

    await asyncio.gather(child(), asyncio.create_task(child(), name="named"))


async def grouped_tasks():
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 0.001)
        group.start_soon(run_in_task)
        group.start_soon(run_in_task)


async def run_in_task():
    burn()


async def to_thread():
    await asyncio.gather(asyncio.to_thread(burn), asyncio.to_thread(burn))


async def default_executor():
    await asyncio.get_running_loop().run_in_executor(None, burn, 2 * BURN_S)


async def own_executor():
    with MeteredExecutor(2) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, burn, 2 * BURN_S)


async def anyio_thread():
    await anyio.to_thread.run_sync(burn, 2 * BURN_S)


async def bare_thread():
    thread = threading.Thread(target=metered(burn), args=(2 * BURN_S,))
    thread.start()
    await asyncio.to_thread(thread.join)


async def marked_thread():
    def work():
        with charge_thread():
            burn(2 * BURN_S)

    thread = threading.Thread(target=copy_context().run, args=(work,))
    thread.start()
    await asyncio.to_thread(thread.join)


async def nested_threads():
    def outer():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(burn).result()
        burn()

    await asyncio.to_thread(outer)


WORK = [
    child_tasks,
    grouped_tasks,
    to_thread,
    default_executor,
    own_executor,
    anyio_thread,
    bare_thread,
    marked_thread,
    nested_threads,
]


@pytest.mark.parametrize("work", WORK, ids=[work.__name__ for work in WORK])
def test_work_elsewhere_is_charged_to_its_request_once(receiver, path, work):
    async def idle():
        await asyncio.sleep(BURN_S)

    async def both():
        await asyncio.gather(call(app, scope_of("/work")), call(app, scope_of("/idle")))

    app = measured(starlette({"/work": in_request(work), "/idle": in_request(idle)}), path)
    asyncio.run(both())
    records = taken(receiver, 2)
    assert 2 * BURN_S <= records["/work"]["cpu_s"] < 3.5 * BURN_S
    assert records["/idle"]["cpu_s"] < BURN_S / 5


def test_another_task_factory_keeps_working(receiver, path):
    made = []

    def factory(loop, coroutine, **options):
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def run():
        asyncio.get_running_loop().set_task_factory(factory)
        await call(app, scope_of("/work"))

    app = measured(starlette({"/work": in_request(child_tasks)}), path)
    asyncio.run(run())
    assert taken(receiver, 1)["/work"]["cpu_s"] >= 2 * BURN_S
    assert made.count("child_tasks.<locals>.child") == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_are_charged_once(receiver, path):
    async def run():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await call(app, scope_of("/work"))

    app = measured(starlette({"/work": in_request(child_tasks)}), path)
    asyncio.run(run())
    assert 2 * BURN_S <= taken(receiver, 1)["/work"]["cpu_s"] < 3 * BURN_S


@pytest.mark.filterwarnings("error")
def test_a_task_cancelled_before_it_began_is_quiet(receiver, path):
    async def cancels():
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(call(measured(starlette({"/": in_request(cancels)}), path), scope_of("/")))
    assert taken(receiver, 1)["/"]["status"] == 200


def test_what_is_wrapped_can_be_put_back():
    uncharge_threads()
    before = ThreadPoolExecutor.submit, anyio.to_thread.run_sync
    charge_threads()
    charge_threads()
    assert (ThreadPoolExecutor.submit, anyio.to_thread.run_sync) != before
    uncharge_threads()
    assert (ThreadPoolExecutor.submit, anyio.to_thread.run_sync) == before
    assert ThreadPoolExecutor(1).submit(sum, [1, 2]).result() == 3


def test_a_record_has_what_the_host_knows_and_no_secret(receiver, path):
    headers = {
        "authorization": "Bearer SECRET",
        "cookie": "SECRET",
        "x-api-key": "SECRET",
        "user-agent": "x" * 1000,
        "cf-ipcountry": "DE",
        "x-forwarded-client-cert": "Hash=SECRET",
        "x-forwarded-for": "1.2.3.4",
    }
    app = measured(starlette({"/users/{id}": in_request(asyncio.sleep.__get__(0))}), path)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(call(app, scope_of("/users/42", headers=raw), (b"12", b"345")))
    record = taken(receiver, 1)["/users/*"]
    assert "SECRET" not in str(record)
    assert set(record) == set(RECORD_KEYS)
    expected = {"auth": "bearer", "client_cert": True, "user_agent": "x" * 256, "region_header": "DE"}
    expected |= {"client": "10.0.0.7", "forwarded_for": "1.2.3.4", "bytes_out": 2, "method": "GET", "status": 200}
    assert {name: record[name] for name in expected} == expected
    now = time.time_ns() // 1000
    row = {**record, "user_agent_class": "other", "region": "DE"}
    assert refusal(row, REQUEST_RECORD, now - 60_000_000, now) is None


def test_bodies_are_counted_and_waiting_for_the_client_is_not_service_time(receiver, path):
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

        await measured(echo, path)(scope_of("/echo/4711/x"), receive, send)

    asyncio.run(slow_client())
    record = taken(receiver, 1)["/echo/*/x"]
    assert (record["bytes_in"], record["bytes_out"], record["mem_bytes"]) == (150, 45, 180)
    assert record["duration_s"] > 0.14
    assert record["service_time_s"] < 0.1


def test_memory_by_tracing_is_the_peak_of_a_request_that_is_alone(receiver, path):
    import tracemalloc

    async def hungry():
        assert len(bytearray(5_000_000)) == 5_000_000
        await asyncio.sleep(0.02)

    async def run():
        await call(app, scope_of("/alone"))
        await asyncio.gather(call(app, scope_of("/first")), call(app, scope_of("/second")))

    handlers = {name: in_request(hungry) for name in ("/alone", "/first", "/second")}
    app = measured(starlette(handlers), path, memory="tracemalloc")
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()
    records = taken(receiver, 3)
    assert 5_000_000 <= records["/alone"]["mem_bytes"] < 5_500_000
    assert "mem_bytes" not in records["/first"]
    assert "mem_bytes" not in records["/second"]


def test_failures_are_500_and_go_on_up(receiver, path):
    async def raises(_scope, _receive, _send):
        raise RuntimeError("broken")

    async def silent(_scope, _receive, _send):
        return

    async def run():
        with pytest.raises(RuntimeError, match="broken"):
            await call(measured(raises, path), scope_of("/raises"))
        with pytest.raises(RuntimeError, match="also"):
            await call(measured(starlette({"/starlette": failing}), path), scope_of("/starlette"))
        await call(measured(silent, path), scope_of("/silent"))

    async def failing(_request):
        raise RuntimeError("also")

    asyncio.run(run())
    assert {route: record["status"] for route, record in taken(receiver, 3).items()} == {
        "/raises": 500,
        "/starlette": 500,
        "/silent": 500,
    }


def test_a_client_that_went_away_is_499(receiver, path):
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

        await measured(listens, path)(scope_of("/listens"), receive, send)
        with pytest.raises(OSError, match="lost"):
            await measured(streams, path)(scope_of("/streams"), receive, send)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(measured(waits, path)(scope_of("/waits"), receive, send), 0.01)

    asyncio.run(run())
    assert {record["status"] for record in taken(receiver, 3).values()} == {499}


@contextlib.contextmanager
def served(app) -> Iterator[str]:
    """The application under uvicorn, on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def fastapi_app() -> FastAPI:
    app, router = FastAPI(), APIRouter(prefix="/users")

    @router.get("/{user_id}/sync")
    def sync(user_id: str) -> str:
        burn()
        return user_id

    @router.post("/{user_id}/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.get("/stream/{count}")
    def stream(count: int) -> StreamingResponse:
        def pieces():
            for _ in range(count):
                burn(BURN_S / 5)
                yield b"x" * 1000

        return StreamingResponse(pieces())

    app.include_router(router, prefix="/v1")
    app.mount("/tenants/{tenant}", Router([Route("/items/{item}", in_request(run_in_task))]))
    return app


def test_fastapi_under_uvicorn(receiver, path):
    app = fastapi_app()
    app.add_middleware(FingerpostMiddleware, service="shop", host="h1", socket=path, host_headers=True)
    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        first = client.get("/v1/users/alice/sync")
        client.post("/v1/users/bob/echo", content=b"x" * 5000)
        assert len(client.get("/stream/5").content) == 5000
        assert client.get("/tenants/7/items/9").status_code == 200
        assert client.get("/none/0123456789abcdef").status_code == 404
        time.sleep(0.15)
        later = client.get("/v1/users/carol/sync")
    assert BURN_S <= float(first.headers["x-fingerpost-cpu-s"]) < 2 * BURN_S
    assert first.headers["x-fingerpost-inflight"] == "0"
    assert later.headers["endpoint-load-metrics"].startswith("TEXT cpu_utilization=")
    records = taken(receiver, 6)
    routes = {"/v1/users/*/sync", "/v1/users/*/echo", "/stream/*", "/tenants/*/items/*", "/none/*"}
    assert set(records) == routes
    assert BURN_S <= records["/v1/users/*/sync"]["cpu_s"] < 2 * BURN_S
    assert BURN_S <= records["/stream/*"]["cpu_s"] < 2 * BURN_S
    assert (records["/v1/users/*/echo"]["bytes_in"], records["/stream/*"]["bytes_out"]) == (5000, 5000)
    assert records["/none/*"]["status"] == 404


def test_websockets_lifespan_and_skipped_paths_pass(receiver, path):
    events = []

    async def talk(websocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        events.append("up")
        yield
        events.append("down")

    routes = [WebSocketRoute("/talk", talk), Route("/healthz", in_request(run_in_task))]
    inner = Starlette(routes=[Mount("/", routes=routes)], lifespan=lifespan)
    from websockets.sync.client import connect

    with served(measured(inner, path, skip=("/healthz",), orca=None)) as url:
        with connect(url.replace("http", "ws") + "/talk", proxy=None) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"
        assert "endpoint-load-metrics" not in httpx.get(f"{url}/healthz", trust_env=False).headers
    assert events == ["up", "down"]
    time.sleep(0.3)
    assert receiver.records() == []


def flask_app() -> Flask:
    app = Flask("shop")

    @app.get("/users/<int:user_id>/orders")
    def orders(user_id: int) -> str:
        burn()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(burn).result()
        return str(user_id)

    @app.get("/stream")
    def stream() -> Response:
        def pieces():
            for _ in range(5):
                burn(BURN_S / 5)
                yield "x" * 1000

        return Response(pieces())

    @app.post("/fails")
    def fails() -> str:
        raise RuntimeError("broken")

    @app.get("/sleep")
    def sleep() -> str:
        time.sleep(0.1)
        return "slept"

    return app


@contextlib.contextmanager
def served_wsgi(app) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_flask_under_werkzeug(receiver, path):
    app = flask_app()
    app.wsgi_app = FingerpostWsgiMiddleware(
        app.wsgi_app, service="shop", host="h1", socket=path, orca="json", host_headers=True
    )
    with served_wsgi(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        with ThreadPoolExecutor(2) as pool:
            sleeping = pool.submit(httpx.get, f"{url}/sleep", trust_env=False)
            answer = client.get("/users/7/orders", headers={"authorization": "Basic eDp5"})
            assert sleeping.result().text == "slept"
        assert len(client.get("/stream").content) == 5000
        assert client.post("/fails", content=b"abc").status_code == 500
        reported = client.get("/none/123").headers
    assert 2 * BURN_S <= float(answer.headers["x-fingerpost-cpu-s"]) < 3 * BURN_S
    assert reported["endpoint-load-metrics"].startswith('JSON {"cpu_utilization":')
    records = taken(receiver, 5)
    assert set(records) == {"/users/*/orders", "/sleep", "/stream", "/fails", "/none/*"}
    orders = records["/users/*/orders"]
    assert 2 * BURN_S <= orders["cpu_s"] < 3 * BURN_S
    assert (orders["auth"], orders["status"], orders["client"]) == ("basic", 200, "127.0.0.1")
    assert records["/sleep"]["cpu_s"] < BURN_S / 5
    assert BURN_S <= records["/stream"]["cpu_s"] < 2 * BURN_S
    assert (records["/fails"]["status"], records["/fails"]["bytes_in"]) == (500, 3)
    assert records["/none/*"]["status"] == 404


def test_wsgi_failures_and_vanished_clients(receiver, path):
    from wsgiref.util import setup_testing_defaults

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/raises":
            raise RuntimeError("broken")
        start_response("200 OK", [])
        return iter([b"one", b"two"])

    middleware = FingerpostWsgiMiddleware(app, service="shop", host="h1", socket=path)

    def environ(path_info):
        made = {"PATH_INFO": path_info}
        setup_testing_defaults(made)
        return made

    with pytest.raises(RuntimeError, match="broken"):
        middleware(environ("/raises"), lambda *_: None)
    response = middleware(environ("/gone"), lambda *_: None)
    assert next(iter(response)) == b"one"
    response.close()
    response = middleware(environ("/whole"), lambda *_: None)
    assert list(response) == [b"one", b"two"]
    response.close()
    statuses = {route: record["status"] for route, record in taken(receiver, 3).items()}
    assert statuses == {"/raises": 500, "/gone": 499, "/whole": 200}
    assert middleware.inflight == 0


@given(st.binary(max_size=300))
def test_any_datagram_is_taken_or_counted(data):
    with sent_to_receiver([data, bytes([VERSION]) + data]) as receiver:
        receiver.records()
        assert receiver.counts["bad_datagrams"] <= 2


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=300),
    st.binary(),
    st.just([]),
)
maps = st.dictionaries(st.sampled_from([*RECORD_KEYS, "secret"]), values, max_size=6)


@given(st.lists(maps | values, max_size=4), values)
def test_any_batch_gives_only_what_is_allowed(records, dropped):
    batches = [{"records": records, "dropped": dropped}, {"records": dropped}, records]
    with sent_to_receiver([bytes([VERSION]) + msgpack.packb(each) for each in batches]) as receiver:
        taken = receiver.records()
        assert len(taken) + receiver.counts["bad_records"] == len(records)
        for record in taken:
            assert set(record) <= set(RECORD_KEYS)
            assert all(type(value) in RECORD_KEYS[name] for name, value in record.items())


@contextlib.contextmanager
def sent_to_receiver(datagrams: list[bytes]) -> Iterator[MiddlewareReceiver]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        receiver = MiddlewareReceiver(Path(folder) / "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, str(Path(folder) / "s"))
        yield receiver
        receiver.close()


def test_only_allowed_keys_and_types_pass():
    assert allowed({"status": 200, "secret": "x", "cpu_s": 1, "inflight": True, "route": "r" * 500, 3: 4}) == {
        "status": 200,
        "cpu_s": 1,
        "route": "r" * 256,
    }


def test_the_socket_file_is_private_and_goes_with_its_receiver(tmp_path):
    place = tmp_path / "s"
    first = MiddlewareReceiver(place)
    assert place.stat().st_mode & 0o777 == 0o600
    second = MiddlewareReceiver(place, mode=0o660)
    assert place.stat().st_mode & 0o777 == 0o660
    first.close()
    assert place.exists()
    second.close()
    assert not place.exists()
    place.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        MiddlewareReceiver(place)
    assert place.read_text() == "precious"


def give(reporter: Reporter, record: dict[str, Any]) -> None:
    reporter.report(lambda: record)


def test_records_wait_for_the_agent_and_what_is_given_up_is_told(tmp_path):
    reporter = Reporter(tmp_path / "s")
    for number in range(4000):
        give(reporter, {"status": number})
    reporter.flush()
    for number in range(4000, 5000):
        give(reporter, {"status": number})
    give(reporter, {"status": object()})
    give(reporter, {"route": "x" * MAX_DATAGRAM})
    reporter.flush()
    receiver = MiddlewareReceiver(tmp_path / "s")
    statuses: list[int] = []
    for _ in range(50):
        reporter.flush()
        statuses += [record["status"] for record in receiver.records()]
    reporter.close()
    receiver.close()
    assert statuses == list(range(5000 - 4096, 5000))
    assert receiver.counts["dropped"] == 5000 - 4096 + 2


def test_a_full_socket_never_blocks_and_a_restarted_agent_is_found(tmp_path):
    receiver, reporter = MiddlewareReceiver(tmp_path / "s"), Reporter(tmp_path / "s")
    for _ in range(20):
        for number in range(300):
            give(reporter, {"status": number, "user_agent": "x" * 256, "route": "r" * 200})
        reporter.flush()
    receiver.close()
    again = MiddlewareReceiver(tmp_path / "s")
    got = 0
    for _ in range(100):
        reporter.flush()
        got += len(again.records())
    reporter.close()
    again.close()
    assert got == 4096


def test_a_forked_child_reports_its_own_and_only_its_own(receiver, path):
    reporter = Reporter(path)
    give(reporter, {"route": "/parent", "status": 1})
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            give(reporter, {"route": "/child", "status": 2})
            time.sleep(0.6)
        os._exit(0)
    os.waitpid(child, 0)
    assert set(taken(receiver, 2)) == {"/parent", "/child"}
    reporter.close()


def test_a_served_application_loads_nothing_heavy():
    heavy = ("pydantic", "pandas", "numpy", "starlette", "anyio", "flask", "psutil", "ua_parser", "arro3", "typer")
    code = f"import fleet.middleware, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
