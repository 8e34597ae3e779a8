"""Advances a pool of accelerators that serve language models by continuous batching; compiled.

A host works in steps. A step decodes one token of every request whose prompt is done, and fills what is left of its
token budget with prompts, oldest first (chunked prefill). It takes `step + prefill * prompt tokens + decode * requests
decoded + context * tokens that these have in the cache`, seconds. Between steps waiting requests are admitted in order,
as long as the budget, the batch limit and the cache have room for the oldest. A request reserves the cache for its
prompt and its whole answer: so none is preempted.
"""

from typing import NamedTuple

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.routing.inflight import GONE_ROUNDS, GONE_S
from fingerpost.simulator.basics import compiled, draw_host, least_of, uniform
from fingerpost.simulator.choice import OWN, REPORTED, explore, fingerpost

RANDOM, LEAST_REQUEST, ACTIVE_REQUEST, QUEUE_AND_CACHE, TOKEN_LOAD, KNOWN, FINGERPOST, STREAMED, QUEUED = range(9)

# Columns of `requests_i`: tokens of prompt and answer, category, picker, host, tokens of the prompt done and of the
# answer made, those of the prompt in the present step, the next in the host's queue, requests found there, explored.
PROMPT, ANSWER, CATEGORY, PICKER, HOST, READ, MADE, CHUNK, NEXT, FOUND, EXPLORED = range(11)
# Columns of `requests_f`, seconds; NaN until then: the last is what it was predicted to take where it was sent.
SENT, FIRST, END, WORK = range(4)
# Columns of `hosts_i`: requests in the batch and in the queue, the queue's ends, tokens of the cache that are reserved
# and that are filled, prompt tokens yet to be read, requests that the present step decodes.
BATCH, WAITING, HEAD, TAIL, RESERVED, FILLED, UNREAD, DECODING = range(8)
# Columns of `classes_f`, seconds: of a step, of a prompt token, of a request decoded, of a token in the cache.
STEP, PREFILL, DECODE, CONTEXT = range(4)
# Columns of `classes_i`: tokens in the cache, requests in a batch, tokens in a step.
CACHE, LIMIT, BUDGET = range(3)
# Planes of `views`, of shape (pickers, hosts), what each picker knows: its own requests, those of them whose answer has
# not begun and the prompt tokens of these; requests of others, when that was told and after how many answers; queue and
# share of the cache as last scraped, and own requests sent since; predicted seconds of the unanswered.
OUT, UNANSWERED, TOKENS, OTHERS, TOLD_AT, HEARD_AT, QUEUE, USAGE, SINCE, AHEAD = range(10)
# Columns of `pickers`: answers heard, the next scrape, seconds.
HEARD, SCRAPE_AT = range(2)
# Places in `counters`: the next arrival, and requests ended.
COMING, ENDED = range(2)

# Default weights of the scorers of the Gateway API inference extension.
_QUEUE_WEIGHT, _CACHE_WEIGHT = 2.0, 2.0


class State(NamedTuple):
    """All there is of a run; `batch` holds requests of each host, `ended` those that ended, in order; `up` is all 1."""

    requests_i: Ints
    requests_f: Floats
    hosts_i: Ints
    step_end: Floats
    batch: Ints
    classes_f: Floats
    classes_i: Ints
    views: Floats
    pickers: Floats
    ended: Ints
    up: Ints
    counters: Ints
    random: Ints


@compiled
def advance(state: State, until: float, policy: int, cost: Floats, exploration: Floats, scrape_s: float) -> None:
    """Runs to a time, or until nothing is left to do; events at that very time are left for the next call.

    Args:
        cost: shape (routers, 3, categories, hosts), a router for each picker or one for all.
        exploration: of each router.
        scrape_s: pickers look at queues and caches so often.
    """
    arrivals, hosts = len(state.requests_f), len(state.step_end)
    while state.counters[ENDED] < arrivals:
        coming, now, host = state.counters[COMING], until, -1
        if coming < arrivals and state.requests_f[coming, SENT] < now:
            now, host = state.requests_f[coming, SENT], hosts
        for each in range(hosts):
            if state.step_end[each] < now:
                now, host = state.step_end[each], each
        looks = 0
        for each in range(len(state.pickers)):
            if state.pickers[each, SCRAPE_AT] < state.pickers[looks, SCRAPE_AT]:
                looks = each
        if policy in (QUEUE_AND_CACHE, QUEUED) and state.pickers[looks, SCRAPE_AT] < now:
            _scrape(state, looks)
            state.pickers[looks, SCRAPE_AT] += scrape_s
            continue
        if host < 0:
            return
        if host < hosts:
            _end_step(state, host, now)
            _begin_step(state, host, now)
            continue
        state.counters[COMING] += 1
        picker, category = state.requests_i[coming, PICKER], state.requests_i[coming, CATEGORY]
        table = min(picker, len(cost) - 1)
        row, chosen = cost[table, :, category], -1
        if policy >= FINGERPOST and uniform(state.random) < exploration[table]:
            chosen = explore(state.up, row, state.random)
            state.requests_i[coming, EXPLORED] = int(chosen >= 0)
        if chosen < 0:
            chosen = choose(state, policy, row, picker, coming, now)
        state.requests_f[coming, WORK] = row[0, chosen] if np.isfinite(row[0, chosen]) else 0.0
        _send(state, coming, chosen)
        if not np.isfinite(state.step_end[chosen]):
            _begin_step(state, chosen, now)


