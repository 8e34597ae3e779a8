"""`python -m benchmarks calibrate`: what a host could serve of each category, by the engine's table and in fact.

A demo host on one core meets mixed traffic, of which one agent is told by the middleware and one by Envoy's log alone.
Then each category comes alone, at random times that keep the host part busy, and then so many that they saturate it.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from examples.demo.classes import HOST_CLASSES, DemoHost
from examples.demo.processes import demo_module, envoy_command
from examples.demo.work import KINDS
from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.category import SEPARATOR
from fingerpost.cli.stack.parts import answers, fingerpost
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK

# Told by the middleware, and by the log alone: a service each, so that one engine predicts both.
WAYS = ("middleware", "log")
AGAINST = ("measured_rps", "core_rps", "part_busy_rps")
WITHIN = 0.15
_PAYLOAD = bytes(1024)
_START_S, _LEAD_S, _REPORTED_S = 60.0, 2.0, 15.0
# Of the rate at which a category saturates the host.
_PART_BUSY = 0.4
_PATIENCE_S = 30.0


def measure_calibration(
    classes: list[str], rate: float, seconds: float, saturated_s: float, seed: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Compares capacities, requests a second, of every kind of work on a host of each class.

    Args:
        rate: of the mixed traffic, requests a second.
        seconds: how long that lasts.
        saturated_s: how long each category alone saturates the host.

    Returns:
        `cells`: by class and kind `measured_rps`; `core_rps`, requests a CPU-second of the saturated host: what a whole
        core would have answered, however busy the machine was; `part_busy_rps`, the same of a host that is part busy,
        where a request finds cold caches; and by way `throughput_rps`. By way, against each of these, `within_15`, the
        share of cells off by at most 15%, `median` and `worst`, the errors as ratios minus 1.

    Raises:
        FingerpostError: the table has no such category.
    """
    cells = [cell for name in classes for cell in _of_class(name, rate, seconds, saturated_s, seed, progress)]
    found: dict[str, Any] = {"rate_rps": rate, "seconds": seconds, "cells": cells}
    for way, against in itertools.product(WAYS, AGAINST):
        off = np.array([cell[way] / cell[against] - 1 for cell in cells])
        figures = (np.abs(off) <= WITHIN).mean(), np.median(off), off[np.abs(off).argmax()]
        names = ("within_15", "median", "worst")
        found[f"{way}_{against}"] = {name: round(float(each), 3) for name, each in zip(names, figures, strict=True)}
    return found


def _of_class(
    name: str, rate: float, seconds: float, saturated_s: float, seed: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    port, envoy, admin, engine = free_ports(4)
    environment = {"FINGERPOST_ENGINE_PORT": str(engine), "FINGERPOST_LOG_LEVEL": "WARNING"}
    with (
        tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder,
        ProcessGroup(Path(folder) / "logs", {**environment, "FINGERPOST_HOME": folder}) as stack,
    ):
        home, host = Path(folder), DemoHost(f"{name}-1", name, port)
        sockets, log = home / "middleware.sock", home / "access.log"
        command = demo_module("host", "--class", name, "--port", str(port), "--middleware-socket", str(sockets))
        # One core, as the host says it has; what drives it has another.
        child = stack.start("host", ["taskset", "-c", "0", *command])
        stack.start("engine", fingerpost("engine"))
        places = (envoy, admin, home / "envoy-admin.sock")
        stack.start("envoy", envoy_command([host], home, log, LOOPBACK, *places))
        for place in (port, admin, engine):
            path = {port: "healthz", admin: "ready", engine: "livez"}[place]
            url = f"http://{LOOPBACK}:{place}/{path}"
            stack.wait_until(lambda url=url: answers(url), _START_S, f"{url} does not answer")  # type: ignore[misc]
        for way, source in (("middleware", ("--middleware-socket", str(sockets))), ("log", ("--access-log", str(log)))):
            told = ("--slots", str(HOST_CLASSES[name].slots), "--cores", "1", "--pid", str(child.process.pid))
            which = ("--service", way, "--host", host.name, "--engine-url", f"http://{LOOPBACK}:{engine}")
            agent_home = {"FINGERPOST_HOME": str(home / way)}
            stack.start(f"agent-{way}", fingerpost("agent", *which, *source, *told), agent_home)
        time.sleep(_LEAD_S)
        progress(f"{name}: mixed traffic for {seconds:g} s")
        asyncio.run(_open_loop(envoy, list(KINDS), rate, seconds, seed))
        time.sleep(_REPORTED_S)
        tables = {way: _throughput(engine, way) for way in WAYS}
        cells = []
        for kind in KINDS:
            before_s = process_cpu_s(child.process.pid)
            answered, took_s = asyncio.run(_saturated(port, kind, 2 * HOST_CLASSES[name].slots, saturated_s))
            between_s = process_cpu_s(child.process.pid)
            alone = asyncio.run(_open_loop(port, [kind], _PART_BUSY * answered / took_s, saturated_s, seed))
            after_s = process_cpu_s(child.process.pid)
            cell: dict[str, Any] = {"class": name, "kind": kind, "measured_rps": round(answered / took_s, 2)}
            cell |= {"core_rps": round(answered / (between_s - before_s), 2)}
            cell |= {"part_busy_rps": round(alone / (after_s - between_s), 2)}
            cell |= {way: tables[way][kind] for way in WAYS}
            progress(json.dumps(cell))
            cells.append(cell)
        return cells


def _throughput(engine: int, service: str) -> dict[str, float]:
    """The engine's `throughput_rps` of its one host, by kind."""
    url = f"http://{LOOPBACK}:{engine}/v1/services/{service}/table"
    table = httpx.get(url, trust_env=False, timeout=30).raise_for_status().json()
    found = {}
    for category, row in zip(table["categories"], table["throughput_rps"], strict=True):
        route = category.split(SEPARATOR)[0].rpartition("/")[2]
        if route in KINDS and row[0] is not None:
            found[route] = float(row[0])
    if missing := set(KINDS) - set(found):
        raise FingerpostError(f"the engine predicts nothing of {', '.join(sorted(missing))}: drive the host for longer")
    return found


async def _open_loop(port: int, mix: list[str], rate: float, seconds: float, seed: int) -> int:
    """Requests of every kind of the mix alike, at random times, whatever became of those before; their number."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    kinds = rng.choice(mix, len(times))
    began = time.monotonic()
    async with _client(port) as client:
        tasks = []
        for at_s, kind in zip(times.tolist(), kinds.tolist(), strict=True):
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            tasks.append(asyncio.create_task(client.post(f"/work/{kind}", content=_PAYLOAD)))
        await asyncio.gather(*tasks, return_exceptions=True)
    return len(times)


async def _saturated(port: int, kind: str, clients: int, seconds: float) -> tuple[int, float]:
    """Requests answered to clients who ask again at once, and how long they took together, seconds."""
    began, answered = time.monotonic(), 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal answered
        while time.monotonic() < began + seconds:
            await client.post(f"/work/{kind}", content=_PAYLOAD)
            answered += 1

    async with _client(port) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return answered, time.monotonic() - began


def _client(port: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=256)
    return httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=_PATIENCE_S, limits=limits)
