"""The endpoint picker behind real Envoy: choices, subsets, lost hosts, a lost picker, counts that return to zero."""

import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from fingerpost.accesslog.envoy import parse_line
from fingerpost.clock import clock_us
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.routing.endpoint_picker.endpoints import endpoint_of
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.router import write_table
from tests.support.endpoint_picker_harness import running_picker
from tests.support.envoy_harness import ask, log_rows, table_of, vanish
from tests.support.running import make_sick, running_envoy, running_fleet
from tests.support.sleeping_hosts import Sickness
from tests.support.sleeping_scenario import Scenario
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def fleet():
    """Three hosts; `/c0` takes no time, `/c1` half a second."""
    service_s = np.array([[0.001] * 3, [0.5] * 3])
    with running_fleet(Scenario(service_s, np.array([0.5, 0.5]), 2, 1.0)) as upstreams:
        yield upstreams


def config_of(hosts, log, port, admin, picker, **changes):
    return envoy_config(hosts, log, "127.0.0.1", port, admin, "endpoint_picker", picker=picker, **changes)


def with_subset(config, subset):
    """The same, with the metadata that a gateway sets to say which endpoints may be chosen."""
    hint = {"metadata_namespace": "envoy.lb.subset_hint", "value": {"x-gateway-destination-endpoint-subset": subset}}
    set_metadata = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [hint],
        },
    }
    listener = config["static_resources"]["listeners"][0]
    listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].insert(0, set_metadata)
    return config


