"""The event loop, compiled: arrivals, finishes, answers and what befalls hosts, in order of time.

Time runs as the hosts see it, half a round trip after the pickers: a request is at its host when it is sent, and its
picker hears of its end a round trip after the end. The order of events is the same: the delay is the same for all.
"""

from typing import NamedTuple

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.basics import compiled, draw_host, heap_pop, heap_push, uniform
from fingerpost.simulator.choice import choose, explore, heard
from fingerpost.simulator.fleet import DRAIN, FAIL, JOIN, LOSS_NOTICED
from fingerpost.simulator.hosts import account, admit, following, lose, report, send_answer, start, stop
from fingerpost.simulator.policies import EXPLORES, FINGERPOST, ORCA, PREQUAL
from fingerpost.simulator.prequal import prequal_finish
from fingerpost.simulator.state import (
    ANSWER,
    BUSY,
    CATEGORY,
    COST,
    DEADLINE,
    DONE,
    ENDS_AT,
    ERROR,
    EVENT,
    EXPLORED,
    EXTRA,
    FAILING,
    FIRST,
    FLAGS,
    FOUND,
    FREE,
    FREE_COUNT,
    GONE,
    HOST,
    INFLIGHT,
    LIMIT,
    NEXT,
    OLDER,
    OLDEST,
    OTHERS,
    OUT,
    PERIOD,
    PICKER,
    RELEASED,
    REPORTED,
    SEEN_UP,
    SENT,
    SERVED,
    SERVICE,
    TRIED,
    TRIES,
    UP,
    WEIGHT_SINCE,
    WINDOW_DONE,
    WINDOW_ERRORS,
    WORK,
    YOUNGER,
    YOUNGEST,
    State,
)

# Columns of `Input.failures`.
FAILS_HOST, FAILS_CATEGORY, FAILS_FROM, FAILS_UNTIL, FAILS_SHARE, FAILS_AFTER = range(6)
# In REPORTED, of what no host took, and of what was on a host that was lost.
_NO_HOST, _LOST = -1, -2


class Input(NamedTuple):
    """What a span is fed.

    Attributes:
        arrivals_f: time and work, shape (n, 2), in order of time; `arrivals_i`: category and picker.
        service_s: mean service times, shape (ticks, C, H).
        crowding, harm: by how much each request in service lengthens one that starts, shape (C, H) and, by categories,
            (C, C) or empty.
        failures: a row for each rule by which hosts fail, see FAILS_HOST; category -1: any; seconds.
        event_time, events: what befalls hosts; host and kind, shape (e, 2).
        cost: see `fingerpost.simulator.choice.fingerpost`, shape (tables, 3 or 5, C, H): a table a picker, or one for
            all.
        exploration: share of the requests that is explored, alike.
    """

    arrivals_f: Floats
    arrivals_i: Ints
    service_s: Floats
    crowding: Floats
    harm: Floats
    failures: Floats
    event_time: Floats
    events: Ints
    cost: Floats
    until: float
    tick_s: float
    rtt: float
    exploration: Floats
    timeout: float
    retries: int
    retry_failures: int
    works_on: bool
    sharing: bool
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
        timeout = requests_f[counters[OLDEST], TRIED] + given.timeout if counters[OLDEST] >= 0 else np.inf
        sharer, share_end = -1, np.inf
        if given.sharing:
            for host in range(len(state.hosts_f)):
                if state.hosts_f[host, ENDS_AT] < share_end:
                    sharer, share_end = host, state.hosts_f[host, ENDS_AT]
        now = min(arrival, finish, answer, event, timeout, share_end)
        if now >= given.until:
            if given.until < np.inf:
                _fill(state, given.until)
            return
        if event == now:
            _befall(state, given, now)
            counters[EVENT] += 1
        elif finish == now:
            place = heap_pop(state.heap_time, state.heap_place, counters, SERVED)
            if requests_i[place, FLAGS] & RELEASED:
                _free(state, place)
            else:
                _finish(state, given, place, now)
        elif share_end == now:
            _finish(state, given, state.shared_place[sharer, 0], now)
        elif answer == now:
            place = counters[FIRST]
            counters[FIRST] = requests_i[place, NEXT]
            if requests_i[place, FLAGS] & GONE:
                _free(state, place)
            else:
                _answer(state, given, out, place, now)
        elif timeout == now:
            _time_out(state, given, out, counters[OLDEST], now)
        else:
            place = _take(state)
            requests_f[place, SENT] = now
            requests_f[place, WORK] = given.arrivals_f[coming, 1]
            requests_i[place, CATEGORY] = given.arrivals_i[coming, 0]
            requests_i[place, PICKER] = given.arrivals_i[coming, 1]
            _send(state, given, place, now)
            coming += 1


