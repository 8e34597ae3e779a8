"""A service with nothing of Fingerpost in it, for the examples: `python examples/service.py PORT [SLOW_ROUTE]`."""

import hashlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROUNDS = 20_000
SLOW = 8


class Handler(BaseHTTPRequestHandler):
    """Hashes for each GET; eight times as much on the slow route."""

    protocol_version = "HTTP/1.1"
    slow_route = ""

    def do_GET(self) -> None:
        rounds = ROUNDS * (SLOW if self.path == self.slow_route else 1)
        body = hashlib.pbkdf2_hmac("sha256", self.path.encode(), b"example", rounds).hex().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Writes no log of its own: the proxy in front has one."""


def main() -> None:
    """Serves on the loopback until it is stopped."""
    port, *slow = sys.argv[1:]
    Handler.slow_route = slow[0] if slow else ""
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
