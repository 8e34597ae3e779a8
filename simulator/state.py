"""Holds the state of a simulation in few flat arrays, which the compiled kernel changes in place.

Few, because every array a compiled function is handed costs compile time; hence columns and planes by number.
"""

from typing import NamedTuple

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.bound import category_split
from fingerpost.simulator.causes import Reservoir
from fingerpost.simulator.fleet import Fleet
from fingerpost.simulator.policies import PREQUAL, SEE_CATEGORIES, WEIGHTS_CATEGORY

# Columns of `requests_f` (seconds but for WORK): when sent, multiple of the mean service time, service time, added by
# retries, when the answer arrives, when this try began. Columns of `requests_i`; NEXT chains free places, a host's
# queue, or answers; OLDER and YOUNGER chain tries that may time out.
SENT, WORK, SERVICE, EXTRA, ANSWER, TRIED = range(6)
HOST, CATEGORY, PICKER, FOUND, REPORTED, FLAGS, NEXT, OLDER, YOUNGER, TRIES = range(10)

# In FLAGS: it fails or failed; its host was drawn; its host fails it without a slot; its client has gone; and its slot
# has been given back although it still is in the heap or a queue.
ERROR, EXPLORED, FAILING, GONE, RELEASED = 1, 2, 4, 8, 16

# Columns of `hosts_i`, and of `hosts_f`: busy cores x time so far and as of when; the report window's begin, busy time,
# ends and errors; the last report (gRPC A51); cores; of processor sharing the seconds that each request there has been
# served, as of when, and when the next one ends; the level of its reservoir, how many times slower that makes it, what
# a busy core fills, drains at all times and while slow, its limit, where it recovers, and how slow it is then.
SLOTS, UP, BUSY, INFLIGHT, HEAD, TAIL = range(6)
AREA, AREA_AT, WINDOW_AT, WINDOW_AREA, WINDOW_DONE, WINDOW_ERRORS, QPS, EPS, UTILISATION = range(9)
CORES, ATTAINED, ATTAINED_AT, ENDS_AT = range(9, 13)
LEVEL, SLOWED, FILL, DRAIN, SLOW_DRAIN, LIMIT, RESUME, SLOW = range(13, 21)

# Planes of `views_i` and `views_f`, of shape (pickers, hosts): what each picker knows of each host. OTHERS, TOLD_AT,
# HEARD_AT: requests of others there, when that was told, and after how many answers. COST, STAMP: Peak EWMA. QUEUE,
# RESPONSE, TIME: C3's averages. WEIGHT to WEIGHT_SINCE: A58's weight, when last reported, and since when. PERIOD,
# DEADLINE: earliest deadline first.
SEEN_UP, OUT = range(2)
OTHERS, TOLD_AT, HEARD_AT, COST, STAMP, QUEUE, RESPONSE, TIME = range(8)
WEIGHT, WEIGHT_AT, WEIGHT_SINCE, PERIOD, DEADLINE = range(8, 13)

# Planes of `cells`, of shape (pickers, hosts, categories), of policies that see categories: Peak EWMA's cost and its
# time; the turn of smooth weights; GB-PANDAS's mean service time, 0 where it knows none.
CELL_COST, CELL_STAMP = range(2)
CELL_TURN = CELL_TIME = CELL_COST

# Columns of `pickers`: round robin's turn, A58's next update; Prequal's probes held, whether the oldest goes next, and
# RIFs remembered; answers heard.
TURN, UPDATE_AT, HELD, OLDEST_NEXT, REMEMBERED, HEARD = range(6)

# Places in `counters`: requests in the heap, the chains of free places and answers, the next event, answers given, and
# the chain of tries by age.
SERVED, FREE, FREE_COUNT, FIRST, LAST, EVENT, DONE, WAY_HEAD, WAY_COUNT, OLDEST, YOUNGEST = range(11)

# Prequal: columns of a probe in the pool (P, POOL, 5); `rifs` is (P, history + histogram); `latencies` is (H, bucket,
# samples + 3 columns); and columns of a probe under way.
POOL, RIF_BUCKETS, RIF_SAMPLES, RIF_HISTORY, MAX_UNDER_WAY = 16, 256, 9, 128, 4096
PROBE_HOST, PROBE_RIF, PROBE_LATENCY, PROBE_AT, PROBE_USES = range(5)
SAMPLE_COUNT, MEDIAN, MEDIAN_AT = RIF_SAMPLES, RIF_SAMPLES + 1, RIF_SAMPLES + 2
WAY_TIME, WAY_PICKER, WAY_HOST, WAY_RIF, WAY_LATENCY = range(5)


