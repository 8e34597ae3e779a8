"""How well fingerprints know what a request costs: against the same requests done one by one on a host left alone."""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from examples.demo.classes import DemoHost, demo_hosts
from examples.demo.load import Arrival, arrivals, drive
from examples.demo.processes import demo_module, envoy_command
from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.category import CategoryTable, Key, category_key, fit_categories, size_bucket
from fingerpost.cli.stack.parts import answers, fingerpost
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.client_attributes import auth_method, user_agent_class
from fingerpost.lake import INBOX, parquet_files, published_categories, service_folder, write_text_atomically
from fingerpost.settings import LOOPBACK

_SERVICE = "bench"
_MAX_CATEGORIES, _MIN_REQUESTS = 24, 50
_SETTLE_S, _AGENT_START_S = 8.0, 5.0
# Alone, each category is done so often, with a pause after each request.
_ALONE, _PAUSE_S, _IDLE_S = 60, 0.03, 2.0
_START_TIMEOUT_S = 60
WITHIN = 0.15


@dataclass(frozen=True)
class _Run:
    """What one run is made of."""

    home: Path
    hosts: list[DemoHost]
    envoy_port: int
    admin_port: int
    planned: list[Arrival]
    table: CategoryTable


def measure_attribution(
    hosts: int, seconds: float, rate_rps: float, seed: int, progress: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """Drives real demo hosts through Envoy, two agents beside each: one fed by the middleware, one by the log alone.

    Returns:
        `cells`: for each host and category with at least 50 requests: `requests`, CPU-seconds a request `alone_s` (the
        mean of before and after the load), `alone_drift` (after over before: what of the errors is the machine's),
        `middleware_s`, `regression_s` with its `regression_error_s`; for both ways `*_within_15` (share of the cells
        off by at most 15%), `*_worst` and `*_median` (relative errors); and `agree_within_15`, of the one to the other.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder:
        ports = free_ports(hosts + 2)
        planned = list(arrivals(rate_rps, seconds, seed))
        counts = Counter(_key(arrival) for arrival in planned)
        table = fit_categories(counts.items(), _MAX_CATEGORIES, _MIN_REQUESTS * hosts)
        fleet = [
            DemoHost(each.name, each.host_class, port) for each, port in zip(demo_hosts(hosts, 1), ports, strict=False)
        ]
        run = _Run(Path(folder), fleet, ports[-2], ports[-1], planned, table)
        environment = {
            "FINGERPOST_SERVICE": _SERVICE,
            "FINGERPOST_HALFLIFE_S": "600",
            "FINGERPOST_LOG_LEVEL": "WARNING",
        }
        with ProcessGroup(run.home / "logs", environment) as stack:
            processes = _start(stack, run)
            before = _all_alone(processes, run, progress)
            agents = _start_agents(stack, run, processes)
            progress(f"driving {hosts} hosts for {seconds:.0f} s")
            asyncio.run(drive(f"http://{LOOPBACK}:{run.envoy_port}", iter(planned)))
            time.sleep(_SETTLE_S)
            found = {way: _last_fingerprints(run.home / way / "lake") for way in ("middleware", "regression")}
            for child in agents:
                stack.end(child)
            after = _all_alone(processes, run, progress)
            cells = [cell for host in fleet for cell in _cells(host, before[host.name], after[host.name], found)]
        return {"hosts": hosts, "seconds": seconds, "rate_rps": rate_rps, **_summary(cells), "cells": cells}


def _all_alone(
    processes: dict[str, psutil.Process], run: _Run, progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    found = {}
    for host in run.hosts:
        progress(f"measuring {host.name} alone")
        found[host.name] = _alone(host, processes[host.name], run)
    return found


def _start(stack: ProcessGroup, run: _Run) -> dict[str, psutil.Process]:
    processes = {}
    for way in ("middleware", "regression"):
        path = published_categories(run.home / way / "lake", _SERVICE)
        write_text_atomically(path, json.dumps(run.table.to_json()))
    for host in run.hosts:
        command = demo_module("host", "--class", host.host_class, "--port", str(host.port))
        child = stack.start(f"host-{host.name}", [*command, "--middleware-socket", str(_socket(run, host))])
        processes[host.name] = psutil.Process(child.process.pid)
    places = (run.envoy_port, run.admin_port, run.home / "envoy-admin.sock")
    stack.start("envoy", envoy_command(run.hosts, run.home, _log(run), LOOPBACK, *places))
    urls = [f"http://{LOOPBACK}:{host.port}/healthz" for host in run.hosts]
    for url in [*urls, f"http://{LOOPBACK}:{run.admin_port}/ready"]:
        stack.wait_until(lambda url=url: answers(url), _START_TIMEOUT_S, f"{url} does not answer")  # type: ignore[misc]
    return processes


def _start_agents(stack: ProcessGroup, run: _Run, processes: dict[str, psutil.Process]) -> list[Child]:
    agents = []
    for host in run.hosts:
        common = ["agent", "--host", host.name, "--pid", str(processes[host.name].pid), "--cores", "2"]
        common += ["--stats-url", f"http://{LOOPBACK}:{host.port}/fingerpost/stats"]
        for way, source in (
            ("middleware", ["--middleware-socket", str(_socket(run, host))]),
            ("regression", ["--access-log", str(_log(run))]),
        ):
            home = {"FINGERPOST_HOME": str(run.home / way)}
            agents.append(stack.start(f"agent-{way}-{host.name}", fingerpost(*common, *source), home))
    time.sleep(_AGENT_START_S)
    return agents


def _socket(run: _Run, host: DemoHost) -> Path:
    return run.home / f"{host.name}.sock"


def _log(run: _Run) -> Path:
    return run.home / "access.log"


def _alone(host: DemoHost, process: psutil.Process, run: _Run) -> dict[str, float]:
    """CPU-seconds a request of each category, one at a time, nothing else under way: the process' own, all of it.

    Payloads are drawn evenly over those of the category's traffic. In random order and with pauses, as traffic comes:
    the same work over and over finds its data in the CPU's caches, and costs up to a third less.
    """
    by_category: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in sorted(run.planned, key=lambda each: each.payload_bytes):
        by_category[run.table.assign(_key(arrival))].append(arrival)
    order = [
        (category, same[int((i + 0.5) * len(same) / _ALONE)])
        for category, same in sorted(by_category.items())
        for i in range(_ALONE)
    ]
    random.Random(host.name).shuffle(order)
    payload = bytes(4 * 2**20)
    idle = process_cpu_s(process.pid)
    time.sleep(_IDLE_S)
    idle = (process_cpu_s(process.pid) - idle) / _IDLE_S
    used: dict[str, list[float]] = defaultdict(list)
    with httpx.Client(base_url=f"http://{LOOPBACK}:{host.port}", trust_env=False, timeout=30) as client:
        for category, arrival in order:
            before, began = process_cpu_s(process.pid), time.monotonic()
            client.post(f"/work/{arrival.kind}", content=payload[: arrival.payload_bytes], headers=arrival.headers)
            time.sleep(_PAUSE_S)
            used[category].append(process_cpu_s(process.pid) - before - idle * (time.monotonic() - began))
    return {category: sum(each) / len(each) for category, each in used.items()}


def _cells(
    host: DemoHost,
    before: dict[str, float],
    after: dict[str, float],
    found: dict[str, dict[tuple[str, str], dict[str, Any]]],
) -> list[dict[str, Any]]:
    cells = []
    for category, before_s in before.items():
        middleware = found["middleware"].get((host.name, category))
        regression = found["regression"].get((host.name, category))
        if middleware and regression and regression["requests"] >= _MIN_REQUESTS:
            cells.append(
                {
                    "host": host.name,
                    "category": category,
                    "requests": round(regression["requests"]),
                    "alone_s": round((before_s + after[category]) / 2, 6),
                    "alone_drift": round(after[category] / before_s, 3),
                    "middleware_s": round(middleware["cpu_s"], 6),
                    "regression_s": round(regression["cpu_attributed_s"], 6),
                    "regression_error_s": round(regression["cpu_error_s"], 6),
                }
            )
    return cells


def _summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for way in ("middleware", "regression"):
        errors = sorted(abs(cell[f"{way}_s"] / cell["alone_s"] - 1) for cell in cells)
        summary[f"{way}_within_15"] = round(sum(error <= WITHIN for error in errors) / max(1, len(errors)), 3)
        summary[f"{way}_median"] = round(errors[len(errors) // 2], 4) if errors else None
        summary[f"{way}_worst"] = round(errors[-1], 4) if errors else None
    agree = [abs(cell["regression_s"] / cell["middleware_s"] - 1) <= WITHIN for cell in cells]
    return {**summary, "agree_within_15": round(sum(agree) / max(1, len(agree)), 3)}


def _last_fingerprints(lake: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last row of every (host, category)."""
    import pyarrow.parquet as pq

    rows = [
        row
        for path in parquet_files(service_folder(lake / INBOX, "fingerprints", _SERVICE))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    return {(row["host"], row["category"]): row for row in sorted(rows, key=lambda row: row["time"])}


def _key(arrival: Arrival) -> Key:
    headers = arrival.headers
    return category_key(
        "POST",
        f"/work/{arrival.kind}",
        size_bucket(arrival.payload_bytes),
        auth_method(headers.get("authorization"), "x-api-key" in headers, "cookie" in headers),
        user_agent_class(headers["user-agent"]),
        headers.get("cf-ipcountry", "none"),
    )
