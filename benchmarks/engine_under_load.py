"""The engine under load: how soon a report is in the table, and what a model swap does to requests."""

import math
import statistics
import time
from typing import Any

from benchmarks.engine_load import Load, write_bodies
from benchmarks.engine_process import MeasuredEngine, quantile
from benchmarks.engine_scoring import LEAVES, TREES
from benchmarks.engine_swap import Stolen, make_swaps, swap_figures
from fingerpost.clock import clock_us
from fingerpost.engine_api import EngineClient
from fingerpost.window_report import pack
from tests.support.made_fleet import MadeFleet, fit_model, register_model

_HOSTS, _CATEGORIES = 100, 40
_REPORTS_EVERY_S = 5.0
# A connection rests so long between requests: 8 of them ask some hundred times a second.
_PACE_S = 0.01
_SWAPS = 5
# Longer than a swap and the calm before it have been seen to take.
_MAX_S_A_SWAP = 25.0


def measure_under_load(engine: MeasuredEngine, seconds: float) -> dict[str, Any]:
    """A service of 100 hosts x 40 categories with a champion, which reports every 5 s and so is scored all the time,
    while pickers ask for its table; into that a report is sent and followed, and new champions come."""
    fleet = MadeFleet.make(_HOSTS, _CATEGORIES)
    models = [fit_model(MadeFleet.make(50, _CATEGORIES), trees, LEAVES, rounds=2) for trees in (TREES, TREES - 20)]
    made_us = clock_us()
    rounds = math.ceil((8 * seconds + _SWAPS * _MAX_S_A_SWAP) / _REPORTS_EVERY_S)
    path = write_bodies(engine.home / "reports", fleet.packed_messages(100, rounds))
    register_model(models[0], engine.mlflow, "fingerpost-shop")
    versions = [
        register_model(models[number % 2], engine.mlflow, "fingerpost-shop", alias=None)
        for number in range(1, _SWAPS + 1)
    ]
    with EngineClient(engine.url) as client:
        # Before the reports, which were made beforehand: else those would be stale, and cost next to nothing.
        client.send_reports(fleet.packed(1, made_us))
        etag = engine.wait_for(lambda: client.table("shop")).etag
        engine.wait_for(lambda: client.predict("shop", hosts=[fleet.hosts[0]])["source"] == "champion")
        with (
            Load(kind="send", port=engine.port, bodies=path, per_s=_HOSTS / _REPORTS_EVERY_S) as reports,
            Load(kind="fetch", port=engine.port, etag=etag, pace_s=_PACE_S) as fetches,
        ):
            time.sleep(2.0)
            probe = MadeFleet.make(1, _CATEGORIES).renamed("probe")
            fresh = [_arrival_to_table(client, probe, 10 + number) for number in range(round(3 * seconds))]
            before, spent, stolen = time.perf_counter(), engine.cpu_s(), Stolen()
            time.sleep(seconds)
            end, spent = time.perf_counter(), engine.cpu_s() - spent
            swaps = make_swaps(engine, client, versions)
            stolen_share = stolen.share()
            fetched, reported = fetches.stop(), reports.stop()
    return {
        "load": {
            "hosts": _HOSTS,
            "categories": _CATEGORIES,
            "reports_per_s": _HOSTS / _REPORTS_EVERY_S,
            "fetches_per_s": round(len(fetched.between(before, end)) / (end - before)),
            "cpu_share": round(spent / (end - before), 3),
            "report_errors": reported.errors,
            "stolen_share_of_machine": round(stolen_share, 4),
        },
        "arrival_to_table": {
            "p50_s": round(statistics.median(fresh), 3),
            "p99_s": round(quantile(fresh, 0.99), 3),
            "samples": len(fresh),
        },
        "swap": swap_figures(fetched, swaps),
    }


def _arrival_to_table(client: EngineClient, probe: MadeFleet, sequence: int) -> float:
    """Seconds from sending a host's report to holding a table with it."""
    told = probe.report(0, sequence)
    packed, etag = pack(told), client.table("shop").etag
    began = time.perf_counter()
    client.send_reports([packed])
    while True:
        table = client.table("shop", etag=etag, wait_s=10)
        if table.body is not None and _shows(table.body, told.time_us):
            return time.perf_counter() - began
        etag = table.etag


def _shows(body: bytes, time_us: int) -> bool:
    import orjson

    hosts = orjson.loads(body)["hosts"]
    return any(host["name"] == "probe" and round(host["as_of"] * 1e6) >= time_us for host in hosts)
