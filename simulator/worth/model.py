"""Makes a simulated fleet out of a real one's traffic: places, service times, arrivals, as they were measured."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.fleet import TICK_S
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.worth.difference import Difference, difference
from fingerpost.simulator.worth.traffic import Traffic
from fingerpost.telemetry.throughput import unloaded_s

_TRIED = np.unique(np.concatenate([np.arange(1, 33), np.geomspace(32, 1024, 41).round()])).astype(np.float64)
_MAX_FOUND = 2048
# Of chi-squared: so much better must a number of places explain the times than no waiting, or than that of all hosts.
_EVIDENT = 20.0
_FEW, _ENOUGH = 30, 200
_QUANTILES = 500
# A run of the simulator: requests wanted, seconds at least and at most, and cells of its arrays.
_RUN_REQUESTS, _RUN_S, _WARM_S, _RUN_CELLS = 30_000, (30.0, 300.0), (60.0, 200.0), 20_000_000
_WARM_REQUESTS = 20.0
_BIN_REQUESTS = 25.0


@dataclass(frozen=True)
class Places:
    """Requests that each host serves at once.

    Attributes:
        count: shape (hosts,).
        source: `told` (by hosts or the user), `measured` (from how times grow with requests in flight), or `seen`: no
            host was seen full, and it is the most that was seen at once on any; the capacity is at least that.
    """

    count: Ints
    source: str


@dataclass(frozen=True)
class Measured:
    """What the traffic tells of the fleet.

    Attributes:
        service_s: of each request without waiting, seconds, shape (n,); those that `free` marks found a free place.
        scale: mean service time over exp(mean log), of each category, shape (categories,).
        quantiles: of service times as multiples of their mean, shape (categories, 500).
        waited: share of the requests that had to wait for a place.
    """

    traffic: Traffic
    places: Places
    service_s: Floats
    free: NDArray[np.bool_]
    difference: Difference
    scale: Floats
    quantiles: Floats
    waited: float


def measure(traffic: Traffic, slots: int | None = None) -> Measured:
    """Takes the waiting out of the times and tells how unlike the hosts are.

    A request counts if it found a free place: it did not wait. On hosts where hardly any did, what requests waited
    is taken off by the number that they found (`unloaded_s`).

    Args:
        slots: requests that every host serves at once; None: as hosts tell, else as the times show.
    """
    places, base = _places(traffic, slots), None
    if places.source == "measured":
        # Once more, now that it is known which requests did not wait.
        base = _cell_means(traffic, traffic.found < places.count[traffic.host])
        places = _places(traffic, slots, base)
    at = places.count[traffic.host].astype(np.float64)
    free = traffic.measured & (traffic.found < at)
    enough = np.bincount(traffic.host, free, len(traffic.hosts)) >= _FEW
    service, _ = unloaded_s(np.where(traffic.measured, traffic.took_s, np.nan), traffic.found, at, traffic.host)
    free |= traffic.measured & ~enough[traffic.host]
    shape = (len(traffic.hosts), len(traffic.categories))
    log_s = np.log(np.maximum(service[free], 1e-7))
    host, category = traffic.host[free], traffic.category[free]
    found = difference(log_s, host, category, shape)
    cell = host * shape[1] + category
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    mean = np.bincount(cell, log_s, shape[0] * shape[1]) / np.maximum(count, 1)
    mean = np.where(count >= _FEW, mean, found.log_s.ravel())
    ratio = np.exp(log_s - mean[cell])
    scale, quantiles = _scatter(ratio, category, shape[1])
    waited = float((traffic.measured & (traffic.found >= at)).sum() / traffic.measured.sum())
    return Measured(traffic, places, service, free, found, scale, quantiles, waited)


def _scatter(ratio: Floats, category: Ints, categories: int) -> tuple[Floats, Floats]:
    """Mean and quantiles of single times, as multiples of exp(mean log), by category; of rare ones those of all."""
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    scale, rows = np.empty(categories), np.empty((categories, _QUANTILES))
    everything = np.quantile(ratio, levels)
    order = np.argsort(category, kind="stable")
    for number, of in enumerate(np.split(order, np.searchsorted(category[order], np.arange(1, categories)))):
        own = len(of) >= _ENOUGH
        values = np.quantile(ratio[of], levels) if own else everything
        scale[number] = values.mean()
        rows[number] = values / values.mean()
    return scale, rows


def _cell_means(traffic: Traffic, chosen: NDArray[np.bool_]) -> Floats:
    """Mean time of the chosen requests of each cell; of cells with few, host's mean ratio x category's mean."""
    shape = (len(traffic.hosts), len(traffic.categories))
    use = chosen & traffic.measured
    cell = traffic.host[use] * shape[1] + traffic.category[use]
    count = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    total = np.bincount(cell, traffic.took_s[use], shape[0] * shape[1]).reshape(shape)
    category = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1)
    category = np.where(category > 0, category, total.sum() / max(count.sum(), 1))
    ratio = total.sum(axis=1) / np.maximum(count @ category, 1e-12)
    ratio = np.where(ratio > 0, ratio, 1.0)
    prior = ratio[:, None] * category
    return (total + 5 * prior) / (count + 5)


def _places(traffic: Traffic, slots: int | None, base_s: Floats | None = None) -> Places:
    """Finds how many requests hosts serve at once.

    With m places a request that found n takes (n + 1) / m times as long as with a free place, if that is more than 1:
    in a queue on average, on shared processors each.
    """
    hosts = len(traffic.hosts)
    if slots is not None:
        return Places(np.full(hosts, slots, dtype=np.int64), "told")
    if np.isfinite(traffic.slots).all():
        return Places(traffic.slots.round().astype(np.int64), "told")
    found = np.minimum(np.nan_to_num(traffic.found), _MAX_FOUND).astype(np.int64)
    use = traffic.measured
    if base_s is None:
        # Those that found few.
        few = np.array(
            [
                np.quantile(found[mine], 0.25) if (mine := use & (traffic.host == each)).any() else 0
                for each in range(hosts)
            ]
        )
        base_s = _cell_means(traffic, found <= few[traffic.host])
    width = int(found[use].max()) + 1
    at = traffic.host[use] * width + found[use]
    count = np.bincount(at, minlength=hosts * width).reshape(hosts, width).astype(np.float64)
    took = np.bincount(at, traffic.took_s[use], hosts * width).reshape(hosts, width)
    base = np.bincount(at, base_s[traffic.host, traffic.category][use], hosts * width).reshape(hosts, width)
    scatter = float(np.log(traffic.took_s[use] / base_s[traffic.host, traffic.category][use]).var())
    fitted = _fitted_places(count, took, base, scatter)
    known = np.isfinite(traffic.slots)
    if fitted is None and not known.any():
        most = np.array([np.flatnonzero(row >= 1)[-1] + 1 if row.any() else 1 for row in count])
        return Places(np.full(hosts, max(int(most.max()), 1), dtype=np.int64), "seen")
    usual = np.full(hosts, np.median(traffic.slots[known])) if fitted is None else fitted
    return Places(np.where(known, traffic.slots, usual).round().astype(np.int64), "measured")


def _fitted_places(count: Floats, took: NDArray[Any], base: NDArray[Any], scatter: float) -> Floats | None:
    """The number of places that fits all hosts' times best, and a host's own where that fits it much better.

    Args:
        count, took, base: requests, and sums of times and of times without waiting, shape (hosts, found).
        scatter: variance of the log of single times, by which a misfit is judged.

    Returns:
        Shape (hosts,); None: no waiting is evident.
    """
    found = np.arange(count.shape[1])
    ratio = np.log(np.where(count > 0, took / np.maximum(base, 1e-12), 1.0))
    total = np.maximum(count.sum(axis=1), 1)

    def misfit(growth: Floats) -> Floats:
        apart = ratio - np.log(growth)
        mean = (count * apart).sum(axis=1) / total
        return (count * (apart - mean[:, None]) ** 2).sum(axis=1)

    flat = misfit(np.ones(len(found)))
    tried = np.array([misfit(np.maximum(1.0, (found + 1) / places)) for places in _TRIED])
    common, own = int(tried.sum(axis=1).argmin()), tried.argmin(axis=0)
    least = _EVIDENT * scatter
    crowded = count[:, int(_TRIED[common]) :].sum()
    if flat.sum() - tried[common].sum() < least or crowded < _FEW:
        return None
    alone = tried[common] - tried.min(axis=0) > least
    return np.where(alone, _TRIED[own], _TRIED[common])


@dataclass(frozen=True)
class Stretch:
    """The busiest stretch of the traffic, which is simulated.

    Attributes:
        rate_rps: of the stretch; `mean_rps`: of everything.
        rates: in equal parts of `bin_s`.
        own_s: what the log has for its clients, durations of answered requests, seconds.
    """

    begin_s: float
    seconds: float
    rate_rps: float
    mean_rps: float
    bin_s: float
    rates: Floats
    own_s: Floats


def busiest(traffic: Traffic) -> Stretch:
    """Finds the busiest stretch that is as long as a run of the simulator."""
    begin = np.sort(traffic.begin_s)
    span = max(float(begin[-1]), 1.0)
    mean = len(begin) / span
    seconds = min(float(np.clip(_RUN_REQUESTS / mean, *_RUN_S)), span)
    bin_s = float(max(TICK_S, np.ceil(_BIN_REQUESTS / mean)))
    bins = max(int(seconds // bin_s), 1)
    bin_s = seconds / bins
    counts, _ = np.histogram(begin, bins=max(int(span // bin_s), bins), range=(0.0, max(span // bin_s, bins) * bin_s))
    sums = np.convolve(counts, np.ones(bins), "valid")
    first = int(sums.argmax())
    rates = counts[first : first + bins] / bin_s
    low, high = first * bin_s, first * bin_s + seconds
    within = (traffic.begin_s >= low) & (traffic.begin_s < high) & ~traffic.failed
    return Stretch(low, seconds, float(rates.mean()), mean, bin_s, rates, traffic.duration_s[within])


def scenario_of(measured: Measured, stretch: Stretch, log_s: Floats, slo_s: float) -> Scenario:
    """The scenario of one fleet that could be the measured one.

    Args:
        log_s: mean log service times, shape (hosts, categories): of `Difference.drawn`.
        slo_s: the p99 that a load must keep.
    """
    traffic = measured.traffic
    hosts, categories = log_s.shape
    ticks = _RUN_CELLS / (hosts * categories) * TICK_S
    duration_s = min(stretch.seconds, max(ticks / 2, 10.0))
    wanted_s = float(np.clip(_WARM_REQUESTS * hosts * categories / stretch.rate_rps, *_WARM_S))
    # Whole parts of the rates, the first of them a warm-up at their mean.
    calm = max(int(min(wanted_s, max(ticks / 2, 10.0)) // stretch.bin_s), 1)
    kept = max(int(duration_s // stretch.bin_s), 1)
    rates = stretch.rates[:kept]
    known = traffic.measured & np.isfinite(traffic.duration_s)
    network_s = float(np.clip(np.median((traffic.duration_s - traffic.took_s)[known]), 0.0, 0.05))
    return Scenario.model_validate(
        {
            "name": "worth",
            "fleet": {"kind": "matrix", "service_time_s": (np.exp(log_s) * measured.scale).T.tolist()},
            "slots": measured.places.count.tolist(),
            "service_time": {"kind": "empirical", "quantiles": measured.quantiles.tolist()},
            "mix": [{"weights": np.bincount(traffic.category, minlength=categories).tolist()}],
            "arrivals": {"kind": "rates", "rates": [float(rates.mean())] * calm + rates.tolist()},
            "network_rtt_s": network_s,
            "telemetry": {"hosts_tell": traffic.told},
            "warmup_s": calm * stretch.bin_s,
            "duration_s": kept * stretch.bin_s,
            "slo_s": slo_s,
        }
    )
