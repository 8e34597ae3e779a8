"""The agent's own HTTP port: `/metrics` for Prometheus, `/healthz`, and `/v1/traces` for OpenTelemetry spans."""

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from fingerpost.errors import RefusedError
from fingerpost.origins import FORM, HOST, ORIGIN, has_token, refusal

logger = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.5
_MAX_BODY_BYTES = 4 * 2**20
# Over all connections, before they are taken in.
_MAX_BODIES_BYTES = 16 * 2**20
_MAX_CONNECTIONS = 32
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_CHUNK_LINE, _MAX_TRAILERS = 256, 64
_CRLF = b"\r\n"

# Of bodies: before they are read, and of what is read (`fingerpost.agent.otlp`).
_NO_LENGTH, _TOO_LARGE, _MALFORMED = "body:length", "body:too_large", "body:malformed"
_BODIES = (_NO_LENGTH, _TOO_LARGE, _MALFORMED, "body:too_many", "body:encoding", "body:content_type")
_SAY_AGAIN_S = 60.0
_NO_TOKEN = "token:missing"  # noqa: S105 (a reason)
_WHY = {
    HOST: "this agent is not called that: set FINGERPOST_ALLOWED_HOSTS",
    ORIGIN: "requests of web pages are refused",
    FORM: "forms are refused",
}
# Reasons that tell of who asks, not of what is sent.
OF_ACCESS = frozenset((*_WHY, _NO_TOKEN))

Made = TypeVar("Made")
TakeTraces = Callable[[bytes, str, str], tuple[bytes, str]]


