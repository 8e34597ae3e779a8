"""Slow and hostile clients of Envoy, with the configuration we write: bounded, and others are served meanwhile."""

import contextlib
import http.server
import json
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from fingerpost.routing.envoy.client_limits import manager_limits
from fingerpost.routing.envoy.config import Upstream, envoy_config
from tests.support.server_harness import kill_family
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

ENVOY = str(Path(sys.executable).parent / "envoy")
MOST = 20


class Host(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self):
        self.server.hold.wait(20)
        self.do_POST()

    def log_message(self, *_):
        pass


class Running:
    def __init__(self, folder, ports, host_port):
        self.port, self.admin = ports
        hosts = [Upstream("dead", "127.0.0.1", 9), Upstream("h1", "127.0.0.1", host_port)]
        made = envoy_config(hosts, folder / "log", "127.0.0.1", *ports, "round_robin", max_connections=MOST)
        # The dead one stays in, so that every second request is sent again.
        del made["static_resources"]["clusters"][0]["outlier_detection"]
        manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        assert manager["request_headers_timeout"] == "10s"
        manager["request_headers_timeout"] = "1s"
        (folder / "envoy.json").write_text(json.dumps(made))
        self.said = folder / "envoy.err"
        command = [ENVOY, "-c", str(folder / "envoy.json"), "--base-id", str(self.admin), "-l", "warning"]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen([*command, "--concurrency", "1"], stderr=said, cwd=folder)

    def stat(self, name):
        params = {"filter": f"^{name}$"}
        text = httpx.get(f"http://127.0.0.1:{self.admin}/stats", params=params, trust_env=False).text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads, server.hold = True, threading.Event()
    server.hold.set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def envoy(tmp_path_factory, host):
    from fingerpost.cli.stack.ports import free_ports

    running = Running(tmp_path_factory.mktemp("envoy"), free_ports(2), host.server_port)
    try:
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{running.admin}/ready", trust_env=False).status_code == 200)
        yield running
    finally:
        kill_family(running.process)


def post(envoy, size=0):
    return httpx.post(f"http://127.0.0.1:{envoy.port}/x", content=bytes(size), trust_env=False, timeout=20).status_code


def test_it_warns_of_nothing_at_its_start(envoy):
    assert post(envoy) == 200
    assert envoy.said.read_text() == ""


def test_connections_are_bounded(envoy):
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(envoy.connect()) for _ in range(MOST + 10)]
        wait_for(lambda: len(select.select(opened, [], [], 0)[0]) >= 10)
        assert envoy.stat(r"listener\..*downstream_(global_cx_overflow|cx_overload_reject)") >= 10
        held = [each for each in opened if not select.select([each], [], [], 0)[0]]
        assert len(held) <= MOST
        # Whoever has a connection is served.
        held[0].sendall(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        assert held[0].recv(100).startswith(b"HTTP/1.1 200")
    assert wait_for(lambda: post(envoy) == 200)


def test_a_head_that_does_not_end_is_given_up(envoy):
    with envoy.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: ")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("size", [0, 100_000, 1_000_000])
def test_a_body_is_sent_again_where_its_first_host_is_dead(envoy, size):
    before = envoy.stat("cluster.hosts.upstream_rq_retry_success")
    assert [post(envoy, size) for _ in range(6)] == [200] * 6
    assert envoy.stat("cluster.hosts.upstream_rq_retry_success") > before


def test_one_connection_has_so_many_streams(envoy, host):
    """Streams beyond are refused, and those that are opened and reset at once end the connection."""
    host.hold.clear()
    try:
        with envoy.connect() as connection:
            told = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            told.initiate_connection()
            connection.sendall(told.data_to_send())
            settings = None
            while settings is None:
                events = told.receive_data(connection.recv(65536))
                settings = next((each for each in events if isinstance(each, h2.events.RemoteSettingsChanged)), None)
            most = told.remote_settings.max_concurrent_streams
            assert most == manager_limits(30.0)["http2_protocol_options"]["max_concurrent_streams"]
            with contextlib.suppress(OSError):
                for number in range(2000):
                    stream = 2 * number + 1
                    head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
                    told.send_headers(stream, head, end_stream=True)
                    told.reset_stream(stream)
                    connection.sendall(told.data_to_send())
                while connection.recv(65536):
                    pass
        wait_for(lambda: envoy.stat("http.clients.downstream_rq_active") == 0)
    finally:
        host.hold.set()
    assert wait_for(lambda: post(envoy) == 200)
    assert wait_for(lambda: envoy.stat("cluster.hosts.upstream_rq_active") == 0)
