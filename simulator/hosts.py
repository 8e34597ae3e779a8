"""Hosts, compiled: slots that serve, a queue in order of arrival, answers under way, and load reports."""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, heap_push, heap_remove
from fingerpost.simulator.state import (
    ANSWER,
    AREA,
    AREA_AT,
    ATTAINED,
    ATTAINED_AT,
    BUSY,
    CATEGORY,
    CORES,
    DRAIN,
    ENDS_AT,
    EPS,
    FILL,
    FIRST,
    FLAGS,
    HEAD,
    HOST,
    INFLIGHT,
    LAST,
    LEVEL,
    LIMIT,
    NEXT,
    QPS,
    RELEASED,
    RESUME,
    SERVED,
    SERVICE,
    SLOTS,
    SLOW,
    SLOW_DRAIN,
    SLOWED,
    TAIL,
    UP,
    UTILISATION,
    WINDOW_AREA,
    WINDOW_AT,
    WINDOW_DONE,
    WINDOW_ERRORS,
    WORK,
    State,
)

_REPORT_WINDOW_S = 1.0


@compiled
def admit(requests_i: Ints, hosts_i: Ints, place: int, host: int) -> bool:
    """Takes a request in; true if a slot is free for it, else it waits at the end of the queue."""
    row = hosts_i[host]
    row[INFLIGHT] += 1
    if row[BUSY] < row[SLOTS]:
        return True
    requests_i[place, NEXT] = -1
    if row[TAIL] >= 0:
        requests_i[row[TAIL], NEXT] = place
    else:
        row[HEAD] = place
    row[TAIL] = place
    return False


@compiled
def following(requests_i: Ints, row: Ints) -> int:
    """Takes the first request out of a host's queue; -1 if none waits."""
    first = row[HEAD]
    if first >= 0:
        row[HEAD] = requests_i[first, NEXT]
        if row[HEAD] < 0:
            row[TAIL] = -1
    return first


@compiled
def share(state: State, host: int, now: float) -> None:
    """Serves the requests on a host up to now: at full speed while there are cores for all, else equally slower."""
    row_f, busy = state.hosts_f[host], state.hosts_i[host, BUSY]
    if busy > 0:
        row_f[ATTAINED] += (now - row_f[ATTAINED_AT]) * min(1.0, row_f[CORES] / busy)
    row_f[ATTAINED_AT] = now


@compiled
def expect_end(state: State, host: int, now: float) -> None:
    """Notes when the next request ends if none comes before, after `share` and a change."""
    row_f, busy = state.hosts_f[host], state.hosts_i[host, BUSY]
    left_s = state.shared_time[host, 0] - row_f[ATTAINED] if busy > 0 else np.inf
    row_f[ENDS_AT] = now + max(left_s, 0.0) / min(1.0, row_f[CORES] / max(busy, 1))


@compiled
def start(state: State, place: int, host: int, mean_s: float, now: float, sharing: bool) -> None:
    """Serves a request in a slot, at the speed the host has now."""
    account(state.hosts_f[host], state.hosts_i[host], now)
    seconds = mean_s * state.hosts_f[host, SLOWED] * state.requests_f[place, WORK]
    state.beside[host, state.requests_i[place, CATEGORY]] += 1
    state.requests_f[place, SERVICE] = seconds
    if not sharing:
        state.hosts_i[host, BUSY] += 1
        heap_push(state.heap_time, state.heap_place, state.counters, SERVED, now + seconds, place)
        return
    share(state, host, now)
    times, places = state.shared_time[host], state.shared_place[host]
    heap_push(times, places, state.hosts_i[host], BUSY, state.hosts_f[host, ATTAINED] + seconds, place)
    expect_end(state, host, now)


