"""TLS on both sides, HTTP/2 to hosts, upgrades and sessions, with a real Envoy before real hosts."""

import json
import socket
import ssl
from collections import Counter

import httpx
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.transport import Certificate, ClientSide, HostSide
from fingerpost.routing.envoy.upstream import Upstream
from tests.support.certificates import make_certificates
from tests.support.running import running_envoy
from tests.support.waiting import wait_for

TYPE = "type.googleapis.com/envoy.extensions."


@pytest.mark.parametrize(
    ("sides", "told"),
    [
        ({"clients": ClientSide(client_ca="/ca.crt")}, "a listener that has one"),
        ({"hosts": HostSide(http="http3")}, "unknown HTTP version 'http3'"),
        ({"hosts": HostSide(ca="/ca.crt")}, "nothing would be checked"),
        ({"hosts": HostSide(name="shop")}, "only with the authority"),
    ],
)
def test_a_half_of_tls_is_refused(tmp_path, sides, told):
    with pytest.raises(ValueError, match=told):
        envoy_config([Upstream("a", "127.0.0.1", 1)], tmp_path / "log", "127.0.0.1", 1, 2, **sides)


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """An authority, and certificates of it by name."""
    folder = tmp_path_factory.mktemp("papers")
    make_certificates(folder, "localhost", "shop.internal", "client")
    return folder


def certificate(papers, name):
    return Certificate(papers / f"{name}.crt", papers / f"{name}.key")


def hosts_of_http2(papers, ports, admin, folder):
    """An Envoy that plays some hosts: TLS with client certificates, HTTP/2 alone, each answers with its port."""
    listeners = []
    for port in ports:
        answer = {"status": 200, "body": {"inline_string": str(port)}}
        routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
        manager = {
            "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "host",
            "codec_type": "HTTP2",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"},
                }
            ],
        }
        context = {
            "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(papers / "shop.internal.crt")},
                        "private_key": {"filename": str(papers / "shop.internal.key")},
                    }
                ],
                "validation_context": {"trusted_ca": {"filename": str(papers / "ca.crt")}},
            },
        }
        chain = {
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }
        place = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        listeners.append({"name": f"host-{port}", "address": place, "filter_chains": [chain]})
    door = {"socket_address": {"address": "127.0.0.1", "port_value": admin}}
    config = {"admin": {"address": door}, "static_resources": {"listeners": listeners}}
    return running_envoy(config, folder, admin)


@pytest.mark.process
def test_tls_both_ways_and_sessions_that_stay(papers, tmp_path):
    port, admin, first, second, hosts_admin = free_ports(5)
    config = envoy_config(
        [Upstream("a", "127.0.0.1", first), Upstream("b", "127.0.0.1", second)],
        tmp_path / "access.log", "127.0.0.1", port, admin, "fingerpost",
        table=tmp_path / "shop.table", admin_socket=tmp_path / "admin.sock",
        clients=ClientSide(certificate(papers, "localhost"), papers / "ca.crt", ("websocket",), "session"),
        hosts=HostSide("http2", papers / "ca.crt", "shop.internal", certificate(papers, "client")),
    )  # fmt: skip
    nobody = ssl.create_default_context(cafile=papers / "ca.crt")
    somebody = ssl.create_default_context(cafile=papers / "ca.crt")
    somebody.load_cert_chain(papers / "client.crt", papers / "client.key")
    mine = {"trust_env": False, "base_url": f"https://localhost:{port}"}
    with hosts_of_http2(papers, (first, second), hosts_admin, tmp_path), running_envoy(config, tmp_path, admin):
        answers = Counter()
        for _ in range(40):
            with httpx.Client(verify=somebody, **mine) as client:
                before = client.get("/")
                assert before.status_code == 200, before.text
                # The cookie is what keeps a client at its host.
                assert {client.get("/").text for _ in range(3)} == {before.text}
                answers[before.text] += 1
        assert set(answers) == {str(first), str(second)}
        with httpx.Client(verify=nobody, **mine) as stranger, pytest.raises(httpx.TransportError):
            stranger.get("/")
        rows = wait_for(lambda: [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()])
    assert {row["status"] for row in rows} == {200}


@pytest.mark.process
def test_a_websocket_passes_and_counts_until_it_ends(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as host:
        port, admin = free_ports(2)
        config = envoy_config(
            [Upstream("a", "127.0.0.1", host.getsockname()[1])],
            tmp_path / "access.log", "127.0.0.1", port, admin, "fingerpost", table=tmp_path / "shop.table",
            admin_socket=tmp_path / "admin.sock", clients=ClientSide(upgrades=("websocket",)),
        )  # fmt: skip
        asked = (
            b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with running_envoy(config, tmp_path, admin), socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(asked)
            served, _ = host.accept()
            with served:
                assert b"upgrade: websocket" in served.recv(4096).lower()
                served.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 101")
                client.sendall(b"hello")
                assert served.recv(5) == b"hello"
                served.sendall(b"world")
                assert client.recv(5) == b"world"
            client.close()
            [row] = wait_for(lambda: (tmp_path / "access.log").read_text().splitlines())
    assert json.loads(row)["status"] == 101
