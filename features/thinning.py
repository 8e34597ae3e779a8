"""Thins training rows at random, so that those that are kept stand for a whole history.

The latest hours are kept whole as far as they fit, the rest is spread over all days: a model that sees only the latest
rows cannot learn what depends on the time of day. Every row has a draw that follows from its place and time alone, and
is kept where it lies under the share to keep: the same rows are kept whenever it is asked.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fingerpost.arrays import Bools, Floats, Ints
from fingerpost.clock import US

RECENT_HOURS = 6.0
# Hosts of a category in a window share a draw, up to about so many: choices among them can then be replayed.
_TOGETHER = 32
# Of fleets with more cells than this, few windows give rows, of each about as many as below: to compare hosts in one
# takes long, whatever the number of rows that are wanted.
_MANY_CELLS = 10_000
_ROWS_A_WINDOW = 512
# A date's share of what is trained on: four dates fill it.
_DATES = 4
_HOUR_US = 3600 * US
# Odd constants of SplitMix64 (Steele et al., Fast splittable pseudorandom number generators, 2014).
_GOLDEN, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Thinning:
    """How many rows of each hour are kept: an even part of those that are trained on, of the latest hours more.

    The share of a window falls as more windows of its hour come, and when it is none of the latest any more; it never
    rises. So what was kept of a date's beginning holds all that is to be kept of it later.

    Args:
        max_rows: about how many rows are trained on.
        recent_us: beginning of the latest hours, microseconds since 1970.
        recent_hours: how many these are.
    """

    max_rows: int
    recent_us: int
    recent_hours: float = RECENT_HOURS

    def shares(self, time_us: Ints) -> Floats:
        """The share of rows to keep at each row's time, shape (n,).

        Args:
            time_us: time of each row, shape (n,).
        """
        _, hour, count = np.unique(time_us // _HOUR_US, return_inverse=True, return_counts=True)
        older = self.max_rows / (24 * _DATES) / count[hour]
        latest = self.max_rows / max(self.recent_hours, 1.0) / count[hour]
        return np.minimum(1.0, np.where(time_us >= self.recent_us, np.maximum(latest, older), older))


class Draws:
    """Draws of the rows of a fleet.

    Args:
        hosts, categories: names; rows tell their places in these.
    """

    def __init__(self, hosts: Sequence[str], categories: Sequence[str]) -> None:
        panels = np.uint64(max(1, -(-len(hosts) // _TOGETHER)))
        self._host = name_hashes(hosts) % panels
        self._category = name_hashes(categories)
        self._many = len(hosts) * len(categories) > _MANY_CELLS

    def of(self, time_us: Ints, host: Ints, category: Ints) -> Floats:
        """The draw of each row, shape (n,): even in 0..1, the same for some hosts of a category in a window."""
        moment = _mixed(time_us.astype(np.uint64))
        draw = _unit(_mixed(self._category[category] + self._host[host]) ^ moment)
        if not self._many:
            return draw
        # Windows are drawn for the groups with the lowest draws: these are kept first, in few windows.
        _, window, rows = np.unique(time_us, return_inverse=True, return_counts=True)
        least = np.minimum(1.0, _ROWS_A_WINDOW / rows)[window]
        return np.where(draw < least, _unit(~moment) * least, draw)


def recent_from_us(last_us: int, recent_hours: float) -> int:
    """The beginning of the latest hours before a time, microseconds since 1970."""
    return last_us - round(recent_hours * 3600 * US)


def limits(draw: Floats, recent: Bools, max_rows: int) -> tuple[float, float]:
    """Limits under which draws lie of at most about `max_rows` rows: of those that are not recent, and of recent ones.

    Half of the rows are for either; what one does not need is for the other. A limit is the smallest draw that is left
    out, as bottom-k sampling has it (Cohen and Kaplan, Summarizing data using bottom-k sketches, 2007): given the
    limit, each row was kept with that probability.

    Args:
        draw: of each row, shape (n,).
        recent: whether it is of the latest hours, shape (n,).
    """
    count = int(recent.sum())
    older = max(max_rows // 2, max_rows - count)
    spare = max(0, older - (len(recent) - count))
    return _limit(draw[~recent], older), _limit(draw[recent], max_rows - older + spare)


def thinned(rows: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """Training rows, at most about so many of them, all times alike; those kept weigh accordingly more."""
    limit = _limit(rows["draw"].to_numpy(np.float64), max_rows)
    return kept(rows, np.full(len(rows), limit)) if limit < 1 else rows


def kept(rows: pd.DataFrame, limit: Floats) -> pd.DataFrame:
    """The rows whose draw lies under a limit, in order, with the `weight` that makes sums over them unbiased.

    Args:
        limit: of each row, shape (n,).
    """
    under = rows["draw"].to_numpy(np.float64) < limit
    weight = np.maximum(rows["weight"].to_numpy(np.float64), 1 / np.minimum(limit, 1.0))
    return rows.assign(weight=weight)[under].reset_index(drop=True)


def _limit(draw: Floats, most: int) -> float:
    return 1.0 if len(draw) <= most else float(np.partition(draw, most)[most])


def name_hashes(names: Sequence[str]) -> np.ndarray:
    """A number for each name, the same in every run, shape (names,)."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _unit(values: np.ndarray) -> Floats:
    return np.asarray((_mixed(values) >> np.uint64(11)) * 2.0**-53)


def _mixed(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _FIRST
        values = (values ^ (values >> np.uint64(27))) * _SECOND
    return np.asarray(values ^ (values >> np.uint64(31)))
