"""Means over time with honest intervals: what lies close together in time is one observation, not many."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Ints

BLOCKS = 20
MIN_BLOCKS = 8


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; NaN where there is nothing, the interval also where there are too few blocks."""

    value: float
    low: float
    high: float
    blocks: int

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def time_blocks(time_us: ArrayLike, blocks: int = BLOCKS) -> Ints:
    """For each time the number of its block, of so many of equal length from the first to the last time."""
    times = np.asarray(time_us, dtype=np.int64)
    if not times.size:
        return times
    span = max(int(times.max() - times.min()) + 1, 1)
    return np.asarray((times - times.min()) * blocks // span)


def clustered_mean(
    values: ArrayLike, blocks: ArrayLike, weights: ArrayLike | None = None, alpha: float = 0.05
) -> Estimate:
    """The weighted mean of values, with a t interval over blocks of time.

    A ratio of sums, whose variance is that of the blocks' residuals (the delta method, as for cluster samples: Cochran,
    Sampling Techniques, 1977, 9A). With blocks longer than what is correlated, it holds for dependent values (batch
    means: Schmeiser, Batch size effects in the analysis of simulation output, 1982, who advises 10 to 30 of them).

    Args:
        values, blocks, weights: shape (n,); values that are not finite do not count.
        alpha: probability that the interval misses.
    """
    from scipy.stats import t

    value = np.asarray(values, dtype=np.float64)
    weight = np.ones(value.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(value) & (weight > 0)
    if not known.any():
        return Estimate(math.nan, math.nan, math.nan, 0)
    value, weight = value[known], weight[known]
    names, place = np.unique(np.asarray(blocks)[known], return_inverse=True)
    mean, count = float(np.average(value, weights=weight)), len(names)
    if count < MIN_BLOCKS:
        return Estimate(mean, math.nan, math.nan, count)
    residual = np.bincount(place, weights=weight * (value - mean))
    error = math.sqrt(count / (count - 1) * float(np.square(residual).sum())) / float(weight.sum())
    reach = float(t.ppf(1 - alpha / 2, count - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, count)
