"""Hosts come and go: who lists them, what becomes Envoy's endpoints, and that no request fails of it."""

import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import ThreadingHTTPServer

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.announcement import Announcement
from fingerpost.cli.stack.ports import free_ports
from fingerpost.engine_api import ListedHost
from fingerpost.errors import FingerpostError
from fingerpost.routing.engine_hosts import NameWatch, Unmatched, announced, unmatched, upstreams, with_drains
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.upstream import Upstream, parse_upstream
from fingerpost.routing.hosts import EndpointsKeeper, host_source
from fingerpost.routing.metrics_port import NameMetrics
from tests.support.port_hosts import PortHost
from tests.support.running import running_envoy
from tests.support.waiting import wait_for

A, B, C = (Upstream(name, f"10.0.0.{place}", 8000) for place, name in enumerate("abc", 1))
SLICE = {
    "kind": "EndpointSlice",
    "addressType": "IPv4",
    "ports": [{"port": 8080}],
    "endpoints": [
        {"addresses": ["10.1.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "web-1"}, "zone": "east"},
        {"addresses": ["10.1.0.2"], "conditions": {}, "targetRef": {"name": "web-2"}},
        {"addresses": ["10.1.0.3"], "conditions": {"ready": False}, "targetRef": {"name": "starting"}},
        {
            "addresses": ["10.1.0.4"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "targetRef": {"name": "leaving"},
        },
        {"addresses": ["10.1.0.5"]},
    ],
}


def endpoints(path):
    [resource] = json.loads(path.read_text())["resources"]
    return [each for group in resource["endpoints"] for each in group["lb_endpoints"]]


def names(path):
    return [each["metadata"]["filter_metadata"]["fingerpost"]["host"] for each in endpoints(path)]


@pytest.fixture
def kept(tmp_path):
    """A keeper whose hosts the test sets, and its file."""
    listed = [A, B]
    keeper = EndpointsKeeper(lambda: list(listed), tmp_path / "endpoints.json")
    return keeper, listed, tmp_path / "endpoints.json"


def test_a_line_tells_zone_and_draining():
    assert parse_upstream("a=10.0.0.1:80 zone=east draining") == Upstream("a", "10.0.0.1", 80, "east", True)
    with pytest.raises(FingerpostError, match="'weight=3' means nothing"):
        parse_upstream("a=10.0.0.1:80 weight=3")


def test_only_another_list_is_written(kept):
    keeper, listed, path = kept
    assert keeper.update()
    assert names(path) == ["a", "b"]
    assert not keeper.update()
    listed.append(C)
    assert keeper.update()
    assert names(path) == ["a", "b", "c"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("bad", "told"),
    [([], "no host is listed"), ([A, Upstream("b", A.address, A.port)], "listed as 'a' and as 'b'")],
)
def test_a_bad_list_changes_nothing(kept, bad, told):
    keeper, listed, path = kept
    keeper.update()
    listed[:] = bad
    assert not keeper.update()
    assert told in keeper.problem
    assert names(path) == ["a", "b"]
    listed[:] = [C]
    assert keeper.update()
    assert not keeper.problem


def test_a_file_that_cannot_be_read_is_a_problem_and_no_loss(tmp_path):
    (tmp_path / "hosts").write_text("a=10.0.0.1:8000\n")
    keeper = EndpointsKeeper(host_source(str(tmp_path / "hosts")), tmp_path / "endpoints.json")
    assert keeper.update()
    (tmp_path / "hosts").unlink()
    assert not keeper.update()
    assert "cannot be read" in keeper.problem
    assert keeper.hosts == [A]


def test_a_file_that_is_not_there_is_told_again_as_long_as_it_is_not(tmp_path, caplog):
    now = [1000.0]
    file = tmp_path / "nosuch"
    keeper = EndpointsKeeper(host_source(str(file)), tmp_path / "endpoints.json", clock=lambda: now[0])
    with caplog.at_level("INFO", "fingerpost.hosts"):
        for _ in range(130):
            assert not keeper.update()
            now[0] += 1
        assert [each.levelname for each in caplog.records] == ["WARNING"] * 3
        assert all(f"{file} cannot be read" in each.message for each in caplog.records)
        assert "no host is known yet" in caplog.messages[0]
        file.write_text("a=10.0.0.1:8000\n")
        assert keeper.update()
        assert "can be read again" in caplog.text
        file.unlink()
        assert not keeper.update()
        assert "the hosts known before stay" in caplog.messages[-1]


@pytest.mark.parametrize("text", ["dsn:web:8000", "engines:", "file:hosts.txt"])
def test_a_misspelt_source_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FingerpostError, match=f"'{text}' names no source of hosts, and no file"):
        host_source(text)
    (tmp_path / text).write_text("a=10.0.0.1:8000\n")
    assert host_source(text)() == [A]


def test_where_all_hosts_drain_none_does(kept):
    keeper, listed, path = kept
    listed[:] = [replace(A, draining=True), B]
    keeper.update()
    assert [each.get("health_status") for each in endpoints(path)] == ["DRAINING", None]
    listed[:] = [replace(A, draining=True), replace(B, draining=True)]
    keeper.update()
    assert [each.get("health_status") for each in endpoints(path)] == [None, None]


def test_there_is_a_file_before_there_are_hosts(kept):
    keeper, _, path = kept
    keeper.prepare()
    assert endpoints(path) == []
    keeper.update()
    keeper.prepare()
    assert names(path) == ["a", "b"]


def listed_host(name, address="", state="serving", heard_s=1.0, reports=True, zone=""):
    return ListedHost(name, Announcement(address, zone), state, reports, heard_s)


class Known:
    """Stands where `EngineHosts` asks the engine."""

    def __init__(self, *hosts):
        self.known, self.away = hosts, False

    def look(self):
        if self.away:
            raise FingerpostError("no answer")
        return self.known


def test_hosts_that_announced_an_address_are_endpoints():
    hosts = [
        listed_host("a", "10.0.0.1:80", zone="east"),
        listed_host("b", "[fd00::1]:80", "draining"),
        listed_host("nowhere"),
        # One address that was given to another host: the one that was heard of last has it.
        listed_host("old", "10.0.0.9:80", heard_s=1.0),
        listed_host("new", "10.0.0.9:80", heard_s=2.0),
    ]
    assert upstreams(hosts) == [
        Upstream("a", "10.0.0.1", 80, "east"),
        Upstream("b", "fd00::1", 80, "", True),
        Upstream("new", "10.0.0.9", 80),
    ]
    with pytest.raises(FingerpostError, match="start agents with --address"):
        announced(Known(listed_host("nowhere")))()


def test_hosts_of_any_source_drain_where_the_engine_says_so():
    known = Known(listed_host("a", state="draining"))
    source = with_drains(lambda: [A, B], known)
    assert source() == [replace(A, draining=True), B]
    known.away = True
    assert source() == [replace(A, draining=True), B]


def test_names_that_do_not_agree_are_told_once_they_have_not_for_a_while(caplog):
    caplog.set_level("INFO", "fingerpost.hosts")
    known, watch = [listed_host("web-1"), listed_host("web-2"), listed_host("gone", state="draining")], NameWatch()
    assert unmatched(["web-1", "web2"], known) == Unmatched(("web2",), ("web-2",))
    # A host without an agent, or an agent whose endpoint is yet to come, is no contradiction.
    assert not unmatched(["web-1", "web-2", "bare"], known).problem
    for _ in range(5):
        watch.look(["web-1", "web2"], known)
    assert not caplog.records
    for _ in range(40):
        watch.look(["web-1", "web2"], known)
    [record] = caplog.records
    assert "web2 among Envoy's endpoints have no agent, web-2 among the agents" in record.message
    [family] = NameMetrics({"shop": lambda: watch.found}).collect()
    assert {each.labels["what"]: each.value for each in family.samples} == {"endpoint": 1.0, "agent": 1.0}
    for _ in range(40):
        watch.look(["web-1", "web-2"], known)
    assert caplog.records[-1].message == "names of hosts agree again"


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"kind": "List", "items": [one, {"kind": "Service"}]}])
def test_endpoint_slices_become_hosts(tmp_path, dump, wrap):
    path = tmp_path / "slices"
    path.write_text(dump(wrap(SLICE)))
    assert host_source(f"endpointslices:{path}")() == [
        Upstream("web-1", "10.1.0.1", 8080, "east"),
        Upstream("web-2", "10.1.0.2", 8080),
        Upstream("leaving", "10.1.0.4", 8080, "", True),
        Upstream("10.1.0.5", "10.1.0.5", 8080),
    ]
    assert {each.port for each in host_source(f"endpointslices:{path}:9000")()} == {9000}


