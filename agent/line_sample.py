"""Chooses which lines of a busy log are read, before anything of them is looked at, so that reading costs no more."""

import math

import numpy as np

from fingerpost.arrays import Ints

# Lines as long as Envoy writes them, until some were seen.
_USUAL_BYTES = 400.0
# The rate is followed with this time constant, seconds: writers flush several times a second, not evenly.
_PACE_S = 4.0
# A sudden rise counts at once, but for so much of it.
_SURGE = 2.0
# Of so many lines one is read, with some room for a rate that varies; fewer again once less than this part is needed.
_STEPS = (1, *sorted(step << power for step in (2, 3) for power in range(40)))
_SLACK, _SPARE = 0.6, 1.25


class LinePace:
    """Follows how many lines a second are written, by the bytes that the log grows by.

    Args:
        most_per_s: lines to read a second, at most; a log that is written more slowly is read in full.
    """

    def __init__(self, most_per_s: float) -> None:
        self._most_per_s = most_per_s
        self._line_bytes = _USUAL_BYTES
        self._bytes_per_s: float | None = None
        self._every = 1

    @property
    def lines_per_s(self) -> float:
        """As far as is known; 0 before the first look."""
        return (self._bytes_per_s or 0.0) / self._line_bytes

    def grew(self, size: int, seconds: float) -> int:
        """Takes note of bytes that were written; returns of how many lines one is to be read."""
        now = size / max(seconds, 1e-3)
        share = 1 - math.exp(-seconds / _PACE_S)
        self._bytes_per_s = now if self._bytes_per_s is None else self._bytes_per_s + share * (now - self._bytes_per_s)
        lines_per_s = max(self._bytes_per_s, now / _SURGE) / self._line_bytes
        needed = lines_per_s / self._most_per_s
        # In few steps, and not to and fro between two: lines of one weight are sampled once more, together.
        if needed > self._every or needed < _SLACK * self._every:
            wanted = needed * _SPARE if needed > 1 else 1
            self._every = next(step for step in _STEPS if step >= wanted)
        return self._every

    def saw(self, lines: int, size: int) -> None:
        """Takes note of how many bytes so many lines have."""
        if lines:
            self._line_bytes += (size / lines - self._line_bytes) * min(1.0, lines / 1000)


class LineSample:
    """Picks one line at random out of each so many that follow each other.

    Each line is picked with the same probability, whatever is in it, so that with weights of 1 / that probability sums
    over the picked lines are unbiased, and numbers of lines almost exact. Lines at even distances would not do: a proxy
    that takes its hosts in turn would show some of them alone.

    Args:
        seed: of the choice; None: another one each time.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = np.random.default_rng(seed)
        self._every, self._into, self._pick = 1, 0, 0

    def pick(self, count: int, every: int) -> Ints:
        """The places, in order, of those that are picked of the next `count` lines, one of each `every`."""
        if every != self._every:
            self._every, self._into = every, 0
        begins = np.arange(-self._into, count, every, dtype=np.int64)
        within = self._random.integers(0, every, len(begins))
        if self._into:
            within[0] = self._pick
        if len(begins):
            self._pick = int(within[-1])
        self._into = (self._into + count) % every
        picked = begins + within
        return picked[(picked >= 0) & (picked < count)]
