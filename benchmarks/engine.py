"""What the engine costs and how fast it is: scoring, ingest, freshness, table fetches, swaps, memory."""

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.engine_churn import measure_churn
from benchmarks.engine_load import Load, write_bodies
from benchmarks.engine_process import MeasuredEngine, quantile
from benchmarks.engine_scoring import measure_scoring
from benchmarks.engine_under_load import measure_under_load
from fingerpost.engine_api import EngineClient
from fingerpost.lake import parquet_files
from tests.support.made_fleet import MadeFleet


def measure_engine(hosts: int, categories: int, reporting: int, seconds: float) -> dict[str, Any]:
    """Runs one engine with one worker and measures it from outside, over HTTP.

    Rates are given by the clock, and per CPU-second of the worker where the machine may be shared.

    Args:
        hosts, categories: of the fleet that is scored.
        reporting: hosts that report every 5 s in the ingest measurement.
        seconds: length of each measurement.
    """
    figures: dict[str, Any] = {"load_average_before": os.getloadavg()[0], "scoring": measure_scoring(hosts, categories)}
    with (
        tempfile.TemporaryDirectory() as folder,
        # A run takes minutes: what reported once is not to fall silent meanwhile.
        MeasuredEngine(Path(folder) / "home", FINGERPRINT_TTL_S=600) as engine,
    ):
        figures["ingest"] = measure_ingest(engine, reporting, seconds)
        figures["unchanged_table"] = _unchanged_table(engine, seconds)
        figures.update(measure_under_load(engine, seconds))
        figures["event_loop_lag_s"] = engine.metric("event_loop_lag_seconds")
    figures["memory"] = measure_churn(60, seconds / 10)
    figures["load_average_after"] = os.getloadavg()[0]
    return figures


def measure_ingest(engine: MeasuredEngine, reporting: int, seconds: float) -> dict[str, Any]:
    """Windows of hosts that report every 5 s each, for so many seconds, and are landed in the lake's inbox."""
    fleet = MadeFleet.make(reporting, 100, service="bench")
    # Made beforehand: it is the engine that is measured.
    rounds = math.ceil(seconds / 5)
    bodies = fleet.packed_messages(1, rounds)[: round(reporting / 5 * seconds)]
    path = write_bodies(engine.home / "bodies", bodies)
    with Load(kind="send", port=engine.port, bodies=path, per_s=reporting / 5) as load:
        while not engine.metric("reports_total", '{outcome="accepted"}'):
            load.check()
            time.sleep(0.05)
        before = engine.cpu_s()
        answers = load.finish()
    begin, end = min(answers.begun), max(answers.begun)
    spent = engine.cpu_s() - before
    inbox = engine.home / "lake" / "inbox" / "reported_windows" / "service=bench"
    rows = len(bodies) * len(fleet.categories)
    engine.wait_for(lambda: landed_rows(inbox) >= rows - answers.errors * len(fleet.categories))
    return {
        "hosts": reporting,
        "wanted_per_s": reporting / 5,
        "accepted_per_s": round((len(answers.begun) - answers.errors) / (end - begin), 1),
        "cpu_share": round(spent / (end - begin), 3),
        "p50_s": round(quantile(answers.latencies, 0.5), 4),
        "p99_s": round(quantile(answers.latencies, 0.99), 4),
        "errors": answers.errors,
        "bytes_each": round(sum(map(len, bodies)) / len(bodies)),
        "landed_rows": landed_rows(inbox),
        "landed_files": len(list(parquet_files(inbox))),
    }


def landed_rows(inbox: Path) -> int:
    """Rows of all Parquet files below a folder."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in parquet_files(inbox))


def _unchanged_table(engine: MeasuredEngine, seconds: float) -> dict[str, Any]:
    """Fetches of a table the caller has, as fast as 8 connections ask."""
    fleet = MadeFleet.make(50, 40)
    with EngineClient(engine.url) as client:
        client.send_reports(fleet.packed(1))
        engine.wait_for(lambda: client.table("shop").body)
        time.sleep(1.0)
        etag = client.table("shop").etag
    with Load(kind="fetch", port=engine.port, etag=etag, pace_s=0.0) as load:
        time.sleep(1.0)
        before, begin = engine.cpu_s(), time.perf_counter()
        time.sleep(seconds)
        spent, end = engine.cpu_s() - before, time.perf_counter()
        answers = load.stop()
    latencies = answers.between(begin, end)
    return {
        "per_s": round(len(latencies) / (end - begin)),
        "per_cpu_s": round(len(latencies) / spent),
        "p99_s": round(quantile(latencies, 0.99), 4),
        "errors": answers.errors,
    }
