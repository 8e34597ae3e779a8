"""What other designs than a switchback say where arms share hosts, held against what is true in a simulated fleet.

Requests queue for the places of hosts and are sent by the product's cost of two tables. The truth is what latency is
when one table routes all requests, less what it is when the other one does, of the same arrivals.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from fingerpost.abtest.offpolicy.estimate import evaluate_policy
from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US
from fingerpost.routing.cost import choice_probabilities, cost_at, cost_terms
from fingerpost.settings import Settings

_HOSTS, _CATEGORIES, _PLACES, _LOAD = 10, 4, 4, 0.7
_MEAN_S, _UNLIKE, _SPREAD = 0.05, 0.5, 0.6
# A request waits behind so many at most: more is an overload that no estimate here is for.
_MOST_INFLIGHT = 4096
# How far the predictions of the champion and of challengers are off: standard deviations of logs.
_CHAMPION_OFF, _CHALLENGERS_OFF = 0.4, (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
# How much of what follows a request counts for it in Differences-in-Qs, seconds.
HORIZONS_S = (0.1, 0.3, 1.0, 3.0)
_EXPLORATION = 0.01
_PRIOR = 20.0


@dataclass(frozen=True)
class Fleet:
    """A fleet and two tables for it.

    Args:
        service_s: mean service time, shape (hosts, categories).
        slope, offset: of the cost, shape (2, hosts, categories).
        rate_rps: requests a second.
    """

    service_s: Floats
    slope: Floats
    offset: Floats
    rate_rps: float


@dataclass(frozen=True)
class Arrivals:
    """Requests as they come: times in seconds, categories, service times as multiples of the mean; two draws each."""

    times_s: Floats
    category: Ints
    size: Floats
    explore: Floats
    pick: Floats


def make_fleet(off: float, rng: np.random.Generator) -> Fleet:
    """A fleet whose second table is off by this much, the first as the champion's."""
    service = _MEAN_S * np.exp(rng.normal(0, _UNLIKE, (_HOSTS, _CATEGORIES)))
    tables = []
    for each in (_CHAMPION_OFF, off):
        rate = _PLACES / service * np.exp(rng.normal(0, each, service.shape))
        tables.append(cost_terms(rate, _PLACES / rate, latency_weight=Settings().latency_weight))
    capacity = float((_PLACES / service.mean(axis=1)).sum())
    return Fleet(
        service, np.stack([each[0] for each in tables]), np.stack([each[1] for each in tables]), _LOAD * capacity
    )


def make_arrivals(fleet: Fleet, seconds: float, rng: np.random.Generator) -> Arrivals:
    """Poisson arrivals with log-normal sizes."""
    count = int(rng.poisson(fleet.rate_rps * seconds))
    size = np.exp(rng.normal(-(_SPREAD**2) / 2, _SPREAD, count))
    category = rng.integers(0, _CATEGORIES, count)
    return Arrivals(np.sort(rng.random(count)) * seconds, category, size, rng.random(count), rng.random(count))


def run(fleet: Fleet, arrivals: Arrivals, arm: Ints, exploration: float = 0.0) -> tuple[Ints, Floats, Ints]:
    """Sends each request by the table of its arm.

    Returns:
        Its host, its latency in seconds, and what it found in flight on each host, shape (n, hosts).
    """
    about = (arrivals.times_s, arrivals.category, arrivals.size, arrivals.explore, arrivals.pick)
    found: tuple[Ints, Floats, Ints] = _run(*about, arm, fleet.slope, fleet.offset, fleet.service_s, exploration)
    return found


@njit(cache=True)
def _run(times, category, size, explore, pick, arm, slope, offset, service, exploration):  # type: ignore[no-untyped-def]
    hosts = service.shape[0]
    free = np.zeros((hosts, _PLACES))
    ends = np.zeros((hosts, _MOST_INFLIGHT))
    load = np.zeros(hosts, np.int64)
    taken = np.zeros(len(times), np.int64)
    latency = np.zeros(len(times))
    seen = np.zeros((len(times), hosts), np.int64)
    for number in range(len(times)):
        now, kind, table = times[number], category[number], arm[number]
        for host in range(hosts):
            kept = 0
            for place in range(load[host]):
                if ends[host, place] > now:
                    ends[host, kept] = ends[host, place]
                    kept += 1
            load[host] = kept
            seen[number, host] = kept
        best, least = 0, np.inf
        for host in range(hosts):
            cost = slope[table, host, kind] * (load[host] + 1) + offset[table, host, kind]
            if cost < least:
                best, least = host, cost
        if explore[number] < exploration:
            best = int(pick[number] * hosts)
        place = free[best].argmin()
        begin = max(now, free[best, place])
        end = begin + size[number] * service[best, kind]
        free[best, place] = end
        if load[best] < _MOST_INFLIGHT:
            ends[best, load[best]] = end
            load[best] += 1
        taken[number], latency[number] = best, end - now
    return taken, latency, seen


def differences_in_qs(times_s: Floats, latency_s: Floats, arm: Ints, horizon_s: float) -> float:
    """How much more a request costs by the second table, with what it does to those that follow, seconds.

    The mean of what all requests of a horizon cost from a request on, of one arm less the other: Farias, Li, Peng and
    Zheng, Markovian interference in experiments, 2022, with truncated sums in place of a model of values. At a horizon
    of 0 it is the plain difference of arms.
    """
    centred = latency_s - latency_s.mean()
    total = np.concatenate(([0.0], np.cumsum(centred)))
    last = np.searchsorted(times_s, times_s + horizon_s, side="right")
    following = total[last] - total[: len(times_s)]
    inside = times_s <= times_s[-1] - horizon_s
    second = arm[inside] == 1
    return float(following[inside][second].mean() - following[inside][~second].mean())


