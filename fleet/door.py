"""The agent's own HTTP port: `/metrics` for Prometheus, `/healthz`, and `/v1/traces` for OpenTelemetry spans."""

import json
import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fingerpost.errors import RefusedError

logger = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
_MAX_BODY_BYTES = 8 * 2**20
_MAX_CONNECTIONS = 32
_LENGTH = re.compile(r"[0-9]{1,18}")

TakeTraces = Callable[[bytes, str, str], tuple[bytes, str]]


class Door:
    """Serves from threads of its own, at most 32 connections at once.

    Args:
        metrics: gives the exposition text.
        health: gives whether all is well enough, and the answer of `/healthz`.
        take_traces: takes (body, content type, content encoding) and gives (answer, content type); None: no traces.
    """

    def __init__(
        self,
        bind_host: str,
        port: int,
        metrics: Callable[[], bytes],
        health: Callable[[], tuple[bool, dict[str, Any]]],
        take_traces: TakeTraces | None = None,
    ) -> None:
        door = self
        self.metrics, self.health, self.take_traces = metrics, health, take_traces
        self._room = threading.BoundedSemaphore(_MAX_CONNECTIONS)

        class Handler(_Handler):
            owner = door

        self._server = ThreadingHTTPServer((bind_host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="door", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def enter(self) -> bool:
        return self._room.acquire(blocking=False)

    def leave(self) -> None:
        self._room.release()


class _Handler(BaseHTTPRequestHandler):
    owner: Door
    timeout = _TIMEOUT_S
    protocol_version = "HTTP/1.1"
    server_version = "fingerpost-agent"
    sys_version = ""

    def handle(self) -> None:
        if not self.owner.enter():
            return
        try:
            super().handle()
        except OSError as error:  # a client that went away or was too slow
            logger.debug("connection ended: %s", error)
        finally:
            self.owner.leave()

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(HTTPStatus.OK, self.owner.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            well, answer = self.owner.health()
            self._json(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, answer)
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "there are /metrics and /healthz"})

    def do_POST(self) -> None:
        take = self.owner.take_traces
        if self.path != "/v1/traces" or take is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is taken here: start the agent with --otlp for /v1/traces")
            return
        length = self.headers.get("content-length", "")
        # Python reads more as digits, and as numbers, than HTTP does.
        if not _LENGTH.fullmatch(length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length of 1 to 18 digits")
            return
        if int(length) > _MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_MAX_BODY_BYTES} bytes")
            return
        body = self.rfile.read(int(length))
        try:
            answer, kind = take(
                body, self.headers.get("content-type", ""), self.headers.get("content-encoding", "identity")
            )
        except RefusedError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": error.reason})
        else:
            self._answer(HTTPStatus.OK, answer, kind)

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