@compiled
def choose(state: State, policy: int, cost: Floats, picker: int, request: int, now: float) -> int:
    """The host for a request; `cost` is its category's, shape (3, H)."""
    views, up, random = state.views, state.up, state.random
    if policy in (FINGERPOST, STREAMED):
        own, gone, heard = np.empty(len(up), dtype=np.int64), np.empty(len(up)), state.pickers[picker, HEARD]
        for host in range(len(up)):
            own[host] = int(views[OUT if policy == FINGERPOST else UNANSWERED, picker, host])
            rounds = (heard - views[HEARD_AT, picker, host]) / (len(up) * GONE_ROUNDS)
            gone[host] = max(rounds, (now - views[TOLD_AT, picker, host]) / GONE_S)
        # What hosts tell counts requests whose answers have begun too: where those do not count it is left out.
        inflight = REPORTED if policy == FINGERPOST else OWN
        return fingerpost(up, own, views[OTHERS, picker], gone, cost, inflight, len(state.pickers), random)
    if policy == QUEUED:
        # `fingerpost.routing.inflight.work_ahead`, compiled.
        total, least = np.empty(len(up)), np.inf
        for host in range(len(up)):
            count, work = views[UNANSWERED, picker, host], views[AHEAD, picker, host]
            others = max(0.0, views[QUEUE, picker, host] + views[SINCE, picker, host] - count)
            each = work / count if count > 0 else cost[0, host]
            total[host] = work + others * each + cost[0, host] + cost[1, host]
            if not np.isfinite(total[host]):
                total[host] = np.inf
            least = min(least, total[host])
        return least_of(total if np.isfinite(least) else views[UNANSWERED, picker], up, random)
    if policy in (RANDOM, LEAST_REQUEST):
        one, other = draw_host(up, random), draw_host(up, random)
        return other if policy == LEAST_REQUEST and views[OUT, picker, other] < views[OUT, picker, one] else one
    score = np.empty(len(up))
    most, least = 0.0, np.inf
    for host in range(len(up)):
        most, least = max(most, views[QUEUE, picker, host]), min(least, views[QUEUE, picker, host])
    for host in range(len(up)):
        if policy == QUEUE_AND_CACHE:
            queue = (most - views[QUEUE, picker, host]) / (most - least) if most > least else 1.0
            score[host] = -_QUEUE_WEIGHT * queue - _CACHE_WEIGHT * (1.0 - views[USAGE, picker, host])
        elif policy == KNOWN:
            score[host] = _first_token_s(state, request, host, now)
        else:
            score[host] = views[TOKENS if policy == TOKEN_LOAD else OUT, picker, host]
    return least_of(score, up, random)


@compiled
def _first_token_s(state: State, request: int, host: int, now: float) -> float:
    """Seconds to the first token if nothing else came, by what is on the host; room in the cache is assumed."""
    has, speed = state.hosts_i[host], state.classes_f[host]
    tokens = has[UNREAD] + state.requests_i[request, PROMPT]
    steps = np.ceil(tokens / max(state.classes_i[host, BUDGET] - has[DECODING], 1))
    every = speed[STEP] + speed[DECODE] * has[DECODING] + speed[CONTEXT] * has[FILLED]
    present = state.step_end[host] - now if np.isfinite(state.step_end[host]) else 0.0
    return float(present + steps * every + tokens * speed[PREFILL])


@compiled
def _scrape(state: State, picker: int) -> None:
    """Has a picker see queues and caches as they are."""
    for host in range(len(state.step_end)):
        state.views[QUEUE, picker, host] = state.hosts_i[host, WAITING]
        state.views[SINCE, picker, host] = 0.0
        state.views[USAGE, picker, host] = state.hosts_i[host, FILLED] / state.classes_i[host, CACHE]


