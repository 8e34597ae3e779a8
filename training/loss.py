"""Defines the loss that boosters are fitted by, and the error that they are stopped by."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fingerpost.arrays import Floats

# Errors well above this count by their size, those below by its square; on a log scale.
SMOOTH = 0.05


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


def absolute_error(predicted: Floats, data: Any) -> tuple[str, float, bool]:
    """Weighted mean absolute error, as an evaluation for `lightgbm.train`."""
    error = np.abs(predicted - data.get_label())
    return "l1", float(np.average(error, weights=data.get_weight())), False
