"""The guard: what hosts did is weighed against what was predicted of them, and the table is corrected by it.

Pure: arrays in, corrections out, time passed in. The router feeds it from the proxies' access log, the simulator from
the requests that it simulates. Only how hosts differ within a category matters to the choice of a host, so only that is
judged. There are three remedies:

1. Success: a host that fails more than the others costs more, after a few requests.
2. Trust: the exponent of predicted throughput (`fingerpost.routing.exponent`). Bad predictions lose weight.
3. Factor: what remains between measured and predicted, by host and by cell, shrunk by empirical Bayes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.routing.exponent import compare, follow_trust, trusted_throughput
from fingerpost.routing.places import Places, taken

Bools = NDArray[np.bool_]

# Times in which evidence fades to 1/e: for factors and trust; for quick doubt; of successes and failures.
MEMORY_S, DOUBT_MEMORY_S, SUCCESS_MEMORY_S = 30.0, 5.0, 30.0
# Requests that stand for what was predicted, of a host, and of a cell beside its host. Single service times scatter as
# much as their mean, predictions that are fairly good are off by a fifth: about 1 / 0.22^2.
HOST_REQUESTS, CELL_REQUESTS = 20.0, 20.0
# Hosts whose measurements it takes to believe that the scale of all predictions is off, and not these hosts.
SCALE_HOSTS = 8.0
# Log ratio of measured to predicted of which half is taken for an error of the prediction. Hosts change while they are
# measured, so a small difference is as likely old; a prediction that is ten times off is not off by chance.
_HALF_TAKEN = 0.4
# Requests that stand for the fleet's success, and how many are remembered at the most: a host that has mended itself is
# used again after a few good ones, however many failed before.
SUCCESS_REQUESTS, SUCCESS_MOST = 3.0, 50.0
# Failures are often answered fast, and few of them are in flight: what success lacks counts by this power.
SUCCESS_POWER = 3.0
MAX_FACTOR, MAX_PENALTY = 100.0, 1000.0
# Of fewer requests that found a free place, or a smaller part of all, nothing is concluded on trust.
_MIN_REQUESTS, _MIN_FREE = 100.0, 0.2
# Levels of categories and factors of hosts depend on each other: so often they are found in turn.
_ROUNDS = 4
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
        success: share of the requests that succeed, of the fleet's median at the most, shape (hosts,).
    """

    trust: float
    factor: Floats
    success: Floats

    @property
    def cost_factor(self) -> Floats:
        """What slope and offset of the cost are multiplied by, shape (hosts, categories)."""
        penalty = np.minimum(np.maximum(self.success, 1e-9) ** -SUCCESS_POWER, MAX_PENALTY)
        return self.factor * penalty[:, None]


class _Sums:
    """Fading sums over the cells, shape (hosts, categories).

    Attributes:
        requests, seconds: their number, and the latencies' sum.
        load: how many service times each must have taken, by Little's law: more than one where it waited.
        free, free_seconds: of those that found a free place.
    """

    def __init__(self, hosts: int, categories: int) -> None:
        self.requests, self.seconds, self.load, self.free, self.free_seconds = np.zeros((5, hosts, categories))

    def add(self, sums: "_Sums", keep: float) -> None:
        for name, more in vars(sums).items():
            setattr(self, name, keep * getattr(self, name) + more)

    def unhindered(self) -> "_Sums":
        """Only those that found a free place."""
        found = _Sums(*self.free.shape)
        found.requests, found.load, found.free = self.free, self.free, self.free
        found.seconds, found.free_seconds = self.free_seconds, self.free_seconds
        return found

    def align(self, rows: Ints, columns: Ints) -> None:
        for name, values in vars(self).items():
            setattr(self, name, taken(taken(values, rows).T, columns).T)


