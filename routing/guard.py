"""The guard: what hosts did is weighed against what was predicted of them, and the table is corrected by it.

Pure: arrays in, corrections out, time passed in. The router feeds it from the proxies' access log, the simulator from
the requests that it simulates. Only how hosts differ within a category matters to the choice of a host, so only that is
judged. There are three remedies:

1. Success: a host that fails more than others do at the same categories costs more, after a few requests.
2. Trust: the exponent of predicted throughput (`fingerpost.routing.exponent`). Bad predictions lose weight.
3. Factor: what remains between measured and predicted, by host and by cell, shrunk by empirical Bayes.

A host that has changed (`fingerpost.routing.changes`) is judged by what it did since, and by that alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.routing.changes import HostChanges
from fingerpost.routing.exponent import compare, follow_trust, trusted_throughput
from fingerpost.routing.factors import (
    HOST_REQUESTS,
    MAX_FACTOR,
    Ended,
    Sums,
    cell_factors,
    expected_service,
    host_factors,
    host_ratios,
    over,
    scale_factors,
    shrunk,
    summed,
)
from fingerpost.routing.places import Places, taken
from fingerpost.routing.success import host_success

Bools = NDArray[np.bool_]

# Times in which evidence fades to 1/e: for factors and trust; for quick doubt; of successes and failures; of how many
# requests are on a host.
MEMORY_S, DOUBT_MEMORY_S, SUCCESS_MEMORY_S, _PRESENT_MEMORY_S = 30.0, 5.0, 30.0, 1.0
# Of a host that has just changed, what was predicted counts as so much less: it is of before. And what was measured
# since fades so fast at first: it may change back, and a host that is avoided is not seen to.
_CHANGED, _CHANGED_MEMORY_S, _SINCE_MEMORY_S = 0.9, 120.0, 8.0
# Requests of a host that are remembered at the most for its success: one that has mended itself is used again after a
# few good ones, however many failed before.
SUCCESS_MOST = 50.0
# Failures are often answered fast, and few of them are in flight: what success lacks counts by this power.
SUCCESS_POWER = 3.0
MAX_PENALTY = 1000.0
# Of fewer requests that found a free place, or a smaller part of all, nothing is concluded on trust.
_MIN_REQUESTS, _MIN_FREE = 100.0, 0.2
# Arms whose evidence is kept: an experiment has two, and there is one before and one after.
_MAX_ARMS = 4


@dataclass(frozen=True)
class Outcomes:
    """Requests that have ended, arrays of shape (n,).

    Attributes:
        host, category: places in the guard's hosts and categories; -1 where the guard knows no such category.
        latency_s: seconds the host took, waiting there included; NaN where nobody knows.
        inflight: requests on the host when it came, itself not counted; NaN where nobody knows.
        failed: the host failed it. Requests that say nothing of the host (client gone, 4xx) are left out.
        arm: place in the arms that `Guard.observe` is told; -1 where it was sent by none of them.
    """

    host: Ints
    category: Ints
    latency_s: Floats
    inflight: Floats
    failed: Bools
    arm: Ints


@dataclass(frozen=True)
class Correction:
    """What becomes of predictions.

    Attributes:
        trust: exponent of the predicted throughput, 0..1.
        factor: of the cost, above 1 where a cell is slower than predicted, shape (hosts, categories).
        success: share of the requests that succeed, over that of the same categories elsewhere, at most 1, shape
            (hosts,).
    """

    trust: float
    factor: Floats
    success: Floats

    @property
    def cost_factor(self) -> Floats:
        """What slope and offset of the cost are multiplied by, shape (hosts, categories)."""
        penalty = np.minimum(np.maximum(self.success, 1e-9) ** -SUCCESS_POWER, MAX_PENALTY)
        return self.factor * penalty[:, None]


class _Arm:
    """Evidence of one arm's predictions.

    Attributes:
        all, newest: evidence that fades slowly, and quickly; moved where predictions changed (`follow`).
        measured: as `all`, but never moved: what a host has been like, whatever was predicted of it.
        expected_s: latency of a request that need not wait, by predictions and evidence, shape (hosts, categories).
        changed: 1 for hosts that have just changed, fading to 0, shape (hosts,).
        rate: predictions that it was last corrected by, shape (hosts, categories); None: there were none.
    """

    def __init__(self, hosts: int, categories: int, now_s: float) -> None:
        self.all, self.newest, self.measured = (Sums(hosts, categories) for _ in range(3))
        self.at_s = now_s
        self.trust, self.fresh, self.changes = 1.0, False, HostChanges(hosts)
        self.expected_s, self.changed = np.full((hosts, categories), np.nan), np.zeros(hosts)
        self.rate: Floats | None = None

    @property
    def prior_requests(self) -> Floats:
        """Requests that stand for what was predicted of each host, shape (hosts,)."""
        return HOST_REQUESTS * (1 - _CHANGED * self.changed)

    def align(self, rows: Ints, columns: Ints) -> None:
        for sums in (self.all, self.newest, self.measured):
            sums.align(rows, columns)
        self.changes.align(rows, columns)
        self.expected_s = taken(taken(self.expected_s, rows).T, columns).T
        self.expected_s[self.expected_s == 0] = np.nan
        self.changed, self.rate = taken(self.changed, rows), None

    def follow(self, rate: Floats, places: Floats, trust: float) -> None:
        """Takes note of other predictions: what they say of a host is never held against them.

        What was measured while a host was predicted to be slow, or before, is no evidence against a prediction that it
        has recovered: nobody has tried it since. So evidence goes along where predictions would move away from it, and
        counts less.

        Args:
            rate: predictions now in force, shape (hosts, categories).
            places: requests hosts work on at once, shape (hosts, 1); trust: the exponent of what is predicted.
        """
        before, self.rate = self.rate, rate
        if before is None or np.array_equal(before, rate, equal_nan=True):
            return
        logs = []
        for each in (before, rate):
            service_s = _service(each, places, trust)
            requests = np.where(np.isfinite(service_s), self.all.requests, 0.0).sum(axis=1)
            ratio = host_ratios(self.all, service_s, requests, self.prior_requests)
            logs.append(np.log(np.maximum(ratio, 1 / MAX_FACTOR)))
        moved = np.exp(np.clip(logs[1], np.minimum(logs[0], 0.0), np.maximum(logs[0], 0.0)) - logs[1])
        for sums in (self.all, self.newest):
            sums.move(moved)

    def add(self, ended: Ended, now_s: float) -> Ints:
        """Adds requests; of hosts that have changed, which it gives back, only those since then are kept."""
        passed_s = max(now_s - self.at_s, 0.0)
        fading = (1 - self.changed) / MEMORY_S + self.changed / _SINCE_MEMORY_S
        keep, added = np.exp(-passed_s * fading)[:, None], summed(ended, self.expected_s.shape)
        self.all.add(added, keep)
        self.measured.add(added, keep)
        self.newest.add(added, float(np.exp(-passed_s / DOUBT_MEMORY_S)))
        self.changed *= float(np.exp(-passed_s / _CHANGED_MEMORY_S))
        self.at_s, self.fresh = now_s, self.fresh or bool(len(ended.host))
        changed = self.changes.observe(ended, now_s)
        if not len(changed):
            return changed
        since = Sums(*self.expected_s.shape)
        for each in self.changes.since_change(changed):
            since.add(summed(each, self.expected_s.shape), 1.0)
        for sums in (self.all, self.newest, self.measured):
            sums.replace(changed, since)
        self.changed[changed] = 1.0
        return changed


class Guard:
    """Follows outcomes, and corrects predictions by them.

    Evidence on speed is kept by arm, so that a challenger begins anew and the champion's is not lost; success is the
    hosts' own. Without evidence everything fades to no correction, so that no host is condemned for ever.

    Args:
        hosts, categories: names; `align` changes them.
        ceiling: the most trust there is, 0..1.
    """

    def __init__(self, hosts: Sequence[str], categories: Sequence[str], ceiling: float = 1.0) -> None:
        self.hosts, self.categories, self._ceiling = tuple(hosts), tuple(categories), ceiling
        self._arms: dict[str, _Arm] = {}
        # Requests and failures that fade; in the last column those of categories that are not known.
        self._requests, self._failed = np.zeros((2, len(self.hosts), len(self.categories) + 1))
        self._places = Places(len(self.hosts))
        # Seconds that requests have been on each host, and in how many, which fade.
        self._present, self._passed_s = np.zeros(len(self.hosts)), 0.0
        self._at_s: float | None = None

    @property
    def trusts(self) -> dict[str, float]:
        """The exponent of every arm that is remembered."""
        return {name: arm.trust * self._ceiling for name, arm in self._arms.items()}

    def align(self, hosts: Sequence[str], categories: Sequence[str]) -> None:
        """Goes on with other hosts and categories; those that stay keep their evidence."""
        names, kinds = tuple(hosts), tuple(categories)
        if (names, kinds) == (self.hosts, self.categories):
            return
        rows, columns = _moved(self.hosts, names), _moved(self.categories, kinds)
        for arm in self._arms.values():
            arm.align(rows, columns)
        kept = np.append(columns, len(self.categories))
        self._requests, self._failed = (taken(taken(each, rows).T, kept).T for each in (self._requests, self._failed))
        self._places.align(rows)
        self._present = taken(self._present, rows)
        self.hosts, self.categories = names, kinds

    def observe(
        self, seen: Outcomes, arms: Sequence[str], throughput_rps: ArrayLike, slots: ArrayLike, now_s: float
    ) -> None:
        """Adds what has ended since the last call.

        Args:
            arms: names of the arms that `seen` has places of.
            throughput_rps: predictions in force, shape (hosts, categories); not above 0 or not finite: none.
            slots: requests a host works on at once, shape (hosts,); NaN where it does not tell.
            now_s: of any clock that only goes forward.
        """
        elapsed_s = 1.0 if self._at_s is None else max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        self._count(seen, elapsed_s)
        good = ~seen.failed & (seen.latency_s > 0) & np.isfinite(seen.latency_s)
        # Little's law: the mean number of requests on a host is rate x latency.
        keep = float(np.exp(-elapsed_s / _PRESENT_MEMORY_S))
        self._passed_s = keep * self._passed_s + max(elapsed_s, 1e-3)
        self._present = keep * self._present + np.bincount(seen.host[good], seen.latency_s[good], len(self.hosts))
        good &= seen.category >= 0
        host, category, seconds = seen.host[good], seen.category[good], seen.latency_s[good]
        # Without the request's own part: else one that takes long by chance seems to have found many others.
        others = np.maximum(self._present[host] - seconds, 0.0) / self._passed_s
        found = np.where(np.isfinite(seen.inflight[good]), seen.inflight[good], others)
        arm = seen.arm[good]
        rate = np.asarray(throughput_rps, dtype=np.float64)[host, category]
        of_hosts = self._places.of(np.asarray(slots, dtype=np.float64))
        self._places.observe(host, seconds * np.where(rate > 0, rate, np.nan), found, elapsed_s)
        places = of_hosts[host]
        load, free = np.maximum(1.0, (found + 1) / places), (found < places).astype(np.float64)
        for number, name in enumerate(arms):
            by, of = arm == number, self._arm(name, now_s)
            expected_s = _expected(of, host[by], category[by], load[by])
            changed = of.add(Ended(host[by], category[by], seconds[by], load[by], free[by], expected_s), now_s)
            self._places.keep(changed, of_hosts)

    def correct(self, arm: str, throughput_rps: ArrayLike, slots: ArrayLike, now_s: float) -> Correction:
        """What becomes of an arm's predictions by what is known now; arguments as in `observe`."""
        rate = np.asarray(throughput_rps, dtype=np.float64)
        faded = np.exp(-max(now_s - (self._at_s or now_s), 0.0) / SUCCESS_MEMORY_S)
        success = np.minimum(host_success(faded * self._requests, faded * self._failed), 1.0)
        of = self._arms.get(arm)
        if of is None:
            return Correction(self._ceiling, np.ones(rate.shape), success)
        places = self._places.of(np.asarray(slots, dtype=np.float64))[:, None]
        told = bool(np.isfinite(np.asarray(slots, dtype=np.float64)).all())
        usable = np.isfinite(rate) & (rate > 0)
        if of.fresh:
            of.fresh, of.trust = False, _trust(of, places / np.where(usable, rate, np.nan), told)
        trust = of.trust * self._ceiling
        of.follow(rate, places, trust)
        keep = float(np.exp(-max(now_s - of.at_s, 0.0) / MEMORY_S))
        service_s = _service(rate, places, trust)
        host = host_factors(of.all, service_s, keep, of.prior_requests)
        of.expected_s = expected_service(of.measured, service_s)
        factor = cell_factors(of.all, service_s, host, keep) * scale_factors(of.all, service_s, host, keep)
        return Correction(trust, np.clip(factor, 1 / MAX_FACTOR, MAX_FACTOR), success)

    def _arm(self, name: str, now_s: float) -> _Arm:
        if name not in self._arms:
            self._arms[name] = _Arm(len(self.hosts), len(self.categories), now_s)
            while len(self._arms) > _MAX_ARMS:
                del self._arms[min(self._arms, key=lambda each: self._arms[each].at_s)]
        return self._arms[name]

    def _count(self, seen: Outcomes, elapsed_s: float) -> None:
        keep, shape = float(np.exp(-elapsed_s / SUCCESS_MEMORY_S)), self._requests.shape
        cell = seen.host * shape[1] + np.where(seen.category >= 0, seen.category, shape[1] - 1)
        requests = keep * self._requests + np.bincount(cell, minlength=self._requests.size).reshape(shape)
        failed = keep * self._failed + np.bincount(cell[seen.failed], minlength=self._failed.size).reshape(shape)
        least = np.minimum(1.0, SUCCESS_MOST / np.maximum(requests.sum(axis=1, keepdims=True), 1.0))
        self._requests, self._failed = requests * least, failed * least


