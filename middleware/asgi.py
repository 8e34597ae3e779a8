"""The ASGI middleware: for FastAPI, Starlette, Litestar, Quart, Django under ASGI, and plain ASGI applications.

Under any server: of asyncio, or of Trio.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from fingerpost.category import route_template
from fingerpost.middleware.core import FAILED, Exchange, Instrument
from fingerpost.middleware.facts import HEADERS, body_length, client_facts, method_name
from fingerpost.middleware.meter import CURRENT
from fingerpost.middleware.tasks import MeteredCoroutine, charge_tasks
from fingerpost.middleware.threads import charge_threads
from fingerpost.request_status import CLIENT_GONE
from fingerpost.route_templates import framework_route

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_WANTED = tuple((name.encode(), name) for name in HEADERS)


class FingerpostMiddleware:
    """Measures every HTTP request of an ASGI application and reports it; websockets and lifespan pass untouched.

    A request's CPU-seconds are those of the steps of its coroutine, of the tasks it creates and of the work it hands to
    threads; what other requests do while it waits is not among them.

    Args:
        app: the application.
        route_of: gives the route of a scope after the request; where it returns None, and without it, it is the
            framework's route template, or else the path with its ids collapsed.
        skip: paths that are neither measured nor counted, such as health checks.
        tasks, threads: whether child tasks and work in threads are charged to their request (`charge_tasks`,
            `charge_threads`: what is wrapped for it).
        service, host, socket, slots, cores, mem_limit_bytes, memory, orca, host_headers: see `Instrument`.

    Raises:
        ValueError: see `Instrument`.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        service: str,
        host: str,
        socket: str | Path | None = None,
        slots: int | None = None,
        cores: float | None = None,
        mem_limit_bytes: int | None = None,
        memory: str | None = "bodies",
        orca: str | None = "text",
        host_headers: bool = False,
        route_of: Callable[[Scope], str | None] | None = None,
        skip: Collection[str] = (),
        tasks: bool = True,
        threads: bool = True,
    ) -> None:
        self.app = app
        self._instrument = Instrument(service, host, socket, slots, cores, mem_limit_bytes, memory, orca, host_headers)
        self._route_of = route_of
        self._skip = frozenset(skip)
        self._tasks, self._threads = tasks, threads
        self._loop: asyncio.AbstractEventLoop | None = None
        if threads:
            charge_threads()

    @property
    def inflight(self) -> int:
        """Requests in the process now."""
        return self._instrument.load.inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._pass_lifespan(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in self._skip:
            await self.app(scope, receive, send)
            return
        self._prepare_loop()
        path, root = scope["path"], scope.get("root_path", "")
        exchange = self._instrument.begin()
        client = _Client(self._instrument, exchange, receive, send)
        token = CURRENT.set(exchange)
        try:
            await MeteredCoroutine(self.app(scope, client.receive, client.send), exchange)
        except asyncio.CancelledError:
            if not exchange.ended_at:
                exchange.status = CLIENT_GONE
            raise
        except BaseException as error:
            # Trio's word for it is no class of the standard library.
            gone = client.gone or type(error).__name__ == "Cancelled"
            exchange.status = CLIENT_GONE if gone and not exchange.ended_at else FAILED
            raise
        else:
            if not exchange.ended_at:
                exchange.status = CLIENT_GONE if client.gone else FAILED
        finally:
            CURRENT.reset(token)
            self._end(exchange, scope, path, root)

    async def _pass_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            # Servers may end the process by a signal right after this.
            if self._instrument.reporter:
                self._instrument.reporter.finish()

    def _end(self, exchange: Exchange, scope: Scope, path: str, root: str) -> None:
        # What is kept for the reporter is these few values, not the scope with all that applications put there.
        route = (self._route_of and self._route_of(scope)) or scope.get("route")
        # Litestar tells the whole template. Routers below a mount add to the root path of the scope.
        template, mounted = scope.get("path_template"), scope.get("root_path", "")
        if not route and isinstance(template, str):
            route = framework_route(template)
        below = mounted if len(mounted) > len(root) and path.startswith(mounted) else ""
        extensions = scope.get("extensions")
        tls = extensions.get("tls") if extensions else None
        facts = partial(
            _facts, exchange, route, below, scope["method"], path, scope["headers"], scope.get("client"), tls
        )
        self._instrument.end(exchange, facts)

    def _prepare_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # Trio's, say: coroutines are charged all the same, and tasks of their own are not
            if self._threads:
                charge_threads()
            return
        if loop is self._loop:
            return
        self._loop = loop
        if self._tasks:
            charge_tasks(loop)
        if self._threads:
            charge_threads()


def _facts(
    exchange: Exchange, route: Any, below: str, method: str, path: str, raw: Any, peer: Any, tls: Any
) -> dict[str, Any]:
    """What the request says of itself.

    Args:
        route: its route, or the framework's object for it.
        below: the path of the mounts that the route is below, if they are known.
    """
    sent = dict(raw)
    headers = {name: sent[key].decode("latin-1") for key, name in _WANTED if key in sent}
    # A body may be left unread, and need not declare its length.
    exchange.bytes_in = max(exchange.bytes_in, body_length(headers))
    verified = bool(tls and tls.get("client_cert_name") and not tls.get("client_cert_error"))
    return {
        "method": method_name(method),
        "route": route if isinstance(route, str) else _route(route, path, below),
        **client_facts(headers, peer[0] if peer else None, verified),
    }


class _Client:
    """The client's side of one exchange: counts what goes through, and the time spent waiting for it."""

    __slots__ = ("_body_read", "_exchange", "_instrument", "_receive", "_send", "gone")

    def __init__(self, instrument: Instrument, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._instrument = instrument
        self._exchange = exchange
        self._receive, self._send = receive, send
        self._body_read = False
        self.gone = False

    async def receive(self) -> Message:
        # Once the body is there, an application only waits here to hear that the client went away.
        if self._body_read:
            message = await self._receive()
        else:
            began = time.perf_counter()
            message = await self._receive()
            self._exchange.waited_s += time.perf_counter() - began
        if message["type"] == "http.request":
            self._exchange.bytes_in += len(message.get("body", b""))
            self._body_read = not message.get("more_body", False)
        elif message["type"] == "http.disconnect":
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        kind, exchange = message["type"], self._exchange
        last = False
        if kind == "http.response.start":
            added = self._instrument.headers(exchange, message["status"])
            if added:
                encoded = [(name.encode(), value.encode()) for name, value in added]
                message = {**message, "headers": [*message.get("headers", ()), *encoded]}
        elif kind == "http.response.body":
            exchange.sent(len(message.get("body", b"")))
            last = not message.get("more_body", False)
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            last = not message.get("more_body", False)
        began = time.perf_counter()
        try:
            await self._send(message)
        except OSError:
            self.gone = True
            raise
        now = time.perf_counter()
        exchange.waited_s += now - began
        if last:
            exchange.ended_at = now


def _route(route: Any, path: str, below: str) -> str:
    """The template of the framework's route, with the path of the mounts and routers it is under."""
    template, pattern = getattr(route, "path", None), getattr(route, "path_regex", None)
    if not isinstance(template, str) or pattern is None:
        return route_template(path)
    # A route knows itself but not what it is mounted under: that is what stands before the part it matches.
    at = len(below) if pattern.match(path[len(below) :]) else 0
    while at >= 0:
        if pattern.match(path[at:]):
            return framework_route(template, path[:at])
        at = path.find("/", at + 1)
    return route_template(path)
