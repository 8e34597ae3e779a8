"""Chooses a host by each policy and updates what the policy learns from an answer; compiled."""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.routing.inflight import GONE_ROUNDS, GONE_S
from fingerpost.simulator.basics import compiled, draw_host, least_of, uniform
from fingerpost.simulator.peers import (
    c3,
    c3_observe,
    gb_pandas,
    gb_pandas_observe,
    least_request,
    least_request_full,
    orca,
    orca_observe,
    peak_ewma,
    peak_ewma_category,
    peak_ewma_observe,
    round_robin,
    weights_category,
)
from fingerpost.simulator.policies import (
    C3,
    FINGERPOST,
    GB_PANDAS,
    LEAST_REQUEST,
    LEAST_REQUEST_FULL,
    ORCA,
    PEAK_EWMA,
    PEAK_EWMA_CATEGORY,
    PEAK_EWMA_CATEGORY_FULL,
    PREQUAL,
    RANDOM,
    ROUND_ROBIN,
    WEIGHTS_CATEGORY,
)
from fingerpost.simulator.prequal import prequal, prequal_probe, prequal_receive
from fingerpost.simulator.state import (
    CELL_COST,
    CELL_STAMP,
    CELL_TIME,
    CELL_TURN,
    COST,
    DEADLINE,
    HEARD,
    HEARD_AT,
    OTHERS,
    OUT,
    SEEN_UP,
    STAMP,
    TOLD_AT,
    State,
)

OWN, SCALED, REPORTED = range(3)


@compiled
def choose(
    state: State, cost: Floats, inflight: int, policy: int, picker: int, category: int, now: float, rtt: float
) -> int:
    """The host for a request, -1 if the picker knows of none; `cost` is its category's, see `fingerpost`."""
    up, out, views = state.views_i[SEEN_UP, picker], state.views_i[OUT, picker], state.views_f
    mine, random = state.pickers[picker], state.random
    if policy == FINGERPOST:
        gone = (mine[HEARD] - views[HEARD_AT, picker]) / (len(up) * GONE_ROUNDS)
        gone = np.maximum(gone, (now - views[TOLD_AT, picker]) / GONE_S)
        return fingerpost(up, out, views[OTHERS, picker], gone, cost, inflight, len(state.pickers), random)
    if policy == RANDOM:
        return draw_host(up, random)
    if policy == ROUND_ROBIN:
        return round_robin(up, mine)
    if policy == LEAST_REQUEST:
        return least_request(up, out, views[DEADLINE, picker], state.hosts_i, random)
    if policy == LEAST_REQUEST_FULL:
        return least_request_full(up, out, random)
    if policy == PEAK_EWMA:
        return peak_ewma(up, out, views, picker, now, random)
    if policy == ORCA:
        return orca(up, views, mine, picker, now, random)
    if policy == PREQUAL:
        prequal_receive(len(up), state.pickers, state.pool, state.rifs, state.way, state.counters, now, random)
        host = prequal(up, mine, state.pool[picker], state.rifs[picker], now, random)
        prequal_probe(up, picker, state.hosts_i, state.latencies, state.way, state.counters, now, rtt, random)
        return host
    if policy in (PEAK_EWMA_CATEGORY, PEAK_EWMA_CATEGORY_FULL):
        costs, stamps = state.cells[CELL_COST, picker, :, category], state.cells[CELL_STAMP, picker, :, category]
        return peak_ewma_category(up, out, costs, stamps, now, random, policy == PEAK_EWMA_CATEGORY_FULL)
    if policy == WEIGHTS_CATEGORY:
        host = weights_category(up, state.weights[category], state.cells[CELL_TURN, picker, :, category])
        # All that have a weight are down.
        return host if host >= 0 else least_request_full(up, out, random)
    if policy == GB_PANDAS:
        return gb_pandas(up, state.counts[picker], state.cells[CELL_TIME, picker], category, state.hosts_i, random)
    return c3(up, out, views, picker, random)


@compiled
def explore(up: Ints, cost: Floats, random: Ints) -> int:
    """A host that is explored, -1 if there is nothing to explore: `fingerpost.routing.cost`, compiled.

    Args:
        cost: slope, offset and weight of the category, shape (3, H).
    """
    weight = np.where((up > 0) & np.isfinite(cost[0] + cost[1]), cost[2], 0.0)
    drawn, host = uniform(random) * weight.sum(), -1
    for each in range(len(up)):
        if weight[each] > 0.0:
            host = each
            drawn -= weight[each]
            if drawn < 0.0:
                break
    return host


@compiled
def fingerpost(
    up: Ints, own: Ints, others: Floats, gone: Floats, cost: Floats, inflight: int, pickers: int, random: Ints
) -> int:
    """Least `(inflight + 1) * cost[0] + cost[1]`, ties at random: `fingerpost.routing.cost`, compiled.

    The rows of `cost` are slope, offset and weight for exploration, shape (3, H). Two more bend the cost of a picker
    that is clairvoyant: times `1 + cost[3] * min(inflight, cost[4])`. The product's pickers have no such rows.

    Where no host can serve it is the one with the fewest requests, as pickers fall back. In-flight of the fleet is the
    picker's own, live, and the others' (`fingerpost.routing.inflight`): what the host told with its last answer to this
    picker less the picker's own then, of which the part `gone` has faded (`reported`), or own times pickers
    (`scaled`), or nothing (`own`).
    """
    factor = float(pickers) if inflight == SCALED else 1.0
    share, bent = 1.0 if inflight == REPORTED else 0.0, len(cost) > 3
    best, least, ties = -1, np.inf, 0
    for host in range(len(up)):
        if not up[host]:
            continue
        told = others[host] * max(1.0 - gone[host], 0.0)
        found = own[host] * factor + told * share
        total = (found + 1.0) * cost[0, host] + cost[1, host]
        if bent:
            total *= 1.0 + cost[3, host] * min(found, cost[4, host])
        if total < least:
            best, least, ties = host, total, 1
        elif total == least and best >= 0:
            ties += 1
            if uniform(random) * ties < 1.0:
                best = host
    return best if best >= 0 else least_of(own, up, random)


@compiled
def heard(
    state: State,
    policy: int,
    picker: int,
    host: int,
    category: int,
    latency: float,
    service: float,
    reported: int,
    now: float,
    failed: bool,
) -> None:
    """An answer of the host itself: seconds, `reported` the requests it had left; peers learn of failures alike."""
    views, cells = state.views_f, state.cells
    if policy == FINGERPOST:
        views[OTHERS, picker, host] = max(0.0, float(reported - state.views_i[OUT, picker, host]))
        state.pickers[picker, HEARD] += 1.0
        views[TOLD_AT, picker, host] = now
        views[HEARD_AT, picker, host] = state.pickers[picker, HEARD]
    elif policy == PEAK_EWMA:
        peak_ewma_observe(views[COST, picker], views[STAMP, picker], host, latency, now)
    elif policy == ORCA:
        orca_observe(views, picker, host, state.hosts_f[host], now)
    elif policy == C3:
        c3_observe(views, picker, host, latency, service, float(reported))
    elif policy in (PEAK_EWMA_CATEGORY, PEAK_EWMA_CATEGORY_FULL):
        costs, stamps = cells[CELL_COST, picker, :, category], cells[CELL_STAMP, picker, :, category]
        peak_ewma_observe(costs, stamps, host, latency, now)
    elif policy == GB_PANDAS and not failed:
        gb_pandas_observe(cells[CELL_TIME, picker, host, category : category + 1], service)
