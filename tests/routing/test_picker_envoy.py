"""The native picker in Envoy itself: decisions, log lines, lost hosts, and counts that return to zero under abuse."""

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from fingerpost.accesslog.envoy import parse_line
from fingerpost.clock import clock_us
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.hosts import EndpointsKeeper, host_source
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.envoy_harness import HOSTS, active, ask, log_rows, sent, table_of, vanish
from tests.support.picker_harness import made_table
from tests.support.running import running_envoy, running_fleet
from tests.support.sleeping_scenario import Scenario
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.skipif(compiler() is None, reason="there is no C compiler")]


@pytest.fixture
def fleet():
    """Three hosts; `/c0` takes no time, `/c1` half a second."""
    service_s = np.array([[0.001] * 3, [0.5] * 3])
    with running_fleet(Scenario(service_s, np.array([0.5, 0.5]), 2, 1.0)) as upstreams:
        yield upstreams


def test_decisions_are_made_and_logged_and_tables_swapped(tmp_path, fleet, free_ports):
    port, admin = free_ports(2)
    log, table = tmp_path / "access.log", tmp_path / "picker.table"
    # A host that is not there, first in the list: places among healthy hosts and among all of them differ.
    dead = Upstream("dead", "127.0.0.1", free_ports(1)[0])
    config = envoy_config(
        [dead, *fleet], log, "127.0.0.1", port, admin, "fingerpost", table=table, health_path="/healthz"
    )
    with running_envoy(config, tmp_path, admin, 2):
        time.sleep(4)
        assert {answer.status_code for answer in ask(port, 10)} == {200}  # there is no table yet
        write_table(table, table_of("h01"))
        time.sleep(0.4)
        ask(port, 10, **{"user-agent": "curl/8", "x-request-id": "mine", "x-fingerpost-decision": "forged"})
        write_table(table, replace(table_of("h02", expires_us=10**18), version="v2"))
        time.sleep(0.4)
        ask(port, 10)
        table.write_bytes(b"broken")
        time.sleep(0.4)
        ask(port, 10)
        write_table(table, table_of("h00", expires_us=1))
        time.sleep(0.4)
        ask(port, 10)
        stats = httpx.get(f"http://127.0.0.1:{admin}/stats?filter=fingerpost", trust_env=False).text
        counts = {line.split(": ")[0]: int(line.split(": ")[1]) for line in stats.splitlines() if ": " in line}
    rows = log_rows(log, 50)
    assert [row["fallback"] for row in rows[:10]] == ["no_table"] * 10
    assert {row["host"] for row in rows[:10]} <= set(HOSTS)
    assert {(row["host"], row["policy"], row["table_version"]) for row in rows[10:20]} == {("h01", "fingerpost", "v1")}
    # A broken file changes nothing.
    assert {(row["host"], row["table_version"]) for row in rows[20:40]} == {("h02", "v2")}
    assert {(row["fallback"], row["policy"]) for row in rows[40:]} == {("expired", "least_request")}
    assert (counts["fingerpost.predicted"], counts["fingerpost.fallback"]) == (30, 20)
    assert (counts["fingerpost.tables_loaded"], counts["fingerpost.tables_refused"]) == (3, 1)
    record = parse_line(json.dumps(rows[15]).encode(), "shop")
    now = clock_us()
    assert refusal(record, REQUEST_RECORD, now - 60_000_000, now + 1_000_000) is None
    assert (record["policy"], record["arm"], record["propensity"]) == ("fingerpost", "main", 1.0)
    assert record["predicted_cost"] == pytest.approx(1e-4, rel=1e-4)


def test_requests_are_told_apart_whatever_ids_clients_send(tmp_path, fleet, free_ports):
    """A filter that waits stands between the picker's two parts, and all requests claim to be the same one."""
    port, admin = free_ports(2)
    table = tmp_path / "picker.table"
    slope = np.full((1, 4, 4), 1.0, dtype=np.float32)
    for number in range(3):
        slope[0, number, number] = 1e-4
    categories = [f"GET /c0/{name}" for name in HOSTS]
    made = made_table(HOSTS, [*categories, "other"], slope=slope, settings=PickerSettings(exploration=0.0))
    write_table(table, made)
    # The third host refuses: its requests are tried again, and are still their own.
    hosts = [fleet[0], fleet[1], replace(fleet[2], port=free_ports(1)[0])]
    config = envoy_config(hosts, tmp_path / "log", "127.0.0.1", port, admin, "fingerpost", table=table)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    fault = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "delay": {"fixed_delay": "0.03s", "percentage": {"numerator": 100}},
    }
    manager["http_filters"].insert(1, {"name": "envoy.filters.http.fault", "typed_config": fault})
    config["static_resources"]["clusters"][0]["outlier_detection"]["consecutive_local_origin_failure"] = 10**6
    ids = ["1", "x" * 64, "x" * 65, "x" * 4000]
    with running_envoy(config, tmp_path, admin):
        with (
            httpx.Client(trust_env=False, limits=httpx.Limits(max_connections=24)) as client,
            ThreadPoolExecutor(24) as pool,
        ):

            def one(number):
                headers = {"x-request-id": ids[number % 4], "x-fingerpost-request": "1"}
                return client.get(f"http://127.0.0.1:{port}/c0/{HOSTS[number % 3]}", headers=headers).status_code

            answers = list(pool.map(one, range(240)))
        rows = log_rows(tmp_path / "log", 240)
    assert len(answers) == len(rows) == 240
    assert {row["category"] for row in rows} == set(categories)
    assert {row["policy"] for row in rows} == {"fingerpost"}
    for row in rows:
        meant = row["category"].removeprefix("GET /c0/")
        assert row["host"] == meant if meant != "h02" else row["host"] in ("h00", "h01")


