"""What the engine costs and how fast it is: scoring, ingest, freshness, table fetches, swaps, memory."""

import asyncio
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.engine_fleet import MadeFleet, fit_model, register_model
from bench.engine_load import Fetches, fetch_until, send_fleet
from bench.engine_scoring import LEAVES, TREES, measure_scoring
from fingerpost.client import EngineClient, EngineError


def measure_engine(hosts: int, categories: int, reporting: int, seconds: float) -> dict[str, Any]:
    """Runs one engine with one worker and measures it from outside, over HTTP.

    Rates are given by the clock, and per CPU-second of the worker where the machine may be shared.

    Args:
        hosts, categories: of the fleet that is scored.
        reporting: hosts that report every 5 s in the ingest measurement.
        seconds: length of each measurement.
    """
    figures: dict[str, Any] = {"load_average_before": os.getloadavg()[0], "scoring": measure_scoring(hosts, categories)}
    with tempfile.TemporaryDirectory() as folder:
        with _Engine(Path(folder)) as engine:
            figures["ingest"] = asyncio.run(_ingest(engine, reporting, seconds))
        with _Engine(Path(folder) / "second") as engine:
            figures.update(asyncio.run(_tables(engine, seconds)))
    figures["load_average_after"] = os.getloadavg()[0]
    return figures


async def _ingest(engine: "_Engine", reporting: int, seconds: float) -> dict[str, Any]:
    fleet = MadeFleet.make(reporting, 100, service="bench")
    # Made beforehand: it is the engine that is measured.
    bodies = [fleet.packed_messages(sequence) for sequence in (1, 2)]
    before, began = engine.cpu_s(), time.perf_counter()
    latencies = await send_fleet(engine.port, bodies, reporting / 5, seconds)
    spent, clock = engine.cpu_s() - before, time.perf_counter() - began
    return {
        "hosts": reporting,
        "wanted_per_s": reporting / 5,
        "accepted_per_s": round(len(latencies) / clock, 1),
        "cpu_share": round(spent / clock, 3),
        "p99_s": round(_quantile(latencies, 0.99), 4),
    }


async def _tables(engine: "_Engine", seconds: float) -> dict[str, Any]:
    fleet = MadeFleet.make(50, 40)
    with EngineClient(engine.url) as client:
        client.send_fingerprints(fleet.packed(1))
        etag = engine.wait_for(lambda: client.table("shop")).etag
        fresh = [_arrival_to_table(client, fleet, 10 + number) for number in range(round(3 * seconds))]
        time.sleep(1.0)
        etag = client.table("shop").etag
        before, began = engine.cpu_s(), time.perf_counter()
        fetched = await fetch_until(engine.port, etag, lambda: time.perf_counter() - began > seconds)
        clock = time.perf_counter() - began
        rates = {
            "per_s": round(len(fetched.latencies) / clock),
            "per_cpu_s": round(len(fetched.latencies) / (engine.cpu_s() - before)),
            "p99_s": round(_quantile(fetched.latencies, 0.99), 4),
            "errors": fetched.errors,
        }
        swap = await _swap(engine, client, fleet, etag, seconds)
        memory = _churn(engine, client)
    return {
        "arrival_to_table": {
            "p50_s": round(statistics.median(fresh), 3),
            "p99_s": round(_quantile(fresh, 0.99), 3),
            "samples": len(fresh),
        },
        "unchanged_table": rates,
        "swap": swap,
        "memory": memory,
    }


def _arrival_to_table(client: EngineClient, fleet: MadeFleet, sequence: int) -> float:
    """Seconds from sending a host's fingerprint to holding the table with it."""
    etag = client.table("shop").etag
    packed = fleet.packed(sequence)[:1]
    began = time.perf_counter()
    client.send_fingerprints(packed)
    client.table("shop", etag=etag, wait_s=10)
    return time.perf_counter() - began


