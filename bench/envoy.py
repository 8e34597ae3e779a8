"""`fingerpost bench envoy`: real Envoy before an emulated fleet, its own policies and ours on the same arrivals."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.learn_table import learn_table
from bench.open_loop import Outcome, drive
from bench.sleeping_scenario import Scenario, make_scenario, plan
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings, get_settings
from fingerpost.stack.ports import free_ports
from fleet.demo.sleeping import SleepingFleet
from routing.envoy import Upstream, envoy_config
from routing.module import build_module
from routing.router import write_table

POLICIES = ("round_robin", "least_request", "least_request_full", "orca", "fingerpost")
_WARM_S = 4.0


@contextmanager
def running_envoy(config: dict[str, Any], folder: Path, admin: int, workers: int = 1) -> Iterator[int]:
    """Envoy with a configuration, ready; gives its process id.

    Raises:
        FingerpostError: it does not start.
    """
    path = folder / f"envoy-{admin}.json"
    path.write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "envoy"), "-c", str(path), "--concurrency", str(workers)]
    environment = {**os.environ, "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(build_module().parent)}
    log = (folder / f"envoy-{admin}.txt").open("wb")
    envoy = subprocess.Popen([*command, "--base-id", str(admin), "-l", "error"], env=environment, stderr=log)
    try:
        for _ in range(200):
            try:
                if httpx.get(f"http://{LOOPBACK}:{admin}/ready", trust_env=False).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        else:
            raise FingerpostError(f"Envoy does not start: {(folder / f'envoy-{admin}.txt').read_text()[-500:]}")
        yield envoy.pid
    finally:
        envoy.terminate()
        envoy.wait(10)
        log.close()


@contextmanager
def running_fleet(scenario: Scenario) -> Iterator[list[Upstream]]:
    """The sleeping fleet in a process of its own."""
    ports = free_ports(scenario.service_s.shape[1])
    fleet = SleepingFleet(ports, scenario.slots, scenario.service_s.tolist())
    process = subprocess.Popen(
        [sys.executable, "-m", "fleet.demo.sleeping"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin and process.stdout  # noqa: S101 (they are pipes)
        process.stdin.write(fleet.to_json() + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "ready":
            raise FingerpostError("the sleeping fleet does not start")
        yield [Upstream(f"h{number:02}", LOOPBACK, port) for number, port in enumerate(ports)]
    finally:
        process.terminate()
        process.wait(10)


def measure_envoy(
    hosts: int,
    seconds: float,
    loads: list[float],
    policies: list[str],
    slo_s: float,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Latency percentiles of every policy at every load, a share of what the fleet can carry at most.

    Every policy has its own Envoy and gets the same arrivals with the same sizes. The table of `fingerpost` is
    measured from the access log of a warm-up that is routed at random.
    """
    scenario = make_scenario(hosts, 12, 4, 0.12, 0.45, seed)
    settings = get_settings()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text, running_fleet(scenario) as upstreams:
        folder = Path(text)
        say(f"{hosts} hosts x {scenario.slots} slots carry at most {scenario.bound_rps:.0f} requests/s of this mix")
        table = folder / "picker.table"
        learned = _learn(scenario, upstreams, folder, table, settings, max(20.0, seconds), seed)
        say(f"learned {learned} from a warm-up routed at random")
        for policy in policies:
            for load in loads:
                requests = plan(scenario, load * scenario.bound_rps, seconds, seed + round(load * 1000))
                outcome = _drive(upstreams, policy, folder, table, requests, scenario, seed)
                results.setdefault(policy, {})[f"{load:g}"] = row = _figures(outcome, slo_s)
                say(f"{policy:14} {load:4.2f} {row}")
    held = {policy: _highest(rows, slo_s) for policy, rows in results.items()}
    return {
        "hosts": hosts,
        "bound_rps": round(scenario.bound_rps, 1),
        "slo_ms": slo_s * 1000,
        "table": learned,
        "policies": results,
        "highest_load_at_slo": held,
    }


def _learn(
    scenario: Scenario,
    upstreams: list[Upstream],
    folder: Path,
    table: Path,
    settings: Settings,
    seconds: float,
    seed: int,
) -> str:
    log = folder / "warm-up.log"
    port, admin = free_ports(2)
    requests = plan(scenario, 0.3 * scenario.bound_rps, seconds, seed + 7)
    with running_envoy(envoy_config(upstreams, log, LOOPBACK, port, admin, "random"), folder, admin):
        asyncio.run(drive(port, requests, 10))
    learned = learn_table(log, scenario.slots, settings, 3600)
    write_table(table, replace(learned, settings=replace(learned.settings, exploration=settings.exploration)))
    return learned.version


def _drive(
    upstreams: list[Upstream],
    policy: str,
    folder: Path,
    table: Path,
    requests: list[tuple[float, bytes]],
    scenario: Scenario,
    seed: int,
) -> Outcome:
    """A short time to warm up (ORCA weights need reports) and then the planned requests, in an Envoy of their own."""
    port, admin = free_ports(2)
    log = folder / f"{policy}.log"
    config = envoy_config(upstreams, log, LOOPBACK, port, admin, policy, table=table)
    warm = plan(scenario, 0.4 * scenario.bound_rps, _WARM_S, seed + 3)
    with running_envoy(config, folder, admin):
        asyncio.run(drive(port, warm, 5))
        return asyncio.run(drive(port, requests, 10))


def _figures(outcome: Outcome, slo_s: float) -> dict[str, Any]:
    answered = np.array(outcome.latencies_s or [np.inf])
    failed = sum(count for status, count in outcome.statuses.items() if status != "200")
    total = sum(outcome.statuses.values())
    cuts = np.percentile(answered, [50, 90, 99, 99.9])
    return {
        "requests": total,
        "failed": failed,
        **{
            f"{name}_ms": round(float(cut) * 1000, 1)
            for name, cut in zip(("p50", "p90", "p99", "p999"), cuts, strict=True)
        },
        "within_slo": round(float((answered <= slo_s).sum()) / max(total, 1), 4),
        "sent_late_ms": round(outcome.late_s * 1000, 1),
    }


def _highest(rows: dict[str, Any], slo_s: float) -> float:
    """The highest load whose p99 keeps the objective, all lower ones keeping it too; 0 if none does."""
    best = 0.0
    for load in sorted(rows, key=float):
        if rows[load]["p99_ms"] > slo_s * 1000 or rows[load]["failed"] > 0.001 * rows[load]["requests"]:
            break
        best = float(load)
    return best
