"""What the middleware adds to a request: bare applications, called directly with and without it."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

from fingerpost.middleware import FingerpostMiddleware, FingerpostWsgiMiddleware

_ROUNDS = 40
_CALLS = 100
_PAUSE_S = 0.1
_WARM_UP = 500
_AGENT = """
import json, select, sys
from fingerpost.middleware import MiddlewareReceiver
receiver = MiddlewareReceiver(sys.argv[1])
while not select.select([sys.stdin], [], [], 0.1)[0]:
    receiver.records()
receiver.records()
print(json.dumps({"records": 0, "dropped": 0, **receiver.counts}))
"""
_HEADERS = {
    "host": "shop.example",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "en",
    "authorization": "Bearer token",
    "cookie": "session=1",
    "content-length": "100",
    "cf-ipcountry": "DE",
    "x-request-id": "1234",
}
_ORDERS = "/users/1234/orders"


def measure_middleware() -> dict[str, Any]:
    """Overheads a request, in microseconds, of ASGI and WSGI with everything on: reporter, receiver, ORCA, headers.

    Calls with and without the middleware alternate in rounds, so that the machine's other work meets both alike; with
    the pauses between rounds it is some 900 requests a second, which the reporter sends meanwhile. The
    receiver drains its socket in a process of its own, as the agent does.

    Returns:
        For `asgi`, `asgi_tracing` (memory by tracemalloc) and `wsgi`: `bare_p50_us`, `bare_p99_us`, `p50_us` and
        `p99_us` of the whole call, `added_p50_us` and `added_p99_us`, the differences of these, and `added_cpu_us`, the
        mean CPU time a call adds to the process, that of the reporter's thread included; and of the records `reported`,
        `received` and `dropped`.
    """
    import tracemalloc

    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder:
        path = Path(folder) / "agent.sock"
        agent = subprocess.Popen([sys.executable, "-c", _AGENT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        while not path.exists():
            time.sleep(0.05)
        options: dict[str, Any] = {"service": "shop", "host": "h1", "socket": path, "host_headers": True}
        try:
            figures: dict[str, Any] = {
                "calls": _ROUNDS * _CALLS,
                "asgi": _asgi(FingerpostMiddleware(_asgi_app, **options)),
                "wsgi": _wsgi(FingerpostWsgiMiddleware(_wsgi_app, **options)),
                "asgi_tracing": _asgi(FingerpostMiddleware(_asgi_app, **options, memory="tracemalloc")),
            }
            time.sleep(1.0)
        finally:
            tracemalloc.stop()
            output, _ = agent.communicate(b"stop", timeout=30)
    counts = json.loads(output)
    return {
        **figures,
        "reported": 3 * (_ROUNDS * _CALLS + _WARM_UP),
        "received": counts["records"],
        "dropped": counts["dropped"],
    }


async def _asgi_app(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    environ["wsgi.input"].read(100)
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]


def _asgi(middleware: Any) -> dict[str, float]:
    headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 100, "more_body": False}

    async def send(_message: Any) -> None:
        return None

    async def timed(app: Any, calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            scope = {"type": "http", "method": "GET", "path": _ORDERS, "headers": headers, "client": ("10.0.0.7", 1)}
            began = time.perf_counter()
            await app(scope, receive, send)
            seconds.append(time.perf_counter() - began)
        return seconds

    async def rounds() -> dict[str, float]:
        await timed(middleware, _WARM_UP)
        bare, dressed, cpu_s = list[float](), list[float](), time.process_time()
        for _ in range(_ROUNDS):
            await asyncio.sleep(_PAUSE_S)
            bare += await timed(_asgi_app, _CALLS)
            dressed += await timed(middleware, _CALLS)
        return _figures(bare, dressed, time.process_time() - cpu_s)

    return asyncio.run(rounds())


def _wsgi(middleware: Any) -> dict[str, float]:
    import io

    variables = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in _HEADERS.items()}
    variables |= {"REQUEST_METHOD": "GET", "PATH_INFO": _ORDERS, "SCRIPT_NAME": "", "REMOTE_ADDR": "10.0.0.7"}
    variables["CONTENT_LENGTH"] = variables.pop("HTTP_CONTENT_LENGTH")

    def start_response(*_answer: Any) -> None:
        return None

    def timed(app: Any, calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            environ = {**variables, "wsgi.input": io.BytesIO(b"x" * 100)}
            began = time.perf_counter()
            pieces = app(environ, start_response)
            b"".join(pieces)
            if hasattr(pieces, "close"):
                pieces.close()
            seconds.append(time.perf_counter() - began)
        return seconds

    timed(middleware, _WARM_UP)
    bare, dressed, cpu_s = list[float](), list[float](), time.process_time()
    for _ in range(_ROUNDS):
        time.sleep(_PAUSE_S)
        bare += timed(_wsgi_app, _CALLS)
        dressed += timed(middleware, _CALLS)
    return _figures(bare, dressed, time.process_time() - cpu_s)


def _figures(bare: list[float], dressed: list[float], cpu_s: float) -> dict[str, float]:
    cuts = {"bare_": quantiles(bare, n=100), "": quantiles(dressed, n=100)}
    figures = {f"{name}p{q}_us": round(cut[q - 1] * 1e6, 1) for name, cut in cuts.items() for q in (50, 99)}
    added = {f"added_p{q}_us": round(figures[f"p{q}_us"] - figures[f"bare_p{q}_us"], 1) for q in (50, 99)}
    # Making the arguments and the pauses is in it, the bare calls are taken out.
    cpu_us = (cpu_s - sum(bare)) / len(dressed) * 1e6
    return {**figures, **added, "added_cpu_us": round(cpu_us, 1)}