def test_envoy_accepts_the_configuration(tmp_path):
    config = config_of([Upstream("a", "127.0.0.1", 9)], tmp_path / "log", 18080, 18081, ("epp.example", 9002))
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    envoy = str(Path(sys.executable).parent / "envoy")
    command = [envoy, "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "--base-id", "18081"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_web_page_reads_it_or_tells_it_anything(tmp_path, fleet, free_ports):
    grpc, metrics = free_ports(2)
    with running_picker(fleet, tmp_path / "table", grpc, metrics) as picker:
        place, evil = f"http://127.0.0.1:{metrics}/metrics", {"host": "evil.example"}
        assert httpx.get(place, headers=evil, trust_env=False).status_code == 403
        assert "fingerpost_endpoint_inflight" in httpx.get(place, trust_env=False).text
        # Browsers speak HTTP/1.1 where there is no TLS; gRPC does not.
        form = {"origin": "http://evil.example", "content-type": "text/plain"}
        with pytest.raises(httpx.HTTPError):
            method = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
            httpx.post(f"http://127.0.0.1:{grpc}{method}", content=b"x", headers=form, trust_env=False)
        assert picker.inflight() == 0


def test_requests_go_to_the_least_cost_and_the_log_says_why(tmp_path, fleet, free_ports):
    port, admin, grpc, metrics = free_ports(4)
    table, log = tmp_path / "picker.table", tmp_path / "access.log"
    config = config_of(fleet, log, port, admin, ("127.0.0.1", grpc))
    with running_picker(fleet, table, grpc, metrics) as picker, running_envoy(config, tmp_path, admin, 2):
        assert {answer.status_code for answer in ask(port, 10)} == {200}  # there is no table yet
        write_table(table, table_of("h01"))
        time.sleep(0.6)
        # What clients say of endpoints counts for nothing.
        ask(port, 10, **{"x-gateway-destination-endpoint": endpoint_of(fleet[0])})
        write_table(table, replace(table_of("h02"), version="v2"))
        time.sleep(0.6)
        ask(port, 10)
        table.write_bytes(b"broken")
        time.sleep(0.6)
        ask(port, 10)
        write_table(table, table_of("h00", expires_us=1))
        time.sleep(0.6)
        ask(port, 10)
        wait_for(lambda: picker.inflight() == 0)
        picks = picker.picks()
    rows = log_rows(log, 50)
    assert {row["fallback"] for row in rows[:10]} == {"no_table"}
    assert {(row["host"], row["policy"], row["table_version"]) for row in rows[10:20]} == {("h01", "fingerpost", "v1")}
    assert {(row["host"], row["table_version"]) for row in rows[20:40]} == {("h02", "v2")}
    assert {(row["policy"], row["fallback"]) for row in rows[40:]} == {("least_request", "expired")}
    assert picks == {
        ("fingerpost", ""): 30,
        ("least_request", "no_table"): 10,
        ("least_request", "expired"): 10,
    }
    record = parse_line(json.dumps(rows[15]).encode(), "shop")
    now = clock_us()
    assert refusal(record, REQUEST_RECORD, now - 60_000_000, now + 1_000_000) is None
    assert (record["policy"], record["arm"], record["propensity"]) == ("fingerpost", "main", 1.0)
    assert record["predicted_cost"] == pytest.approx(1e-4, rel=1e-4)


def test_a_subset_is_kept_to_and_none_is_refused(tmp_path, fleet, free_ports):
    port, admin, other, other_admin, grpc, metrics = free_ports(6)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    with running_picker(fleet, table, grpc, metrics) as picker:
        two = [endpoint_of(fleet[0]), endpoint_of(fleet[2])]
        config = with_subset(config_of(fleet, tmp_path / "log", port, admin, picker.address), two)
        with running_envoy(config, tmp_path, admin):
            assert {answer.status_code for answer in ask(port, 20)} == {200}
        config = with_subset(config_of(fleet, tmp_path / "none", other, other_admin, picker.address), [])
        with running_envoy(config, tmp_path, other_admin):
            assert {answer.status_code for answer in ask(other, 3)} == {503}
    assert {row["host"] for row in log_rows(tmp_path / "log", 20)} == {"h00", "h02"}


def test_a_host_that_answers_errors_is_left_out(tmp_path, fleet, free_ports):
    port, admin, grpc, metrics = free_ports(4)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    make_sick(fleet[1], Sickness(1.0, 0.0))
    with running_picker(fleet, table, grpc, metrics) as picker:
        config = config_of(fleet, tmp_path / "log", port, admin, picker.address)
        with running_envoy(config, tmp_path, admin):
            answers = [answer.status_code for answer in ask(port, 40)]
    assert answers == [500] * 10 + [200] * 30


def test_a_lost_host_is_left_out_and_a_lost_picker_fails_no_request(tmp_path, fleet, free_ports):
    port, admin, grpc, metrics, gone = free_ports(5)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    hosts = [fleet[0], replace(fleet[1], port=gone), fleet[2]]
    with running_picker(hosts, table, grpc, metrics) as picker:
        config = config_of(hosts, tmp_path / "log", port, admin, picker.address)
        with running_envoy(config, tmp_path, admin):
            answers = Counter(answer.status_code for answer in ask(port, 40))
            wait_for(lambda: picker.inflight() == 0)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for number in range(120):
                    if number == 20:
                        picker.process.kill()
                    answers[client.get("/c0").status_code] += 1
            assert answers == {200: 160}
    wait_for(lambda: len((tmp_path / "log").read_bytes().splitlines()) == 160)
    rows = [parse_line(line, "shop") for line in (tmp_path / "log").read_bytes().splitlines()]
    assert {row["host"] for row in rows} <= {"h00", "h02"}
    assert {row["policy"] for row in rows[:40]} == {"fingerpost"}
    # The first went to the lost host and then on to another, which nobody had drawn; the next ones knew.
    assert [row["propensity"] for row in rows[:3]] == [None, 0.5, 0.5]
    assert rows[-1]["policy"] == "least_request"


@pytest.mark.parametrize(("percent", "panics"), [(50.0, True), (0.0, False)])
def test_with_most_hosts_unhealthy_all_are_used_unless_told_otherwise(tmp_path, fleet, free_ports, percent, panics):
    """One of three is healthy, and the picker is away: Envoy's least request stands in."""
    port, admin, grpc, *gone = free_ports(5)
    hosts = [fleet[0], *(replace(host, port=dead) for host, dead in zip(fleet[1:], gone, strict=True))]
    config = config_of(
        hosts, tmp_path / "log", port, admin, ("127.0.0.1", grpc), health_path="/healthz", panic_percent=percent
    )
    with running_envoy(config, tmp_path, admin):
        wait_for(lambda: _stat(admin, "cluster.hosts.membership_healthy") == 1)
        answers = {answer.status_code for answer in ask(port, 20)}
        # In panic a request may meet both dead hosts, and its one more try as well.
        assert 200 in answers if panics else answers == {200}
        assert (_stat(admin, "cluster.hosts.lb_healthy_panic") > 0) == panics


def _stat(admin, name):
    text = httpx.get(f"http://127.0.0.1:{admin}/stats?filter={name}", trust_env=False).text
    return int(text.split(": ")[1]) if text.strip() else 0


def slow_host(port, seconds):
    """A host whose answer begins at once and ends `seconds` later."""
    code = f"""
import socket, threading, time
def one(client):
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\na")
    time.sleep({seconds})
    client.sendall(b"b")
    client.close()
server = socket.create_server(("127.0.0.1", {port}))
print("ready", flush=True)
while True:
    threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_request_counts_until_its_answer_has_ended(tmp_path, free_ports):
    port, admin, grpc, metrics, slow = free_ports(5)
    host = slow_host(slow, 2.0)
    upstreams = [Upstream("slow", "127.0.0.1", slow)]
    config = config_of(upstreams, tmp_path / "log", port, admin, ("127.0.0.1", grpc))
    try:
        with (
            running_picker(upstreams, tmp_path / "table", grpc, metrics) as picker,
            running_envoy(config, tmp_path, admin),
        ):
            with httpx.stream("GET", f"http://127.0.0.1:{port}/", trust_env=False) as answer:
                assert answer.status_code == 200
                time.sleep(0.5)
                assert picker.inflight() == 1
                assert answer.read() == b"ab"
            wait_for(lambda: picker.inflight() == 0)
    finally:
        host.kill()
        host.wait()


def test_counts_return_to_zero_whatever_clients_do(tmp_path, fleet, free_ports):
    port, admin, grpc, metrics = free_ports(4)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    rng = random.Random(1)
    with running_picker(fleet, table, grpc, metrics) as picker:
        config = config_of(fleet, tmp_path / "log", port, admin, picker.address, timeout_s=1.0)
        with running_envoy(config, tmp_path, admin, 2):
            clients: list[socket.socket] = [vanish(port, rng) for _ in range(150)]
            wait_for(picker.picks)
            ask(port, 5)
            wait_for(lambda: picker.inflight() == 0)
            for client in clients:
                client.close()
            clients = [vanish(port, rng) for _ in range(50)]
        # Envoy itself is gone, with requests under way.
        wait_for(lambda: picker.inflight() == 0)
        for client in clients:
            client.close()
        # Requests that ran out of time may have left out most of the hosts.
        assert set(picker.picks()) <= {("fingerpost", ""), ("least_request", "panic")}
