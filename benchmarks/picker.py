"""`python -m benchmarks picker`: what a decision costs, by itself and in Envoy beside least request."""

import asyncio
import json
import shutil
import statistics
import struct
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import clock_us
from fingerpost.routing.envoy.admin import admin_cluster, administration, stats_listener
from fingerpost.routing.envoy.clusters import TYPE, address
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings, PickerTable
from fingerpost.settings import LOOPBACK
from tests.support.open_loop import drive
from tests.support.picker_harness import build_harness
from tests.support.running import running_envoy

_POLICIES = ("least_request", "fingerpost")
_CATEGORIES = 100
_ROUNDS = 20_000
USER_AGENT = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"


@dataclass(frozen=True)
class _Loaded:
    """One policy under full load for a while; `cores` is how much of one Envoy used: with 1 it is the bottleneck."""

    requests_per_s: float
    cpu_us_per_request: float
    cores: float


def measure_picker(seconds: float, rounds: int) -> dict[str, Any]:
    """Nanoseconds a decision (filter, choice) at 50 and 1000 hosts, and Envoy's CPU a request at 50 hosts."""
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text:
        folder = Path(text)
        harness = build_harness(folder / "harness")
        alone = {
            "50_hosts": _alone(harness, folder, 50, 128),
            "1000_hosts_sample_64": _alone(harness, folder, 1000, 128),
            "1000_hosts_scan": _alone(harness, folder, 1000, 1000),
        }
        return {"decision_us": alone, "envoy_50_hosts": _in_envoy(folder, seconds, rounds)}


def random_table(hosts: int, scan_limit: int) -> PickerTable:
    rng = np.random.default_rng(1)
    slope = rng.uniform(0.005, 0.1, (1, _CATEGORIES, hosts + 1)).astype(np.float32)
    now = clock_us()
    names = (*(f"GET /c{number}|0|none|browser|none" for number in range(_CATEGORIES - 1)), "other")
    settings = PickerSettings(scan_limit=scan_limit)
    hosts_names = tuple(f"h{number}" for number in range(hosts))
    routes = tuple(f"/team{number}/*/orders" for number in range(50))
    return replace(
        PickerTable("bench", now, now + 3_600_000_000, hosts_names, names, routes, slope, np.zeros_like(slope)),
        settings=settings,
    )


def _alone(harness: Path, folder: Path, hosts: int, scan_limit: int) -> dict[str, float]:
    """Without Envoy: its callbacks are played, which is about as much work as they are."""
    write_table(folder / "alone.table", random_table(hosts, scan_limit))
    (folder / "hosts").write_text("".join(f"h{number} {number % 7} 1 1 0\n" for number in range(hosts)))
    requests = b"".join(
        b"".join(
            struct.pack("<I", 0xFFFFFFFF if text is None else len(text)) + (text or b"")
            for text in (b"GET", b"/c%d/orders" % number, None, USER_AGENT, b"DE", None, None, None)
        )
        for number in range(64)
    )
    command = [str(harness), "time", str(folder / "alone.table"), str(folder / "hosts"), str(_ROUNDS)]
    best = [float("inf")] * 2
    for _ in range(5):
        done = subprocess.run(command, input=requests, capture_output=True, check=True)
        best = [min(pair) for pair in zip(best, map(float, done.stdout.split()), strict=True)]
    return {"filter": round(best[0] / 1000, 2), "choice": round(best[1] / 1000, 2)}


