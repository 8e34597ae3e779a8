"""Measures how much slower or faster than predicted hosts and cells are: sums over cells, and shrunk ratios of them."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.routing.places import taken

# Requests that stand for what was predicted, of a host, and of a cell beside its host. Single service times scatter as
# much as their mean, predictions that are fairly good are off by a fifth: about 1 / 0.22^2.
HOST_REQUESTS, CELL_REQUESTS = 20.0, 20.0
# Hosts whose measurements it takes to believe that the scale of all predictions is off, and not these hosts.
SCALE_HOSTS = 8.0
# Log ratio of measured to predicted of which half is taken for an error of the prediction. Hosts change while they are
# measured, so a small difference is as likely old; a prediction that is ten times off is not off by chance.
_HALF_TAKEN = 0.4
# Requests that stand for what is predicted where it is asked what to expect, and not what to correct.
_BELIEVED = 5.0
MAX_FACTOR, _TINY = 100.0, 1e-12
# Levels of categories and factors of hosts depend on each other: so often they are found in turn.
_ROUNDS = 4


@dataclass(frozen=True)
class Ended:
    """Requests of one update, arrays of shape (n,).

    Attributes:
        host, category: their places.
        seconds: the latency.
        load: how many service times it must have taken, 1 without waiting.
        free: 1 if it found a free place, else 0.
        expected_s: the latency that was to be expected; NaN: not known.
    """

    host: Ints
    category: Ints
    seconds: Floats
    load: Floats
    free: Floats
    expected_s: Floats


class Sums:
    """Fading sums over the cells, shape (hosts, categories).

    Attributes:
        requests, seconds: their number, and the latencies' sum.
        load: how many service times each must have taken, by Little's law: more than one where it waited.
        free, free_seconds: of those that found a free place.
    """

    def __init__(self, hosts: int, categories: int) -> None:
        self.requests, self.seconds, self.load, self.free, self.free_seconds = np.zeros((5, hosts, categories))

    def add(self, sums: "Sums", keep: float | Floats) -> None:
        """Adds sums to what is left of these, of a shape that fits."""
        for name, more in vars(sums).items():
            setattr(self, name, keep * getattr(self, name) + more)

    def replace(self, hosts: Ints, sums: "Sums") -> None:
        """Takes the rows of some hosts from other sums."""
        for name, values in vars(sums).items():
            getattr(self, name)[hosts] = values[hosts]

    def move(self, factor: Floats) -> None:
        """Takes the latencies of every host to be so many times what they were, shape (hosts,).

        The further they are moved the less they count: an eighth where it is eight times.
        """
        count = np.minimum(factor, 1 / factor)[:, None]
        for name, values in vars(self).items():
            setattr(self, name, values * count)
        self.seconds, self.free_seconds = self.seconds * factor[:, None], self.free_seconds * factor[:, None]

    def unhindered(self) -> "Sums":
        """Only those that found a free place."""
        found = Sums(*self.free.shape)
        found.requests, found.load, found.free = self.free, self.free, self.free
        found.seconds, found.free_seconds = self.free_seconds, self.free_seconds
        return found

    def align(self, rows: Ints, columns: Ints) -> None:
        for name, values in vars(self).items():
            setattr(self, name, taken(taken(values, rows).T, columns).T)


def summed(ended: Ended, shape: tuple[int, ...]) -> Sums:
    sums, cell = Sums(*shape), ended.host * shape[1] + ended.category
    each = {"requests": None, "seconds": ended.seconds, "load": ended.load, "free": ended.free}
    for name, weights in {**each, "free_seconds": ended.seconds * ended.free}.items():
        total = np.bincount(cell, weights, sums.free.size).astype(np.float64)
        setattr(sums, name, total.reshape(shape))
    return sums


def expected_service(sums: Sums, service_s: Floats) -> Floats:
    """How long a request that need not wait takes, by what was measured of its cell, else of its host and category.

    Seconds, shape (hosts, categories); NaN where nothing was predicted, or the category was never measured.
    """
    known = np.isfinite(service_s)
    requests = np.where(known, sums.requests, 0.0).sum(axis=1)
    ratio = host_ratios(sums, service_s, requests, _BELIEVED)
    usual = service_s * np.exp(np.log(np.maximum(ratio, 1e-9)) * weight(requests, _BELIEVED))[:, None]
    free, seconds = np.where(known, sums.free, 0.0), np.where(known, sums.free_seconds, 0.0)
    some = free.sum(axis=0) > 0
    loads, took = np.where(some, free, np.where(known, sums.load, 0.0)), np.where(some, seconds, sums.seconds)
    expected = (loads * np.nan_to_num(usual)).sum(axis=0)
    usual = usual * np.where(expected > 0, took.sum(axis=0) / np.where(expected > 0, expected, 1.0), np.nan)
    return (seconds + _BELIEVED * usual) / (free + _BELIEVED)


def host_factors(sums: Sums, service_s: Floats, keep: float, prior_requests: Floats) -> Floats:
    """Measured over predicted of every host, shape (hosts,): drawn to 1, and about the fleet's median."""
    requests = keep * np.where(np.isfinite(service_s), sums.requests, 0.0).sum(axis=1)
    return shrunk(host_ratios(sums, service_s, requests, prior_requests), requests, prior_requests)


