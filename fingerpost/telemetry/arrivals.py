"""Requests that arrive, by category and second: how many come, and whether they become more."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US

# Seconds that are remembered, those that a rate is the mean of, and the latest ones, of which more may be heard.
KEPT_S, RATE_S, UNSETTLED_S = 60, 10, 2


@dataclass(frozen=True)
class ArrivalRates:
    """Arrivals of each category as of a second, shape (C,).

    Args:
        rate_rps: mean of the last ten seconds, requests a second.
        trend_rps_per_s: slope of a line through the last minute, by least squares, requests a second each second.
        peak_rps: the busiest second of the last minute.
    """

    rate_rps: Floats
    trend_rps_per_s: Floats
    peak_rps: Floats


class Arrivals:
    """Counts of the last minute; a request arrives when it begins, and is heard of when it ends.

    Args:
        categories: number of categories, C.
    """

    def __init__(self, categories: int) -> None:
        self._counts = np.zeros((KEPT_S + UNSETTLED_S, categories))
        self._newest_s = 0
        self._first_s = 0

    def add(self, time_us: ArrayLike, category: Ints, weight: float = 1.0) -> int:
        """Counts requests by when they began; returns how many had begun too long ago to be counted.

        Args:
            time_us: microseconds since 1970, shape (n,).
            category: their indices, shape (n,).
            weight: how many requests each stands for.
        """
        second = np.asarray(time_us, dtype=np.int64) // US
        if not second.size:
            return 0
        self._advance(int(second.max()))
        self._first_s = self._first_s or int(second.min())
        kept = second > self._newest_s - len(self._counts)
        np.add.at(self._counts, (second[kept] % len(self._counts), category[kept]), weight)
        return int((~kept).sum())

    def rates(self, now_us: int) -> ArrivalRates:
        """As of the present, microseconds since 1970, without its latest two seconds; zeros before anything came."""
        last_s = now_us // US - UNSETTLED_S
        self._advance(now_us // US)
        if now_us // US < self._newest_s - len(self._counts):  # the clock went back
            self._counts[:], self._newest_s, self._first_s = 0.0, now_us // US, 0
        known = min(KEPT_S, last_s - self._first_s + 1) if self._first_s else 0
        if known <= 0:
            nothing = np.zeros(self._counts.shape[1])
            return ArrivalRates(nothing, nothing, nothing)
        seconds = np.arange(last_s - known + 1, last_s + 1)
        counts = self._counts[seconds % len(self._counts)]  # (seconds, categories)
        around = seconds - seconds.mean()
        trend = around @ counts / max(float((around**2).sum()), 1.0)
        return ArrivalRates(counts[-RATE_S:].mean(axis=0), trend, counts.max(axis=0))

    def use_categories(self, mapping: Sequence[int], categories: int) -> None:
        """Goes over to other categories: each old one's counts go to the index in `mapping`."""
        counts = np.zeros((len(self._counts), categories))
        for old, new in enumerate(mapping):
            counts[:, new] += self._counts[:, old]
        self._counts = counts

    def _advance(self, second: int) -> None:
        """Forgets the seconds that a newer one takes the place of."""
        if second > self._newest_s:
            fresh = np.arange(max(self._newest_s + 1, second + 1 - len(self._counts)), second + 1)
            self._counts[fresh % len(self._counts)] = 0.0
            self._newest_s = second
