"""What every request passes: a bound on its body, the time it took, and plain reasons for what is refused."""

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from fingerpost.fingerprint import MAX_MESSAGE_BYTES
from serving.loop_lag import LoopLag
from serving.metrics import engine_metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# What comes beyond the limit is read and forgotten up to here, so that the client hears why it is refused.
_MAX_DRAINED = 256 * 2**20
_UNKNOWN = "unknown"


class RefusedRequestError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of the answer.
        error: the reason.
    """

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


def problem(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that says why."""
    return Response(orjson.dumps({"error": error}), status, headers, "application/json")


class Door:
    """Reads bodies up to a limit while they come, and counts every answer.

    Args:
        app: the application.
        max_body: bytes; the application gets a body whole.
    """

    def __init__(self, app: App, max_body: int = MAX_MESSAGE_BYTES) -> None:
        self._app, self._max_body = app, max_body
        self._lag = LoopLag(engine_metrics().loop_lag.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._lag.start()
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if scope["method"] in ("GET", "HEAD"):
                await self._app(scope, receive, counted)
                return
            body = await _read(receive, self._max_body)
            if body is None:
                answer = problem(413, f"the body is larger than {self._max_body} bytes", {"connection": "close"})
                await answer(scope, receive, counted)
                return
            await self._app(scope, _once(body, receive), counted)
        finally:
            route = scope.get("route")
            endpoint = getattr(route, "path", _UNKNOWN)
            engine_metrics().answered(endpoint, status, time.perf_counter() - began)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body; None if it is larger than the limit."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= _MAX_DRAINED:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        more = message.get("more_body", False)
    return b"".join(parts) if size <= limit else None


def _once(body: bytes, receive: Receive) -> Receive:
    given = False

    async def next_message() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return next_message


def check_token(request: Request, token: str) -> None:
    """Refuses a request without the token, if there is one.

    Raises:
        RefusedRequestError: 401.
    """
    if not token:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise RefusedRequestError(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
