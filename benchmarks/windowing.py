"""How fast request records become windows: records a second, of arrays and of frames."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.category import fit_categories
from fingerpost.clock import US
from fingerpost.features.windows import build_windows, category_counts
from fingerpost.schemas import HOST_SAMPLE_SCHEMA
from fingerpost.telemetry.windows import aggregate

_HOSTS, _ROUTES, _SECONDS = 50, 40, 3600
_SEED = 7


def measure_windowing(records: int) -> dict[str, Any]:
    """Windows of 10 s of made-up records: an hour, 50 hosts, 40 routes; the best of three rounds.

    Returns:
        `records_per_s` of `fingerpost.telemetry.windows.aggregate` on arrays, and `frame_records_per_s` from a frame of
        request records with categories and throughput, as the features step does it.
    """
    rng = np.random.default_rng(_SEED)
    host, route = rng.integers(0, _HOSTS, records), rng.integers(0, _ROUTES, records)
    arrays = {
        "time_us": rng.integers(0, _SECONDS * US, records),
        "host": host,
        "category": route,
        "status": np.full(records, 200),
        "duration_s": rng.lognormal(-4, 1, records),
        "service_time_s": rng.lognormal(-4, 1, records),
        "cpu_s": rng.lognormal(-5, 1, records),
        "bytes_in": rng.integers(0, 10_000, records).astype(np.float64),
        "inflight": rng.integers(0, 10, records).astype(np.float64),
    }
    frame = pd.DataFrame({name: values for name, values in arrays.items() if name not in ("time_us", "category")})
    frame["time"] = pd.Series(arrays["time_us"].astype("datetime64[us]")).dt.tz_localize("UTC")
    frame["host"] = pd.Categorical.from_codes(host, pd.Index([f"h{number}" for number in range(_HOSTS)]))
    frame["route"] = pd.Categorical.from_codes(route, pd.Index([f"/r{number}" for number in range(_ROUTES)]))
    for name in ("method", "auth", "user_agent_class", "region"):
        frame[name] = pd.Categorical.from_codes(np.zeros(records, dtype=np.int8), pd.Index(["one"]))
    table = fit_categories(category_counts(frame), 256, 30)
    samples = HOST_SAMPLE_SCHEMA.empty_table().to_pandas()
    windows = len(aggregate(arrays, 10.0)["end_us"])
    of_arrays = _best(lambda: aggregate(arrays, 10.0))
    of_frame = _best(lambda: build_windows(frame, samples, table, 10.0))
    return {
        "records": records,
        "windows": windows,
        "seconds": round(of_arrays, 3),
        "records_per_s": round(records / of_arrays),
        "frame_seconds": round(of_frame, 3),
        "frame_records_per_s": round(records / of_frame),
    }


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
