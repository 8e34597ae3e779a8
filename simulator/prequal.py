"""Prequal (Wydrowski et al., "Load is not what you should balance: Introducing Prequal", NSDI 2024), compiled.

`mine` is the picker's columns, `pool` its probes, `rifs` the RIFs it remembers; see `fingerpost.simulator.state`.
"""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, draw_host, uniform
from fingerpost.simulator.state import (
    HELD,
    INFLIGHT,
    MAX_UNDER_WAY,
    MEDIAN,
    MEDIAN_AT,
    OLDEST_NEXT,
    POOL,
    PROBE_AT,
    PROBE_HOST,
    PROBE_LATENCY,
    PROBE_RIF,
    PROBE_USES,
    REMEMBERED,
    RIF_BUCKETS,
    RIF_HISTORY,
    RIF_SAMPLES,
    SAMPLE_COUNT,
    UP,
    WAY_COUNT,
    WAY_HEAD,
    WAY_HOST,
    WAY_LATENCY,
    WAY_PICKER,
    WAY_RIF,
    WAY_TIME,
)

_PROBES = 3
_Q_RIF = 2.0**-0.25
_MAX_AGE_S = 1.0
_DELTA = 1.0
_REMOVE = 1.0
# Latency samples of a RIF not seen for so long no longer describe the host.
_FRESH_S = 10.0


@compiled
def prequal(up: Ints, mine: Floats, pool: Floats, rifs: Ints, now: float, random: Ints) -> int:
    """Hot-cold lexicographic choice from the pool; then the pool is thinned.

    A probe whose RIF is above the Q_RIF = 2^-0.25 quantile of recently probed RIFs is hot. If all are hot the least RIF
    wins, else the cold one of least latency. Pool of 16, at most a second old; with fewer than 2 probes a random host.
    Each request sends 3 probes to different random hosts and removes one probe, in turn the oldest and the worst; a
    probe may be used `max(1, (1 + delta) / ((1 - m/n) r_probe - r_remove))` times, delta = 1, fractions rounded at
    random. The chosen host's RIF in the pool goes up by one, for the request just sent.
    """
    at = 0
    while at < mine[HELD]:
        if now - pool[at, PROBE_AT] > _MAX_AGE_S or not up[int(pool[at, PROBE_HOST])]:
            _remove(mine, pool, at)
        else:
            at += 1
    held = int(mine[HELD])
    if held < 2:
        host = draw_host(up, random)
    else:
        at = _best(pool[:held], _threshold(mine, rifs))
        host = int(pool[at, PROBE_HOST])
        pool[at, PROBE_USES] -= 1
        for each in range(held):
            if pool[each, PROBE_HOST] == host:
                pool[each, PROBE_RIF] += 1
        if pool[at, PROBE_USES] <= 0:
            _remove(mine, pool, at)
    held = int(mine[HELD])
    if held > 0:
        oldest = mine[OLDEST_NEXT] > 0
        mine[OLDEST_NEXT] = 0.0 if oldest else 1.0
        threshold = _threshold(mine, rifs)
        _remove(mine, pool, _oldest(pool[:held]) if oldest else _worst(pool[:held], threshold))
    return host


@compiled
def prequal_probe(
    up: Ints,
    picker: int,
    hosts_i: Ints,
    latencies: Floats,
    way: Floats,
    counters: Ints,
    now: float,
    rtt: float,
    random: Ints,
) -> None:
    """Sends a request's three probes; what hosts answer is known a round trip later. A lost host does not answer."""
    first, second = -1, -1
    for number in range(_PROBES):
        host = draw_host(up, random)
        for _ in range(16):
            if host not in (first, second):
                break
            host = draw_host(up, random)
        if host < 0 or host in (first, second):
            return
        if number == 0:
            first = host
        else:
            second = host
        if not hosts_i[host, UP] or counters[WAY_COUNT] == MAX_UNDER_WAY:
            continue
        probe = way[(counters[WAY_HEAD] + counters[WAY_COUNT]) % MAX_UNDER_WAY]
        counters[WAY_COUNT] += 1
        probe[WAY_TIME] = now + rtt
        probe[WAY_PICKER] = picker
        probe[WAY_HOST] = host
        probe[WAY_RIF] = hosts_i[host, INFLIGHT]
        probe[WAY_LATENCY] = _latency(latencies[host], hosts_i[host, INFLIGHT], now)