class _Arm:
    """Evidence of one arm's predictions."""

    def __init__(self, hosts: int, categories: int, now_s: float) -> None:
        self.all, self.newest, self.at_s = _Sums(hosts, categories), _Sums(hosts, categories), now_s
        self.trust, self.fresh = 1.0, False


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
        self._good, self._failed = np.zeros((2, len(self.hosts)))
        self._places = Places(len(self.hosts))
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
            arm.all.align(rows, columns)
            arm.newest.align(rows, columns)
        self._good, self._failed = taken(self._good, rows), taken(self._failed, rows)
        self._places.align(rows)
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
        present = np.bincount(seen.host[good], seen.latency_s[good], len(self.hosts)) / max(elapsed_s, 1e-3)
        good &= seen.category >= 0
        host, category, seconds = seen.host[good], seen.category[good], seen.latency_s[good]
        found = np.where(np.isfinite(seen.inflight[good]), seen.inflight[good], present[host])
        rate = np.asarray(throughput_rps, dtype=np.float64)[host, category]
        self._places.observe(host, seconds * np.where(rate > 0, rate, np.nan), found, elapsed_s)
        places = self._places.of(np.asarray(slots, dtype=np.float64))[host]
        cell = host * len(self.categories) + category
        for number, name in enumerate(arms):
            by = seen.arm[good] == number
            of, added = self._arm(name, now_s), self._summed(cell[by], seconds[by], found[by], places[by])
            passed_s = max(now_s - of.at_s, 0.0)
            of.all.add(added, float(np.exp(-passed_s / MEMORY_S)))
            of.newest.add(added, float(np.exp(-passed_s / DOUBT_MEMORY_S)))
            of.at_s, of.fresh = now_s, of.fresh or bool(by.any())

    def correct(self, arm: str, throughput_rps: ArrayLike, slots: ArrayLike, now_s: float) -> Correction:
        """What becomes of an arm's predictions by what is known now; arguments as in `observe`."""
        rate = np.asarray(throughput_rps, dtype=np.float64)
        success = self._success(np.exp(-max(now_s - (self._at_s or now_s), 0.0) / SUCCESS_MEMORY_S))
        of = self._arms.get(arm)
        if of is None:
            return Correction(self._ceiling, np.ones(rate.shape), success)
        places = self._places.of(np.asarray(slots, dtype=np.float64))[:, None]
        usable = np.isfinite(rate) & (rate > 0)
        if of.fresh:
            of.fresh, of.trust = False, _trust(of, places / np.where(usable, rate, np.nan))
        trust = of.trust * self._ceiling
        keep = float(np.exp(-max(now_s - of.at_s, 0.0) / MEMORY_S))
        service_s = places / np.where(usable, trusted_throughput(rate, trust), np.nan)
        host = _host_factors(of.all, service_s, keep)
        factor = _cell_factors(of.all, service_s, host, keep) * _scale_factors(of.all, service_s, host, keep)
        return Correction(trust, np.clip(factor, 1 / MAX_FACTOR, MAX_FACTOR), success)

    def _arm(self, name: str, now_s: float) -> _Arm:
        if name not in self._arms:
            self._arms[name] = _Arm(len(self.hosts), len(self.categories), now_s)
            while len(self._arms) > _MAX_ARMS:
                del self._arms[min(self._arms, key=lambda each: self._arms[each].at_s)]
        return self._arms[name]

    def _summed(self, cell: Ints, seconds: Floats, found: Floats, places: Floats) -> _Sums:
        sums = _Sums(len(self.hosts), len(self.categories))
        free = (found < places).astype(np.float64)
        each = {"requests": None, "seconds": seconds, "load": np.maximum(1.0, (found + 1) / places), "free": free}
        for name, weights in {**each, "free_seconds": seconds * free}.items():
            total = np.bincount(cell, weights, sums.free.size).astype(np.float64)
            setattr(sums, name, total.reshape(sums.free.shape))
        return sums

    def _count(self, seen: Outcomes, elapsed_s: float) -> None:
        keep = float(np.exp(-elapsed_s / SUCCESS_MEMORY_S))
        hosts = len(self.hosts)
        failed = keep * self._failed + np.bincount(seen.host[seen.failed], minlength=hosts)
        good = keep * self._good + np.bincount(seen.host[~seen.failed], minlength=hosts)
        least = np.minimum(1.0, SUCCESS_MOST / np.maximum(good + failed, 1.0))
        self._good, self._failed = good * least, failed * least

    def _success(self, keep: float) -> Floats:
        """Shares of requests that succeed, drawn to the fleet's median, over the median."""
        good, count = keep * self._good, keep * (self._good + self._failed)
        known = count > 0
        usual = float(np.median(good[known] / count[known])) if known.any() else 1.0
        share = (good + SUCCESS_REQUESTS * usual) / (count + SUCCESS_REQUESTS)
        return np.minimum(1.0, share / usual) if usual > 0 else np.ones(len(good))


def _host_factors(sums: _Sums, service_s: Floats, keep: float) -> Floats:
    """Measured over predicted of every host, shape (hosts,): drawn to 1, and about the fleet's median."""
    requests = keep * np.where(np.isfinite(service_s), sums.requests, 0.0).sum(axis=1)
    return _shrunk(_host_ratios(sums, service_s, requests), requests, HOST_REQUESTS)


def _host_ratios(sums: _Sums, service_s: Floats, requests: Floats) -> Floats:
    """Ratios of the hosts, shape (hosts,), about their median, once every category has found its level; 1: unknown.

    A request waits for what is before it, of any category: as long as the host's mean service time, so many times.
    The levels are of requests that found a free place, where there are any.
    """
    known = np.isfinite(service_s)
    service = np.where(known, service_s, 0.0)
    count, load, seconds = (np.where(known, each, 0.0) for each in (sums.requests, sums.load, sums.seconds))
    free, free_seconds = (np.where(known, each, 0.0) for each in (sums.free, sums.free_seconds))
    some = free.sum(axis=0) > 0
    for_level = np.where(some, free_seconds, seconds), np.where(some, free, load) * service
    ratio, factor, judged = np.ones(len(service)), np.ones(len(service)), requests > 0
    for _ in range(_ROUNDS if judged.any() else 0):
        level = _over(for_level[0].sum(axis=0), (for_level[1] * factor[:, None]).sum(axis=0))
        served = (count * service * level).sum(axis=1)
        mean = _over(served, count.sum(axis=1))
        waited = (load - count).sum(axis=1) * mean
        ratio = _over(seconds.sum(axis=1), served + waited)
        ratio = np.where(judged, ratio / np.median(ratio[judged]), 1.0)
        factor = _shrunk(ratio, requests, HOST_REQUESTS)
    return ratio


