"""Windows: request records and host samples, aggregated over fixed spans of time."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from features.throughput import throughput_rps
from fingerpost.category import CategoryTable, Key, category_key, size_bucket
from fingerpost.records import WINDOW

_US = 1_000_000
_SERVER_ERROR = 500
_KEY = ["method", "route", "size", "auth", "user_agent_class", "region"]
_HOST_COLUMNS = ["time", "host", "cpu_util", "cores", "mem_share", "inflight", "slots", "background_cores"]


def category_counts(requests: pd.DataFrame) -> list[tuple[Key, int]]:
    """How many requests each finest category has, for `fit_categories`.

    Args:
        requests: request records.
    """
    counts = _key_frame(requests).value_counts()
    return [(_key(parts), int(count)) for parts, count in zip(counts.index, counts, strict=True)]


def assign_categories(requests: pd.DataFrame, table: CategoryTable) -> pd.Series:
    """The category name of every request; each distinct combination is looked up once."""
    keys = _key_frame(requests)
    codes = keys.groupby(_KEY, sort=False, observed=True).ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    names = np.array([table.assign(_key(keys.iloc[row])) for row in first], dtype=object)
    return pd.Series(names[codes] if len(codes) else names, index=requests.index, name="category", dtype="str")


def host_windows(samples: pd.DataFrame, requests: pd.DataFrame, window_s: float) -> pd.DataFrame:
    """Host samples averaged over windows, with the CPU that no request accounts for.

    Returns:
        One row a (window end, host): mean `cpu_util` (0..1), `mem_share` (0..1), `inflight`; `cores`, `slots` as last
        seen; `background_cores` = cores in use less the cores its requests used, at least 0.
    """
    if samples.empty:
        return pd.DataFrame(columns=_HOST_COLUMNS)
    frame = samples.assign(
        time=_window_end(samples["time"], window_s), mem_share=samples["mem_bytes"] / samples["mem_limit_bytes"]
    )
    means: pd.DataFrame = frame.groupby(["time", "host"], as_index=False).agg(
        cpu_util=("cpu_util", "mean"),
        cores=("cores", "last"),
        mem_share=("mem_share", "mean"),
        inflight=("inflight", "mean"),
        slots=("slots", "last"),
    )
    ended = requests.assign(time=_window_end(requests["time"], window_s))
    used = ended.groupby(["time", "host"])["cpu_s"].sum().rename("request_cpu_s").reset_index()
    means = means.merge(used, how="left", on=["time", "host"])
    request_cores = means.pop("request_cpu_s").fillna(0.0) / window_s
    means["background_cores"] = (means["cpu_util"] * means["cores"] - request_cores).clip(lower=0.0)
    return means[_HOST_COLUMNS]


def build_windows(requests: pd.DataFrame, hosts: pd.DataFrame, table: CategoryTable, window_s: float) -> pd.DataFrame:
    """Windows of (host, category), as `fingerpost.records.WINDOW` defines them.

    Args:
        requests: request records of one service.
        hosts: of `host_windows`, for the throughput.
        window_s: length of a window, seconds; windows end at multiples of it since 1970.

    Returns:
        One row a (window, host, category) that had requests, ordered by these.
    """
    if requests.empty:
        return pd.DataFrame(columns=[column.name for column in WINDOW])
    frame = requests.assign(
        time=_window_end(requests["time"], window_s),
        category=assign_categories(requests, table),
        error=requests["status"] >= _SERVER_ERROR,
    )
    groups = frame.groupby(["time", "host", "category"], observed=True)
    windows = groups.agg(
        service=("service", "first"),
        requests=("duration_s", "size"),
        errors=("error", "sum"),
        latency_mean_s=("duration_s", "mean"),
        service_time_min_s=("service_time_s", "min"),
        bytes_in_mean=("bytes_in", "mean"),
        cpu_mean_s=("cpu_s", "mean"),
        inflight_mean=("inflight", "mean"),
    )
    quantiles = groups["duration_s"].quantile(np.array([0.5, 0.9, 0.99])).unstack()
    windows[["latency_p50_s", "latency_p90_s", "latency_p99_s"]] = quantiles.to_numpy()
    windows = windows.reset_index()
    windows["window_s"] = window_s
    windows["rate_rps"] = windows["requests"] / window_s
    windows["cpu_s"] = windows["cpu_mean_s"] * windows["requests"]
    windows["mem_bytes"] = np.nan
    capacity = windows[["time", "host"]].merge(hosts, how="left", on=["time", "host"])
    windows["throughput_rps"] = throughput_rps(
        windows["cpu_mean_s"],
        capacity["cores"] - capacity["background_cores"],
        windows["service_time_min_s"],
        capacity["slots"],
    )
    return windows[[column.name for column in WINDOW]].sort_values(["time", "host", "category"], ignore_index=True)


def _window_end(times: pd.Series, window_s: float) -> pd.Series:
    """The end of the window that holds each time; a window holds its beginning, not its end."""
    span = round(window_s * _US)
    micros = times.dt.as_unit("us").astype("int64")
    return ((micros // span + 1) * span).astype("datetime64[us, UTC]")


def _key_frame(requests: pd.DataFrame) -> pd.DataFrame:
    limits = requests["bytes_in"].to_numpy()
    unique, codes = np.unique(limits, return_inverse=True)
    buckets = np.array([size_bucket(value) for value in unique], dtype=object)
    keys = requests[["method", "route", "auth", "user_agent_class", "region"]].copy()
    keys.insert(2, "size", buckets[codes] if len(codes) else buckets)
    return keys[_KEY]


def _key(parts: Iterable[object]) -> Key:
    return category_key(*map(str, parts))
