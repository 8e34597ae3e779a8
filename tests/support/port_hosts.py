"""Hosts behind a proxy that tell by their answer which of them it was."""

import threading
from http.server import BaseHTTPRequestHandler


class PortHost(BaseHTTPRequestHandler):
    """Answers after some milliseconds with its port."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        threading.Event().wait(0.02)
        body = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