@compiled
def _send(state: State, request: int, host: int) -> None:
    """Puts a request at the end of a host's queue."""
    of, has = state.requests_i[request], state.hosts_i[host]
    of[HOST], of[FOUND], of[NEXT] = host, has[BATCH] + has[WAITING], -1
    if has[WAITING]:
        state.requests_i[has[TAIL], NEXT] = request
    else:
        has[HEAD] = request
    has[TAIL] = request
    has[WAITING] += 1
    has[UNREAD] += of[PROMPT]
    state.views[OUT, of[PICKER], host] += 1.0
    state.views[UNANSWERED, of[PICKER], host] += 1.0
    state.views[TOKENS, of[PICKER], host] += of[PROMPT]
    state.views[SINCE, of[PICKER], host] += 1.0
    state.views[AHEAD, of[PICKER], host] += state.requests_f[request, WORK]


@compiled
def _begin_step(state: State, host: int, now: float) -> None:
    """Plans the next step, and admits what there is room for."""
    has, may, speed = state.hosts_i[host], state.classes_i[host], state.classes_f[host]
    has[DECODING], context, read = 0, 0, 0
    for place in range(has[BATCH]):
        of = state.requests_i[state.batch[host, place]]
        if of[READ] == of[PROMPT]:
            has[DECODING] += 1
            context += of[PROMPT] + of[MADE]
    left = max(may[BUDGET] - has[DECODING], 0)
    for place in range(has[BATCH]):
        of = state.requests_i[state.batch[host, place]]
        of[CHUNK] = min(of[PROMPT] - of[READ], left - read)
        read += of[CHUNK]
    while has[WAITING] and read < left and has[BATCH] < may[LIMIT]:
        of = state.requests_i[has[HEAD]]
        needed = of[PROMPT] + of[ANSWER]
        if has[BATCH] and has[RESERVED] + needed > may[CACHE]:
            break
        state.batch[host, has[BATCH]] = has[HEAD]
        has[HEAD] = of[NEXT]
        has[BATCH] += 1
        has[WAITING] -= 1
        has[RESERVED] += needed
        of[CHUNK] = min(of[PROMPT], left - read)
        read += of[CHUNK]
    if has[BATCH] == 0:
        state.step_end[host] = np.inf
        return
    took = speed[STEP] + speed[PREFILL] * read + speed[DECODE] * has[DECODING] + speed[CONTEXT] * context
    state.step_end[host] = now + took


@compiled
def _end_step(state: State, host: int, now: float) -> None:
    """Gives out the tokens that a step has made; what is complete leaves the batch."""
    has, kept = state.hosts_i[host], 0
    for place in range(has[BATCH]):
        request = state.batch[host, place]
        of = state.requests_i[request]
        if of[READ] < of[PROMPT]:
            of[READ] += of[CHUNK]
            has[UNREAD] -= of[CHUNK]
            has[FILLED] += of[CHUNK]
            if of[READ] == of[PROMPT]:
                _begin_answer(state, request, host, now)
        else:
            of[MADE] += 1
            has[FILLED] += 1
        if of[MADE] < of[ANSWER]:
            state.batch[host, kept] = request
            kept += 1
            continue
        has[BATCH] -= 1
        has[RESERVED] -= of[PROMPT] + of[ANSWER]
        has[FILLED] -= of[PROMPT] + of[MADE]
        state.requests_f[request, END] = now
        state.views[OUT, of[PICKER], host] -= 1.0
        state.ended[state.counters[ENDED]] = request
        state.counters[ENDED] += 1


@compiled
def _begin_answer(state: State, request: int, host: int, now: float) -> None:
    """Gives out the first token; with it the host tells the picker how many requests it has."""
    of, has, views = state.requests_i[request], state.hosts_i[host], state.views
    picker = of[PICKER]
    of[MADE] = 1
    has[FILLED] += 1
    state.requests_f[request, FIRST] = now
    views[TOKENS, picker, host] -= of[PROMPT]
    views[UNANSWERED, picker, host] -= 1.0
    left = max(0.0, views[AHEAD, picker, host] - state.requests_f[request, WORK])
    views[AHEAD, picker, host] = left if views[UNANSWERED, picker, host] > 0 else 0.0
    state.pickers[picker, HEARD] += 1.0
    views[OTHERS, picker, host] = max(0.0, has[BATCH] + has[WAITING] - views[OUT, picker, host])
    views[TOLD_AT, picker, host] = now
    views[HEARD_AT, picker, host] = state.pickers[picker, HEARD]
