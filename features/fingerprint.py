"""The fingerprints of a service's hosts, followed window by window, and the features that come of them."""

import numpy as np
from numpy.typing import NDArray

from features.definition import NUMERIC_FEATURES, QUANTITIES, TARGETS

MEDIAN_WINDOWS = 9
# The level follows each new window by this share of its distance, which is cut at LEVEL_CLIP (on a log scale).
LEVEL_GAIN = 0.06
LEVEL_CLIP = 0.3
_US = 1_000_000
_TINY = 1e-9

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Fingerprints:
    """Rolling profiles of every (host, category) cell of one service; knows only what `observe` has told it.

    Averages are exponentially weighted by time: an observation weighs half after `halflife_s`, and in proportion to
    its number of requests. Quantities are followed as logarithms, since latency and throughput vary by ratios.

    Args:
        hosts: number of hosts, H.
        categories: number of categories, C.
        window_s: length of a window, seconds.
        halflife_s: seconds.
    """

    def __init__(self, hosts: int, categories: int, window_s: float, halflife_s: float) -> None:
        self._window_s = window_s
        self._halflife_s = halflife_s
        cells = (hosts, categories)
        kinds = len(QUANTITIES)
        self._now_us = 0
        self._weight = np.zeros((kinds, *cells))
        self._sum = np.zeros((kinds, *cells))
        self._level = np.full((kinds, *cells), np.nan)
        self._now = np.full((kinds, hosts), np.nan)
        self._last = np.full((kinds, *cells), np.nan)
        self._recent = np.full((MEDIAN_WINDOWS, kinds, *cells), np.nan)
        self._median = np.full((kinds, *cells), np.nan)
        self._seen = np.zeros(cells, dtype=np.int64)
        self._seen_us = np.zeros(cells, dtype=np.int64)
        self._time_weight = 0.0
        self._traffic = np.zeros((4, *cells))  # requests, errors, bytes in, in-flight: sums over requests
        self._inflight_weight = np.zeros(cells)
        self._requests_now = np.zeros(cells)
        self._host_now = np.full((6, hosts), np.nan)  # as in `observe`
        self._host_util = np.zeros((2, hosts))  # weight, sum

    @property
    def now_us(self) -> int:
        """End of the last window observed, microseconds since 1970."""
        return self._now_us

    def observe(
        self,
        end_us: int,
        host: Ints,
        category: Ints,
        values: Floats,
        traffic: Floats,
        host_rows: Ints,
        host_values: Floats,
    ) -> None:
        """Takes in one window; windows come in order of time.

        Args:
            end_us: end of the window, microseconds since 1970, later than the last.
            host, category: indices of the cells that had requests, shape (n,).
            values: logs of QUANTITIES, shape (4, n), NaN where not known.
            traffic: requests, errors, mean bytes in, mean in-flight, shape (4, n).
            host_rows: indices of the hosts that were sampled, shape (m,).
            host_values: cpu_util, mem_share, inflight, background_cores, cores, slots, shape (6, m).

        Raises:
            ValueError: the window is not later than the last.
        """
        if end_us <= self._now_us:
            raise ValueError(f"window ending at {end_us} us comes after one ending at {self._now_us} us")
        self._decay(end_us)
        requests = traffic[0]
        known = np.isfinite(values)
        self._weight[:, host, category] += known * requests
        self._sum[:, host, category] += np.where(known, values, 0.0) * requests
        self._last[:, host, category] = np.where(known, values, self._last[:, host, category])
        slot = self._seen[host, category] % MEDIAN_WINDOWS
        self._recent[slot, :, host, category] = values.T
        recent = self._recent[:, :, host, category]
        any_known = np.isfinite(recent).any(axis=0)
        self._median[:, host, category] = np.where(
            any_known, np.nanmedian(np.where(any_known, recent, 0.0), axis=0), np.nan
        )
        self._now = self._off_level(host, category, values)
        self._follow_level(host, category, values)
        self._seen[host, category] += 1
        self._seen_us[host, category] = end_us
        self._time_weight += self._window_s
        inflight_known = np.isfinite(traffic[3])
        self._requests_now = np.zeros(self._seen.shape)
        self._requests_now[host, category] = requests
        self._traffic[0, host, category] += requests
        self._traffic[1, host, category] += traffic[1]
        self._traffic[2, host, category] += traffic[2] * requests
        self._traffic[3, host, category] += np.where(inflight_known, traffic[3], 0.0) * requests
        self._inflight_weight[host, category] += inflight_known * requests
        self._host_now[:, host_rows] = host_values
        self._host_util[0, host_rows] += 1.0
        self._host_util[1, host_rows] += host_values[0]

    def features(self, host: Ints, category: Ints) -> Floats:
        """NUMERIC_FEATURES of the given cells as of the last window, shape (n, features); NaN where not known."""
        ewma, fleet, host_level = self._levels()
        columns: list[Floats] = []
        for kind in range(len(QUANTITIES)):
            columns += [
                self._last[kind, host, category],
                ewma[kind, host, category],
                self._level[kind, host, category],
                self._median[kind, host, category],
                fleet[kind, category],
                host_level[kind, host],
                self._now[kind, host],
            ]
        requests = self._traffic[0, host, category]
        seen = self._seen[host, category] > 0
        columns += [
            requests / max(self._time_weight, _TINY),
            self._requests_now[host, category] / self._window_s,
            _share(self._traffic[1, host, category], requests),
            _share(self._traffic[2, host, category], requests),
            _share(self._traffic[3, host, category], self._inflight_weight[host, category]),
            np.where(seen, (self._now_us - self._seen_us[host, category]) / _US, np.nan),
        ]
        util, mem_share, inflight, background, cores, slots = self._host_now[:, host]
        columns += [
            util,
            _share(self._host_util[1, host], self._host_util[0, host]),
            mem_share,
            inflight,
            background,
            cores,
            slots,
            self._traffic[0].sum(axis=1)[host] / max(self._time_weight, _TINY),
            self._requests_now.sum(axis=1)[host] / self._window_s,
            np.full(len(host), self._requests_now.sum() / self._window_s),
        ]
        matrix = np.stack(columns, axis=1)
        if matrix.shape[1] != len(NUMERIC_FEATURES):
            raise AssertionError("features and their names have come apart")
        return matrix

    def naive(self, host: Ints, category: Ints) -> dict[str, Floats]:
        """The naive forecasts as logs: `last`, `ewma`, `median`, each of shape (targets, n).

        A cell never seen is forecast as its category is on the fleet, else as its host is, else as all are.
        """
        ewma, fleet, host_level = self._levels()
        count = len(TARGETS)
        overall = np.array([_mean(row) for row in fleet[:count]])[:, None]
        fill = np.where(np.isnan(fleet[:count, category]), overall, fleet[:count, category])
        fill = fill + np.nan_to_num(host_level[:count, host])
        views = {"last": self._last, "ewma": ewma, "median": self._median}
        return {
            name: np.where(np.isnan(view[:count, host, category]), fill, view[:count, host, category])
            for name, view in views.items()
        }

    def _follow_level(self, host: Ints, category: Ints, values: Floats) -> None:
        """A slow, robust level: the running median at first, then a recursive Huber location estimate.

        What one window can move it by is bounded, so rare slow requests do not; it remembers some 16 windows.
        """
        level = self._level[:, host, category]
        young = np.isnan(level) | (self._seen[host, category] < MEDIAN_WINDOWS)
        step = LEVEL_GAIN * np.clip(np.nan_to_num(values - level), -LEVEL_CLIP, LEVEL_CLIP)
        self._level[:, host, category] = np.where(young, self._median[:, host, category], level + step)

    def _off_level(self, host: Ints, category: Ints, values: Floats) -> Floats:
        """Mean over a window's cells of their distance from their level, by host, shape (kinds, H)."""
        off = np.full(self._sum.shape, np.nan)
        off[:, host, category] = values - self._level[:, host, category]
        return _nanmean(off, axis=2)

    def _levels(self) -> tuple[Floats, Floats, Floats]:
        """Cells' EWMAs (kinds, H, C); the fleet's mean of each category (kinds, C); each host's mean ratio to it."""
        ewma = _share(self._sum, self._weight)
        fleet = _nanmean(ewma, axis=1)
        return ewma, fleet, _nanmean(ewma - fleet[:, None, :], axis=2)

    def _decay(self, end_us: int) -> None:
        elapsed_s = (end_us - self._now_us) / _US if self._now_us else self._window_s
        factor = 0.5 ** (elapsed_s / self._halflife_s)
        for state in (self._weight, self._sum, self._traffic, self._inflight_weight, self._host_util):
            np.multiply(state, factor, out=state)
        # Time without windows counts too: a silent cell's rate falls.
        self._time_weight = self._time_weight * factor + max(0.0, elapsed_s - self._window_s)
        self._now_us = end_us


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > _TINY)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def _nanmean(values: Floats, axis: int) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
