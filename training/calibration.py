"""Computes the share of requests under a predicted quantile, and the shift that corrects it."""

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.telemetry.windows import LATENCY_SHARES

# What each target promises about single requests.
PROMISED = {"latency_p50_s": 0.5, "latency_p99_s": 0.99}
_MAX_SHIFT = np.log(20.0)
# Beyond a window's p99 its slowest requests are taken to be up to this far above it, as are its fastest below p50.
_EDGE = np.log(2.0)


def share_under(rows: pd.DataFrame, predicted_log: Floats) -> float:
    """The share of all requests that took no longer than predicted.

    A window keeps three quantiles of its durations; between them the share is interpolated on a log scale.

    Args:
        rows: training rows with the measured latencies (logs), `requests` and `weight`.
        predicted_log: logs of a predicted latency, shape (rows,).
    """
    shares, weight = _shares(rows, predicted_log)
    return float(np.average(shares, weights=weight)) if weight.sum() > 0 else float("nan")


def shift_to(rows: pd.DataFrame, predicted_log: Floats, share: float) -> float:
    """What to add to predictions so that a share of the requests of `rows` lies under them (split conformal).

    Vovk et al., Algorithmic learning in a random world, 2005; found by bisection, since the share grows with the shift.
    """
    low, high = -_MAX_SHIFT, _MAX_SHIFT
    if not np.isfinite(share_under(rows, predicted_log)):
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        if share_under(rows, predicted_log + middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def calibration_curve(rows: pd.DataFrame, predicted_log: Floats, shifts: Floats) -> Floats:
    """The share of requests under the prediction at each shift, shape (shifts,)."""
    return np.array([share_under(rows, predicted_log + shift) for shift in shifts])


def _shares(rows: pd.DataFrame, predicted_log: Floats) -> tuple[Floats, Floats]:
    """Of each window the share of its requests under the prediction, and its requests; 0 where nothing is known."""
    marks = rows[[*LATENCY_SHARES]].to_numpy(np.float64)
    usable = np.isfinite(marks).all(axis=1) & np.isfinite(predicted_log)
    marks = np.where(usable[:, None], marks, 0.0)
    x = np.column_stack([marks[:, 0] - _EDGE, marks, marks[:, -1] + _EDGE])
    y = np.array([0.0, *LATENCY_SHARES.values(), 1.0])
    value = np.clip(np.where(usable, predicted_log, 0.0), x[:, 0], x[:, -1])
    piece = np.clip((value[:, None] >= x[:, 1:-1]).sum(axis=1), 0, len(y) - 2)
    row = np.arange(len(x))
    left, width = x[row, piece], np.maximum(x[row, piece + 1] - x[row, piece], 1e-9)
    shares = y[piece] + (y[piece + 1] - y[piece]) * np.clip((value - left) / width, 0.0, 1.0)
    return shares, np.where(usable, (rows["requests"] * rows["weight"]).to_numpy(np.float64), 0.0)
