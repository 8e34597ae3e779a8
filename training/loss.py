"""The losses that boosters are fitted with: of latency a quantile, of throughput the time that requests take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fingerpost.arrays import Floats

# Errors well above this count by their size, those below by its square; on a log scale.
SMOOTH = 0.05
# Errors of time by more than this ratio count as this.
_MAX_TIME_ERROR = np.log(4.0)


@dataclass(frozen=True)
class Loss:
    """What `lightgbm.train` minimises.

    Attributes:
        objective: predictions and data to gradient and curvature.
        measure: predictions, outcomes and weights, all logs but the last, to the mean loss of rows.
    """

    objective: Callable[[Floats, Any], tuple[Floats, Floats]]
    measure: Callable[[Floats, Floats, Floats], float]


def quantile_objective(share: float = 0.5) -> Callable[[Floats, Any], tuple[Floats, Floats]]:
    """Gradient and curvature of the pinball loss (Koenker and Bassett, 1978), for `lightgbm.train`.

    LightGBM sets the leaves of its own absolute and quantile losses anew after growing a tree, which monotone
    constraints would not survive, and therefore refuses the two together. Here the absolute value is smoothed to
    sqrt(e^2 + s^2), and the curvature is that of the parabola that touches the loss from above (as in iteratively
    reweighted least squares), so that every step lowers it. Both are scaled such that the curvature is at most the
    row's weight.

    Args:
        share: the quantile to be predicted, 0..1; 0.5 is the median, half the absolute error.
    """

    def objective(predicted: Floats, data: Any) -> tuple[Floats, Floats]:
        error = predicted - data.get_label()
        curvature = SMOOTH / np.sqrt(error * error + SMOOTH**2)
        gradient = error * curvature
        if share != 0.5:
            gradient += SMOOTH * (1 - 2 * share)
        weight = data.get_weight()
        if weight is not None:
            gradient *= weight
            curvature *= weight
        return gradient, curvature

    return objective


def absolute_error(predicted: Floats, outcome: Floats, weight: Floats) -> float:
    """Weighted mean absolute error."""
    return float(np.average(np.abs(predicted - outcome), weights=weight))


def time_objective(predicted: Floats, data: Any) -> tuple[Floats, Floats]:
    """Gradient and curvature of the gamma deviance of 1 / throughput, for `lightgbm.train`.

    Its minimum is the mean of the seconds that a request takes of a host, in which the cost is linear (McCullagh
    and Nelder, 1989, chapter 8). The median would hold a host for fast that will be eight times slower with a chance of
    two in five.
    """
    ratio = np.exp(_time_error(predicted, data.get_label()))
    gradient, curvature = ratio - 1, ratio
    weight = data.get_weight()
    if weight is not None:
        gradient, curvature = gradient * weight, curvature * weight
    return gradient, curvature


def time_deviance(predicted: Floats, outcome: Floats, weight: Floats) -> float:
    """Weighted mean of half the gamma deviance of 1 / throughput."""
    error = _time_error(predicted, outcome)
    return float(np.average(np.exp(error) - 1 - error, weights=weight))


def _time_error(predicted: Floats, outcome: Floats) -> Floats:
    """Log of seconds measured over predicted; beyond a ratio of 4 it counts as that, so that no row decides alone."""
    return np.clip(predicted - outcome, -_MAX_TIME_ERROR, _MAX_TIME_ERROR)


_LATENCY, _THROUGHPUT = Loss(quantile_objective(), absolute_error), Loss(time_objective, time_deviance)


def loss_of(target: str) -> Loss:
    """Latencies are quantiles of windows; the cost is linear in the mean time that requests take of a host."""
    return _THROUGHPUT if target.startswith("throughput") else _LATENCY