class AgentHTTPServer:
    """Serves from threads of its own, at most 32 connections at once.

    Where all are in use the one whose request began first, and has not come yet, is ended for the next.

    Args:
        metrics: gives the exposition text.
        health: gives whether all is well enough, and the answer of `/healthz`.
        take_traces: takes (body, content type, content encoding) and gives (answer, content type); None: no traces.
        timeout_s: in which a request has to come, from its connection's beginning or the answer before; and an answer
            has to be taken.
        names: by which it may be called, as of `fingerpost.origins.own_names`.
        token: bearer token that traces take; empty: none.
        counts: counts what is refused, as `refused REASON`.
    """

    def __init__(
        self,
        bind_host: str,
        port: int,
        metrics: Callable[[], bytes],
        health: Callable[[], tuple[bool, dict[str, Any]]],
        take_traces: TakeTraces | None = None,
        timeout_s: float = _TIMEOUT_S,
        names: Sequence[str] = (),
        token: str = "",
        counts: Counter[str] | None = None,
    ) -> None:
        door = self
        self.metrics, self.health, self.take_traces, self.timeout_s = metrics, health, take_traces, timeout_s
        self.names, self.token = tuple(names), token
        self.counts: Counter[str] = Counter() if counts is None else counts
        # All that there can be, now: others read the counts while threads of ours count.
        self.counts.update({f"refused {reason}": 0 for reason in (*_WHY, _NO_TOKEN, *_BODIES)})
        self._said_s: dict[str, float] = {}
        # Since when each connection's client is waited for, the longest first; those whose answer is made are not here.
        self._waiting: dict[socket.socket, float] = {}
        # What has been promised of bodies that are not taken in yet, the oldest first.
        self._bodies: dict[socket.socket, int] = {}
        self._count = 0
        self._lock = threading.Lock()

        class Handler(_Handler):
            owner = door

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def service_actions(self) -> None:
                door.end_slow()

            def handle_error(self, _request: Any, client_address: Any) -> None:
                logger.exception("a request of %s failed", client_address)

        self._server = Server((bind_host, port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_EVERY_S,), name="door", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def enter(self, connection: socket.socket) -> bool:
        """Takes a connection in; False: all others are being answered, and there is no room."""
        with self._lock:
            if self._count >= _MAX_CONNECTIONS:
                if not self._waiting:
                    return False
                self._end(next(iter(self._waiting)))
            self._count += 1
            self._waiting[connection] = time.monotonic()
            return True

    def waits(self, connection: socket.socket, waiting: bool) -> None:
        """Notes whether it is the client that is waited for, from now on."""
        with self._lock:
            self._waiting.pop(connection, None)
            if waiting:
                self._waiting[connection] = time.monotonic()

    def expects(self, connection: socket.socket, size: int) -> None:
        """Makes room for a body: where there is not enough, those that began first are ended."""
        with self._lock:
            while self._bodies and sum(self._bodies.values()) + size > _MAX_BODIES_BYTES:
                oldest = next(iter(self._bodies))
                del self._bodies[oldest]
                self._end(oldest)
            self._bodies[connection] = size

    def has_taken(self, connection: socket.socket) -> None:
        """The body has been taken in, or has not come."""
        with self._lock:
            self._bodies.pop(connection, None)

    def count_body(self, reason: str) -> None:
        """Counts a body that is refused; the log has it at most once a minute."""
        now_s = time.monotonic()
        with self._lock:
            self.counts[f"refused {reason}"] += 1
            if now_s - self._said_s.get(reason, -_SAY_AGAIN_S) < _SAY_AGAIN_S:
                return
            self._said_s[reason] = now_s
        logger.warning("a body at /v1/traces was refused: %s (docs/agent.md#opentelemetry)", reason)

    def leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting.pop(connection, None)
            self._count -= 1

    def end_slow(self) -> None:
        """Ends the connections whose clients have been waited for long enough."""
        until = time.monotonic() - self.timeout_s
        with self._lock:
            for connection in [each for each, since in self._waiting.items() if since < until]:
                self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """Its thread, which reads or writes, hears of it at once."""
        self._waiting.pop(connection, None)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    owner: AgentHTTPServer
    protocol_version = "HTTP/1.1"
    server_version = "fingerpost-agent"
    sys_version = ""

    def handle(self) -> None:
        if not self.owner.enter(self.connection):
            return
        try:
            super().handle()
        except OSError as error:  # a client that went away or was too slow
            logger.debug("connection ended: %s", error)
        finally:
            self.owner.leave(self.connection)

    def do_GET(self) -> None:
        if not self._may_call():
            return
        if self.path == "/metrics":
            self._answer(HTTPStatus.OK, self._made(self.owner.metrics), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            well, answer = self._made(self.owner.health)
            self._json(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, answer)
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "there are /metrics and /healthz"})

    def do_POST(self) -> None:
        if not self._may_call():
            return
        take = self.owner.take_traces
        if self.path != "/v1/traces" or take is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is taken here: start the agent with --otlp for /v1/traces")
            return
        if self.owner.token and not self._has_token():
            self.owner.counts[f"refused {_NO_TOKEN}"] += 1
            self._refuse(HTTPStatus.UNAUTHORIZED, "send the bearer token of FINGERPOST_OTLP_TOKEN")
            return
        try:
            body = self._chunked_body() if self.headers.get("transfer-encoding") else self._declared_body()
        finally:
            self.owner.has_taken(self.connection)
        if body is not None:
            self._take(take, body)

    def _declared_body(self) -> bytes | None:
        """The body, of the length that its headers declare; None: it was refused, or ended on the way."""
        length = self.headers.get("content-length", "")
        # Python reads more as digits, and as numbers, than HTTP does.
        if not _LENGTH.fullmatch(length):
            why = "send a Content-Length of 1 to 18 digits, or chunks"
            self._refuse_body(HTTPStatus.LENGTH_REQUIRED, _NO_LENGTH, why)
            return None
        if int(length) > _MAX_BODY_BYTES:
            self._refuse_body(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, f"at most {_MAX_BODY_BYTES} bytes")
            return None
        self.owner.expects(self.connection, int(length))
        return self._whole(int(length))

    def _chunked_body(self) -> bytes | None:
        """The body in chunks (RFC 9112, 7.1), as exporters send it that compress while they send; else as above."""
        coding = self.headers.get("transfer-encoding", "").strip().lower()
        if coding != "chunked" or self.headers.get("content-length") is not None or self.request_version == "HTTP/1.0":
            self._refuse_body(HTTPStatus.BAD_REQUEST, _NO_LENGTH, "send chunks or a Content-Length, and not both")
            return None
        body = bytearray()
        while True:
            line = self.rfile.readline(_MAX_CHUNK_LINE)
            found = _CHUNK.fullmatch(line)
            if not found:
                self._malformed(line)
                return None
            size = int(found[1], 16)
            if not size:
                break
            if len(body) + size > _MAX_BODY_BYTES:
                self._refuse_body(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, f"at most {_MAX_BODY_BYTES} bytes")
                return None
            self.owner.has_taken(self.connection)
            self.owner.expects(self.connection, len(body) + size)
            chunk = self._whole(size)
            if chunk is None:
                return None
            body += chunk
            end = self.rfile.read(len(_CRLF))
            if end != _CRLF:
                self._malformed(end)
                return None
        for _ in range(_MAX_TRAILERS):
            if self.rfile.readline(_MAX_CHUNK_LINE) in (_CRLF, b"\n", b""):
                return bytes(body)
        self._malformed(b"too many trailers")
        return None

    def _malformed(self, line: bytes) -> None:
        """Ends the connection; an empty line is no line: it ended by itself."""
        if line:
            self._refuse_body(HTTPStatus.BAD_REQUEST, _MALFORMED, "the chunks are malformed")
        self.close_connection = True

    def _whole(self, length: int) -> bytes | None:
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # it was ended on the way
            return None
        return body

    def _refuse_body(self, status: HTTPStatus, reason: str, why: str) -> None:
        self.owner.count_body(reason)
        self._refuse(status, why)

    def _take(self, take: TakeTraces, body: bytes) -> None:
        kind, encoding = self.headers.get("content-type", ""), self.headers.get("content-encoding", "identity")
        try:
            answer, kind = self._made(lambda: take(body, kind, encoding))
        except RefusedError as error:
            self.owner.count_body(error.reason)
            self._json(HTTPStatus.BAD_REQUEST, {"error": error.reason})
        else:
            self._answer(HTTPStatus.OK, answer, kind)

    def _made(self, make: Callable[[], Made]) -> Made:
        """What `make` gives; meanwhile it is not the client that is waited for."""
        self.owner.waits(self.connection, False)
        try:
            return make()
        finally:
            self.owner.waits(self.connection, True)

    def _may_call(self) -> bool:
        """Whether the request can be none of a web page from elsewhere; else it is answered and counted."""
        reason = refusal(self.command, lambda name: self.headers.get(name, ""), self.owner.names)
        if reason is None or self._has_token():
            return True
        self.owner.counts[f"refused {reason}"] += 1
        self._refuse(HTTPStatus.FORBIDDEN, _WHY[reason])
        return False

    def _has_token(self) -> bool:
        return has_token(self.headers.get("authorization", ""), self.owner.token)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        # The body has not been read, so the connection cannot be used again.
        self.close_connection = True
        self._json(status, {"error": why})

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._answer(status, json.dumps(content).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
