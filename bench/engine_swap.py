"""The engine under load: how soon a fingerprint is in the table, and what a model swap does to requests."""

import statistics
import time
from typing import Any

from bench.engine_fleet import MadeFleet, fit_model, register_model
from bench.engine_load import Load, write_bodies
from bench.engine_process import MeasuredEngine, quantile
from fingerpost.client import EngineClient
from fingerpost.fingerprint import pack

# About what training ends with on real telemetry.
TREES, LEAVES = 120, 24
_HOSTS, _CATEGORIES = 100, 40
_REPORTS_EVERY_S = 5.0
# A connection rests so long between requests: 8 of them ask some hundred times a second.
_PACE_S = 0.01
_AFTERWARDS_S = 2.0


def measure_under_load(engine: MeasuredEngine, seconds: float) -> dict[str, Any]:
    """A service of 100 hosts x 40 categories with a champion, which reports every 5 s and so is scored all the time,
    while pickers ask for its table; into that a fingerprint is sent and followed, and a new champion comes."""
    fleet = MadeFleet.make(_HOSTS, _CATEGORIES)
    models = [fit_model(MadeFleet.make(50, _CATEGORIES), trees, LEAVES, rounds=2) for trees in (TREES, TREES - 20)]
    rounds = round(8 * seconds / _REPORTS_EVERY_S) + 12
    bodies = fleet.packed_messages(100, rounds)
    register_model(models[0], engine.mlflow, "fingerpost-shop")
    registered = register_model(models[1], engine.mlflow, "fingerpost-shop", alias=None)
    with EngineClient(engine.url) as client:
        client.send_fingerprints(fleet.packed(1))
        etag = engine.wait_for(lambda: client.table("shop")).etag
        engine.wait_for(lambda: client.predict("shop", hosts=[fleet.hosts[0]])["source"] == "champion")
        path = write_bodies(engine.home / "reports", bodies)
        reports = Load(kind="send", port=engine.port, bodies=path, per_s=_HOSTS / _REPORTS_EVERY_S)
        fetches = Load(kind="fetch", port=engine.port, etag=etag, pace_s=_PACE_S)
        try:
            time.sleep(2.0)
            probe = MadeFleet.make(1, _CATEGORIES).renamed("probe")
            fresh = [_arrival_to_table(client, probe, 10 + number) for number in range(round(3 * seconds))]
            before, spent = time.perf_counter(), engine.cpu_s()
            time.sleep(seconds)
            spent = (engine.cpu_s() - spent) / seconds
            begin, swapped, end = _swap(engine, client, registered)
        finally:
            answers = fetches.stop()
            reports.kill()
    calm, during = answers.between(before, begin), answers.between(begin, end)
    p99 = quantile(calm, 0.99)
    return {
        "load": {
            "hosts": _HOSTS,
            "categories": _CATEGORIES,
            "reports_per_s": _HOSTS / _REPORTS_EVERY_S,
            "fetches_per_s": round(len(calm) / (begin - before)),
            "cpu_share": round(spent, 3),
        },
        "arrival_to_table": {
            "p50_s": round(statistics.median(fresh), 3),
            "p99_s": round(quantile(fresh, 0.99), 3),
            "samples": len(fresh),
        },
        "swap": {
            "took_s": round(swapped - begin, 2),
            "p50_before_s": round(quantile(calm, 0.5), 4),
            "p99_before_s": round(p99, 4),
            "max_before_s": round(max(calm), 4),
            "p99_during_s": round(quantile(during, 0.99), 4),
            "max_during_s": round(max(during), 4),
            "max_over_p99_before": round(max(during) / p99, 2),
            "requests_before": len(calm),
            "requests_during": len(during),
            "slower_than_twice_p99_before": sum(value > 2 * p99 for value in calm),
            "slower_than_twice_p99_during": sum(value > 2 * p99 for value in during),
            "errors": answers.errors,
        },
    }


def _swap(engine: MeasuredEngine, client: EngineClient, version: str) -> tuple[float, float, float]:
    """Moves the alias; when it did, when the new model was in use, and the end of some time after."""
    import mlflow

    registry = mlflow.MlflowClient(engine.mlflow)
    begin = time.perf_counter()
    registry.set_registered_model_alias("fingerpost-shop", "champion", version)
    engine.wait_for(lambda: client.models()["models"][0]["version"] == version)
    swapped = time.perf_counter()
    time.sleep(_AFTERWARDS_S)
    return begin, swapped, time.perf_counter()


def _arrival_to_table(client: EngineClient, probe: MadeFleet, sequence: int) -> float:
    """Seconds from sending a host's fingerprint to holding a table with it."""
    told = probe.fingerprint(0, sequence)
    packed, etag = pack(told), client.table("shop").etag
    began = time.perf_counter()
    client.send_fingerprints([packed])
    while True:
        table = client.table("shop", etag=etag, wait_s=10)
        if table.body is not None and _shows(table.body, told.time_us):
            return time.perf_counter() - began
        etag = table.etag


def _shows(body: bytes, time_us: int) -> bool:
    import orjson

    hosts = orjson.loads(body)["hosts"]
    return any(host["name"] == "probe" and round(host["as_of"] * 1e6) >= time_us for host in hosts)
