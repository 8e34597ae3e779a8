"""How far predictions were off what happened, by losses that are least for the right prediction."""

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.experiment import ALIASES, CHALLENGER, CHAMPION
from fingerpost.features.definition import TARGETS
from fingerpost.features.windows import numbers
from fingerpost.telemetry.windows import LATENCY_SHARES
from fingerpost.training.calibration import PROMISED

TAIL = "latency_p99_s"
_MIN_WIDTH = 1e-9


def prediction_errors(rows: pd.DataFrame) -> dict[str, Floats]:
    """Of `champion`, `challenger` and `naive` the losses, each of shape (rows, TARGETS), on a log scale.

    Throughput and median latency: |log predicted - log measured|. p99: `tail_loss`, since a window of few requests has
    no p99 to compare with: what 99 of 100 requests stay under is well above all that most of them measured.

    Args:
        rows: of `shadow_join.join_outcomes`.

    Returns:
        NaN where champion or challenger cannot be compared: both are judged by the same outcomes.
    """
    actual = _logs(rows, "actual", TARGETS)
    marks = _logs(rows, "actual", tuple(LATENCY_SHARES))
    tail, errors = TARGETS.index(TAIL), {}
    for side in (*ALIASES, "naive"):
        predicted = _logs(rows, side, TARGETS)
        errors[side] = np.abs(predicted - actual)
        errors[side][:, tail] = tail_loss(marks, predicted[:, tail])
    both = np.isfinite(errors[CHAMPION]) & np.isfinite(errors[CHALLENGER])
    return {side: np.where(both, values, np.nan) for side, values in errors.items()}


def tail_loss(marks: Floats, predicted: Floats, share: float = PROMISED[TAIL]) -> Floats:
    """Twice the mean pinball loss of a predicted quantile over the requests of each window.

    The pinball loss is least, on average, for the true quantile, however few requests a window has (Koenker and
    Bassett, Regression quantiles, 1978); where the share is 0.5, twice of it is the absolute error. The durations of a
    window are taken to lie, on a log scale, evenly between its marks; those below p50 at p50, since all predictions
    above it gain alike by how far below they are; those above p99 at p99.

    Args:
        marks: logs of p50, p90, p99, shape (n, 3), not falling.
        predicted: logs, shape (n,).
        share: that of requests which should lie under the prediction, 0..1.
    """
    points = np.column_stack([marks[:, :1], marks, marks[:, -1:]])
    shares = np.diff([0.0, *LATENCY_SHARES.values(), 1.0])
    low, high = points[:, :-1], points[:, 1:]
    middle, value = (low + high) / 2, predicted[:, None]
    width = np.maximum(high - low, _MIN_WIDTH)
    within = np.square(high - value) / (2 * width)
    above = np.where(value <= low, middle - value, np.where(value >= high, 0.0, within))
    below = above - (middle - value)
    return np.asarray(2 * ((share * above + (1 - share) * below) * shares).sum(axis=1))


def _logs(rows: pd.DataFrame, side: str, names: tuple[str, ...]) -> Floats:
    values = np.stack([numbers(rows[f"{side}_{name}"]) for name in names], axis=1)
    return np.log(np.where(values > 0, values, np.nan))
