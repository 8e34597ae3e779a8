"""Agents and routers ask an engine by TLS; its certificate may be of an authority of one's own."""

import http.client
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fingerpost.agent.sender import Target, ask
from fingerpost.engine_api import EngineClient, EngineError, get_call
from tests.support.certificates import make_certificates

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    make_certificates(folder, "localhost")
    return folder


@pytest.fixture
def url(papers):
    """Where a server with a certificate for `localhost` answers with the token that it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"hosts": [self.headers["authorization"]]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers / "localhost.crt", papers / "localhost.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_authority_of_ones_own_is_trusted_by_agent_and_router(url, papers, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(papers / "ca.crt"))
    assert json.loads(ask(Target(url, "secret"), get_call("/v1/hosts")).body) == {"hosts": ["Bearer secret"]}
    with EngineClient(url, "secret") as client:
        assert client.hosts() == ["Bearer secret"]


def test_a_certificate_of_an_unknown_authority_is_refused_by_both(url):
    with pytest.raises((OSError, http.client.HTTPException), match="certificate"):
        ask(Target(url, "secret"), get_call("/v1/hosts"))
    with EngineClient(url, "secret") as client, pytest.raises(EngineError, match="CERTIFICATE_VERIFY_FAILED"):
        client.hosts()