@compiled
def _fill(state: State, now: float) -> None:
    """Brings reservoirs up to now, also those of hosts that nothing happens on."""
    for host in range(len(state.hosts_f)):
        if state.hosts_f[host, LIMIT] < np.inf:
            account(state.hosts_f[host], state.hosts_i[host], now)


@compiled
def _take(state: State) -> int:
    """A free place, emptied."""
    place = state.counters[FREE]
    state.counters[FREE] = state.requests_i[place, NEXT]
    state.counters[FREE_COUNT] -= 1
    state.requests_f[place] = 0.0
    state.requests_i[place] = 0
    state.requests_i[place, OLDER] = state.requests_i[place, YOUNGER] = -1
    return place


@compiled
def _free(state: State, place: int) -> None:
    state.requests_i[place, NEXT] = state.counters[FREE]
    state.counters[FREE] = place
    state.counters[FREE_COUNT] += 1


@compiled
def _send(state: State, given: Input, place: int, now: float) -> None:
    """Sends a request; a lost host refuses at once, the picker notes it and tries another, a round trip later."""
    counters, random = state.counters, state.random
    row_f, row_i = state.requests_f[place], state.requests_i[place]
    category, picker = row_i[CATEGORY], row_i[PICKER]
    up = state.views_i[SEEN_UP, picker]
    costs = given.cost[picker % len(given.cost), :, category]
    exploration = given.exploration[picker % len(given.exploration)]
    host = -1
    row_f[TRIED] = now
    for attempt in range(given.retries + 1):
        host = -1
        if given.policy >= EXPLORES and exploration > 0 and uniform(random) < exploration:
            host = explore(up, costs, random) if given.policy == FINGERPOST else draw_host(up, random)
        row_i[FLAGS] = (row_i[FLAGS] & ~EXPLORED) | (EXPLORED if host >= 0 else 0)
        if host < 0:
            host = choose(state, costs, given.inflight, given.policy, picker, category, now, given.rtt)
        row_i[HOST] = host
        if host < 0:
            break
        if state.hosts_i[host, UP]:
            row_f[EXTRA] += attempt * given.rtt
            state.views_i[OUT, picker, host] += 1
            if state.counts.shape[2] > 0:
                state.counts[picker, host, category] += 1
            if given.timeout < np.inf:
                _note_age(state, place)
            _reach(state, given, place, host, now)
            return
        up[host] = 0
    row_i[FLAGS] |= ERROR
    row_i[REPORTED] = _NO_HOST
    send_answer(state.requests_f, state.requests_i, counters, place, now + given.rtt)


@compiled
def _reach(state: State, given: Input, place: int, host: int, now: float) -> None:
    """A request comes to a host that is up."""
    row_i = state.requests_i[place]
    row_i[FOUND] = state.hosts_i[host, INFLIGHT]
    for number in range(len(given.failures)):
        rule = given.failures[number]
        if rule[FAILS_HOST] != host or rule[FAILS_CATEGORY] not in (-1.0, float(row_i[CATEGORY])):
            continue
        if rule[FAILS_FROM] <= now < rule[FAILS_UNTIL] and uniform(state.random) < rule[FAILS_SHARE]:
            row_i[FLAGS] |= FAILING | ERROR
            state.hosts_i[host, INFLIGHT] += 1
            after = now + rule[FAILS_AFTER]
            heap_push(state.heap_time, state.heap_place, state.counters, SERVED, after, place)
            return
    if admit(state.requests_i, state.hosts_i, place, host):
        _start(state, given, place, host, now)


