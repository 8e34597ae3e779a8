"""The event loop, compiled: arrivals, finishes, answers and what befalls hosts, in order of time.

Time runs as the hosts see it, half a round trip after the pickers: a request is at its host when it is sent, and its
picker hears of its end a round trip after the end. The order of events is the same: the delay is the same for all.
"""

from typing import NamedTuple

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, draw_host, heap_pop, uniform
from fingerpost.simulator.choice import choose, heard
from fingerpost.simulator.fleet import FAIL, JOIN, LOSS_NOTICED
from fingerpost.simulator.hosts import account, end_chain, enqueue, lose, report, send_answer, start
from fingerpost.simulator.policies import FINGERPOST, ORCA, PREQUAL
from fingerpost.simulator.prequal import prequal_finish
from fingerpost.simulator.state import (
    ANSWER,
    BUSY,
    CATEGORY,
    COST,
    DEADLINE,
    DONE,
    EVENT,
    EXTRA,
    FIRST,
    FLAGS,
    FOUND,
    FREE,
    FREE_COUNT,
    HEAD,
    HOST,
    INFLIGHT,
    NEXT,
    OTHERS,
    OUT,
    PERIOD,
    PICKER,
    REPORTED,
    SEEN_UP,
    SENT,
    SERVED,
    SERVICE,
    UP,
    WEIGHT_SINCE,
    WINDOW_DONE,
    WORK,
    State,
)

ERROR, EXPLORED = 1, 2


class Input(NamedTuple):
    """What a span is fed.

    Attributes:
        arrivals_f: time and work, shape (n, 2), in order of time; `arrivals_i`: category and picker.
        service_s: mean service times, shape (ticks, C, H).
        event_time, events: what befalls hosts; host and kind, shape (e, 2).
        cost: what an in-flight request costs on a host, and what is added, shape (tables, 2, C, H): a table a picker,
            or one for all.
    """

    arrivals_f: Floats
    arrivals_i: Ints
    service_s: Floats
    event_time: Floats
    events: Ints
    cost: Floats
    until: float
    tick_s: float
    rtt: float
    exploration: float
    retries: int
    inflight: int
    policy: int


class Output(NamedTuple):
    """Answered requests of a span in order of their answers.

    Attributes:
        floats: sent, time, service time, shape (n, 3).
        ints: host, category, picker, in-flight found, flags, shape (n, 5).
    """

    floats: Floats
    ints: Ints


@compiled
def advance(state: State, given: Input, out: Output) -> None:
    """Runs the simulation up to `given.until`; `counters[DONE]` says how many answers are in `out`."""
    counters, requests_f, requests_i = state.counters, state.requests_f, state.requests_i
    counters[DONE] = 0
    coming, arrivals = 0, len(given.arrivals_f)
    while True:
        arrival = given.arrivals_f[coming, 0] if coming < arrivals else np.inf
        finish = state.heap_time[0] if counters[SERVED] > 0 else np.inf
        answer = requests_f[counters[FIRST], ANSWER] if counters[FIRST] >= 0 else np.inf
        event = given.event_time[counters[EVENT]] if counters[EVENT] < len(given.event_time) else np.inf
        now = min(arrival, finish, answer, event)
        if now >= given.until:
            return
        if event == now:
            _befall(state, given, now)
            counters[EVENT] += 1
        elif finish == now:
            _finish(state, given, now)
        elif answer == now:
            place = counters[FIRST]
            counters[FIRST] = requests_i[place, NEXT]
            _answer(state, given, out, place, now)
        else:
            _arrive(state, given, now, coming)
            coming += 1


@compiled
def _arrive(state: State, given: Input, now: float, number: int) -> None:
    """Sends a request; a lost host refuses at once, the picker notes it and tries another, a round trip later."""
    counters, random = state.counters, state.random
    category, picker = given.arrivals_i[number, 0], given.arrivals_i[number, 1]
    place = counters[FREE]
    row_f, row_i = state.requests_f[place], state.requests_i[place]
    counters[FREE] = row_i[NEXT]
    counters[FREE_COUNT] -= 1
    row_f[:] = 0.0
    row_f[SENT] = now
    row_f[WORK] = given.arrivals_f[number, 1]
    row_i[:] = 0
    row_i[CATEGORY] = category
    row_i[PICKER] = picker
    up = state.views_i[SEEN_UP, picker]
    host = -1
    for attempt in range(given.retries + 1):
        if given.policy == FINGERPOST and given.exploration > 0 and uniform(random) < given.exploration:
            host = draw_host(up, random)
            row_i[FLAGS] = EXPLORED
        else:
            host = choose(
                state,
                given.cost[picker % len(given.cost), :, category],
                given.inflight,
                given.policy,
                picker,
                now,
                given.rtt,
            )
        row_i[HOST] = host
        if host < 0:
            break
        if state.hosts_i[host, UP]:
            row_f[EXTRA] = attempt * given.rtt
            state.views_i[OUT, picker, host] += 1
            if enqueue(state.requests_i, state.hosts_f, state.hosts_i, place, host, now):
                _start(state, given, place, host, now)
            return
        up[host] = 0
    row_i[FLAGS] |= ERROR
    row_i[REPORTED] = -1
    send_answer(state.requests_f, state.requests_i, counters, place, now + given.rtt)