@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda each: st.lists(each, max_size=3)))
def test_any_slices_are_hosts_or_one_clear_error(tmp_path_factory, broken):
    path = tmp_path_factory.mktemp("slices") / "slices"
    for key in SLICE:
        path.write_text(json.dumps({**SLICE, key: broken}))
        try:
            found = host_source(f"endpointslices:{path}")()
        except FingerpostError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(each, Upstream) for each in found)


@pytest.mark.parametrize("text", ["dns:web", "dns::80", "dns:web:0", "dns:web:http"])
def test_a_source_that_is_none_is_refused(text):
    with pytest.raises(FingerpostError, match="dns:NAME:PORT"):
        host_source(text)


@pytest.mark.process
def test_every_address_of_a_name_is_a_host():
    assert Upstream("127.0.0.1", "127.0.0.1", 8000) in host_source("dns:localhost:8000")()
    with pytest.raises(FingerpostError, match="has no address"):
        host_source("dns:nowhere.invalid:80")()


@pytest.mark.process
def test_envoy_follows_the_hosts_and_no_request_fails(tmp_path):
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), PortHost) for _ in range(3)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    hosts = [Upstream(name, "127.0.0.1", server.server_port) for name, server in zip("abc", servers, strict=True)]
    file, lines = tmp_path / "hosts", [f"{each.name}=127.0.0.1:{each.port}" for each in hosts]
    file.write_text("\n".join(lines[:2]))
    keeper = EndpointsKeeper(host_source(str(file)), tmp_path / "endpoints.json")
    keeper.update()
    port, admin = free_ports(2)
    config = envoy_config(
        [], tmp_path / "access.log", "127.0.0.1", port, admin, "fingerpost",
        table=tmp_path / "shop.table", admin_socket=tmp_path / "admin.sock", endpoints=keeper.path,
    )  # fmt: skip
    answers, stop, lock = Counter(), threading.Event(), threading.Lock()

    def ask():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            while not stop.is_set():
                try:
                    answer = client.get("/")
                    got = answer.text if answer.status_code == 200 else answer.status_code
                except httpx.HTTPError as error:
                    got = repr(error)
                with lock:
                    answers[got] += 1

    def since_now(place):
        """Whether the host gets requests from now on, or gets none."""
        before = answers[str(hosts[place].port)]
        return lambda: answers[str(hosts[place].port)] > before + 5

    with running_envoy(config, tmp_path, admin):
        clients = [threading.Thread(target=ask) for _ in range(8)]
        for client in clients:
            client.start()
        try:
            wait_for(since_now(0))
            # One joins, one drains, then leaves for good.
            file.write_text("\n".join([f"{lines[0]} draining", *lines[1:]]))
            assert keeper.update()
            wait_for(since_now(2))
            file.write_text("\n".join(lines[1:]))
            assert keeper.update()
            wait_for(lambda: f"127.0.0.1:{hosts[0].port}::" not in clusters_of(tmp_path / "admin.sock"))
            gone = answers[str(hosts[0].port)]
            wait_for(since_now(1))
            wait_for(since_now(2))
        finally:
            stop.set()
            for client in clients:
                client.join()
    for server in servers:
        server.shutdown()
    assert answers[str(hosts[0].port)] <= gone + len(clients)
    assert set(answers) == {str(each.port) for each in hosts}


def clusters_of(socket):
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        return client.get("http://envoy/clusters").text