async def _swap(engine: "_Engine", client: EngineClient, fleet: MadeFleet, etag: str, seconds: float) -> dict[str, Any]:
    """Latency of table fetches under load before a first champion and a second one come, and while they do."""
    small = MadeFleet.make(50, 40)
    models = [fit_model(small, trees, LEAVES) for trees in (TREES, TREES - 20)]
    register_model(models[0], engine.mlflow, "fingerpost-shop")
    _await_version(engine, client, fleet, "1")
    registered = register_model(models[1], engine.mlflow, "fingerpost-shop", alias=None)
    began = time.perf_counter()
    calm = await fetch_until(engine.port, etag, lambda: time.perf_counter() - began > seconds, pace_s=0.01)
    import mlflow

    mlflow.MlflowClient(engine.mlflow).set_registered_model_alias("fingerpost-shop", "champion", registered)
    swapped: list[float] = []

    async def look() -> None:
        while not swapped:
            await asyncio.sleep(0.2)
            if (await asyncio.to_thread(client.models))["models"][0]["version"] == registered:
                await asyncio.sleep(1.0)
                swapped.append(time.perf_counter())

    watching = asyncio.create_task(look())
    during: Fetches = await fetch_until(engine.port, etag, lambda: bool(swapped), pace_s=0.01)
    await watching
    p99 = _quantile(calm.latencies, 0.99)
    return {
        "p99_before_s": round(p99, 4),
        "max_before_s": round(max(calm.latencies), 4),
        "max_during_s": round(max(during.latencies), 4),
        "p99_during_s": round(_quantile(during.latencies, 0.99), 4),
        "requests_during": len(during.latencies),
        "slower_than_twice_p99": sum(value > 2 * p99 for value in during.latencies),
        "errors": calm.errors + during.errors,
    }


def _await_version(engine: "_Engine", client: EngineClient, fleet: MadeFleet, version: str) -> None:
    client.send_fingerprints(fleet.packed(1000))
    engine.wait_for(lambda: json.loads(client.table("shop").body or b"{}").get("model_version") == version)


def _churn(engine: "_Engine", client: EngineClient) -> dict[str, Any]:
    """Memory while hosts and categories come and go: an hour at a new host every 5 s, as fast as they are taken."""
    sizes = []
    for hour_part in range(12):
        for number in range(60):
            fleet = MadeFleet.make(1, 40, seed=hour_part * 60 + number).renamed(f"churn-{hour_part}-{number}")
            client.send_fingerprints(fleet.packed(1))
        client.table("shop")
        sizes.append(round(engine.worker().memory_info().rss / 2**20))
    return {"rss_mb_every_5_simulated_min": sizes, "hosts_came": 720, "grown_mb_second_half": sizes[-1] - sizes[5]}


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class _Engine:
    """An engine with one worker, a registry on SQLite, and a short time to live, so that churn is seen."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.mlflow = f"sqlite:///{home / 'mlflow.db'}"
        self._home = home

    def __enter__(self) -> "_Engine":
        from fingerpost.stack.processes import Stack

        self._home.mkdir(parents=True, exist_ok=True)
        settings = {
            "HOME": self._home,
            "ENGINE_PORT": self.port,
            "MLFLOW_URL": self.mlflow,
            "MODEL_POLL_S": 1,
            "FINGERPRINT_TTL_S": 20,
        }
        env = {f"FINGERPOST_{name}": str(value) for name, value in settings.items()}
        self._stack = Stack(self._home / "logs", {**env, "OMP_NUM_THREADS": "1"})
        import sys

        self._child = self._stack.start("engine", [sys.executable, "-m", "fingerpost", "engine", "--workers", "1"])
        client = EngineClient(self.url)
        self.wait_for(client.health)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.stop()

    def wait_for(self, ask: Any, timeout_s: float = 120.0) -> Any:
        """The first truthy answer."""
        answers: list[Any] = []

        def ready() -> bool:
            try:
                answer = ask()
            except EngineError:
                return False
            answers.append(answer)
            return bool(answer)

        self._stack.wait_until(ready, timeout_s, "the engine did not get there")
        return answers[-1]

    def worker(self) -> psutil.Process:
        """The process that serves: BentoML with one worker serves in the one it was started as."""
        family = [psutil.Process(self._child.process.pid), *psutil.Process(self._child.process.pid).children(True)]
        workers = [each for each in family if "worker.service" in " ".join(each.cmdline())]
        return workers[0] if workers else family[0]

    def cpu_s(self) -> float:
        times = self.worker().cpu_times()
        return float(times.user + times.system)
