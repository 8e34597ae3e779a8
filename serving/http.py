"""Guards every request: a bound on its body, the time it took, and plain reasons for refusals."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from fingerpost.serving.metrics import LoopLag, engine_metrics
from fingerpost.settings import get_settings
from fingerpost.tracing import span, traced

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_UNKNOWN = "unknown"
# No status of an answer, since there was none: nginx's number in its logs for a client that went away.
_GONE = 499
_MAX_DIGITS = 12


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
    """Makes an answer that says why a request was not served."""
    return Response(orjson.dumps({"error": error}), status, headers, "application/json")


@dataclass(frozen=True)
class Takes:
    """The body that a path takes.

    Args:
        media_type: of the body.
        most: bytes.
        roles: of the tokens that may send it, where there are tokens; none: it is a question, which changes nothing.
    """

    media_type: str
    most: int
    roles: frozenset[str] = frozenset()


class BodyLimitMiddleware:
    """Checks a request's headers before its body is read, reads that up to a limit, counts every answer.

    Args:
        app: the application; it gets a body whole.
        takes: path to what it takes; no other path is given a body.
    """

    def __init__(self, app: App, takes: Mapping[str, Takes]) -> None:
        self._app, self._takes = app, takes
        self._lag = LoopLag(engine_metrics().loop_lag.set)
        self._bodies = Bodies(get_settings().engine_body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not traced():
            await self._answer(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with span(scope["method"], headers, http_request_method=scope["method"], url_path=scope["path"]) as present:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    present.note(http_response_status__code=message["status"])
                    if message["status"] >= 500:
                        present.failed("")
                await send(message)

            await self._answer(scope, receive, noted)
            route = getattr(scope.get("route"), "path", _UNKNOWN)
            present.name(f"{scope['method']} {route}")
            present.note(http_route=route)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            takes = self._takes.get(scope["path"]) if scope["method"] == "POST" else None
            body = await self._body(scope, receive, takes) if takes else b""
            await self._app(scope, _once(body, receive), counted)
        except RefusedRequestError as error:
            if self._takes[scope["path"]].roles:
                _note_refusal(scope, error.status)
            await problem(error.status, error.error, error.headers)(scope, receive, counted)
        except ClientDisconnect:
            status = _GONE
        finally:
            route = scope.get("route")
            endpoint = getattr(route, "path", _UNKNOWN)
            engine_metrics().answered(endpoint, status, time.perf_counter() - began)

    async def _body(self, scope: Scope, receive: Receive, takes: Takes) -> bytes:
        """The body of a request that is what the path takes.

        What a client goes on sending when its answer is there is read and forgotten, so that it hears the answer.

        Raises:
            RefusedRequestError: it is not.
            ClientDisconnect: the client went away.
        """
        headers = Headers(scope=scope)
        given = headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != takes.media_type:
            raise RefusedRequestError(415, f"send a body of {takes.media_type}")
        length = headers.get("content-length", "0")
        if len(length) > _MAX_DIGITS or int(length) > takes.most:
            raise RefusedRequestError(413, _too_large(takes.most))
        return await self._bodies.read(receive, takes.most)


class Bodies:
    """Reads bodies while they come; bounded in time each, and in bytes over all that are under way.

    Where there is no room the one goes that has been under way for the longest time: a body comes in milliseconds,
    unless its client is slow, or does not mean to send it.

    Args:
        timeout_s: for one body.
        most_bytes: over all.
    """

    def __init__(self, timeout_s: float, most_bytes: int = 64 * 2**20) -> None:
        self._timeout_s, self._most_bytes = timeout_s, most_bytes
        # What has come of each, the oldest first; its time limit is what ends it.
        self._under_way: dict[asyncio.Timeout, int] = {}
        self._held_bytes = 0

    async def read(self, receive: Receive, most: int) -> bytes:
        """A body.

        Raises:
            RefusedRequestError: it is larger than `most` bytes, too slow, or goes to make room.
            ClientDisconnect: the client went away.
        """
        limit = asyncio.timeout(self._timeout_s)
        parts: list[bytes] = []
        try:
            async with limit:
                self._under_way[limit] = size = 0
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise RefusedRequestError(413, _too_large(most))
                    parts.append(part)
                    more = message.get("more_body", False)
                    self._hold(limit, len(part))
        except TimeoutError:
            if not limit.expired():
                raise
            parts.clear()
            why = f"its body did not come in {self._timeout_s:g} s, or others needed the room"
            raise RefusedRequestError(408, why, {"connection": "close"}) from None
        finally:
            self._held_bytes -= self._under_way.pop(limit, 0)
        return b"".join(parts)

    def _hold(self, limit: asyncio.Timeout, more_bytes: int) -> None:
        if limit not in self._under_way:
            return  # it went to make room, and will hear so at once
        self._under_way[limit] += more_bytes
        self._held_bytes += more_bytes
        while self._held_bytes > self._most_bytes:
            oldest = next(iter(self._under_way))
            self._held_bytes -= self._under_way.pop(oldest)
            oldest.reschedule(asyncio.get_running_loop().time())


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes"


def _note_refusal(scope: Scope, status: int) -> None:
    engine_metrics().refused(f"request:{status}", 1)
    scope["app"].state.engine.refusals.note(0, {f"request:{status}": 1})


def _once(body: bytes, receive: Receive) -> Receive:
    given = False

    async def next_message() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return next_message
