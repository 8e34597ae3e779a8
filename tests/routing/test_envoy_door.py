"""Envoy's administration: its owner has all of it by a socket, web pages and other users none that changes anything."""

import stat
from pathlib import Path

import httpx
import pytest

from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.admin import READABLE
from fingerpost.routing.envoy.config import Upstream, envoy_config
from tests.support.running import running_envoy

pytestmark = pytest.mark.process

HOSTS = [Upstream("h1", "127.0.0.1", 9)]


@pytest.fixture(scope="module")
def envoy(tmp_path_factory):
    """A running Envoy: its admin port and admin socket."""
    from fingerpost.cli.stack.ports import free_ports

    folder, (port, admin) = tmp_path_factory.mktemp("envoy"), free_ports(2)
    socket = folder / "own.sock"
    config = envoy_config(HOSTS, folder / "access.log", "127.0.0.1", port, admin, admin_socket=socket)
    # A killed Envoy leaves its socket file.
    socket.touch()
    with running_envoy(config, folder, admin):
        yield f"http://127.0.0.1:{admin}", socket


def owner(socket):
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://envoy", timeout=20)


def test_no_web_page_ends_envoy_or_changes_it(envoy):
    place, _ = envoy
    form = {"origin": "http://evil.example", "content-type": "application/x-www-form-urlencoded"}
    for path in ("/quitquitquit", "/healthcheck/fail", "/drain_listeners", "/reset_counters", "/logging?level=off",
                 "/runtime_modify?x=1", "/reopen_logs", "/cpuprofiler?enable=y", *READABLE):  # fmt: skip
        assert httpx.post(f"{place}{path}", headers=form, trust_env=False).status_code == 404, path
    for path in (
        "/",
        "/config_dump",
        "/certs",
        "/listeners",
        "/runtime",
        "/stats/../quitquitquit",
        "/stats/recentlookups",
    ):
        assert httpx.get(f"{place}{path}", trust_env=False).status_code == 404, path
    assert httpx.get(f"{place}/ready", trust_env=False).text == "LIVE\n"


def test_a_name_that_was_made_to_point_here_reads_nothing(envoy):
    place, _ = envoy
    for host in ("evil.example", "127.0.0.1.evil.example:9901"):
        assert httpx.get(f"{place}/stats", headers={"host": host}, trust_env=False).status_code == 404, host
    assert httpx.get(f"{place}/ready", headers={"host": "localhost:9901"}, trust_env=False).status_code == 200


def test_metrics_and_readiness_are_read_as_before(envoy):
    place, _ = envoy
    assert (
        "cluster.hosts.membership_total: 1" in httpx.get(f"{place}/stats?filter=membership_total", trust_env=False).text
    )
    metrics = httpx.get(f"{place}/stats/prometheus", trust_env=False)
    assert 'envoy_cluster_membership_total{envoy_cluster_name="hosts"} 1' in metrics.text
    names = {
        each["name"] for each in httpx.get(f"{place}/clusters?format=json", trust_env=False).json()["cluster_statuses"]
    }
    assert "hosts" in names


def test_the_owner_has_all_of_it(envoy):
    place, socket = envoy
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    with owner(socket) as client:
        assert client.post("/reopen_logs").status_code == 200
        assert client.get("/config_dump").status_code == 200
    assert httpx.get(f"{place}/ready", trust_env=False).status_code == 200


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path):
    long = tmp_path / ("x" * 100) / "admin.sock"
    with pytest.raises(FingerpostError, match="shorter FINGERPOST_HOME"):
        envoy_config(HOSTS, Path("/dev/null"), "127.0.0.1", 1, 2, admin_socket=long)
