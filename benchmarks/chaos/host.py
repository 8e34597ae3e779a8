"""A host that clients are routed to: it answers as many bytes as it is asked for, after some milliseconds."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fingerpost.settings import LOOPBACK

_MAX_BODY = 2**20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Heads and bodies are two writes: the second must not wait for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(b"ok")

    def do_POST(self) -> None:
        self.rfile.read(min(_MAX_BODY, int(self.headers.get("content-length", 0))))
        time.sleep(self.server.seconds)  # type: ignore[attr-defined]
        self._answer(b"." * min(_MAX_BODY, int(self.path.partition("?bytes=")[2] or 0)))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the proxy has the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, seconds: float) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.seconds = seconds


if __name__ == "__main__":
    _Server(int(sys.argv[1]), float(sys.argv[2])).serve_forever()