@compiled
def _start(state: State, given: Input, place: int, host: int, now: float) -> None:
    tick = min(int(now / given.tick_s), len(given.service_s) - 1)
    mean = given.service_s[tick, state.requests_i[place, CATEGORY], host]
    start(state.requests_f, state.heap_time, state.heap_place, state.counters, place, mean, now)


@compiled
def _finish(state: State, given: Input, now: float) -> None:
    requests_f, requests_i, hosts_i = state.requests_f, state.requests_i, state.hosts_i
    place = heap_pop(state.heap_time, state.heap_place, state.counters)
    host = requests_i[place, HOST]
    account(state.hosts_f[host], hosts_i[host], now)
    hosts_i[host, INFLIGHT] -= 1
    requests_i[place, REPORTED] = hosts_i[host, INFLIGHT]
    if given.policy == PREQUAL:
        prequal_finish(state.latencies[host], requests_i[place, FOUND], now - requests_f[place, SENT], now)
    if given.policy == ORCA:
        state.hosts_f[host, WINDOW_DONE] += 1
        report(state.hosts_f[host], hosts_i[host], now)
    following = hosts_i[host, HEAD]
    if following >= 0:
        end_chain(requests_i, hosts_i[host], following)
        _start(state, given, following, host, now)
    else:
        hosts_i[host, BUSY] -= 1
    send_answer(requests_f, requests_i, state.counters, place, now + given.rtt)


@compiled
def _answer(state: State, given: Input, out: Output, place: int, now: float) -> None:
    counters, row_f, row_i = state.counters, state.requests_f[place], state.requests_i[place]
    picker, host = row_i[PICKER], row_i[HOST]
    # What no host took was never counted as in flight.
    if row_i[REPORTED] != -1:
        state.views_i[OUT, picker, host] -= 1
    if not row_i[FLAGS] & ERROR:
        latency = now - row_f[SENT] + row_f[EXTRA]
        heard(state, given.policy, picker, host, latency, row_f[SERVICE], row_i[REPORTED], now)
    done = counters[DONE]
    counters[DONE] = done + 1
    out.floats[done, 0] = row_f[SENT]
    out.floats[done, 1] = now + row_f[EXTRA]
    out.floats[done, 2] = row_f[SERVICE]
    out.ints[done, 0] = host
    out.ints[done, 1] = row_i[CATEGORY]
    out.ints[done, 2] = picker
    out.ints[done, 3] = row_i[FOUND]
    out.ints[done, 4] = row_i[FLAGS]
    row_i[NEXT] = counters[FREE]
    counters[FREE] = place
    counters[FREE_COUNT] += 1


@compiled
def _befall(state: State, given: Input, now: float) -> None:
    number = state.counters[EVENT]
    host, kind = given.events[number, 0], given.events[number, 1]
    if kind == JOIN:
        state.hosts_i[host, UP] = 1
    elif kind == FAIL:
        _lose(state, given, host, now)
    elif kind == LOSS_NOTICED:
        state.views_i[SEEN_UP, :, host] = state.hosts_i[host, UP]
    elif state.hosts_i[host, UP]:
        _welcome(state.views_f, state.views_i, host)


@compiled
def _lose(state: State, given: Input, host: int, now: float) -> None:
    """Every request on the host ends with an error: those being served, and those that wait."""
    places = lose(
        state.requests_i,
        state.hosts_f[host],
        state.hosts_i,
        state.heap_time,
        state.heap_place,
        state.counters,
        host,
        now,
    )
    for place in places:
        state.requests_i[place, FLAGS] |= ERROR
        state.requests_i[place, REPORTED] = -2
        send_answer(state.requests_f, state.requests_i, state.counters, place, now + given.rtt)


@compiled
def _welcome(views_f: Floats, views_i: Ints, host: int) -> None:
    """Pickers take in a host that has joined: nothing is known of it, and it starts abreast with the others' turns."""
    for picker in range(views_i.shape[1]):
        least = np.inf
        for other in range(views_i.shape[2]):
            if other != host and views_i[SEEN_UP, picker, other]:
                least = min(least, views_f[DEADLINE, picker, other])
        if least < np.inf:
            views_f[DEADLINE, picker, host] = least + views_f[PERIOD, picker, host]
        views_i[SEEN_UP, picker, host] = 1
        views_f[OTHERS, picker, host] = 0.0
        views_f[COST, picker, host] = 0.0
        views_f[WEIGHT_SINCE, picker, host] = np.inf