@compiled
def prequal_receive(
    hosts: int, pickers: Floats, pool: Floats, rifs: Ints, way: Floats, counters: Ints, now: float, random: Ints
) -> None:
    """Puts the answers that have arrived into their pickers' pools; a full pool loses its oldest probe."""
    rest = (1.0 - POOL / hosts) * _PROBES - _REMOVE
    budget = max(1.0, (1.0 + _DELTA) / rest) if rest > 0 else 1e9
    while counters[WAY_COUNT] > 0 and way[counters[WAY_HEAD], WAY_TIME] <= now:
        probe = way[counters[WAY_HEAD]]
        counters[WAY_HEAD] = (counters[WAY_HEAD] + 1) % MAX_UNDER_WAY
        counters[WAY_COUNT] -= 1
        picker = int(probe[WAY_PICKER])
        mine = pickers[picker]
        _remember(mine, rifs[picker], int(probe[WAY_RIF]))
        if mine[HELD] == POOL:
            _remove(mine, pool[picker], _oldest(pool[picker]))
        entry = pool[picker, int(mine[HELD])]
        mine[HELD] += 1
        entry[PROBE_HOST] = probe[WAY_HOST]
        entry[PROBE_RIF] = probe[WAY_RIF]
        entry[PROBE_LATENCY] = probe[WAY_LATENCY]
        entry[PROBE_AT] = probe[WAY_TIME]
        whole = np.floor(budget)
        entry[PROBE_USES] = whole + (1.0 if uniform(random) < budget - whole else 0.0)


@compiled
def prequal_finish(latencies: Floats, rif: int, latency: float, now: float) -> None:
    """The host's estimator: a request's latency is kept under the RIF it found when it came."""
    bucket = latencies[min(rif, RIF_BUCKETS - 1)]
    count = int(bucket[SAMPLE_COUNT])
    bucket[count % RIF_SAMPLES] = latency
    bucket[SAMPLE_COUNT] = count + 1
    size = min(count + 1, RIF_SAMPLES)
    # The sample with half of them below it; np.median would cost seconds of compile time.
    for each in range(size):
        below = 0
        for other in range(size):
            below += bucket[other] < bucket[each]
        if below == size // 2:
            bucket[MEDIAN] = bucket[each]
    bucket[MEDIAN_AT] = now


@compiled
def _latency(latencies: Floats, inflight: int, now: float) -> float:
    """Median latency at the RIF nearest to the present one that has recent samples; 0 if there is none."""
    rif = min(inflight, RIF_BUCKETS - 1)
    for distance in range(RIF_BUCKETS):
        for bucket in (rif - distance, rif + distance):
            if 0 <= bucket < RIF_BUCKETS and now - latencies[bucket, MEDIAN_AT] < _FRESH_S:
                return latencies[bucket, MEDIAN]
    return 0.0


@compiled
def _remember(mine: Floats, rifs: Ints, rif: int) -> None:
    at = int(mine[REMEMBERED]) % RIF_HISTORY
    if mine[REMEMBERED] >= RIF_HISTORY:
        rifs[RIF_HISTORY + rifs[at]] -= 1
    rifs[at] = min(rif, RIF_BUCKETS - 1)
    rifs[RIF_HISTORY + rifs[at]] += 1
    mine[REMEMBERED] += 1


@compiled
def _threshold(mine: Floats, rifs: Ints) -> int:
    wanted, seen = _Q_RIF * min(mine[REMEMBERED], RIF_HISTORY), 0
    for rif in range(RIF_BUCKETS):
        seen += rifs[RIF_HISTORY + rif]
        if seen >= wanted:
            return rif
    return RIF_BUCKETS - 1


@compiled
def _best(pool: Floats, threshold: int) -> int:
    cold, coldest, calm, calmest = -1, np.inf, 0, np.inf
    for at in range(len(pool)):
        if pool[at, PROBE_RIF] <= threshold and pool[at, PROBE_LATENCY] < coldest:
            cold, coldest = at, pool[at, PROBE_LATENCY]
        if pool[at, PROBE_RIF] < calmest:
            calm, calmest = at, pool[at, PROBE_RIF]
    return cold if cold >= 0 else calm


@compiled
def _worst(pool: Floats, threshold: int) -> int:
    hot, hottest, slow, slowest = -1, -1.0, 0, -1.0
    for at in range(len(pool)):
        if pool[at, PROBE_RIF] > threshold and pool[at, PROBE_RIF] > hottest:
            hot, hottest = at, pool[at, PROBE_RIF]
        if pool[at, PROBE_LATENCY] > slowest:
            slow, slowest = at, pool[at, PROBE_LATENCY]
    return hot if hot >= 0 else slow


@compiled
def _oldest(pool: Floats) -> int:
    oldest = 0
    for at in range(len(pool)):
        if pool[at, PROBE_AT] < pool[oldest, PROBE_AT]:
            oldest = at
    return oldest


@compiled
def _remove(mine: Floats, pool: Floats, at: int) -> None:
    mine[HELD] -= 1
    pool[at] = pool[int(mine[HELD])]