@compiled
def stop(state: State, place: int, host: int, now: float, sharing: bool) -> None:
    """Gives a slot back, of a request that has ended or is given up; what shares the host's cores goes on faster."""
    account(state.hosts_f[host], state.hosts_i[host], now)
    state.beside[host, state.requests_i[place, CATEGORY]] -= 1
    if not sharing:
        state.hosts_i[host, BUSY] -= 1
        return
    share(state, host, now)
    heap_remove(state.shared_time[host], state.shared_place[host], state.hosts_i[host], BUSY, place)
    expect_end(state, host, now)


@compiled
def send_answer(requests_f: Floats, requests_i: Ints, counters: Ints, place: int, arrives: float) -> None:
    """Answers are under way for the same time all, so they arrive in the order they were sent."""
    requests_f[place, ANSWER] = arrives
    requests_i[place, NEXT] = -1
    if counters[FIRST] >= 0:
        requests_i[counters[LAST], NEXT] = place
    else:
        counters[FIRST] = place
    counters[LAST] = place


@compiled
def account(row_f: Floats, row_i: Ints, now: float) -> None:
    """Adds up busy cores x time; before every change of the number of busy slots."""
    busy, span = min(float(row_i[BUSY]), row_f[CORES]), now - row_f[AREA_AT]
    row_f[AREA] += busy * span
    row_f[AREA_AT] = now
    if row_f[LIMIT] == np.inf:
        return
    slow = row_f[SLOWED] > 1.0
    # A host that is slow does so much less in the same time.
    filled = row_f[FILL] * busy / row_f[SLOWED] - (row_f[SLOW_DRAIN] if slow else row_f[DRAIN])
    row_f[LEVEL] = max(row_f[LEVEL] + filled * span, 0.0)
    if slow and row_f[LEVEL] <= row_f[RESUME]:
        row_f[SLOWED] = 1.0
    elif not slow and row_f[LEVEL] >= row_f[LIMIT]:
        row_f[SLOWED] = row_f[SLOW]


@compiled
def report(row_f: Floats, now: float) -> None:
    """Renews the load report once a second: queries and errors a second, busy share of the cores."""
    span = now - row_f[WINDOW_AT]
    if span < _REPORT_WINDOW_S:
        return
    row_f[QPS] = row_f[WINDOW_DONE] / span
    row_f[EPS] = row_f[WINDOW_ERRORS] / span
    row_f[UTILISATION] = (row_f[AREA] - row_f[WINDOW_AREA]) / (span * row_f[CORES])
    row_f[WINDOW_AT] = now
    row_f[WINDOW_AREA] = row_f[AREA]
    row_f[WINDOW_DONE] = 0.0
    row_f[WINDOW_ERRORS] = 0.0


@compiled
def lose(state: State, host: int, now: float, sharing: bool) -> Ints:
    """Takes a host down; returns the places of the requests that were on it."""
    row, requests_i = state.hosts_i[host], state.requests_i
    account(state.hosts_f[host], row, now)
    lost = np.empty(len(requests_i), dtype=np.int64)
    count, size = 0, state.counters[SERVED]
    times, places = state.heap_time[:size].copy(), state.heap_place[:size].copy()
    state.counters[SERVED] = 0
    for at in range(size):
        if requests_i[places[at], HOST] == host and not requests_i[places[at], FLAGS] & RELEASED:
            lost[count] = places[at]
            count += 1
        else:
            heap_push(state.heap_time, state.heap_place, state.counters, SERVED, times[at], places[at])
    for at in range(row[BUSY] if sharing else 0):
        lost[count] = state.shared_place[host, at]
        count += 1
    waiting = row[HEAD]
    while waiting >= 0:
        lost[count] = waiting
        count += 1
        waiting = requests_i[waiting, NEXT]
    state.hosts_f[host, WINDOW_ERRORS] += count
    state.hosts_f[host, ENDS_AT] = np.inf
    row[HEAD] = row[TAIL] = -1
    row[BUSY] = row[INFLIGHT] = row[UP] = 0
    state.beside[host] = 0
    # A host that comes back has used nothing yet.
    state.hosts_f[host, LEVEL], state.hosts_f[host, SLOWED] = 0.0, 1.0
    return lost[:count]
