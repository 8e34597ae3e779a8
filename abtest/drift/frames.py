"""Builds the table of a drift report: each training row's inputs, prediction and outcome, relative to its cell.

The model's own features are rolling and of time of day: in short telemetry they always drift. What counts is what
they are for: how fast cells are (level), how wrong the model is (residual), what it says (predicted), and what traffic
and load it is asked about.
"""

from collections.abc import Callable
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.features.definition import NAIVE, TARGETS, naive_column

CELL = ["host", "category"]
LEVEL = "level_throughput_rps"
RESIDUALS = tuple(f"residual_{target}" for target in TARGETS)
PREDICTED = tuple(f"predicted_{target}" for target in TARGETS)
LOADS = ("host_cpu_util", "host_inflight")
MIX = ("category", "host")
# What alone makes drift, and what only counts towards the share of columns.
MODEL_COLUMNS = (LEVEL, *RESIDUALS)
TRAFFIC_COLUMNS = (*PREDICTED, *LOADS, *MIX)
_SEED = 11

Predict = Callable[[pd.DataFrame], dict[str, NDArray[np.float64]]]


def split_rows(
    rows: pd.DataFrame, begin: datetime, end: datetime, recent_s: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows from begin to end, and of those after it the latest `recent_s` seconds.

    Cold-start rows, which never happened, are in neither.
    """
    happened = rows[~rows["cold_start"].to_numpy(bool)]
    times = happened["time"]
    reference = happened[(times >= begin) & (times <= end)]
    later = happened[times > end]
    if not later.empty:
        later = later[later["time"] > later["time"].max() - pd.Timedelta(seconds=recent_s)]
    return reference.reset_index(drop=True), later.reset_index(drop=True)


def checked_frames(
    reference: pd.DataFrame, current: pd.DataFrame, predict_log: Predict, most: int, learned_until: datetime
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns that are checked, of both sides, at most `most` rows each; logs where they tell rates or times.

    Args:
        predict_log: the model: rows to the logs of every target.
        learned_until: what the model learned from has no predictions: it is less wrong there than anywhere else.

    Returns:
        Frames with `host`, `category`, `time`, `requests`, MODEL_COLUMNS, TRAFFIC_COLUMNS, and of every target
        `actual_TARGET`, `forecast_TARGET` and `naive_VIEW_TARGET`.
    """
    sides = [_with_predictions(_sampled(rows, most), predict_log, learned_until) for rows in (reference, current)]
    for name, source in (
        (LEVEL, f"actual_{TARGETS[0]}"),
        *((f"predicted_{each}", f"forecast_{each}") for each in TARGETS),
    ):
        usual = sides[0].groupby(CELL)[source].median().rename("usual")
        for side in sides:
            side[name] = side[source] - side.join(usual, on=CELL)["usual"]
    return sides[0], sides[1]


def by_requests(frame: pd.DataFrame) -> pd.DataFrame:
    """As many rows, drawn by their requests: the mix of what was asked, not of the cells there are."""
    weights = frame["requests"].astype(float)
    if frame.empty or weights.sum() <= 0:
        return frame
    return frame.sample(len(frame), replace=True, weights=weights, random_state=_SEED).reset_index(drop=True)


def _sampled(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows if len(rows) <= most else rows.sample(most, random_state=_SEED).sort_values("time", ignore_index=True)


def _with_predictions(rows: pd.DataFrame, predict_log: Predict, learned_until: datetime) -> pd.DataFrame:
    kept = [*CELL, "time", "requests", *LOADS, *(naive_column(view, target) for target in TARGETS for view in NAIVE)]
    frame = rows[kept].reset_index(drop=True)
    for name in MIX:
        frame[name] = frame[name].astype("str")
    predicted, unseen = predict_log(rows), (frame["time"] > learned_until).to_numpy()
    for target in TARGETS:
        frame[f"actual_{target}"] = rows[target].to_numpy(np.float64)
        # A model without this target has nothing to be wrong about.
        frame[f"forecast_{target}"] = np.where(unseen, predicted.get(target, np.nan), np.nan)
        frame[f"residual_{target}"] = frame[f"actual_{target}"] - frame[f"forecast_{target}"]
    return frame.replace([np.inf, -np.inf], np.nan)
