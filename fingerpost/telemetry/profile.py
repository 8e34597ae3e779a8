"""Rolling profiles of every category on one host."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, safe_ratio
from fingerpost.request_status import failed, measures
from fingerpost.telemetry.decay import ForwardDecay
from fingerpost.telemetry.sketch import LatencySketches

# Weighted sums kept of each category: how many requests, of which failed or were measured; of the latter, value and
# weight of what may be unknown.
_SUMS = (
    "requests",
    "errors",
    "measured",
    "cpu",
    "cpu_known",
    "mem",
    "mem_known",
    "latency",
    "latency_known",
    "unloaded",
    "unloaded_known",
    "inflight",
)
_MIN_WEIGHT = 1e-9


@dataclass(frozen=True)
class Observations:
    """Requests that ended, as columns of shape (n,); NaN where a value is not known.

    Args:
        time_s: when each ended, seconds of the profile's clock.
        category: indices.
        status: see `fingerpost.request_status`: what is not measured counts as a request, and where it failed as an
        error.
        duration_s, cpu_s: seconds.
        unloaded_s, unloaded_weight: of `fingerpost.telemetry.throughput.unloaded_s`.
        mem_bytes: held by it.
        inflight: requests on the host when it was sent.
    """

    time_s: Floats
    category: NDArray[np.intp]
    status: Floats
    duration_s: Floats
    unloaded_s: Floats
    unloaded_weight: Floats
    cpu_s: Floats
    mem_bytes: Floats
    inflight: Floats

    def measured(self) -> "Observations":
        """Those that tell what their category costs."""
        chosen = measures(self.status)
        return Observations(**{name: values[chosen] for name, values in vars(self).items()})


class Profile:
    """Exponentially weighted profiles, by the time of the requests and not by their order or number.

    Args:
        categories: number of categories, C.
        halflife_s: age at which a request weighs half.
        began_s: since when requests have been observed, seconds of any one clock.
    """

    def __init__(self, categories: int, halflife_s: float, began_s: float) -> None:
        self._halflife_s = halflife_s
        self._decay = ForwardDecay(halflife_s, began_s)
        self._sums = np.zeros((len(_SUMS), categories))
        self._inflight_known = np.zeros(categories)
        self._sketches = LatencySketches(categories)
        self._last_s = np.full(categories, -np.inf)

    def add(self, seen: Observations) -> None:
        """Takes requests in."""
        if not seen.time_s.size:
            return
        self._stay_in_range(float(seen.time_s.max()))
        weight = self._decay.weight(seen.time_s)
        for name, counted in (("requests", weight), ("errors", failed(seen.status) * weight)):
            self._add(name, seen.category, counted)
        np.maximum.at(self._last_s, seen.category, seen.time_s)
        seen, weight = seen.measured(), weight[measures(seen.status)]
        for name, values in self._addends(seen).items():
            known = np.isfinite(values)
            self._add(name, seen.category[known], (values * weight)[known])
        for name, values in (
            ("cpu_known", seen.cpu_s),
            ("mem_known", seen.mem_bytes),
        ):
            self._add(name, seen.category, np.isfinite(values) * weight)
        self._add("unloaded_known", seen.category, np.isfinite(seen.unloaded_s) * seen.unloaded_weight * weight)
        timed = np.isfinite(seen.duration_s)
        self._add("latency_known", seen.category, timed * weight)
        self._inflight_known += self._totals(seen.category, np.isfinite(seen.inflight) * weight)
        self._sketches.add(seen.category[timed], seen.duration_s[timed], weight[timed])

    def columns(self, now_s: float) -> dict[str, Floats]:
        """The profile as of now, each column of shape (C,); NaN where nothing is known.

        `requests` (decayed number), `rate_rps`, `error_rate`, `measured` (how many of them all that follows is of),
        `latency_mean_s`, `latency_p50_s`, `latency_p99_s`, `unloaded_s`, `cpu_s` and `mem_bytes` a request as measured,
        `cpu_known` (share with known CPU), `inflight_mean`; `age_s` (since the last request).
        """
        self._stay_in_range(now_s)
        present = float(self._decay.weight(now_s))
        sums = dict(zip(_SUMS, self._sums / present, strict=True))
        requests, measured = (np.where(sums[name] > _MIN_WEIGHT, sums[name], 0.0) for name in ("requests", "measured"))
        quantiles = self._sketches.quantiles([0.5, 0.99])
        seen = measured > 0
        return {
            "requests": requests,
            "rate_rps": requests * self._decay.per_second(now_s),
            "error_rate": safe_ratio(sums["errors"], requests),
            "measured": measured,
            "latency_mean_s": safe_ratio(sums["latency"], sums["latency_known"]),
            "latency_p50_s": np.where(seen, quantiles[:, 0], np.nan),
            "latency_p99_s": np.where(seen, quantiles[:, 1], np.nan),
            "unloaded_s": safe_ratio(sums["unloaded"], sums["unloaded_known"]),
            "cpu_s": safe_ratio(sums["cpu"], sums["cpu_known"]),
            "cpu_known": np.nan_to_num(safe_ratio(sums["cpu_known"], measured)),
            "mem_bytes": safe_ratio(sums["mem"], sums["mem_known"]),
            "inflight_mean": safe_ratio(sums["inflight"], self._inflight_known / present),
            "age_s": np.where(np.isfinite(self._last_s), now_s - self._last_s, np.nan),
        }

    def cpu_known(self) -> tuple[Floats, float]:
        """The share of measured requests whose CPU is known, of each category, shape (C,), and of all; 0 of none."""
        known, measured = (self._sums[_SUMS.index(name)] for name in ("cpu_known", "measured"))
        return np.nan_to_num(safe_ratio(known, measured)), float(known.sum() / max(measured.sum(), _MIN_WEIGHT))

    def present(self, now_s: float) -> float:
        """The mean number of requests that were there at once, by Little's law: the time they took, in a second."""
        took_s = float(self._sums[_SUMS.index("latency")].sum()) / float(self._decay.weight(now_s))
        return took_s * self._decay.per_second(now_s)

    def folded(self, new_index: Sequence[int], categories: int) -> "Profile":
        """The same profile over other categories.

        Args:
            new_index: for each of our categories the one of the new that takes its requests.
            categories: number of new categories.
        """
        new = Profile(categories, self._halflife_s, 0.0)
        new._decay = self._decay
        target = np.asarray(new_index, dtype=np.intp)
        for row, sums in zip(new._sums, self._sums, strict=True):
            np.add.at(row, target, sums)
        np.add.at(new._inflight_known, target, self._inflight_known)
        np.add.at(new._sketches.weights, target, self._sketches.weights)
        np.maximum.at(new._last_s, target, self._last_s)
        return new

    @staticmethod
    def _addends(seen: Observations) -> dict[str, Floats]:
        return {
            "measured": np.ones(seen.time_s.size),
            "cpu": seen.cpu_s,
            "mem": seen.mem_bytes,
            "latency": seen.duration_s,
            "unloaded": seen.unloaded_s * seen.unloaded_weight,
            "inflight": seen.inflight,
        }

    def _add(self, name: str, category: NDArray[np.intp], values: Floats) -> None:
        self._sums[_SUMS.index(name)] += self._totals(category, values)

    def _totals(self, category: NDArray[np.intp], values: Floats) -> Floats:
        return totals(category, values, self._sums.shape[1])

    def _stay_in_range(self, now_s: float) -> None:
        factor = self._decay.rescaling(now_s)
        if factor is not None:
            for state in (self._sums, self._inflight_known, self._sketches.weights):
                np.multiply(state, factor, out=state)


def totals(category: NDArray[np.intp], values: ArrayLike, count: int) -> Floats:
    """Sums of values by category, shape (count,)."""
    return np.bincount(category, weights=np.asarray(values), minlength=count).astype(np.float64)
