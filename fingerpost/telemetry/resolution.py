"""Corrects times for the resolution they were written with: whole seconds, milliseconds or microseconds."""

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats

_US, _US_IN_MS, _US_IN_S = 1e6, 1e3, 1e6


def at_resolution(seconds: Floats, source: NDArray[np.int64]) -> Floats:
    """Times, where 0 is half of the least that could have been written.

    The resolution is that of the other times of the same source: whole seconds, whole milliseconds, or microseconds;
    milliseconds where all are 0. Without it a request of less than a millisecond would take no time at all, and nothing
    could be said of how many of them a host can serve.

    Args:
        seconds: shape (n,); NaN where not known.
        source: which were written by the same log, indices from 0, shape (n,).
    """
    zero = seconds == 0
    if not zero.any():
        return seconds
    micros = np.rint(np.nan_to_num(seconds) * _US)
    count = int(source.max()) + 1
    finer, fine, some = (
        np.bincount(source, weights=each, minlength=count) > 0
        for each in (micros % _US_IN_MS != 0, micros % _US_IN_S != 0, micros != 0)
    )
    half_us = np.where(finer, 1.0, np.where(fine | ~some, _US_IN_MS, _US_IN_S)) / 2
    return np.where(zero, half_us[source] / _US, seconds)