def host_ratios(sums: Sums, service_s: Floats, requests: Floats, prior_requests: Floats | float) -> Floats:
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
        level = over(for_level[0].sum(axis=0), (for_level[1] * factor[:, None]).sum(axis=0))
        served = (count * service * level).sum(axis=1)
        mean = over(served, count.sum(axis=1))
        waited = (load - count).sum(axis=1) * mean
        ratio = over(seconds.sum(axis=1), served + waited)
        ratio = np.where(judged, ratio / np.median(ratio[judged]), 1.0)
        factor = shrunk(ratio, requests, prior_requests)
    return ratio


def cell_factors(sums: Sums, service_s: Floats, host: Floats, keep: float) -> Floats:
    """Measured over predicted of every cell, shape (hosts, categories), drawn to its host's.

    By requests that found a free place alone: among those that waited, waiting for others hides what each one takes.
    """
    known = np.isfinite(service_s)
    free, seconds = np.where(known, sums.free, 0.0), np.where(known, sums.free_seconds, 0.0)
    expected = free * np.where(known, service_s, 0.0) * host[:, None]
    level = over(seconds.sum(axis=0), expected.sum(axis=0))
    ratio = over(seconds, expected * level)
    return host[:, None] * shrunk(ratio, keep * free, CELL_REQUESTS)


def scale_factors(sums: Sums, service_s: Floats, host: Floats, keep: float) -> Floats:
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
    by_category = np.log(np.maximum(over(seconds.sum(axis=0), expected.sum(axis=0)), 1e-9))
    whole = float((by_category * requests.sum(axis=0)).sum() / max(requests.sum(), 1e-9))
    of_host = weight(keep * requests.sum(axis=1), HOST_REQUESTS)
    of_cell = weight(keep * requests, CELL_REQUESTS)
    shared = of_host[:, None] * whole * SCALE_HOSTS / (SCALE_HOSTS + of_host.sum())
    beside = np.where(requests.sum(axis=0) > 0, by_category - whole, 0.0)
    return np.exp(shared + of_cell * beside * SCALE_HOSTS / (SCALE_HOSTS + of_cell.sum(axis=0)))


def shrunk(ratio: Floats, requests: Floats, prior_requests: Floats | float) -> Floats:
    """Ratios drawn to 1 by so many requests that say 1, and again where they are near it; monotone in the ratio.

    The fewer requests stand for what was predicted, since it is of before a change, the less.
    """
    half = _HALF_TAKEN * np.minimum(np.asarray(prior_requests) / HOST_REQUESTS, 1.0)
    most = np.log(MAX_FACTOR)
    logs = np.clip(np.log(np.maximum(ratio, 1 / MAX_FACTOR)), -most, most) * weight(requests, prior_requests)
    return np.exp(logs**3 / (logs**2 + half**2 + _TINY))


def weight(requests: Floats, prior_requests: Floats | float) -> Floats:
    return requests / (requests + prior_requests)


def over(above: Floats, below: Floats) -> Floats:
    """Ratios; 1 where there is nothing to divide by."""
    some = below > 0
    return np.where(some, above / np.where(some, below, 1.0), 1.0)