def _in_envoy(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Envoy before 50 ports of another Envoy that answers by itself; load by wrk if there is one, else our own.

    Both policies stand by all the time and are loaded in turn for a short while, so that what else the machine does
    meets both. Both log a line of JSON a request.
    """
    ports = free_ports(55)
    hosts, admin, doors = ports[:50], ports[50], (ports[51:53], ports[53:55])
    upstreams = [Upstream(f"h{number}", LOOPBACK, port) for number, port in enumerate(hosts)]
    table = folder / "envoy.table"
    write_table(table, random_table(50, 128))
    found: dict[str, list[_Loaded]] = {policy: [] for policy in _POLICIES}
    with ExitStack() as stack:
        stack.enter_context(running_envoy(answering(hosts, admin), folder, admin))
        pids = {}
        for policy, (port, own_admin) in zip(_POLICIES, doors, strict=True):
            config = envoy_config(upstreams, Path("/dev/null"), LOOPBACK, port, own_admin, policy, table=table)
            pids[policy] = stack.enter_context(running_envoy(config, folder, own_admin))
            closed_loop(port, 1.0)
        for number in range(rounds):
            # In turn the first: on a busy machine it matters who comes when.
            for place in (0, 1) if number % 2 else (1, 0):
                policy = _POLICIES[place]
                found[policy].append(_load(doors[place][0], pids[policy], seconds))
    plain, ours = (found[policy] for policy in _POLICIES)
    medians = {
        name: {policy: round(statistics.median(getattr(each, name) for each in found[policy]), 2) for policy in found}
        for name in ("requests_per_s", "cpu_us_per_request", "cores")
    }
    rounds_of = list(zip(plain, ours, strict=True))
    shares = {"cpu_share": _ratios([one.cpu_us_per_request / other.cpu_us_per_request for one, other in rounds_of])}
    # What else the machine does only adds to the CPU a request takes: the calm quarter of the rounds says most.
    calm = [float(np.percentile([each.cpu_us_per_request for each in rows], 25)) for rows in (plain, ours)]
    shares["cpu_share"]["calm"] = round(calm[0] / calm[1], 3)
    # Our own loader sends at a fixed rate.
    if shutil.which("wrk"):
        shares["throughput_share"] = _ratios([other.requests_per_s / one.requests_per_s for one, other in rounds_of])
    return {"load": "wrk" if shutil.which("wrk") else "own loader", "rounds": rounds, **medians, **shares}


def _load(port: int, pid: int, seconds: float) -> "_Loaded":
    before = process_cpu_s(pid)
    count, took = closed_loop(port, seconds)
    used = process_cpu_s(pid) - before
    return _Loaded(count / took, used / max(count, 1) * 1e6, used / took)


def _ratios(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles of what was found in the rounds."""
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return {"median": round(float(median), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def closed_loop(port: int, seconds: float) -> tuple[int, float]:
    """Requests answered, and how long it took."""
    if shutil.which("wrk"):
        command = ["wrk", "-t1", "-c32", f"-d{max(1, round(seconds))}s", "-H", f"user-agent: {USER_AGENT.decode()}"]
        done = subprocess.run(
            [*command, f"http://{LOOPBACK}:{port}/c7"], capture_output=True, text=True, check=True
        ).stdout
        line = next(line for line in done.splitlines() if "requests in" in line)
        count, _, _, took, *_ = line.replace(",", "").split()
        return int(count), float(took.removesuffix("s"))
    request = b"GET /c7 HTTP/1.1\r\nhost: bench\r\nuser-agent: " + USER_AGENT + b"\r\n\r\n"
    planned = [(number / 2000, request) for number in range(round(seconds * 2000))]
    outcome = asyncio.run(drive(port, planned, 5))
    return outcome.statuses["200"], seconds


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def answering(ports: list[int], admin: int) -> dict[str, Any]:
    """An Envoy that answers every request on many ports with an empty 200."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "answers",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"},
            }
        ],
    }
    filters = json.loads(json.dumps([{"name": "manager", "typed_config": manager}]))
    listeners = [
        {"name": f"port-{port}", "address": address(LOOPBACK, port), "filter_chains": [{"filters": filters}]}
        for port in ports
    ]
    # In the folder that it is started in.
    socket = Path(f"envoy-{admin}.sock")
    listeners.append(stats_listener(admin))
    return {
        "admin": administration(socket),
        "static_resources": {"listeners": listeners, "clusters": [admin_cluster(socket)]},
    }
