"""Hosts, compiled: slots that serve, a queue in order of arrival, answers under way, and load reports."""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, heap_push
from fingerpost.simulator.state import (
    ANSWER,
    AREA,
    AREA_AT,
    BUSY,
    EPS,
    FIRST,
    FOUND,
    HEAD,
    HOST,
    INFLIGHT,
    LAST,
    NEXT,
    QPS,
    SERVED,
    SERVICE,
    SLOTS,
    TAIL,
    UP,
    UTILISATION,
    WINDOW_AREA,
    WINDOW_AT,
    WINDOW_DONE,
    WINDOW_ERRORS,
    WORK,
)

_REPORT_WINDOW_S = 1.0


@compiled
def enqueue(requests_i: Ints, hosts_f: Floats, hosts_i: Ints, place: int, host: int, now: float) -> bool:
    """Takes a request in; true if a slot is free for it, else it waits at the end of the queue."""
    row = hosts_i[host]
    requests_i[place, FOUND] = row[INFLIGHT]
    row[INFLIGHT] += 1
    if row[BUSY] < row[SLOTS]:
        account(hosts_f[host], row, now)
        row[BUSY] += 1
        return True
    requests_i[place, NEXT] = -1
    if row[TAIL] >= 0:
        requests_i[row[TAIL], NEXT] = place
    else:
        row[HEAD] = place
    row[TAIL] = place
    return False


@compiled
def end_chain(requests_i: Ints, row: Ints, first: int) -> None:
    """Takes the first request out of a host's queue."""
    row[HEAD] = requests_i[first, NEXT]
    if row[HEAD] < 0:
        row[TAIL] = -1


@compiled
def start(
    requests_f: Floats, heap_time: Floats, heap_place: Ints, counters: Ints, place: int, mean_s: float, now: float
) -> None:
    """Serves a request in a slot, at the speed the host has now."""
    requests_f[place, SERVICE] = mean_s * requests_f[place, WORK]
    heap_push(heap_time, heap_place, counters, now + requests_f[place, SERVICE], place)


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
    """Adds up busy slots x time; before every change of the number of busy slots."""
    row_f[AREA] += row_i[BUSY] * (now - row_f[AREA_AT])
    row_f[AREA_AT] = now


@compiled
def report(row_f: Floats, row_i: Ints, now: float) -> None:
    """Renews the load report once a second: queries and errors a second, busy share of the slots."""
    span = now - row_f[WINDOW_AT]
    if span < _REPORT_WINDOW_S:
        return
    row_f[QPS] = row_f[WINDOW_DONE] / span
    row_f[EPS] = row_f[WINDOW_ERRORS] / span
    row_f[UTILISATION] = (row_f[AREA] - row_f[WINDOW_AREA]) / (span * row_i[SLOTS])
    row_f[WINDOW_AT] = now
    row_f[WINDOW_AREA] = row_f[AREA]
    row_f[WINDOW_DONE] = 0.0
    row_f[WINDOW_ERRORS] = 0.0


@compiled
def lose(
    requests_i: Ints,
    row_f: Floats,
    hosts_i: Ints,
    heap_time: Floats,
    heap_place: Ints,
    counters: Ints,
    host: int,
    now: float,
) -> Ints:
    """Takes a host down; returns the places of the requests that were on it."""
    row = hosts_i[host]
    account(row_f, row, now)
    lost = np.empty(row[INFLIGHT], dtype=np.int64)
    count, size = 0, counters[SERVED]
    times, places = heap_time[:size].copy(), heap_place[:size].copy()
    counters[SERVED] = 0
    for at in range(size):
        if requests_i[places[at], HOST] == host:
            lost[count] = places[at]
            count += 1
        else:
            heap_push(heap_time, heap_place, counters, times[at], places[at])
    waiting = row[HEAD]
    while waiting >= 0:
        lost[count] = waiting
        count += 1
        waiting = requests_i[waiting, NEXT]
    row_f[WINDOW_ERRORS] += count
    row[HEAD] = row[TAIL] = -1
    row[BUSY] = row[INFLIGHT] = row[UP] = 0
    return lost
