"""`python -m benchmarks endpoint-picker`: both doors and plain least request, in the same Envoy."""

import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.picker import USER_AGENT, answering, closed_loop, cpu_s, random_table
from fingerpost.cli.stack.ports import free_ports
from fingerpost.errors import FingerpostError
from fingerpost.routing.endpoint_picker.endpoints import endpoint_of
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.router import write_table
from fingerpost.settings import LOOPBACK
from tests.support.open_loop import drive
from tests.support.running import running_envoy

DOORS = ("least_request", "fingerpost", "endpoint_picker")
_HOSTS = 50


def measure_endpoint_picker(seconds: float, rounds: int, rate: float) -> dict[str, Any]:
    """Requests a second at full load, and latency at a fixed rate, of least request and of both doors.

    The hosts are another Envoy that answers by itself, so that what is measured is the proxy and what it asks. All
    share the machine's cores.

    Args:
        seconds: for how long each is loaded, at full load and at the rate.
        rounds: rounds, the doors in turn.
        rate: requests a second of the open loop.
    """
    ports = free_ports(_HOSTS + 5)
    admin, port, proxy_admin, picker = ports[_HOSTS : _HOSTS + 4]
    upstreams = [Upstream(f"h{number}", LOOPBACK, at) for number, at in enumerate(ports[:_HOSTS])]
    found: dict[str, list[dict[str, float]]] = {door: [] for door in DOORS}
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text:
        folder = Path(text)
        table = folder / "table"
        write_table(table, random_table(_HOSTS, 128))
        with (
            running_envoy(answering(ports[:_HOSTS], admin), folder, admin),
            _running_picker(upstreams, table, picker) as pid,
        ):
            for number in range(rounds):
                for door in DOORS[:: 1 if number % 2 else -1]:
                    config = envoy_config(
                        *(upstreams, Path("/dev/null"), LOOPBACK, port, proxy_admin, door),
                        table=table,
                        picker=(LOOPBACK, picker),
                    )
                    with running_envoy(config, folder, proxy_admin) as envoy:
                        found[door].append(_measure(port, envoy, pid, seconds, rate))
    medians = {
        door: {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
        for door, rows in found.items()
    }
    plain = medians["least_request"]
    return {
        "hosts": _HOSTS,
        "open_loop_rps": rate,
        "doors": medians,
        "added_ms": {
            door: {name: round(medians[door][f"{name}_ms"] - plain[f"{name}_ms"], 3) for name in ("p50", "p99")}
            for door in DOORS[1:]
        },
    }


def _measure(port: int, envoy: int, picker: int, seconds: float, rate: float) -> dict[str, float]:
    closed_loop(port, 1.0)
    before = cpu_s(envoy), cpu_s(picker)
    count, took = closed_loop(port, seconds)
    used = cpu_s(envoy) - before[0], cpu_s(picker) - before[1]
    request = b"GET /c7 HTTP/1.1\r\nhost: bench\r\nuser-agent: " + USER_AGENT + b"\r\n\r\n"
    outcome = asyncio.run(drive(port, [(each / rate, request) for each in range(round(seconds * rate))], 5))
    failed = sum(outcome.statuses.values()) - outcome.statuses["200"]
    p50, p99 = np.percentile(outcome.latencies_s, [50, 99]) * 1000
    return {
        "requests_per_s": count / took,
        "envoy_cpu_us": used[0] / max(count, 1) * 1e6,
        "picker_cpu_us": used[1] / max(count, 1) * 1e6,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "failed": float(failed),
    }


@contextmanager
def _running_picker(upstreams: list[Upstream], table: Path, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "fingerpost", "endpoint-picker", "--listen", f"{LOOPBACK}:{port}"]
    command += ["--table", str(table)]
    for upstream in upstreams:
        command += ["--host", f"{upstream.name}={endpoint_of(upstream)}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr  # noqa: S101 (it is a pipe)
            while "endpoint picker on port" not in (line := process.stderr.readline()):
                if not line:
                    raise FingerpostError("the endpoint picker does not start")
            yield process.pid
        finally:
            process.kill()