class State(NamedTuple):
    """Everything; the heap holds what ends at a time that is known, `shared_*` what shares a host's cores, by host.

    `beside` are the requests in service, shape (hosts, categories).
    Of policies that see categories: `counts` are each picker's requests in flight, shape (pickers, hosts, categories);
    `weights` are set by hand, shape (categories, hosts). Empty for the others.
    """

    requests_f: Floats
    requests_i: Ints
    hosts_f: Floats
    hosts_i: Ints
    views_f: Floats
    views_i: Ints
    cells: Floats
    counts: Ints
    weights: Floats
    pickers: Floats
    pool: Floats
    rifs: Ints
    latencies: Floats
    way: Floats
    heap_time: Floats
    heap_place: Ints
    shared_time: Floats
    shared_place: Ints
    beside: Ints
    counters: Ints
    random: Ints


def new_state(
    fleet: Fleet, pickers: int, policy: int, seed: int, sharing: bool, reservoir: Reservoir | None = None
) -> State:
    """An idle fleet. Large arrays are only made where they are used."""
    hosts, rng = len(fleet.slots), np.random.default_rng([seed, 3])
    hosts_i = np.zeros((hosts, 6), dtype=np.int64)
    hosts_i[:, SLOTS] = fleet.slots
    hosts_i[:, UP] = fleet.starts_up
    hosts_i[:, [HEAD, TAIL]] = -1
    views_i = np.zeros((2, pickers, hosts), dtype=np.int64)
    views_i[SEEN_UP] = fleet.starts_up
    views_f = np.zeros((13, pickers, hosts))
    views_f[WEIGHT_AT] = -np.inf
    views_f[WEIGHT_SINCE] = np.inf
    views_f[PERIOD] = 1.0
    views_f[DEADLINE] = rng.random((pickers, hosts))
    columns = np.zeros((pickers, 6))
    columns[:, TURN] = rng.integers(0, hosts, pickers)
    cells = (pickers, hosts, fleet.service_s.shape[1] if policy in SEE_CATEGORIES else 0)
    weights = category_split(fleet) if policy == WEIGHTS_CATEGORY else np.zeros((0, 0))
    latencies = np.zeros((hosts if policy == PREQUAL else 1, RIF_BUCKETS, RIF_SAMPLES + 3))
    latencies[:, :, MEDIAN_AT] = -np.inf
    counters = np.zeros(11, dtype=np.int64)
    counters[[FREE, FIRST, LAST, OLDEST, YOUNGEST]] = -1
    hosts_f = np.zeros((hosts, 21))
    hosts_f[:, CORES], hosts_f[:, ENDS_AT] = fleet.servers, np.inf
    hosts_f[:, SLOWED], hosts_f[:, LIMIT] = 1.0, fleet.limits
    if reservoir is not None:
        hosts_f[:, FILL] = reservoir.by_work / fleet.servers
        hosts_f[:, DRAIN] = reservoir.drain - reservoir.by_time
        hosts_f[:, [SLOW_DRAIN, SLOW]] = reservoir.slow_drain, reservoir.factor
        hosts_f[:, RESUME] = np.where(np.isfinite(fleet.limits), fleet.limits * reservoir.resume, 0.0)
        # Hosts have been at work before the run, each for its own time.
        hosts_f[:, LEVEL] = np.where(np.isfinite(fleet.limits), fleet.limits * rng.random(hosts), 0.0)
    shared = (hosts, int(fleet.slots.max())) if sharing else (1, 1)
    return State(
        requests_f=np.zeros((0, 6)),
        requests_i=np.zeros((0, 10), dtype=np.int64),
        hosts_f=hosts_f,
        hosts_i=hosts_i,
        views_f=views_f,
        views_i=views_i,
        cells=np.zeros((2, *cells)),
        counts=np.zeros(cells, dtype=np.int64),
        weights=weights,
        pickers=columns,
        pool=np.zeros((pickers, POOL, 5)),
        rifs=np.zeros((pickers, RIF_HISTORY + RIF_BUCKETS), dtype=np.int64),
        latencies=latencies,
        way=np.zeros((MAX_UNDER_WAY, 5)),
        heap_time=np.zeros(0),
        heap_place=np.zeros(0, dtype=np.int64),
        shared_time=np.zeros(shared),
        shared_place=np.zeros(shared, dtype=np.int64),
        beside=np.zeros((hosts, fleet.service_s.shape[1]), dtype=np.int64),
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
    requests_i = np.concatenate([state.requests_i, np.zeros((added, 10), dtype=np.int64)])
    requests_i[capacity:, NEXT] = np.arange(capacity + 1, capacity + added + 1)
    requests_i[-1, NEXT] = state.counters[FREE]
    state.counters[FREE] = capacity
    state.counters[FREE_COUNT] += added
    return state._replace(
        requests_i=requests_i,
        requests_f=np.concatenate([state.requests_f, np.zeros((added, 6))]),
        heap_time=np.concatenate([state.heap_time, np.zeros(added)]),
        heap_place=np.concatenate([state.heap_place, np.zeros(added, dtype=np.int64)]),
    )
