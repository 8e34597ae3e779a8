"""The exponent of predictions: the share of predicted differences between hosts that is found in what was measured.

Only how hosts differ within a category matters to the choice of a host, so only that is judged: predictions that are
ten times off everywhere route as well as true ones. The cost is `(inflight + 1) / throughput ** trust`, which is the
predictive rule at trust 1 and least request at trust 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats

# With an upper bound above this the predictions are as good as true: a fifth less difference routes as well. Where
# nobody tells how many requests were there, some that waited count as if they had not, which hides differences.
_NEARLY_ALL, _NEARLY_ALL_UNTOLD = 0.8, 0.5
# Cells below which the errors, which count cells, mean nothing.
_MIN_CELLS = 6

# Standard errors by which skill must be proven before it counts, and disproven before doubt does.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Window:
    """A regression of measured on predicted differences by cell, shape (hosts, categories); `n` requests were measured.

    Attributes:
        spread: `n * x^2`, x the predicted log difference from the category's mean.
        agreement: `n * x * y`, y the measured relative difference from it.
    """

    spread: Floats
    agreement: Floats


def compare(predicted_s: ArrayLike, measured_sum_s: ArrayLike, requests: ArrayLike) -> Window:
    """Sets the predictions that were in force for a window against what was measured in it.

    Args:
        predicted_s: predicted service time of every cell, seconds (any unit, any scale per category), shape (hosts,
            categories); not above 0 or not finite: no prediction, the cell is left out.
        measured_sum_s: sum of the measured service times in the window, same shape.
        requests: their number, same shape.
    """
    predicted = np.asarray(predicted_s, dtype=np.float64)
    sums = np.asarray(measured_sum_s, dtype=np.float64)
    counts = np.asarray(requests, dtype=np.float64)
    usable = np.isfinite(predicted) & (predicted > 0) & np.isfinite(sums)
    counts = np.where(usable, counts, 0.0)
    sums = np.where(counts > 0, sums, 0.0)
    total = counts.sum(axis=0)
    mean = sums.sum(axis=0) / np.maximum(total, 1.0)
    # A category that took no time at all says nothing of its hosts.
    counts = np.where(mean > 0, counts, 0.0)
    logs = np.log(np.where(usable, predicted, 1.0))
    logs = logs - (counts * logs).sum(axis=0) / np.maximum(total, 1.0)
    # Linear in what was measured, so that few or scattered measurements do not bias it.
    measured = np.where(mean > 0, sums / np.where(mean > 0, mean, 1.0) - counts, 0.0)
    return Window(counts * logs**2, measured * logs)


def follow_trust(all_of_it: Window, newest: Window, trusted: float, told: bool = True) -> float:
    """The exponent of the predictions, 0..1: it changes where the evidence says so, and only there.

    It is the slope of measured on predicted log differences, the exponent that leaves the least error (calibration
    slope; Cox, 1958), two standard errors low. The errors are clustered by cell (Liang and Zeger, 1986): a thousand
    requests that agree by chance on one host are one coincidence. Proven (above nothing by two standard errors) and not
    disproven: full trust. Disproven, by all of the evidence or by the newest alone: the slope. Else, or with fewer than
    six cells in either: as before.

    Args:
        trusted: the trust until now, 0..1.
        told: it is known of each request whether it waited.
    """
    if min(_cells(all_of_it), _cells(newest)) < _MIN_CELLS:
        return trusted
    low, high = slope_bounds(all_of_it)
    if min(high, slope_bounds(newest)[1]) >= (_NEARLY_ALL if told else _NEARLY_ALL_UNTOLD):
        return 1.0 if low > 0 else trusted
    slope, error = _slope(all_of_it)
    proven = slope - _STANDARD_ERRORS * error
    slope, error = _slope(newest)
    return float(np.clip(min(proven, slope + _STANDARD_ERRORS * error), 0.0, 1.0))


def slope_bounds(window: Window) -> tuple[float, float]:
    """The share of predicted differences that was found, two standard errors low and high.

    The errors are at least those of service times that scatter as much as their mean. Once requests go where they are
    predicted to run best, the few cells that are left differ little, and agree or disagree by chance.
    """
    slope, error = _slope(window)
    error = max(error, 1 / float(np.sqrt(window.spread.sum())))
    return slope - _STANDARD_ERRORS * error, slope + _STANDARD_ERRORS * error


def trusted_throughput(throughput_rps: ArrayLike, exponent: float) -> Floats:
    """Throughput with its differences between hosts raised to `exponent`, about each category's geometric mean.

    The unit and scale stay, so that it can stand in for the throughput in `fingerpost.routing.cost.routing_cost`; at 0
    all are equal there and the choice is least request, at 1 nothing is changed.

    Args:
        throughput_rps: shape (hosts, categories); not above 0 or not finite: the host cannot serve, left as it is.
        exponent: 0..1, from `trust`.
    """
    rate = np.asarray(throughput_rps, dtype=np.float64)
    usable = np.isfinite(rate) & (rate > 0)
    logs = np.log(np.where(usable, rate, 1.0))
    middle = logs.sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    # Exactly equal at 0: hosts that differ by rounding would never tie.
    return np.where(usable, np.exp(middle + exponent * np.where(usable, logs - middle, 0.0)), rate)


def _cells(window: Window) -> int:
    return int((window.spread > 0).sum())


def _slope(window: Window) -> tuple[float, float]:
    """Slope of measured on predicted differences, and its standard error clustered by cell."""
    spread = float(window.spread.sum())
    if spread <= 0:
        return 0.0, 0.0
    slope = float(window.agreement.sum()) / spread
    error = float(np.sqrt(((window.agreement - slope * window.spread) ** 2).sum())) / spread
    return slope, error
