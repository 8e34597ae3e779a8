"""The peers' rules, compiled, each as its source has it; `fingerpost.simulator.prequal` holds the largest of them.

Rows of views are one picker's, shape (hosts,); see `fingerpost.simulator.state`.
"""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, draw_host, least_of, uniform
from fingerpost.simulator.state import (
    COST,
    DEADLINE,
    EPS,
    PERIOD,
    QPS,
    QUEUE,
    RESPONSE,
    SLOTS,
    STAMP,
    TIME,
    TURN,
    UPDATE_AT,
    UTILISATION,
    WEIGHT,
    WEIGHT_AT,
    WEIGHT_SINCE,
)

_PEAK_DECAY_S = 10.0
# Finagle's penalty for a host without latency history that already has requests: above any real load.
_PEAK_PENALTY = 1e9
_WRR_BLACKOUT_S = 10.0
_WRR_EXPIRATION_S = 180.0
_WRR_UPDATE_S = 1.0
_WRR_ERROR_PENALTY = 1.0
_C3_ALPHA = 0.9
_PANDAS_NEWEST = 0.05


@compiled
def round_robin(up: Ints, mine: Floats) -> int:
    """The next host that is up, in a fixed order, from a start of the picker's own."""
    for _ in range(len(up)):
        host = int(mine[TURN])
        mine[TURN] = (host + 1) % len(up)
        if up[host]:
            return host
    return -1


@compiled
def least_request(up: Ints, out: Ints, deadline: Floats, hosts_i: Ints, random: Ints) -> int:
    """Envoy's LEAST_REQUEST (docs: "weighted least request"; source: `least_request_lb.cc`).

    Equal weights: two hosts at random, possibly the same twice, and the one with fewer active requests; the first if
    equal. Different weights (here slots, as an operator would set them): earliest deadline first, where a host goes
    back with weight `load_balancing_weight / (active_requests + 1) ^ bias`, bias 1.
    """
    if (hosts_i[:, SLOTS] == hosts_i[0, SLOTS]).all():
        first, second = draw_host(up, random), draw_host(up, random)
        return second if first >= 0 and out[second] < out[first] else first
    host = least_of(deadline, up, random)
    if host >= 0:
        deadline[host] += (out[host] + 1) / hosts_i[host, SLOTS]
    return host


@compiled
def least_request_full(up: Ints, out: Ints, random: Ints) -> int:
    """Envoy's LEAST_REQUEST with FULL_SCAN: the fewest active requests of all hosts, ties at random."""
    return least_of(out, up, random)


@compiled
def peak_ewma(up: Ints, out: Ints, views: Floats, picker: int, now: float, random: Ints) -> int:
    """Finagle's p2cPeakEwma (`PeakEwma.scala`, `P2CPick.scala`): of two different hosts the one with the least load."""
    first, second = draw_host(up, random), draw_host(up, random)
    for _ in range(16):
        if second != first:
            break
        second = draw_host(up, random)
    if first < 0 or first == second:
        return first
    load_first = _peak_load(views[COST, picker], views[STAMP, picker], out, first, now)
    load_second = _peak_load(views[COST, picker], views[STAMP, picker], out, second, now)
    return first if load_first <= load_second else second


@compiled
def _peak_load(cost: Floats, stamp: Floats, out: Ints, host: int, now: float) -> float:
    cost[host] *= np.exp(-(now - stamp[host]) / _PEAK_DECAY_S)
    stamp[host] = now
    if cost[host] == 0.0 and out[host] != 0:
        return _PEAK_PENALTY + out[host]
    return cost[host] * (out[host] + 1)


@compiled
def peak_ewma_observe(cost: Floats, stamp: Floats, host: int, latency: float, now: float) -> None:
    """`observe` of `PeakEwma.scala`: peaks at once, everything else with weight 1 - exp(-dt / decay)."""
    kept = np.exp(-(now - stamp[host]) / _PEAK_DECAY_S)
    cost[host] = latency if latency > cost[host] else cost[host] * kept + latency * (1.0 - kept)
    stamp[host] = now


@compiled
def orca(up: Ints, views: Floats, mine: Floats, picker: int, now: float, random: Ints) -> int:
    """gRPC A58 weighted_round_robin: earliest deadline first over weights `qps / (utilization + eps / qps * penalty)`.

    Weights are recalculated every second with deadlines at random in [0, period]; a host counts after reports for 10 s
    (blackout), until none came for 3 minutes; one without weight gets the average, and with fewer than two weights all
    are equal. Reports come with every response; utilisation is the busy share of a host's slots in the last second.
    """
    if now >= mine[UPDATE_AT]:
        _wrr_rebuild(up, views, picker, now, random)
        mine[UPDATE_AT] = now + _WRR_UPDATE_S
    host = least_of(views[DEADLINE, picker], up, random)
    if host >= 0:
        views[DEADLINE, picker, host] += views[PERIOD, picker, host]
    return host


@compiled
def _wrr_rebuild(up: Ints, views: Floats, picker: int, now: float, random: Ints) -> None:
    period, deadline, weight = views[PERIOD, picker], views[DEADLINE, picker], views[WEIGHT, picker]
    total, known = 0.0, 0
    for host in range(len(up)):
        if now - views[WEIGHT_AT, picker, host] >= _WRR_EXPIRATION_S:
            views[WEIGHT_SINCE, picker, host] = np.inf
        period[host] = 0.0
        if now - views[WEIGHT_SINCE, picker, host] >= _WRR_BLACKOUT_S and up[host] and weight[host] > 0:
            period[host] = 1.0 / weight[host]
            total += weight[host]
            known += 1
    for host in range(len(up)):
        if known < 2:
            period[host] = 1.0
        elif period[host] == 0.0:
            period[host] = known / total
        deadline[host] = uniform(random) * period[host]


