"""How far predictions can be trusted: what they said of the hosts is weighed against what was measured since.

Pure functions on arrays, for whoever keeps a routing table: the router sync, and the simulator. Only how hosts differ
within a category matters to the choice of a host, so only that is judged: predictions that are ten times off everywhere
route as well as true ones. The remedy is an exponent: the cost is `(inflight + 1) / throughput ** trust`, which is the
predictive rule at trust 1 and least request at trust 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Standard errors by which skill must be proven before it counts, and disproven before doubt does.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Evidence:
    """Sums of a regression of measured on predicted differences between hosts.

    Attributes:
        spread: of the predictions, sum of `requests * x^2` with older evidence fading, x the predicted log difference.
        agreement: sum of `requests * x * y`, y the measured relative difference.
        last_spread, last_agreement: the same of the newest window alone.
    """

    spread: float = 0.0
    agreement: float = 0.0
    last_spread: float = 0.0
    last_agreement: float = 0.0


def weigh(
    evidence: Evidence, predicted_s: ArrayLike, measured_sum_s: ArrayLike, requests: ArrayLike, keep: float
) -> Evidence:
    """Adds a window in which the predictions were in force.

    Args:
        evidence: what is known so far.
        predicted_s: predicted service time of every cell, seconds (any unit, any scale per category), shape (hosts,
            categories); not above 0 or not finite: no prediction, the cell is left out.
        measured_sum_s: sum of the measured service times in the window, same shape.
        requests: their number, same shape.
        keep: share of the older evidence that is kept, 0..1; `exp(-window / memory)`.

    Returns:
        The evidence with the window in it.
    """
    predicted = np.asarray(predicted_s, dtype=np.float64)
    sums = np.asarray(measured_sum_s, dtype=np.float64)
    counts = np.asarray(requests, dtype=np.float64)
    usable = np.isfinite(predicted) & (predicted > 0) & np.isfinite(sums)
    counts = np.where(usable, counts, 0.0)
    sums = np.where(counts > 0, sums, 0.0)
    total = counts.sum(axis=0)
    mean = sums.sum(axis=0) / np.maximum(total, 1.0)
    judged = (total > 0) & (mean > 0)
    x = np.log(np.where(usable, predicted, 1.0))
    x = x - (counts * x).sum(axis=0) / np.maximum(total, 1.0)
    # Linear in what was measured, so that few or scattered measurements do not bias it.
    y_weighted = sums / np.where(judged, mean, 1.0) - counts
    spread = float((counts * x**2)[:, judged].sum())
    agreement = float((x * y_weighted)[:, judged].sum())
    return Evidence(keep * evidence.spread + spread, keep * evidence.agreement + agreement, spread, agreement)


def trust(evidence: Evidence, variation: float = 1.0) -> float:
    """The exponent of the predictions: the share of predicted differences that was found in what was measured.

    It is the slope of measured on predicted log differences, which is the exponent that minimises the error that
    remains (calibration slope; Cox, 1958), taken two standard errors low: predictions must prove themselves. Where the
    newest window alone disproves it, by two standard errors, the window counts: slow to trust, quick to doubt.

    Args:
        evidence: from `weigh`.
        variation: coefficient of variation of single service times.

    Returns:
        0..1; 1 where the predictions do not differ, since then they do not matter.
    """
    if evidence.spread <= 0:
        return 1.0 if evidence.last_spread <= 0 else 0.0
    low = _slope(evidence.spread, evidence.agreement, -_STANDARD_ERRORS * variation)
    if evidence.last_spread > 0:
        low = min(low, _slope(evidence.last_spread, evidence.last_agreement, _STANDARD_ERRORS * variation))
    return float(np.clip(low, 0.0, 1.0))


def _slope(spread: float, agreement: float, errors: float) -> float:
    return agreement / spread + errors / np.sqrt(spread)


def trusted_throughput(throughput_rps: ArrayLike, exponent: float) -> Floats:
    """Throughput with its differences between hosts raised to `exponent`, about each category's geometric mean.

    The unit and scale stay, so that it can stand in for the throughput in `routing.cost.routing_cost`; at 0 all hosts
    are equal there and the choice is least request, at 1 nothing is changed.

    Args:
        throughput_rps: shape (hosts, categories); not above 0 or not finite: the host cannot serve, left as it is.
        exponent: 0..1, from `trust`.
    """
    rate = np.asarray(throughput_rps, dtype=np.float64)
    usable = np.isfinite(rate) & (rate > 0)
    logs = np.log(np.where(usable, rate, 1.0))
    middle = logs.sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    return np.where(usable, np.exp(middle + exponent * (logs - middle)), rate)
