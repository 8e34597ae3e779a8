"""Holds the state of a simulation in few flat arrays, which the compiled kernel changes in place.

Few, because every array a compiled function is handed costs compile time; hence columns and planes by number.
"""

from typing import NamedTuple

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.fleet import Fleet

# Columns of `requests_f` (seconds but for WORK): when sent, multiple of the mean service time, service time, added by
# retries, when the answer arrives. Columns of `requests_i`; NEXT chains free places, a host's queue, or answers.
SENT, WORK, SERVICE, EXTRA, ANSWER = range(5)
HOST, CATEGORY, PICKER, FOUND, REPORTED, FLAGS, NEXT = range(7)

# Columns of `hosts_i`, and of `hosts_f`: busy time so far and as of when; the report window's begin, busy time, ends
# and errors; and the last report (gRPC A51).
SLOTS, UP, BUSY, INFLIGHT, HEAD, TAIL = range(6)
AREA, AREA_AT, WINDOW_AT, WINDOW_AREA, WINDOW_DONE, WINDOW_ERRORS, QPS, EPS, UTILISATION = range(9)

# Planes of `views_i` and `views_f`, of shape (pickers, hosts): what each picker knows of each host. OTHERS: requests
# of others there. COST, STAMP: Peak EWMA. QUEUE, RESPONSE, TIME: C3's averages. WEIGHT to WEIGHT_SINCE: A58's weight,
# when last reported, and since when. PERIOD, DEADLINE: earliest deadline first.
SEEN_UP, OUT = range(2)
OTHERS, COST, STAMP, QUEUE, RESPONSE, TIME, WEIGHT, WEIGHT_AT, WEIGHT_SINCE, PERIOD, DEADLINE = range(11)

# Columns of `pickers`: round robin's turn, A58's next update; Prequal's probes held, whether the oldest goes next, and
# RIFs remembered.
TURN, UPDATE_AT, HELD, OLDEST_NEXT, REMEMBERED = range(5)

# Places in `counters`: requests being served, the chains of free places and answers, the next event, answers given.
SERVED, FREE, FREE_COUNT, FIRST, LAST, EVENT, DONE, WAY_HEAD, WAY_COUNT = range(9)

# Prequal: columns of a probe in the pool (P, POOL, 5); `rifs` is (P, history + histogram); `latencies` is (H, bucket,
# samples + 3 columns); and columns of a probe under way.
POOL, RIF_BUCKETS, RIF_SAMPLES, RIF_HISTORY, MAX_UNDER_WAY = 16, 256, 9, 128, 4096
PROBE_HOST, PROBE_RIF, PROBE_LATENCY, PROBE_AT, PROBE_USES = range(5)
SAMPLE_COUNT, MEDIAN, MEDIAN_AT = RIF_SAMPLES, RIF_SAMPLES + 1, RIF_SAMPLES + 2
WAY_TIME, WAY_PICKER, WAY_HOST, WAY_RIF, WAY_LATENCY = range(5)


class State(NamedTuple):
    """Everything; the heap holds what is being served, at most all slots."""

    requests_f: Floats
    requests_i: Ints
    hosts_f: Floats
    hosts_i: Ints
    views_f: Floats
    views_i: Ints
    pickers: Floats
    pool: Floats
    rifs: Ints
    latencies: Floats
    way: Floats
    heap_time: Floats
    heap_place: Ints
    counters: Ints
    random: Ints


def new_state(fleet: Fleet, pickers: int, prequal: bool, seed: int) -> State:
    """An idle fleet. Prequal's large arrays are only made where it runs."""
    hosts, rng = len(fleet.slots), np.random.default_rng([seed, 3])
    hosts_i = np.zeros((hosts, 6), dtype=np.int64)
    hosts_i[:, SLOTS] = fleet.slots
    hosts_i[:, UP] = fleet.starts_up
    hosts_i[:, [HEAD, TAIL]] = -1
    views_i = np.zeros((2, pickers, hosts), dtype=np.int64)
    views_i[SEEN_UP] = fleet.starts_up
    views_f = np.zeros((11, pickers, hosts))
    views_f[WEIGHT_AT] = -np.inf
    views_f[WEIGHT_SINCE] = np.inf
    views_f[PERIOD] = 1.0
    views_f[DEADLINE] = rng.random((pickers, hosts))
    columns = np.zeros((pickers, 5))
    columns[:, TURN] = rng.integers(0, hosts, pickers)
    latencies = np.zeros((hosts if prequal else 1, RIF_BUCKETS, RIF_SAMPLES + 3))
    latencies[:, :, MEDIAN_AT] = -np.inf
    counters = np.zeros(9, dtype=np.int64)
    counters[[FREE, FIRST, LAST]] = -1
    slots = int(fleet.slots.sum())
    return State(
        requests_f=np.zeros((0, 5)),
        requests_i=np.zeros((0, 7), dtype=np.int64),
        hosts_f=np.zeros((hosts, 9)),
        hosts_i=hosts_i,
        views_f=views_f,
        views_i=views_i,
        pickers=columns,
        pool=np.zeros((pickers, POOL, 5)),
        rifs=np.zeros((pickers, RIF_HISTORY + RIF_BUCKETS), dtype=np.int64),
        latencies=latencies,
        way=np.zeros((MAX_UNDER_WAY, 5)),
        heap_time=np.zeros(slots + 1),
        heap_place=np.zeros(slots + 1, dtype=np.int64),
        counters=counters,
        random=rng.integers(1, 2**62, 1),
    )


def in_fleet(state: State) -> int:
    """Requests sent and not yet answered."""
    return len(state.requests_i) - int(state.counters[FREE_COUNT])


def with_room(state: State, arriving: int) -> State:
    """The state with places for so many more requests; the kernel itself never allocates."""
    capacity, free = len(state.requests_i), int(state.counters[FREE_COUNT])
    if free >= arriving:
        return state
    added = max(capacity, arriving - free)
    requests_i = np.concatenate([state.requests_i, np.zeros((added, 7), dtype=np.int64)])
    requests_i[capacity:, NEXT] = np.arange(capacity + 1, capacity + added + 1)
    requests_i[-1, NEXT] = state.counters[FREE]
    state.counters[FREE] = capacity
    state.counters[FREE_COUNT] += added
    return state._replace(requests_i=requests_i, requests_f=np.concatenate([state.requests_f, np.zeros((added, 5))]))