@compiled
def orca_observe(views: Floats, picker: int, host: int, report: Floats, now: float) -> None:
    """`UpdateWeight` of A58, with the host's last load report."""
    qps, load = report[QPS], report[UTILISATION]
    if qps <= 0 or load <= 0:
        return
    if views[WEIGHT_SINCE, picker, host] == np.inf:
        views[WEIGHT_SINCE, picker, host] = now
    views[WEIGHT_AT, picker, host] = now
    views[WEIGHT, picker, host] = qps / (load + report[EPS] / qps * _WRR_ERROR_PENALTY)


@compiled
def c3(up: Ints, out: Ints, views: Floats, picker: int, random: Ints) -> int:
    """C3's replica ranking (Suresh et al., NSDI 2015): the least `R - 1/mu + (1 + os * n + q)^3 / mu`.

    R, 1/mu and q are moving averages of response time, service time and queue that come with every response, os the
    client's own outstanding requests there, n the number of clients. Averages weigh the newest with 0.9, as the
    authors' code has it; a host not heard of scores 0. Their rate control is left out: it holds requests back in the
    client, which no other policy here may, and would count as latency all the same.
    """
    clients = views.shape[1]
    best, least, ties = -1, np.inf, 0
    for host in range(len(up)):
        if not up[host]:
            continue
        queue = 1.0 + out[host] * clients + views[QUEUE, picker, host]
        score = views[RESPONSE, picker, host] + queue * queue * queue * views[TIME, picker, host]
        if score < least:
            best, least, ties = host, score, 1
        elif score == least:
            ties += 1
            if uniform(random) * ties < 1.0:
                best = host
    return best


@compiled
def c3_observe(views: Floats, picker: int, host: int, latency: float, service: float, queue: float) -> None:
    """`updateNodeScore` of the authors' code; RESPONSE holds response time less service time, that is R - 1/mu."""
    old = 1.0 - _C3_ALPHA
    views[QUEUE, picker, host] = _C3_ALPHA * queue + old * views[QUEUE, picker, host]
    views[RESPONSE, picker, host] = _C3_ALPHA * (latency - service) + old * views[RESPONSE, picker, host]
    views[TIME, picker, host] = _C3_ALPHA * service + old * views[TIME, picker, host]


@compiled
def peak_ewma_category(up: Ints, out: Ints, cost: Floats, stamp: Floats, now: float, random: Ints, full: bool) -> int:
    """Peak EWMA with a latency of its own for each category: of two different hosts, or of all, the least load.

    Finagle keeps one latency a host; what a mesh does that gives each route a balancer of its own, as Linkerd's
    service profiles did, but that requests in flight count whatever their category.

    Args:
        cost, stamp: of the picker and the category, shape (hosts,).
        full: all hosts are looked at, as Finagle does not; it makes a stronger peer.
    """
    if full:
        best, least, ties = -1, np.inf, 0
        for host in range(len(up)):
            load = _peak_load(cost, stamp, out, host, now) if up[host] else np.inf
            if load < least:
                best, least, ties = host, load, 1
            elif load == least and best >= 0:
                ties += 1
                if uniform(random) * ties < 1.0:
                    best = host
        return best
    first, second = draw_host(up, random), draw_host(up, random)
    for _ in range(16):
        if second != first:
            break
        second = draw_host(up, random)
    if first < 0 or first == second:
        return first
    load_first, load_second = _peak_load(cost, stamp, out, first, now), _peak_load(cost, stamp, out, second, now)
    return first if load_first <= load_second else second


@compiled
def weights_category(up: Ints, weights: Floats, turn: Floats) -> int:
    """Weights by category, set by hand: smooth weighted round robin, as nginx's (`ngx_http_upstream_round_robin.c`).

    Args:
        weights: of the category, shape (hosts,); those of the linear programme at the mean speeds.
        turn: of the picker and the category, shape (hosts,).
    """
    best, total = -1, 0.0
    for host in range(len(up)):
        if not up[host] or weights[host] <= 0:
            continue
        turn[host] += weights[host]
        total += weights[host]
        if best < 0 or turn[host] > turn[best]:
            best = host
    if best >= 0:
        turn[best] -= total
    return best


@compiled
def gb_pandas(up: Ints, counts: Ints, time: Floats, category: int, hosts_i: Ints, random: Ints) -> int:
    """GB-PANDAS with rates that are estimated (Yekkehkhany, Hojjati and Hajiesmaili, 2018; blind: Yekkehkhany, 2020).

    The host of least workload over rate: its workload is the sum over classes of requests there times their mean
    service time, over its slots. Of equal ones, as of idle ones, the fastest. A class that a host has not served counts
    as taking no time, so that it is tried.

    Args:
        counts, time: the picker's requests in flight and mean service times, shape (hosts, categories).
    """
    best, least, fastest, ties = -1, np.inf, np.inf, 0
    for host in range(len(up)):
        if not up[host]:
            continue
        workload = 0.0
        for each in range(counts.shape[1]):
            if counts[host, each] > 0:
                workload += counts[host, each] * time[host, each]
        mean = time[host, category] / hosts_i[host, SLOTS]
        score = workload * mean
        if score < least or (score == least and mean < fastest):
            best, least, fastest, ties = host, score, mean, 1
        elif score == least and mean == fastest:
            ties += 1
            if uniform(random) * ties < 1.0:
                best = host
    return best


@compiled
def gb_pandas_observe(time: Floats, service: float) -> None:
    """Moves the mean service time of a cell by a twentieth; `time` is a view of one number."""
    time[0] = service if time[0] == 0.0 else (1.0 - _PANDAS_NEWEST) * time[0] + _PANDAS_NEWEST * service
