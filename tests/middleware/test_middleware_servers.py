"""The middleware under servers of other kinds: Trio, greenlets, and what WSGI servers see of an answer."""

import asyncio
import io
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from waitress.server import create_server

from fingerpost.middleware import FingerpostMiddleware, FingerpostWsgiMiddleware
from tests.support.middleware_requests import BURN_S, burn, call, scope_of, taken

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]


def wsgi(app, agent_socket=None, **options):
    return FingerpostWsgiMiddleware(app, service="shop", host="h1", socket=agent_socket, **options)


def environ_of(path="/", **more):
    made = {"PATH_INFO": path, **more}
    setup_testing_defaults(made)
    return made


def text(piece=b"hello"):
    def app(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [piece]

    return app


@contextmanager
def waitress(app):
    server = create_server(app, host="127.0.0.1", port=0, threads=2)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.close()


def raw(port, requests=2):
    """The answers to requests on one connection, as they are on the wire."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        said = []
        for _ in range(requests):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = b""
            while b"hello" not in answer:
                part = connection.recv(4096)
                if not part:
                    break
                answer += part
            said.append(answer)
    return said


def test_an_answer_keeps_its_length_and_its_connection():
    with waitress(text()) as bare, waitress(wsgi(text())) as port:
        plain, measured = raw(bare), raw(port)
    for answers in (plain, measured):
        assert all(b"content-length: 5" in answer.lower() for answer in answers)
        assert all(b"transfer-encoding" not in answer.lower() for answer in answers)
        assert all(b"connection: close" not in answer.lower() for answer in answers)


@pytest.mark.parametrize("pieces", [[], [b"one"], (b"one", b"two"), {b"one": 1}])
def test_the_number_of_pieces_is_as_without_the_middleware(pieces):
    def app(_environ, start_response):
        start_response("200 OK", [])
        return pieces

    response = wsgi(app)(environ_of(), lambda *_: None)
    assert len(response) == len(pieces)
    assert list(response) == list(pieces)
    response.close()
    assert not hasattr(wsgi(lambda *_: iter(pieces))(environ_of(), lambda *_: None), "__len__")


def test_what_is_sent_by_write_is_counted(receiver, agent_socket):
    def app(_environ, start_response):
        write = start_response("200 OK", [("Content-Length", "1005, or so")])
        write(b"x" * 1000)
        return [b"hello"]

    sent = []
    response = wsgi(app, agent_socket)(environ_of("/written"), lambda *_: sent.append)
    assert [*sent, *response] == [b"x" * 1000, b"hello"]
    response.close()
    assert taken(receiver, 1)["/written"]["bytes_out"] == 1005


def test_a_file_that_the_server_sends_stays_one(receiver, agent_socket):
    closed = []

    class File(io.BytesIO):
        def close(self):
            closed.append(self)
            super().close()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "4000")])
        return environ["wsgi.file_wrapper"](File(b"x" * 4000))

    response = wsgi(app, agent_socket)(environ_of("/file", **{"wsgi.file_wrapper": FileWrapper}), lambda *_: None)
    assert type(response) is FileWrapper
    response.close()
    assert len(closed) == 1
    record = taken(receiver, 1)["/file"]
    assert (record["status"], record["bytes_out"]) == (200, 4000)


def test_a_route_of_bottle(receiver, agent_socket):
    class Rule:
        rule = "/users/<name:re:[a-z/]+>"

    def app(environ, start_response):
        environ["bottle.route"] = Rule()
        start_response("200 OK", [])
        return [b""]

    response = wsgi(app, agent_socket)(environ_of("/users/ann"), lambda *_: None)
    list(response)
    response.close()
    assert set(taken(receiver, 1)) == {"/users/*"}


def test_under_trio(receiver, agent_socket):
    async def hello(_request):
        burn()
        await trio.sleep(0.01)
        return PlainTextResponse("hello")

    async def gone(_request):
        await trio.sleep_forever()

    app = FingerpostMiddleware(
        Starlette(routes=[Route("/", hello), Route("/gone", gone)]), service="shop", host="h1", socket=agent_socket
    )
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def serve():
        await app(scope_of("/"), receive, send)
        with trio.move_on_after(0.01):
            await app(scope_of("/gone"), receive, send)

    trio.run(serve)
    assert sent[0]["status"] == 200
    records = taken(receiver, 2)
    assert BURN_S <= records["/"]["cpu_s"] < 2 * BURN_S
    assert records["/gone"]["status"] == 499


def test_greenlets_are_not_charged_for_each_other(receiver, agent_socket):
    """Eight at once, each of which waits in the middle: without their turns each would be charged for several."""
    script = f"""
        from gevent import monkey
        monkey.patch_all()
        import gevent, sys, time
        from fingerpost.middleware import FingerpostWsgiMiddleware
        from tests.support.middleware_requests import burn

        def bare(environ, start_response):
            burn(0.01)
            time.sleep(0.1)
            burn(0.01)
            start_response("200 OK", [])
            return [b"ok"]

        app = FingerpostWsgiMiddleware(bare, service="shop", host="h1", socket={str(agent_socket)!r})

        def one(number):
            environ = {{"PATH_INFO": f"/r{{number}}", "REQUEST_METHOD": "GET"}}
            response = app(environ, lambda *_: None)
            assert list(response) == [b"ok"]
            response.close()

        gevent.joinall([gevent.spawn(one, number) for number in range(8)], raise_error=True)
        app.instrument.reporter.finish()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60, cwd=ROOT)
    records = taken(receiver, 8)
    assert all(0.02 <= record["cpu_s"] < 0.03 for record in records.values()), records


def test_routes_below_mounts(receiver, agent_socket):
    """Long words stay, and what a mount holds is told from what its route holds."""

    async def answer(_request):
        return PlainTextResponse("ok")

    inner = Starlette(routes=[Route("/{rest:path}", answer)])
    app = Starlette(
        routes=[
            Mount("/files", inner),
            Mount("/tenants/{tenant}", Starlette(routes=[Route("/{item}", answer)])),
            Route("/recalculate-customer-invoices-2024", answer),
            Route("/api/getCustomerAccountDetails/{id}", answer),
        ]
    )
    middleware = FingerpostMiddleware(app, service="shop", host="h1", socket=agent_socket)

    async def every():
        for path in (
            *("/files/a/b", "/tenants/4711/x", "/recalculate-customer-invoices-2024"),
            "/api/getCustomerAccountDetails/ann",
        ):
            await call(middleware, {**scope_of(path), "root_path": "", "query_string": b""})

    asyncio.run(every())
    assert set(taken(receiver, 4)) == {
        *("/files/*", "/tenants/*/*", "/recalculate-customer-invoices-2024", "/api/getCustomerAccountDetails/*")
    }
