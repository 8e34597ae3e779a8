"""The WSGI middleware: for Flask, Django, Bottle, and plain WSGI applications."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fingerpost.category import route_template
from fingerpost.middleware.core import FAILED, Exchange, Instrument
from fingerpost.middleware.facts import HEADERS, body_length, client_facts, method_name
from fingerpost.middleware.greenlets import charge_greenlets
from fingerpost.middleware.meter import CURRENT, switch
from fingerpost.middleware.threads import charge_threads
from fingerpost.request_status import CLIENT_GONE
from fingerpost.route_templates import framework_route

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_VARIABLES = (
    *((f"HTTP_{name.upper().replace('-', '_')}", name) for name in HEADERS if name != "content-length"),
    ("CONTENT_LENGTH", "content-length"),
)


class FingerpostWsgiMiddleware:
    """Measures every request of a WSGI application and reports it.

    A request's CPU-seconds are those of its thread, or of its greenlet's turns, inside the application, its response's
    iteration and close, and of the work it hands to thread pools.

    Args:
        app: the application.
        route_of: gives the route of an environ when the response begins; where it returns None, and without it, it is
            the rule that Flask or another Werkzeug application chose, or else the path with its ids collapsed.
        skip: paths that are neither measured nor counted, such as health checks.
        threads: whether work in thread pools is charged to its request (see `charge_threads`).
        service, host, socket, slots, cores, mem_limit_bytes, memory, orca, host_headers: see `Instrument`.

    Raises:
        ValueError: see `Instrument`.
    """

    def __init__(
        self,
        app: WsgiApp,
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
        route_of: Callable[[Environ], str | None] | None = None,
        skip: Collection[str] = (),
        threads: bool = True,
    ) -> None:
        self.app = app
        self.instrument = Instrument(service, host, socket, slots, cores, mem_limit_bytes, memory, orca, host_headers)
        self.route_of = route_of
        self._skip = frozenset(skip)
        if threads:
            charge_threads()

    @property
    def inflight(self) -> int:
        """Requests in the process now."""
        return self.instrument.load.inflight

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "") in self._skip:
            return self.app(environ, start_response)
        charge_greenlets()
        response = _Response(self, environ, start_response)
        return response.open()


class _Response:
    """The response of one request: charges its thread while the application runs, and ends with `close`.

    PEP 3333 has the server call `close` once, also when it could not send.
    """

    def __init__(self, owner: FingerpostWsgiMiddleware, environ: Environ, start_response: Callable[..., Any]) -> None:
        self._owner = owner
        self._environ = environ
        self._start_response = start_response
        self._chosen: str | None = None
        self._pieces: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] = iter(())
        self._declared: int | None = None
        self._ready = self._failed = False
        self._exchange = owner.instrument.begin()
        self._left_at = self._exchange.started_at

    def open(self) -> Iterable[bytes]:
        """Calls the application; if it raises, there will be no `close`.

        Returns:
            What the server goes through: like the application's answer in all that servers ask of it.
        """
        environ = self._environ
        if "CONTENT_LENGTH" not in environ and "wsgi.input" in environ:
            environ["wsgi.input"] = _CountedInput(environ["wsgi.input"], self._exchange)
        try:
            self._pieces = self._charged(self._owner.app, environ, self._start)
            self._iterator = iter(self._pieces)
            # A list is made already; going through it costs less than measuring that would.
            self._ready = isinstance(self._pieces, list | tuple)
        except BaseException:
            self._end()
            raise
        files = environ.get("wsgi.file_wrapper")
        if isinstance(files, type) and isinstance(self._pieces, files):
            return self._file(self._pieces)
        # From the length of a list of one piece servers know that of the body.
        return _SizedResponse(self) if hasattr(type(self._pieces), "__len__") else self

    def _file(self, pieces: Any) -> Iterable[bytes]:
        """A file that the server sends by itself: it stays what it is, and its request ends when it is closed."""
        close = getattr(pieces, "close", None)

        def closed() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self._exchange.ended_at = self._exchange.ended_at or time.perf_counter()
                self._exchange.bytes_out = max(self._exchange.bytes_out, self._declared or 0)
                self._end()

        try:
            pieces.close = closed
        except AttributeError:  # it takes no other: it is counted as ended now
            self._exchange.bytes_out = max(self._exchange.bytes_out, self._declared or 0)
            self._exchange.ended_at = time.perf_counter()
            self._end()
        return pieces

    def count(self) -> int:
        """How many pieces there are, of an answer that tells."""
        return len(self._pieces)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        exchange.waited_s += time.perf_counter() - self._left_at
        if self._ready:
            piece = next(self._iterator, None)
            self._left_at = time.perf_counter()
        else:
            piece = self._charged(next, self._iterator, None)
        if piece is None:
            exchange.ended_at = self._left_at
            raise StopIteration
        exchange.sent(len(piece))
        return piece

    def close(self) -> None:
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                self._charged(close)
        finally:
            exchange = self._exchange
            # Some servers stop asking once the declared length is sent.
            whole = self._declared is not None and exchange.bytes_out >= self._declared
            if not (exchange.ended_at or whole or self._failed or self._environ.get("REQUEST_METHOD") == "HEAD"):
                exchange.status = CLIENT_GONE
            self._end()

    def _start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        code = int(status[:3]) if status[:3].isdigit() else FAILED
        for name, value in headers:
            if name.lower() == "content-length" and value.isascii() and value.isdigit():
                self._declared = int(value[:18])
        # Now, since Flask takes its request out of the environ when it is done.
        self._chosen = self._route()
        added = self._owner.instrument.headers(self._exchange, code)
        return self._counted(self._start_response(status, [*headers, *added], *exc_info))

    def _counted(self, write: Any) -> Any:
        """PEP 3333's `write`, by which an application may send its body as well."""
        if not callable(write):
            return write

        def counted(data: bytes) -> Any:
            before = switch(None)
            began = time.perf_counter()
            try:
                return write(data)
            finally:
                self._exchange.sent(len(data))
                self._exchange.waited_s += time.perf_counter() - began
                switch(before)

        return counted

    def _route(self) -> str | None:
        environ, route_of = self._environ, self._owner.route_of
        route = route_of(environ) if route_of else None
        # Werkzeug's, then Bottle's.
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None) or environ.get("bottle.route")
        template = getattr(rule, "rule", None)
        if route or template is None:
            return route
        return framework_route(str(template), _text(environ.get("SCRIPT_NAME", "")))

    def _end(self) -> None:
        environ = self._environ
        # What is kept for the reporter is these few values, not the environ with its streams.
        headers = {name: environ[variable] for variable, name in _VARIABLES if variable in environ}
        facts = partial(
            _facts,
            self._exchange,
            self._chosen or self._route(),
            environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
            environ.get("REQUEST_METHOD", ""),
            headers,
            environ.get("REMOTE_ADDR"),
            environ.get("SSL_CLIENT_VERIFY") == "SUCCESS",
        )
        self._owner.instrument.end(self._exchange, facts)

    def _charged(self, function: Callable[..., Any], *args: Any) -> Any:
        token = CURRENT.set(self._exchange)
        before = switch(self._exchange)
        try:
            return function(*args)
        except BaseException:
            self._exchange.status = FAILED
            self._failed = True
            raise
        finally:
            switch(before)
            CURRENT.reset(token)
            self._left_at = time.perf_counter()


def _facts(
    exchange: Exchange,
    route: str | None,
    path: str,
    method: str,
    headers: dict[str, str],
    client: str | None,
    verified: bool,
) -> dict[str, Any]:
    exchange.bytes_in = exchange.bytes_in or body_length(headers)
    return {
        "method": method_name(method),
        "route": route or route_template(_text(path)),
        **client_facts(headers, client, verified),
    }


class _SizedResponse:
    """A response whose number of pieces is known, as that of a list."""

    def __init__(self, response: _Response) -> None:
        self._response = response

    def __len__(self) -> int:
        return self._response.count()

    def __iter__(self) -> Iterator[bytes]:
        return self._response

    def close(self) -> None:
        self._response.close()


class _CountedInput:
    """The body of a request that does not declare its length."""

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, *size: int) -> bytes:
        return self._count(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._count(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._count(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._count, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _count(self, piece: bytes) -> bytes:
        self._exchange.bytes_in += len(piece)
        return piece


def _text(path: str) -> str:
    """A path of an environ, which is bytes read as Latin-1 (PEP 3333)."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")
