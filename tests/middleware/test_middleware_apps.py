"""The middleware around FastAPI, Starlette and Flask, served for real."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from flask import Flask, Response
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
from werkzeug.serving import make_server

from fingerpost.middleware import FingerpostMiddleware, FingerpostWsgiMiddleware
from tests.support.middleware_requests import BURN_S, burn, in_request, measured, run_in_task, taken

pytestmark = pytest.mark.process


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


def test_fastapi_under_uvicorn(receiver, agent_socket):
    app = fastapi_app()
    app.add_middleware(FingerpostMiddleware, service="shop", host="h1", socket=agent_socket, host_headers=True)
    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        first = client.get("/v1/users/alice/sync")
        client.post("/v1/users/bob/echo", content=b"x" * 5000)
        assert len(client.get("/stream/5").content) == 5000
        assert client.get("/tenants/7/items/9").status_code == 200
        assert client.get("/none/0123456789abcdef").status_code == 404
        time.sleep(0.15)
        later = client.get("/v1/users/carol/sync")
    # Not of the first request, in which libraries are imported.
    assert BURN_S <= float(later.headers["x-fingerpost-cpu-s"]) < 2 * BURN_S
    assert first.headers["x-fingerpost-inflight"] == "0"
    assert later.headers["endpoint-load-metrics"].startswith("TEXT cpu_utilization=")
    records = taken(receiver, 6)
    routes = {"/v1/users/*/sync", "/v1/users/*/echo", "/stream/*", "/tenants/*/items/*", "/none/*"}
    assert set(records) == routes
    assert BURN_S <= records["/v1/users/*/sync"]["cpu_s"] < 2 * BURN_S
    assert BURN_S <= records["/stream/*"]["cpu_s"] < 2 * BURN_S
    assert (records["/v1/users/*/echo"]["bytes_in"], records["/stream/*"]["bytes_out"]) == (5000, 5000)
    assert records["/none/*"]["status"] == 404


def test_websockets_lifespan_and_skipped_paths_pass(receiver, agent_socket):
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

    with served(measured(inner, agent_socket, skip=("/healthz",), orca=None)) as url:
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


def test_flask_under_werkzeug(receiver, agent_socket):
    app = flask_app()
    app.wsgi_app = FingerpostWsgiMiddleware(
        app.wsgi_app, service="shop", host="h1", socket=agent_socket, orca="json", host_headers=True
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


def test_wsgi_failures_and_vanished_clients(receiver, agent_socket):
    from wsgiref.util import setup_testing_defaults

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/raises":
            raise RuntimeError("broken")
        start_response("200 OK", [])
        return iter([b"one", b"two"])

    middleware = FingerpostWsgiMiddleware(app, service="shop", host="h1", socket=agent_socket)

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
