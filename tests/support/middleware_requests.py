"""Requests for tests of the middleware: what they do, how they are sent, what is heard of them."""

import asyncio
import hashlib
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fingerpost.middleware import FingerpostMiddleware, MiddlewareReceiver

BURN_S = 0.05


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


async def run_in_task():
    burn()
