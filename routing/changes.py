"""Notices within a few requests that a host has become slower or faster than it was."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from fingerpost.arrays import Ints
from fingerpost.routing.factors import Ended
from fingerpost.routing.places import taken

# Changes that are looked for: hosts become so many times slower, or so many times faster. Larger ones are found sooner.
SLOWER, FASTER = 2.0, 2.5
# Evidence at which a change counts as proven, as a log likelihood ratio. Of a host that has not changed, one in some
# e^threshold requests raises a false alarm, which costs it the evidence of half a minute. Of becoming faster less is
# demanded: hosts that are avoided have few requests to show it by.
_SLOWER_PROVEN, _FASTER_PROVEN = 8.0, 5.0
# A single request counts as this many times as slow as expected at the most: no one request proves a change.
_MOST = 6.0
# What all hosts have in common is seen over so long, beside so many requests that say nothing.
_COMMON_S, _COMMON_REQUESTS = 3.0, 2.0
# Requests are kept for so long, so that a host can be judged by those since its change alone.
_KEPT_S = 30.0


class HostChanges:
    """Page's cumulative sum test on every host's measured over expected latencies, in both directions.

    A sum of log likelihood ratios of "changed" against "as before" that never falls below 0; above its threshold a
    change is proven, and it began where the sum last was 0. (Page, Continuous inspection schemes, 1954.) Latencies are
    taken for exponential, which is cautious where they scatter less. What all hosts have in common is no change.

    Args:
        hosts: their number.
    """

    def __init__(self, hosts: int) -> None:
        # Slower and faster: evidence, and the number of the last update at which it was 0; shape (2, hosts).
        self._evidence, self._since = np.zeros((2, hosts)), np.zeros((2, hosts), dtype=np.int64)
        # Requests of late, and the sum of their ratios, which fade; shape (2, hosts).
        self._late = np.zeros((2, hosts))
        self._number, self._at_s = 0, -np.inf
        self._kept: deque[tuple[int, float, Ended]] = deque()

    def align(self, rows: Ints, columns: Ints) -> None:
        """Takes other hosts and categories, see `taken`; requests of those that are gone are forgotten."""
        self._evidence = taken(self._evidence.T, rows).T
        self._since = taken(self._since.T.astype(np.float64), rows).T.astype(np.int64)
        self._since[:, rows < 0] = self._number
        self._late = taken(self._late.T, rows).T
        self._kept = deque((number, at_s, _moved(ended, rows, columns)) for number, at_s, ended in self._kept)

    def observe(self, ended: Ended, now_s: float) -> Ints:
        """Adds requests.

        Returns:
            Hosts that have changed, places.
        """
        self._number += 1
        self._kept.append((self._number, now_s, ended))
        while self._kept[0][1] < now_s - _KEPT_S:
            self._kept.popleft()
        known = np.isfinite(ended.expected_s) & (ended.expected_s > 0)
        host, hosts = ended.host[known], self._evidence.shape[1]
        ratio = np.minimum(ended.seconds[known] / ended.expected_s[known], _MOST)
        self._late *= np.exp(-max(now_s - self._at_s, 0.0) / _COMMON_S)
        self._late += np.stack([np.bincount(host, minlength=hosts), np.bincount(host, ratio, hosts)])
        self._at_s, ratio = now_s, ratio / self._common()
        count, total = np.bincount(host, minlength=hosts), np.bincount(host, ratio, hosts)
        gain = np.stack(
            [
                (1 - 1 / SLOWER) * total - np.log(SLOWER) * count,
                np.log(FASTER) * count - (FASTER - 1) * total,
            ]
        )
        self._evidence = np.maximum(self._evidence + gain, 0.0)
        self._since[self._evidence == 0] = self._number
        proven = (self._evidence >= np.array([[_SLOWER_PROVEN], [_FASTER_PROVEN]])).any(axis=0)
        return np.flatnonzero(proven)

    def since_change(self, hosts: Ints) -> Iterator[Ended]:
        """The requests of hosts that have changed since they did; their evidence begins anew."""
        began = np.full(self._evidence.shape[1], np.iinfo(np.int64).max)
        stronger = self._evidence[:, hosts].argmax(axis=0)
        began[hosts] = self._since[stronger, hosts]
        self._evidence[:, hosts], self._late[:, hosts], self._since[:, hosts] = 0.0, 0.0, self._number
        for number, _, ended in list(self._kept):
            after = began[ended.host] < number
            if after.any():
                yield Ended(**{name: values[after] for name, values in vars(ended).items()})

    def _common(self) -> float:
        """What three in four hosts have in common: all are slower, or faster, by this ratio at least; else 1."""
        count, total = self._late
        ratio = (total + _COMMON_REQUESTS) / (count + _COMMON_REQUESTS)
        low, high = np.quantile(ratio, [0.25, 0.75], method="nearest") if len(ratio) else (1.0, 1.0)
        return float(low if low > 1 else min(high, 1.0))


def _moved(ended: Ended, rows: Ints, columns: Ints) -> Ended:
    """The requests by their new places."""
    moved = {**vars(ended), "host": _place(ended.host, rows), "category": _place(ended.category, columns)}
    there = (moved["host"] >= 0) & (moved["category"] >= 0)
    return Ended(**{name: values[there] for name, values in moved.items()})


def _place(old: Ints, moved: Ints) -> Ints:
    """The new places of old ones, -1 where there is none; `moved` has the old place of each new one."""
    places = np.full(max(int(old.max(initial=-1)), int(moved.max(initial=-1))) + 1, -1, dtype=np.int64)
    places[moved[moved >= 0]] = np.flatnonzero(moved >= 0)
    return places[old]