def _service(rate: Floats, places: Floats, trust: float) -> Floats:
    """Predicted seconds of a request that need not wait, shape (hosts, categories); NaN where nothing is predicted."""
    usable = np.isfinite(rate) & (rate > 0)
    return np.asarray(places / np.where(usable, trusted_throughput(rate, trust), np.nan))


def _expected(of: _Arm, host: Ints, category: Ints, load: Floats) -> Floats:
    """Latencies to be expected of requests; those that wait do so for requests of all the host's categories."""
    known = np.where(np.isfinite(of.expected_s), of.measured.requests, 0.0)
    mean = over((known * np.nan_to_num(of.expected_s)).sum(axis=1), known.sum(axis=1))
    return of.expected_s[host, category] + (load - 1) * mean[host]


def _trust(of: _Arm, service_s: Floats, told: bool) -> float:
    """Judges what is left of the predictions once hosts are corrected: of a few bad ones the others do not suffer."""
    if not _tells(of.all):
        return of.trust
    newest = of.newest if _tells(of.newest) else of.all
    known = np.isfinite(service_s)
    windows = []
    for sums in (of.all, newest):
        free = np.where(known, sums.free, 0.0)
        requests = free.sum(axis=1)
        prior = of.prior_requests
        factor = shrunk(host_ratios(sums.unhindered(), service_s, requests, prior), requests, prior)
        windows.append(compare(service_s * factor[:, None], np.where(known, sums.free_seconds, 0.0), free))
    return follow_trust(windows[0], windows[1], of.trust, told)


def _tells(sums: Sums) -> bool:
    """Whether trust can be judged by them: when the fleet is full, the few that find a free place are no sample."""
    return bool(sums.free.sum() >= max(_MIN_REQUESTS, _MIN_FREE * sums.requests.sum()))


def _moved(before: Sequence[str], after: Sequence[str]) -> Ints:
    """The place of each name of `after` in `before`, -1 where it is new."""
    places = {name: place for place, name in enumerate(before)}
    return np.array([places.get(name, -1) for name in after], dtype=np.int64)
