"""A host's CPU counter between its samples: the finer it is known, the better costs are told apart."""

import numpy as np

from fingerpost.arrays import Floats

_MOST = 1024
# How far the counter may be from what the sample says was used, as a share of it and in CPU-seconds (two clock ticks).
_TOLERANCE, _TICKS_S = 0.2, 0.02


class CpuTrace:
    """Readings of a CPU counter; all times are seconds of any one clock.

    How few requests lie in a span decides how much it says of each of them: with ten readings a second the same traffic
    tells a category's cost about three times as exactly as with one.
    """

    def __init__(self) -> None:
        self._readings: list[tuple[float, float]] = []

    def note(self, now_s: float, busy_s: float) -> None:
        """Takes a reading of the counter, CPU-seconds."""
        if len(self._readings) < _MOST:
            self._readings.append((now_s, busy_s))

    def divide(self, since_s: float, now_s: float, used_s: float) -> tuple[Floats, Floats]:
        """Divides what was used between two samples, and forgets all readings but the last.

        The readings say when it was used; how much, the sample knows better: also of children that have ended.

        Returns:
            Edges of the spans, ascending, shape (S + 1,); CPU-seconds used in each, shape (S,), which add up to
            `used_s`. One span from `since_s` to `now_s` where the readings do not fit the sample.
        """
        times, busy = np.array(self._readings, dtype=np.float64).reshape(-1, 2).T
        del self._readings[:-1]
        used = np.diff(busy)
        total = float(used.sum())
        fits = abs(total - used_s) <= _TOLERANCE * used_s + _TICKS_S
        if total > 0 and fits and (used >= 0).all() and (np.diff(times) > 0).all():
            return times, used * (used_s / total)
        return np.array([since_s, now_s]), np.array([used_s])
