"""Small lakes for tests, and what is in them."""

import numpy as np
import pyarrow.parquet as pq

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.replay import Replay
from fingerpost.lake import parquet_files
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from tests.support.records import record, sample

SETTINGS = FeatureSettings(10, 60, 16, 5)

DAY_US = 86_400 * US


def lake_of_days(lake, days=3):
    """Five minutes around each midnight, two hosts."""
    midnight = clock_us() // DAY_US * DAY_US - days * DAY_US
    for day in range(days):
        begin = midnight + day * DAY_US - 150 * US
        for host in ("h1", "h2"):
            times = range(begin, begin + 300 * US, US // 2)
            rows = [record(time=at, host=host, duration_s=0.01 + (at % 7) * 0.001) for at in times]
            write_batch(lake, "requests", REQUEST_RECORD, rows, f"{host}-{day}")
            write_batch(
                lake, "samples", HOST_SAMPLE, [sample(time=at, host=host) for at in times[::10]], f"{host}-{day}"
            )
    ingest(lake, "shop", 5, 30 * 86_400)
    return midnight


def records_of(lake, host, kind="requests"):
    """The records of one host as its agent saw them, in order of time."""
    rows = [row for path in parquet_files(lake / kind) for row in pq.ParquetFile(path).read().to_pylist()]
    mine = [{**row, "time": round(row["time"].timestamp() * US)} for row in rows if row["host"] == host]
    return sorted(mine, key=lambda row: row["time"])


def replayed(lake, categories):
    """The features step's history of all hosts, with places for these categories."""
    path = max((lake / "history").rglob("history.npz"))
    with np.load(path) as saved:
        hosts = saved["hosts"].tolist()
    return hosts, Replay.resume(path, hosts, categories, 5.0, 30.0).history