@compiled
def _start(state: State, given: Input, place: int, host: int, now: float) -> None:
    tick = min(int(now / given.tick_s), len(given.service_s) - 1)
    category = state.requests_i[place, CATEGORY]
    crowded = 1.0 + given.crowding[category, host] * state.hosts_i[host, BUSY]
    for other in range(given.harm.shape[1]):
        crowded += given.harm[category, other] * state.beside[host, other]
    start(state, place, host, given.service_s[tick, category, host] * crowded, now, given.sharing)


@compiled
def _finish(state: State, given: Input, place: int, now: float) -> None:
    """A host has done with a request; if its client waits no longer, nobody hears of it."""
    requests_f, requests_i, hosts_i = state.requests_f, state.requests_i, state.hosts_i
    host, flags = requests_i[place, HOST], requests_i[place, FLAGS]
    if not flags & FAILING:
        stop(state, place, host, now, given.sharing)
    hosts_i[host, INFLIGHT] -= 1
    requests_i[place, REPORTED] = hosts_i[host, INFLIGHT]
    if given.policy == PREQUAL:
        prequal_finish(state.latencies[host], requests_i[place, FOUND], now - requests_f[place, TRIED], now)
    if given.policy == ORCA:
        state.hosts_f[host, WINDOW_DONE] += 1
        state.hosts_f[host, WINDOW_ERRORS] += (flags & FAILING) > 0
        report(state.hosts_f[host], now)
    if not flags & FAILING:
        _go_on(state, given, host, now)
    if flags & GONE:
        _free(state, place)
    else:
        send_answer(requests_f, requests_i, state.counters, place, now + given.rtt)


@compiled
def _go_on(state: State, given: Input, host: int, now: float) -> None:
    """A slot is free: the first that waits, and is waited for, starts."""
    while True:
        place = following(state.requests_i, state.hosts_i[host])
        if place < 0:
            return
        if state.requests_i[place, FLAGS] & RELEASED:
            _free(state, place)
            continue
        _start(state, given, place, host, now)
        return


@compiled
def _answer(state: State, given: Input, out: Output, place: int, now: float) -> None:
    row_f, row_i = state.requests_f[place], state.requests_i[place]
    if given.timeout < np.inf and row_i[REPORTED] != _NO_HOST:
        _forget_age(state, place)
    _leave(state, place)
    failed = (row_i[FLAGS] & ERROR) > 0
    if row_i[REPORTED] >= 0:
        latency, service = now - row_f[TRIED], row_f[SERVICE]
        heard(
            state,
            given.policy,
            row_i[PICKER],
            row_i[HOST],
            row_i[CATEGORY],
            latency,
            service,
            row_i[REPORTED],
            now,
            failed,
        )
    if failed and row_i[REPORTED] != _NO_HOST and row_i[TRIES] < given.retry_failures:
        _send_again(state, given, place, now)
    else:
        _tell(state, out, place, now)
    _free(state, place)


@compiled
def _time_out(state: State, given: Input, out: Output, place: int, now: float) -> None:
    """The client waits no longer; the host works on in vain, or gives the request up at once."""
    row_i = state.requests_i[place]
    host = row_i[HOST]
    _forget_age(state, place)
    _leave(state, place)
    row_i[FLAGS] |= ERROR | GONE
    if row_i[TRIES] < given.retry_failures:
        _send_again(state, given, place, now)
    else:
        _tell(state, out, place, now)
    if given.works_on or state.requests_f[place, ANSWER] > 0:
        return
    state.hosts_i[host, INFLIGHT] -= 1
    row_i[FLAGS] |= RELEASED
    if row_i[FLAGS] & FAILING or state.requests_f[place, SERVICE] == 0:
        return
    stop(state, place, host, now, given.sharing)
    if given.sharing:
        _free(state, place)
    _go_on(state, given, host, now)