def _cell_factors(sums: _Sums, service_s: Floats, host: Floats, keep: float) -> Floats:
    """Measured over predicted of every cell, shape (hosts, categories), drawn to its host's.

    By requests that found a free place alone: among those that waited, waiting for others hides what each one takes.
    """
    known = np.isfinite(service_s)
    free, seconds = np.where(known, sums.free, 0.0), np.where(known, sums.free_seconds, 0.0)
    expected = free * np.where(known, service_s, 0.0) * host[:, None]
    level = _over(seconds.sum(axis=0), expected.sum(axis=0))
    ratio = _over(seconds, expected * level)
    return host[:, None] * _shrunk(ratio, keep * free, CELL_REQUESTS)


def _scale_factors(sums: _Sums, service_s: Floats, host: Floats, keep: float) -> Floats:
    """What is left of the scale between measured and predicted for the cells that were measured, shape (H, C).

    Where few hosts have been measured, it is open whether the scale is everybody's, which does not matter, or theirs: a
    host that is predicted far too fast may get all requests, and have nobody beside it. That everybody's scale is right
    counts as much as so many hosts; so a host alone bears nearly all of it, and of many each bears little, and
    alike. The same for categories, beside the scale of all of them.
    """
    known = np.isfinite(service_s)
    requests = np.where(known, sums.requests, 0.0)
    seconds = np.where(known, sums.seconds, 0.0)
    expected = np.where(known, sums.load * np.where(known, service_s, 0.0), 0.0) * host[:, None]
    by_category = np.log(np.maximum(_over(seconds.sum(axis=0), expected.sum(axis=0)), 1e-9))
    whole = float((by_category * requests.sum(axis=0)).sum() / max(requests.sum(), 1e-9))
    of_host = _weight(keep * requests.sum(axis=1), HOST_REQUESTS)
    of_cell = _weight(keep * requests, CELL_REQUESTS)
    shared = of_host[:, None] * whole * SCALE_HOSTS / (SCALE_HOSTS + of_host.sum())
    beside = np.where(requests.sum(axis=0) > 0, by_category - whole, 0.0)
    return np.exp(shared + of_cell * beside * SCALE_HOSTS / (SCALE_HOSTS + of_cell.sum(axis=0)))


def _trust(of: _Arm, service_s: Floats) -> float:
    """Judges what is left of the predictions once hosts are corrected: of a few bad ones the others do not suffer."""
    if not _tells(of.all):
        return of.trust
    newest = of.newest if _tells(of.newest) else of.all
    known = np.isfinite(service_s)
    windows = []
    for sums in (of.all, newest):
        free = np.where(known, sums.free, 0.0)
        requests = free.sum(axis=1)
        factor = _shrunk(_host_ratios(sums.unhindered(), service_s, requests), requests, HOST_REQUESTS)
        windows.append(compare(service_s * factor[:, None], np.where(known, sums.free_seconds, 0.0), free))
    return follow_trust(windows[0], windows[1], of.trust)


def _tells(sums: _Sums) -> bool:
    """Whether trust can be judged by them: when the fleet is full, the few that find a free place are no sample."""
    return bool(sums.free.sum() >= max(_MIN_REQUESTS, _MIN_FREE * sums.requests.sum()))


def _shrunk(ratio: Floats, requests: Floats, prior_requests: float) -> Floats:
    """Ratios drawn to 1 by so many requests that say 1, and again where they are near it; monotone in the ratio."""
    most = np.log(MAX_FACTOR)
    logs = np.clip(np.log(np.maximum(ratio, 1 / MAX_FACTOR)), -most, most) * _weight(requests, prior_requests)
    return np.exp(logs**3 / (logs**2 + _HALF_TAKEN**2))


def _weight(requests: Floats, prior_requests: float) -> Floats:
    return requests / (requests + prior_requests)


def _over(above: Floats, below: Floats) -> Floats:
    """Ratios; 1 where there is nothing to divide by."""
    some = below > 0
    return np.where(some, above / np.where(some, below, 1.0), 1.0)


def _moved(before: Sequence[str], after: Sequence[str]) -> Ints:
    """The place of each name of `after` in `before`, -1 where it is new."""
    places = {name: place for place, name in enumerate(before)}
    return np.array([places.get(name, -1) for name in after], dtype=np.int64)
