"""Hosts that fail are left out, requests that fail everywhere leave out none, retries go elsewhere: in Envoy itself."""

import asyncio
import re
from collections import Counter
from dataclasses import replace

import httpx
import numpy as np
import pytest

from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.open_loop import drive
from tests.support.picker_harness import made_table
from tests.support.running import make_sick, running_envoy, running_fleet
from tests.support.sleeping_hosts import Sickness
from tests.support.sleeping_scenario import Scenario
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.skipif(compiler() is None, reason="there is no C compiler")]
HOSTS = [f"h{number:02}" for number in range(4)]
POLICIES = ("fingerpost", "least_request")
SICK = 1


@pytest.fixture
def fleet():
    """Four hosts; `/c0` and `/c1` take no time."""
    scenario = Scenario(np.full((2, len(HOSTS)), 0.001), np.array([0.5, 0.5]), 8, 1.0)
    with running_fleet(scenario) as upstreams:
        yield upstreams


class Proxy:
    """Envoy before the hosts, and its counters."""

    def __init__(self, port, admin):
        self.port, self._admin = port, admin

    def ask(self, count, *paths, **headers):
        """Statuses of requests, one after the other, the paths in turn."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as client:
            asked = (paths or ("/c0",)) * count
            return [client.get(path, headers=headers).status_code for path in asked]

    def ask_at_once(self, count):
        request = b"GET /c0 HTTP/1.1\r\nhost: a\r\n\r\n"
        return +asyncio.run(drive(self.port, [(0.0, request)] * count, 10)).statuses

    def stat(self, name):
        url = f"http://127.0.0.1:{self._admin}/stats?filter=^{re.escape('cluster.hosts.' + name)}$"
        return int(httpx.get(url, trust_env=False).text.rpartition(": ")[2] or 0)

    def left_out(self):
        """Names of the hosts that outlier detection has left out."""
        url = f"http://127.0.0.1:{self._admin}/clusters?format=json"
        (hosts,) = [
            cluster["host_statuses"]
            for cluster in httpx.get(url, trust_env=False).json()["cluster_statuses"]
            if cluster["name"] == "hosts"
        ]
        return {host["hostname"] for host in hosts if host["health_status"].get("failed_outlier_check")}


@pytest.fixture
def proxy(tmp_path, free_ports):
    """Starts Envoy with the generated configuration; by the table the sick host is by far the best."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(hosts, policy, change=None, **options):
            port, admin = free_ports(2)
            slope = np.full((1, 1, len(HOSTS) + 1), 1.0, dtype=np.float32)
            slope[..., SICK] = 1e-4
            table = tmp_path / "picker.table"
            write_table(table, made_table(HOSTS, ["other"], slope=slope, settings=PickerSettings(exploration=0.0)))
            config = envoy_config(hosts, tmp_path / "log", "127.0.0.1", port, admin, policy, table=table, **options)
            if change:
                config["static_resources"]["clusters"][0]["outlier_detection"].update(change)
            stack.enter_context(running_envoy(config, tmp_path, admin))
            return Proxy(port, admin)

        yield start


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("status", "errors"), [(500, 10), (502, 5)])
def test_a_host_that_answers_errors_is_left_out(fleet, proxy, policy, status, errors):
    make_sick(fleet[SICK], Sickness(1.0, 0.0, status=status))
    envoy = proxy(fleet, policy)
    if policy == "fingerpost":
        assert envoy.ask(errors - 1) == [status] * (errors - 1)
        assert envoy.left_out() == set()
    wait_for(lambda: envoy.ask(4) and envoy.left_out() == {HOSTS[SICK]})
    # Envoy's workers are told a moment later.
    wait_for(lambda: envoy.ask(40) == [200] * 40)
    assert envoy.left_out() == {HOSTS[SICK]}


def test_a_good_health_check_does_not_bring_a_sick_host_back(fleet, proxy):
    """The application behind it is broken, and its health check is well."""
    make_sick(fleet[SICK], Sickness(1.0, 0.0))
    envoy = proxy(fleet, "fingerpost", health_path="/healthz")
    wait_for(lambda: envoy.stat("membership_healthy") == len(HOSTS))
    wait_for(lambda: envoy.ask(10) == [200] * 10)
    checks = envoy.stat("health_check.success")
    wait_for(lambda: envoy.stat("health_check.success") >= checks + 2 * len(HOSTS))
    assert envoy.left_out() == {HOSTS[SICK]}