def test_a_host_that_moves_into_the_zone_is_taken(tmp_path, fleet, free_ports):
    """Zones come as localities of endpoints that Envoy reads from a file."""
    port, admin = free_ports(2)
    log, table, listed = tmp_path / "access.log", tmp_path / "picker.table", tmp_path / "hosts"
    made = table_of("h01")
    made.slope[..., 2] = 0.9e-4  # h02, a tenth better
    write_table(table, made)

    def list_hosts(*zones):
        lines = [f"{each.name}=127.0.0.1:{each.port} zone={zone}" for each, zone in zip(fleet, zones, strict=True)]
        listed.write_text("\n".join(lines))
        assert keeper.update()

    keeper = EndpointsKeeper(host_source(str(listed)), tmp_path / "endpoints.json")
    list_hosts("north", "north", "south")
    config = envoy_config(
        [], log, "127.0.0.1", port, admin, "fingerpost", table=table, endpoints=keeper.path, zone="north"
    )
    with running_envoy(config, tmp_path, admin):
        wait_for(lambda: ask(port, 1)[0].status_code == 200)
        ask(port, 10)
        list_hosts("north", "north", "north")
        url = f"http://127.0.0.1:{admin}/stats?filter=^cluster.hosts.update_success$"
        wait_for(lambda: httpx.get(url, trust_env=False).text.strip().endswith(": 2"))
        ask(port, 10)
        rows = log_rows(log, 21)
    assert {row["host"] for row in rows[-20:-10]} == {"h01"}
    assert {row["host"] for row in rows[-10:]} == {"h02"}
    assert {row["propensity"] for row in rows[-20:]} == {"1"}


def test_a_lost_host_costs_no_more_than_what_was_there(tmp_path, fleet, free_ports):
    """The best host refuses connections: its requests are sent again, to another, and answered."""
    port, admin, gone = free_ports(3)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    hosts = [fleet[0], replace(fleet[1], port=gone), fleet[2]]
    config = envoy_config(hosts, tmp_path / "log", "127.0.0.1", port, admin, "fingerpost", table=table)
    with running_envoy(config, tmp_path, admin):
        answers = Counter(answer.status_code for answer in ask(port, 60))
    assert answers == {200: 60}
    rows = log_rows(tmp_path / "log", 60)
    assert {row["policy"] for row in rows} == {"fingerpost"}
    assert {row["host"] for row in rows} <= {"h00", "h02"}


def test_copies_and_hedged_tries_change_nothing_of_a_requests_decision(tmp_path, fleet, free_ports):
    """Each request is mirrored to the same hosts; where its host is slow, another try is made beside the first."""
    port, admin = free_ports(2)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    config = envoy_config(fleet, tmp_path / "log", "127.0.0.1", port, admin, "fingerpost", table=table)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    route["request_mirror_policies"] = [{"cluster": "hosts"}]
    route["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    route["retry_policy"] |= {"retry_on": "connect-failure,5xx", "per_try_timeout": "0.2s"}
    with running_envoy(config, tmp_path, admin, 2):
        assert {answer.status_code for answer in ask(port, 30)} == {200}
        assert {answer.status_code for answer in ask(port, 3, "/c1")} == {200}
        rows = log_rows(tmp_path / "log", 33)
        wait_for(lambda: active(admin) == 0)
        # Two of each: the copies.
        assert sent(admin) >= 66
    assert len(rows) == 33
    quick, slow = ([row for row in rows if row["path"] == path] for path in ("/c0", "/c1"))
    assert {(row["host"], row["policy"], row["category"], float(row["propensity"])) for row in quick} == {
        ("h01", "fingerpost", "GET /c0", 1.0)
    }
    # A second try goes to another host; which of both answered is in the log, and how likely that was is not known.
    assert {row["policy"] for row in slow} == {"fingerpost"}
    assert {row["propensity"] for row in slow} == {""}


def test_counts_return_to_zero_whatever_clients_and_hosts_do(tmp_path, free_ports):
    port, admin = free_ports(2)
    table = tmp_path / "picker.table"
    write_table(table, table_of("h01"))
    rng = random.Random(1)
    scenario = Scenario(np.array([[0.001] * 3, [0.5] * 3]), np.array([0.5, 0.5]), 2, 1.0)
    with running_fleet(scenario) as upstreams:
        config = envoy_config(
            upstreams, tmp_path / "log", "127.0.0.1", port, admin, "fingerpost", table=table, timeout_s=1.0
        )
        with running_envoy(config, tmp_path, admin, 2):
            clients = [vanish(port, rng) for _ in range(150)]
            wait_for(lambda: sent(admin) > 0)
            ask(port, 5)
            wait_for(lambda: active(admin) == 0)
            for client in clients:
                client.close()
            write_table(table, table_of("h02"))
            # And the hosts die while they have requests.
            clients = [vanish(port, rng) for _ in range(60)]
            time.sleep(0.2)
            for process in _children("tests.support.sleeping_hosts"):
                process.kill()
            clients += [vanish(port, rng) for _ in range(30)]
            wait_for(lambda: active(admin) == 0)
            for client in clients:
                client.close()


def _children(name):
    import psutil

    return [child for child in psutil.Process().children() if name in " ".join(child.cmdline())]
