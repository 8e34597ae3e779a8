"""Requests that a host works on at once, where it does not tell: from how latency grows with requests in flight."""

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints

Bools = NDArray[np.bool_]

_MEMORY_S = 60.0
# Of a host that has become slower or faster, its size from before fades to 1/e in this time.
_KEPT_S = 300.0
# Numbers of places that are tried, in steps of a half octave.
_TRIED = 2.0 ** np.arange(0, 10.5, 0.5)
# Standard deviation of the log of what predictions imply, before anything is measured.
_PRIOR_SPREAD = 0.7
# Requests of one queue tell the same story: no more count than so many.
_MAX_REQUESTS = 300.0
# Standard deviation of the log of the places of a fleet's hosts.
_LIKELY_SPREAD = 1.0
# How much what latencies of all hosts show counts beside those of the host itself.
_FLEET = 3.0
# Of a changed host no greater difference to the fleet is kept, as a log: its queue may have passed for its size.
_MOST_APART = np.log(2.0)
# A host counts as changed as long as its size from before counts by this.
_SETTLED = 0.5
# What a host is taken to have of which nothing is known.
_USUAL = 8.0


class Places:
    """Estimates the places of every host, by maximum a posteriori over a grid.

    With m places and n requests found, latency x throughput is about `max(m, n + 1)`: below m it does not grow with n,
    above it does (Little's law). For each m of the grid the scatter that this leaves in the log is kept. The prior lies
    at what the predictions imply, so a host that was never crowded agrees with them: a slow host and a small one
    are the same there, and nothing is concluded.

    Args:
        hosts: their number.
    """

    def __init__(self, hosts: int) -> None:
        # Requests, and their latency x throughput.
        self._count, self._work = np.zeros((2, hosts))
        # Residuals of its log, and their squares, shape (hosts, tried).
        self._residual, self._square = np.zeros((2, hosts, len(_TRIED)))
        # The log of a host's size beside the fleet's before it changed, and how much that counts, shape (hosts,).
        self._before, self._kept = np.zeros((2, hosts))

    def keep(self, hosts: Ints, places: Floats) -> None:
        """Hosts have become slower or faster, not larger or smaller: they keep their size for a while.

        Their requests from before and after show no relation of latency to requests in flight, and are forgotten.

        Args:
            places: of all hosts before the change, shape (hosts,).
        """
        if not len(hosts):
            return
        size = np.log(places[hosts] / np.median(places))
        self._before[hosts], self._kept[hosts] = np.clip(size, -_MOST_APART, _MOST_APART), 1.0
        for values in (self._count, self._work, self._residual, self._square):
            values[hosts] = 0.0

    def align(self, rows: Ints) -> None:
        """Takes other hosts, see `taken`."""
        for name, values in vars(self).items():
            setattr(self, name, taken(values, rows))

    def observe(self, host: Ints, work: Floats, found: Floats, elapsed_s: float) -> None:
        """Adds requests, arrays of shape (n,).

        Args:
            work: latency x predicted throughput; NaN where nothing was predicted.
            found: requests in flight on the host when it came, itself not counted.
            elapsed_s: since the last call.
        """
        keep = float(np.exp(-elapsed_s / _MEMORY_S))
        known = np.isfinite(work) & (work > 0)
        host, work, found = host[known], work[known], found[known]
        hosts = len(self._count)
        self._count = keep * self._count + np.bincount(host, minlength=hosts)
        self._work = keep * self._work + np.bincount(host, work, hosts)
        self._kept *= np.exp(-elapsed_s / _KEPT_S)
        self._residual *= keep
        self._square *= keep
        for place, tried in enumerate(_TRIED):
            residual = np.log(work / np.maximum(tried, found + 1))
            self._residual[:, place] += np.bincount(host, residual, hosts)
            self._square[:, place] += np.bincount(host, residual**2, hosts)

    def of(self, slots: Floats) -> Floats:
        """The places of every host: its slots where it tells them, else the estimate; shape (hosts,)."""
        if np.isfinite(slots).all():
            return slots
        count = np.maximum(self._count, 1e-9)[:, None]
        scatter = np.maximum(self._square / count - (self._residual / count) ** 2, 1e-6)
        known = self._count > 1
        implied = _plausible(self._work / count[:, 0], known)
        unlikely = 0.5 * np.minimum(count, _MAX_REQUESTS) * np.log(scatter / scatter.min(axis=1, keepdims=True))
        if known.any():
            unlikely += _FLEET * unlikely[known].mean(axis=0)
        unlikely += 0.5 * ((np.log(_TRIED) - np.log(implied)[:, None]) / _PRIOR_SPREAD) ** 2
        best = unlikely.argmin(axis=1)
        # Between two steps what is implied itself is as likely.
        near = np.abs(np.log(_TRIED[best] / implied)) < np.log(2) / 4
        found = np.log(np.where(near, implied, _TRIED[best]))
        settled = self._kept < _SETTLED
        usual = np.median(found[settled] if settled.any() else found)
        return np.where(np.isfinite(slots), slots, np.exp(found + self._kept * (self._before + usual - found)))


def _plausible(implied: Floats, known: Bools) -> Floats:
    """What predictions imply of each host, as far as it is like what they imply of the others.

    A host that is twice as large as the fleet's median keeps most of that; one that is ten times as large is rather
    predicted ten times too fast, and is taken to be as the others are. Small ones stay small, which harms nobody.
    """
    usual = float(np.median(implied[known])) if known.any() else _USUAL
    off = np.log(np.where(known, implied / usual, 1.0))
    return usual * np.exp(off * np.exp(-0.5 * (np.maximum(off, 0.0) / _LIKELY_SPREAD) ** 2))


def taken(values: Floats, rows: Ints) -> Floats:
    """Rows of an array by their places; nothing (0) where a place is -1."""
    moved = values[np.maximum(rows, 0)].copy() if len(values) else np.zeros((len(rows), *values.shape[1:]))
    moved[rows < 0] = 0.0
    return moved
