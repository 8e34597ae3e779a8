"""deploy/containers/rotate.py, which keeps Envoy's log small from the next container, on a real Envoy."""

import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.upstream import Upstream
from tests.support.port_hosts import PortHost
from tests.support.running import running_envoy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

ROTATE = Path(__file__).parents[2] / "deploy" / "containers" / "rotate.py"
KILOBYTE = "0.001"


@pytest.fixture
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), PortHost)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield Upstream("h1", "127.0.0.1", server.server_port)
    server.shutdown()
    server.server_close()


def test_a_log_that_grew_is_moved_and_envoy_goes_on_in_a_new_one(tmp_path, host, free_ports):
    log, (port, admin) = tmp_path / "access.log", free_ports(2)
    moved, problems = tmp_path / "access.log.1", tmp_path / "problems"

    def lines(path):
        return path.read_text().count("\n")

    def send(count):
        for _ in range(count):
            assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200

    with (
        running_envoy(envoy_config([host], log, "127.0.0.1", port, admin), tmp_path, admin),
        problems.open("wb") as told,
    ):
        send(20)
        wait_for(lambda: lines(log) == 20)
        command = [sys.executable, str(ROTATE), str(log), str(tmp_path / f"envoy-{admin}.sock"), KILOBYTE, "3"]
        with subprocess.Popen(command, stderr=told) as rotate:
            wait_for(lambda: moved.exists() and log.exists())
            send(5)
            wait_for(lambda: lines(log) == 5)
            rotate.kill()
    assert lines(moved) == 20
    assert problems.read_text() == ""


def test_an_envoy_that_is_away_is_told_and_asked_again(tmp_path):
    log, problems = tmp_path / "access.log", tmp_path / "problems"
    log.write_text("a line\n" * 1000)
    command = [sys.executable, str(ROTATE), str(log), str(tmp_path / "nobody.sock"), KILOBYTE]
    with problems.open("wb") as told, subprocess.Popen(command, stderr=told) as rotate:
        wait_for(lambda: "rotate: " in problems.read_text())
        assert rotate.poll() is None
        rotate.kill()
    assert (tmp_path / "access.log.1").read_text() == "a line\n" * 1000
