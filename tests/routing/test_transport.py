"""TLS on both sides, HTTP/2 to hosts, upgrades and sessions, with a real Envoy before real hosts."""

import json
import socket
import ssl
from collections import Counter

import httpx
import numpy as np
import pytest

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.cli.stack.ports import free_ports
from fingerpost.routing.envoy.check import check_config
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.document import read_config
from fingerpost.routing.envoy.transport import Certificate, ClientSide, HostSide
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.certificates import make_certificates
from tests.support.foreign_envoy import FOREIGN, completed
from tests.support.picker_harness import made_table
from tests.support.running import running_envoy, running_fleet
from tests.support.sleeping_scenario import Scenario
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


def hosts_of_http2(papers, ports, admin, folder, mutual=True):
    """An Envoy that plays some hosts: TLS, with client certificates if mutual, HTTP/2; each answers with its port."""
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
            "require_client_certificate": mutual,
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


@pytest.mark.process
def test_a_configuration_of_another_hand_routes_two_clusters_by_their_tables(papers, tmp_path):
    """TLS on both sides, HTTP/2 to the hosts of one cluster, retries: with the pieces of `fingerpost envoy snippet`."""
    port, admin, dead, second, hosts_admin = free_ports(5)
    shop_hosts = [Upstream("a", "127.0.0.1", dead), Upstream("b", "127.0.0.1", second)]
    with (
        running_fleet(Scenario(np.full((1, 2), 0.001), np.ones(1), 2, 1.0)) as page_hosts,
        hosts_of_http2(papers, (second,), hosts_admin, tmp_path, mutual=False),
    ):
        config = read_config(FOREIGN)
        for name, hosts, category, slope in (
            ("shop", shop_hosts, "GET /api/items", [1e-4, 1.0, 1.0]),
            ("pages", page_hosts, "GET /c0", [1.0, 1e-4, 1.0]),
        ):
            table = tmp_path / f"{name}.table"
            config = completed(config, name, table, tmp_path / f"{name}.log", hosts, name)
            costs = np.array([[slope, slope]], dtype=np.float32)
            write_table(
                table,
                made_table(
                    [each.name for each in hosts], [category, "other"], slope=costs, version=name,
                    settings=PickerSettings(exploration=0.0),
                ),
            )  # fmt: skip
        assert [each.level for each in check_config(config)] == []
        config["admin"]["address"]["socket_address"]["port_value"] = admin
        listener = config["static_resources"]["listeners"][0]
        listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
        [certificate_of] = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"][
            "tls_certificates"
        ]
        certificate_of["certificate_chain"]["filename"] = str(papers / "localhost.crt")
        certificate_of["private_key"]["filename"] = str(papers / "localhost.key")
        # The hosts that health checks have not seen yet would be left out, and nothing be retried.
        del config["static_resources"]["clusters"][0]["health_checks"]
        verify = ssl.create_default_context(cafile=papers / "ca.crt")
        with (
            running_envoy(config, tmp_path, admin),
            httpx.Client(verify=verify, trust_env=False, base_url=f"https://localhost:{port}") as client,
        ):
            # The host that is best by far does not listen: each request is tried again, at the other one.
            assert {client.get("/api/items").text for _ in range(10)} == {str(second)}
            assert {client.get("/c0").status_code for _ in range(10)} == {200}
            shop, pages = (
                wait_for(
                    lambda name=name: len(found := (tmp_path / f"{name}.log").read_text().splitlines()) == 10 and found
                )
                for name in ("shop", "pages")
            )
    found = {
        (row["host"], *(decision_parts(row["decision"])[part] for part in ("policy", "table_version", "category")))
        for row in map(json.loads, [*shop, *pages])
    }
    assert found == {("b", "fingerpost", "shop", "GET /api/items"), ("h01", "fingerpost", "pages", "GET /c0")}
