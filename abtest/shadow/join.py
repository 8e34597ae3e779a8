"""Joins the predictions of champion and challenger with what then happened."""

from pathlib import Path

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats, safe_ratio
from fingerpost.clock import US
from fingerpost.features.build import with_categories
from fingerpost.features.definition import TARGETS
from fingerpost.features.windows import CATEGORY_COLUMNS, numbers, record_weights
from fingerpost.lake import PREDICTIONS, read_frame
from fingerpost.telemetry.windows import LATENCY_SHARES, window_end_us

# A window that few requests reach by choice stands for at most this many times as many.
MAX_WEIGHT = 50.0
# So many requests' worth of noise a window has however many it measures.
_REST_REQUESTS = 5.0
_CELL = ["host", "category"]
# What is measured of a window: the targets, and all that is known of its durations.
_OUTCOMES = tuple(dict.fromkeys([*TARGETS, *LATENCY_SHARES]))
# A load older than this says nothing of the present.
_LOAD_WINDOWS = 3


def load_shadow(lake: Path, service: str, from_us: int, to_us: int, window_s: float) -> pd.DataFrame:
    """`join_outcomes` of what the lake has of predictions in a span of time."""
    reach = round(_LOAD_WINDOWS * window_s * US)
    span = (from_us - reach, to_us + reach)
    predictions = read_frame(lake, PREDICTIONS, service, from_us, to_us)
    windows = read_frame(lake, "windows", service, *span, ("time", *_CELL, "requests", *_OUTCOMES))
    loads = read_frame(lake, "loads", service, *span, ("time", "host", "inflight"))
    if predictions.empty or windows.empty:
        return join_outcomes(predictions, windows, loads, pd.DataFrame(), window_s)
    records = read_frame(lake, "requests", service, *span, ("time", "host", "propensity", "weight", *CATEGORY_COLUMNS))
    return join_outcomes(predictions, windows, loads, with_categories(records, lake, service), window_s)


def join_outcomes(
    predictions: pd.DataFrame, windows: pd.DataFrame, loads: pd.DataFrame, records: pd.DataFrame, window_s: float
) -> pd.DataFrame:
    """A row a prediction and the first whole window after it, for cells that traffic reached then.

    Args:
        predictions: of `fingerpost.serving.shadow.prediction_table`, with `time_us`.
        windows, loads: of the features step, with `time_us`, when they ended.
        records: `time_us`, `host`, `category`, `propensity` and if known `weight`; to weigh by. Without any, all rows
            weigh alike.
        window_s: length of a window, seconds.

    Returns:
        The predictions' columns; `end_us` of the window; `actual_<target>`, `actual_latency_p90_s`, and
        `naive_<target>`: what the cell's latest window before the prediction had; `inflight` of the host at the time;
        `weight`, of precision and the inverse of the probability of an outcome, at most `MAX_WEIGHT` times the least.
    """
    if predictions.empty or windows.empty:
        return pd.DataFrame()
    span = round(window_s * US)
    rows = predictions.assign(end_us=-(-predictions["time_us"] // span) * span + span)
    rows = rows.drop_duplicates(["end_us", *_CELL], keep="last")
    actual = windows[["time_us", *_CELL, *_OUTCOMES]].rename(columns={name: f"actual_{name}" for name in _OUTCOMES})
    rows = rows.merge(actual.rename(columns={"time_us": "end_us"}), on=["end_us", *_CELL])
    naive = windows[["time_us", *_CELL, *TARGETS]].rename(columns={name: f"naive_{name}" for name in TARGETS})
    rows = pd.merge_asof(rows.sort_values("time_us"), naive.sort_values("time_us"), on="time_us", by=_CELL)
    rows["inflight"] = 0.0
    if len(loads):
        known = loads[["time_us", "host", "inflight"]].sort_values("time_us").astype({"inflight": "float64"})
        rows = pd.merge_asof(
            rows.drop(columns="inflight"), known, on="time_us", by="host", tolerance=_LOAD_WINDOWS * span
        )
        rows["inflight"] = rows["inflight"].fillna(0.0)
    return rows.assign(weight=_weights(rows, records, window_s))


def _weights(rows: pd.DataFrame, records: pd.DataFrame, window_s: float) -> Floats:
    """Precision of what a window measured, over the probability that it measured anything of its cell.

    Each of the category's N requests in a window reaches a host with its propensity p, so the cell has an outcome with
    a probability of 1 - (1 - p)^N; p is that of the requests which came. The median of n requests is as precise as
    n / (n + 5), since windows differ for other reasons too. Rows whose propensity is unknown weigh nothing, unless
    none is known.
    """
    even = np.ones(len(rows))
    if not len(records):
        return even
    ends = window_end_us(records["time_us"].to_numpy(), window_s)
    chance = numbers(records["propensity"])
    known = np.isfinite(chance)
    weight = np.where(known, record_weights(records), 0.0)
    table = records[_CELL].assign(end_us=ends, total=weight * np.where(known, chance, 0.0), weight=weight)
    cells = table.groupby(["end_us", *_CELL], as_index=False)[["total", "weight"]].sum()
    arrived = table.groupby(["end_us", "category"])["weight"].sum().rename("all").reset_index()
    found = rows[["end_us", *_CELL]].merge(cells, on=["end_us", *_CELL], how="left")
    found = found.merge(arrived, on=["end_us", "category"], how="left")
    requests, of_category = (found[name].to_numpy(np.float64) for name in ("weight", "all"))
    mean = np.nan_to_num(safe_ratio(found["total"].to_numpy(np.float64), requests))
    if not (mean > 0).any():
        return even
    reached = 1 - (1 - np.clip(mean, 0.0, 1.0)) ** np.maximum(np.nan_to_num(of_category), 1.0)
    precision = np.nan_to_num(requests) / (np.nan_to_num(requests) + _REST_REQUESTS)
    weight = np.where(mean > 0, precision / np.maximum(reached, 1e-9), 0.0)
    return np.minimum(weight, MAX_WEIGHT * weight[weight > 0].min())