def switchback(times_s: Floats, latency_s: Floats, arm: Ints, slot_s: float, washout_s: float) -> float:
    """Difference of arms that take turns, without what began within the wash-out, seconds."""
    counted = times_s % slot_s >= washout_s
    return float(latency_s[counted & (arm == 1)].mean() - latency_s[counted & (arm == 0)].mean())


def replay_forecast(fleet: Fleet, arrivals: Arrivals, host: Ints, latency_s: Floats, seen: Ints, seed: int) -> float:
    """The challenger's relative change of latency by the log: its arrivals go through both tables in a simulated fleet.

    Service times are those of logged requests that found a free place, by cell; cells with few lean on host and
    category. What the requests would really have taken is not looked at.
    """
    idle = seen[np.arange(len(host)), host] < _PLACES
    cell = host[idle] * _CATEGORIES + arrivals.category[idle]
    count = np.bincount(cell, minlength=_HOSTS * _CATEGORIES).reshape(_HOSTS, _CATEGORIES).astype(np.float64)
    total = np.bincount(cell, weights=np.log(latency_s[idle]), minlength=count.size).reshape(count.shape)
    overall = total.sum() / count.sum()
    by_host = (total.sum(axis=1) + _PRIOR * overall) / (count.sum(axis=1) + _PRIOR)
    by_category = (total.sum(axis=0) + _PRIOR * overall) / (count.sum(axis=0) + _PRIOR)
    usual = by_host[:, None] + by_category[None, :] - overall
    service = np.exp((total + _PRIOR * usual) / (count + _PRIOR) + _SPREAD**2 / 2)
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(-(_SPREAD**2) / 2, _SPREAD, len(host)))
    again = Arrivals(arrivals.times_s, arrivals.category, size, arrivals.explore, arrivals.pick)
    learned = Fleet(service, fleet.slope, fleet.offset, fleet.rate_rps)
    means = [run(learned, again, np.full(len(host), arm, np.int64))[1].mean() for arm in (0, 1)]
    return float(means[1] / means[0] - 1)


def off_policy_forecast(fleet: Fleet, arrivals: Arrivals, host: Ints, latency_s: Floats, seen: Ints) -> float | None:
    """The same by the product's doubly robust estimate, from explored requests; None: too few to say anything."""
    kind = arrivals.category
    chances = [
        choice_probabilities(cost_at(fleet.slope[arm][:, kind].T, fleet.offset[arm][:, kind].T, seen), _EXPLORATION)
        for arm in (0, 1)
    ]
    propensity = chances[0][np.arange(len(host)), host]
    times_us = np.round(arrivals.times_s * US).astype(np.int64)
    found = evaluate_policy(times_us, kind, host, latency_s, propensity, chances[1], reference=chances[0])
    return float(found.gain.value / latency_s.mean()) if found.gain is not None else None


def measure_interference(runs: int, seconds: float = 600.0) -> dict[str, Any]:
    """By challenger the truth and what each design says, relative changes of mean latency; then how far each is off."""
    settings, rows = Settings(), []
    for number in range(runs):
        off = _CHALLENGERS_OFF[number % len(_CHALLENGERS_OFF)]
        rng = np.random.default_rng(1000 + number)
        fleet = make_fleet(off, rng)
        arrivals = make_arrivals(fleet, seconds, rng)
        count, times_s = len(arrivals.times_s), arrivals.times_s
        whole = [run(fleet, arrivals, np.full(count, arm, np.int64))[1] for arm in (0, 1)]
        level = float(whole[0].mean())
        split = rng.integers(0, 2, count)
        latency_s = run(fleet, arrivals, split)[1]
        slots = rng.integers(0, 2, round(seconds / settings.experiment_slot_s / 2) + 1)
        slot = (times_s / settings.experiment_slot_s).astype(np.int64)
        turns = np.where(slot % 2 == 1, 1 - slots[slot // 2], slots[slot // 2])
        switched = run(fleet, arrivals, turns)[1]
        logged = run(fleet, arrivals, np.zeros(count, np.int64), _EXPLORATION)
        about = (settings.experiment_slot_s, settings.experiment_washout_s)
        said = {
            "hash split": differences_in_qs(times_s, latency_s, split, 0.0) / level,
            **{f"Q {each:g} s": differences_in_qs(times_s, latency_s, split, each) / level for each in HORIZONS_S},
            "switchback": switchback(times_s, switched, turns, *about) / level,
            "replay": replay_forecast(fleet, arrivals, *logged, seed=number),
            "off-policy": off_policy_forecast(fleet, arrivals, *logged),
        }
        rows.append({"truth": float(whole[1].mean() / level - 1), **said})
    return {"seconds": seconds, "runs": runs, "designs": _summary(rows), "rows": rows}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each design: how much of the truth it tells on average, and how far it is off."""
    truth = np.array([row["truth"] for row in rows])
    found = {}
    for name in rows[0]:
        if name == "truth":
            continue
        said = np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)
        known = np.isfinite(said)
        off, of = (said - truth)[known], truth[known]
        found[name] = {
            "said": int(known.sum()),
            # The slope through zero of what is said over what is true: 1 is unbiased.
            "told": round(float((said[known] @ of) / (of @ of)), 3) if known.any() else None,
            "off": round(float(np.sqrt(np.mean(np.square(off)))), 4) if known.any() else None,
            "right_sign": round(float((np.sign(said[known]) == np.sign(of)).mean()), 3) if known.any() else None,
        }
    return found