@compiled
def _send_again(state: State, given: Input, place: int, now: float) -> None:
    """Tries again, at another host than the last if there is one."""
    again = _take(state)
    row_f, row_i = state.requests_f[again], state.requests_i[again]
    row_f[SENT], row_f[WORK] = state.requests_f[place, SENT], state.requests_f[place, WORK]
    row_f[EXTRA] = state.requests_f[place, EXTRA]
    row_i[CATEGORY], row_i[PICKER] = state.requests_i[place, CATEGORY], state.requests_i[place, PICKER]
    row_i[TRIES] = state.requests_i[place, TRIES] + 1
    up, host = state.views_i[SEEN_UP, row_i[PICKER]], state.requests_i[place, HOST]
    before = up[host]
    if up.sum() > before:
        up[host] = 0
    _send(state, given, again, now)
    up[host] = before


@compiled
def _leave(state: State, place: int) -> None:
    """The picker counts a request as in flight no longer; what no host took it never did."""
    row_i = state.requests_i[place]
    if row_i[REPORTED] == _NO_HOST:
        return
    state.views_i[OUT, row_i[PICKER], row_i[HOST]] -= 1
    if state.counts.shape[2] > 0:
        state.counts[row_i[PICKER], row_i[HOST], row_i[CATEGORY]] -= 1


@compiled
def _tell(state: State, out: Output, place: int, now: float) -> None:
    row_f, row_i = state.requests_f[place], state.requests_i[place]
    done = state.counters[DONE]
    state.counters[DONE] = done + 1
    out.floats[done, 0] = row_f[SENT]
    out.floats[done, 1] = now + row_f[EXTRA]
    out.floats[done, 2] = row_f[SERVICE]
    out.ints[done, 0] = row_i[HOST]
    out.ints[done, 1] = row_i[CATEGORY]
    out.ints[done, 2] = row_i[PICKER]
    out.ints[done, 3] = row_i[FOUND]
    out.ints[done, 4] = row_i[FLAGS]


@compiled
def _note_age(state: State, place: int) -> None:
    """Tries time out in the order in which they began."""
    counters, requests_i = state.counters, state.requests_i
    requests_i[place, OLDER] = counters[YOUNGEST]
    if counters[YOUNGEST] >= 0:
        requests_i[counters[YOUNGEST], YOUNGER] = place
    else:
        counters[OLDEST] = place
    counters[YOUNGEST] = place


@compiled
def _forget_age(state: State, place: int) -> None:
    counters, requests_i = state.counters, state.requests_i
    older, younger = requests_i[place, OLDER], requests_i[place, YOUNGER]
    if older >= 0:
        requests_i[older, YOUNGER] = younger
    else:
        counters[OLDEST] = younger
    if younger >= 0:
        requests_i[younger, OLDER] = older
    else:
        counters[YOUNGEST] = older


@compiled
def _befall(state: State, given: Input, now: float) -> None:
    number = state.counters[EVENT]
    host, kind = given.events[number, 0], given.events[number, 1]
    if kind == JOIN:
        state.hosts_i[host, UP] = 1
    elif kind == FAIL:
        _lose(state, given, host, now)
    elif kind == DRAIN:
        state.views_i[SEEN_UP, :, host] = 0
    elif kind == LOSS_NOTICED:
        state.views_i[SEEN_UP, :, host] = state.hosts_i[host, UP]
    elif state.hosts_i[host, UP]:
        _welcome(state.views_f, state.views_i, host)


@compiled
def _lose(state: State, given: Input, host: int, now: float) -> None:
    """Every request on the host ends with an error: those being served, and those that wait."""
    for place in lose(state, host, now, given.sharing):
        if state.requests_i[place, FLAGS] & (GONE | RELEASED):
            _free(state, place)
            continue
        state.requests_i[place, FLAGS] |= ERROR
        state.requests_i[place, REPORTED] = _LOST
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