def test_a_host_that_fails_half_of_its_requests_is_left_out(fleet, proxy):
    """Ten in a row would take it long; half of the answers of a span of time are enough."""
    make_sick(fleet[SICK], Sickness(0.7, 0.0))
    envoy = proxy(fleet, "fingerpost", {"interval": "0.5s", "consecutive_5xx": 1000})
    wait_for(lambda: envoy.ask(30) and envoy.stat("outlier_detection.ejections_enforced_failure_percentage") > 0)
    assert envoy.left_out() == {HOSTS[SICK]}


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_that_fail_everywhere_leave_out_no_host(fleet, proxy, policy):
    for host in fleet:
        make_sick(host, Sickness(1.0, 0.0, category=1))
    envoy = proxy(fleet, policy, {"interval": "0.5s"})
    assert Counter(envoy.ask(80, "/c1", *["/c0"] * 4)) == {500: 80, 200: 320}
    assert envoy.stat("outlier_detection.ejections_enforced_total") == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fault_of_all_hosts_leaves_out_half_of_them_at_most(fleet, proxy, policy):
    for host in fleet:
        make_sick(host, Sickness(1.0, 0.0))
    envoy = proxy(fleet, policy)
    # The errors are the hosts' own to the end: there is always one to ask.
    wait_for(lambda: set(envoy.ask(100)) == {500} and len(envoy.left_out()) == len(HOSTS) // 2)
    assert set(envoy.ask(100)) == {500}
    assert len(envoy.left_out()) == len(HOSTS) // 2


@pytest.mark.parametrize("policy", POLICIES)
def test_as_many_retries_as_clients_wait_for_a_dead_host(fleet, proxy, free_ports, policy):
    hosts = [replace(fleet[place], port=free_ports(1)[0]) if place == SICK else fleet[place] for place in range(4)]
    envoy = proxy(hosts, policy, {"consecutive_local_origin_failure": 10**6})
    assert envoy.ask_at_once(60) == {"200": 60}
    assert envoy.stat("upstream_rq_retry_overflow") == 0
    # A connection that fails takes along all requests that wait for one.
    assert envoy.stat("upstream_rq_retry") >= envoy.stat("upstream_cx_connect_fail") > 0


def test_retries_neither_multiply_nor_go_to_the_host_that_failed(fleet, proxy, free_ports):
    """All hosts are dead: three are asked; with one alone, one. What clients ask for by headers changes nothing."""
    dead = [replace(host, port=port) for host, port in zip(fleet, free_ports(4), strict=True)]
    never = {"consecutive_local_origin_failure": 10**6}
    wishes = {"x-envoy-retry-on": "5xx,connect-failure", "x-envoy-max-retries": "60", "x-forwarded-for": "10.1.1.1"}
    for hosts, tries in ((dead, 3), (dead[SICK : SICK + 1], 1)):
        envoy = proxy(hosts, "fingerpost", never)
        assert envoy.ask(10, **wishes) == [503] * 10
        assert envoy.stat("upstream_cx_connect_fail") == 10 * tries
        assert envoy.stat("upstream_rq_total") == 0


def test_what_a_host_has_seen_is_not_sent_again(fleet, proxy):
    for host in fleet:
        make_sick(host, Sickness(1.0, 0.0, status=503))
    envoy = proxy(fleet, "fingerpost", {"enforcing_consecutive_gateway_failure": 0, "enforcing_consecutive_5xx": 0})
    assert envoy.ask(20) == [503] * 20
    assert (envoy.stat("upstream_rq_total"), envoy.stat("upstream_rq_retry")) == (20, 0)


@pytest.mark.parametrize(("policy", "seconds"), [("fingerpost", 5), ("least_request", 20), ("endpoint_picker", 20)])
def test_where_the_guard_judges_hosts_they_are_left_out_for_a_shorter_time(tmp_path, policy, seconds):
    hosts = [Upstream("h1", "127.0.0.1", 9)]
    options = {"picker": ("127.0.0.1", 9002)} if policy == "endpoint_picker" else {"table": tmp_path / "table"}
    config = envoy_config(hosts, tmp_path / "log", "127.0.0.1", 1, 2, policy, **options)
    (cluster,) = [each for each in config["static_resources"]["clusters"] if each["name"] == "hosts"]
    assert cluster["outlier_detection"]["base_ejection_time"] == f"{seconds}s"
