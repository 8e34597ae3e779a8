"""Three Envoys before one fleet send where one would, if hosts tell how many requests they have."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.envoy_harness import log_rows
from tests.support.picker_harness import made_table
from tests.support.running import running_envoy, running_fleet
from tests.support.sleeping_scenario import Scenario

pytestmark = [pytest.mark.process, pytest.mark.skipif(compiler() is None, reason="there is no C compiler")]

SLOPES = (1.0, 2.0, 4.0)
CLIENTS, REQUESTS = 9, 40


def share_of_hosts(folder, upstreams, free_ports, proxies):
    """Which part of the requests each host gets of clients that send one after the other, each through one proxy."""
    names = [upstream.name for upstream in upstreams]
    slope = np.array([[[*SLOPES, 4.0]]], dtype=np.float32)
    table = folder / "picker.table"
    write_table(table, made_table(names, ["other"], slope=slope, settings=PickerSettings(exploration=0.0)))
    ports, admins = free_ports(proxies), free_ports(proxies)
    logs = [folder / f"{port}.log" for port in ports]
    with ExitStack() as stack:
        for port, admin, log in zip(ports, admins, logs, strict=True):
            config = envoy_config(upstreams, log, "127.0.0.1", port, admin, "fingerpost", table=table)
            stack.enter_context(running_envoy(config, folder, admin))

        def client(number):
            with httpx.Client(base_url=f"http://127.0.0.1:{ports[number % proxies]}", trust_env=False) as one:
                return [one.get("/c0").status_code for _ in range(REQUESTS)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = [status for found in pool.map(client, range(CLIENTS)) for status in found]
        rows = [row for log in logs for row in log_rows(log, CLIENTS // proxies * REQUESTS)]
    assert Counter(answers) == {200: CLIENTS * REQUESTS}
    assert {row["policy"] for row in rows} == {"fingerpost"}
    count = Counter(row["host"] for row in rows)
    return np.array([count[name] for name in names]) / len(rows)


def test_three_proxies_load_the_hosts_as_one_does(tmp_path, free_ports):
    """Nine clients: alone, each proxy's three would all be best served by the fastest two hosts."""
    scenario = Scenario(np.full((1, 3), 0.04), np.array([1.0]), 64, 1.0)
    shares = {}
    for tells in (True, False):
        with running_fleet(scenario, tells=tells) as upstreams:
            for proxies in (1, 3):
                folder = tmp_path / f"{tells}{proxies}"
                folder.mkdir()
                shares[tells, proxies] = share_of_hosts(folder, upstreams, free_ports, proxies)
    # What one proxy does does not depend on what hosts tell; with several it does.
    np.testing.assert_allclose(shares[False, 1], shares[True, 1], atol=0.05)
    assert np.abs(shares[True, 3] - shares[True, 1]).max() < 0.06, shares
    assert np.abs(shares[False, 3] - shares[False, 1]).max() > 0.06, shares
