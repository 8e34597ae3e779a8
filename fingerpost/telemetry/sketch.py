"""Quantiles of latency by category, in fixed memory, from weighted values."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ACCURACY = 0.01
_MIN_S, _MAX_S = 1e-6, 3600.0
_LOG_GAMMA = float(np.log((1 + ACCURACY) / (1 - ACCURACY)))
BUCKETS = int(np.ceil(np.log(_MAX_S / _MIN_S) / _LOG_GAMMA)) + 1


class LatencySketches:
    """One sketch a category: weights in buckets whose bounds grow by a constant ratio, from 1 microsecond to an hour.

    A quantile is off by at most 1% of its value, whatever the distribution. (The mapping of DDSketch: Masson, Rim and
    Lee, 2019; without its collapsing, since latency has bounds.)

    Args:
        categories: number of sketches, C.
    """

    def __init__(self, categories: int) -> None:
        self.weights = np.zeros((categories, BUCKETS))

    def add(self, category: NDArray[np.intp], seconds: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        """Adds values, each of shape (n,); seconds beyond the bounds count as the bounds."""
        np.add.at(self.weights, (category, _bucket(seconds)), weight)

    def quantiles(self, shares: ArrayLike) -> NDArray[np.float64]:
        """The quantiles of every sketch by nearest rank, shape (C, shares), seconds; NaN where it is empty."""
        cumulated = np.cumsum(self.weights, axis=1)
        total = cumulated[:, -1:]
        wanted = np.asarray(shares, dtype=np.float64)[None, :] * total
        # A hair less, so that rounding in the sum cannot push an exact rank into the next bucket.
        found = np.stack(
            [np.searchsorted(row, rank * (1 - 1e-12)) for row, rank in zip(cumulated, wanted, strict=True)]
        )
        return np.where(total > 0, _value(np.minimum(found, BUCKETS - 1)), np.nan)


def _bucket(seconds: NDArray[np.float64]) -> NDArray[np.intp]:
    bounded = np.clip(seconds, _MIN_S, _MAX_S)
    return np.ceil(np.log(bounded / _MIN_S) / _LOG_GAMMA).astype(np.intp)


def _value(bucket: NDArray[np.intp]) -> NDArray[np.float64]:
    """The middle of a bucket in the sense of relative error."""
    upper = _MIN_S * np.exp(bucket * _LOG_GAMMA)
    return np.asarray(upper * (1 - ACCURACY))
