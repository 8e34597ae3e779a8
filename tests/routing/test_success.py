"""How likely requests are to succeed, and what that does to where they are sent."""

import heapq
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fingerpost.clock import US
from fingerpost.routing.cost import routing_cost
from fingerpost.routing.picker_table import picker_cells
from fingerpost.routing.success import success_rates
from fingerpost.settings import Settings
from fingerpost.telemetry.history import HISTORY_COLUMNS, History
from fingerpost.telemetry.windows import aggregate, aggregate_loads, select_window, with_background, with_throughput

counts = hnp.arrays(np.float64, (4, 3), elements=st.floats(0, 1e6))
shares = hnp.arrays(np.float64, (4, 3), elements=st.floats(0, 1))


def weight_in_cost(success):
    """What the success does to the cost, beside that of a host without failures."""
    return routing_cost(0, 1.0, success_rate=success)


@given(counts, shares)
def test_rates_are_rates(requests, failing):
    rates = success_rates(requests, requests * failing)
    assert ((rates > 0) & (rates <= 1)).all()
    assert (success_rates(requests, np.zeros_like(requests)) == 1).all()
    assert (success_rates(np.full((2, 2), np.nan), np.full((2, 2), np.nan)) == 1).all()


@given(st.floats(50, 1e6))
def test_a_host_that_fails_everywhere_is_no_better_where_it_was_not_tried(requests):
    seen = np.full((4, 3), requests)
    seen[0, 2] = 0
    bad = np.zeros_like(seen)
    bad[0] = seen[0]
    rates = success_rates(seen, bad)
    assert rates[0, 2] < 0.1
    assert (rates[1:] > 0.9).all()
    assert weight_in_cost(rates[0]).min() > 300


@given(st.floats(0.3, 1.0), hnp.arrays(np.float64, 4, elements=st.floats(100, 1e5)))
def test_a_route_that_fails_on_all_hosts_speaks_against_none(failing, requests):
    seen = np.stack([requests, np.full(4, 500.0)], axis=1)
    cost = weight_in_cost(success_rates(seen, seen * [failing, 0.0]))
    # Nor against what else they serve.
    assert cost[:, 0].max() / cost[:, 0].min() < 1.5
    assert cost[:, 1].max() < 1.3


def test_one_route_that_fails_on_one_host_alone_is_sent_elsewhere():
    seen, bad = np.full((5, 6), 40.0), np.zeros((5, 6))
    bad[2, 3] = 40.0
    cost = weight_in_cost(success_rates(seen, bad))
    assert cost[2, 3] > 50
    assert np.delete(cost[2], 3).max() < 1.5
    others = np.delete(cost, 2, axis=0)
    assert (others.max(axis=0) / others.min(axis=0) < 1.01).all()


def test_what_is_long_ago_is_forgiven():
    """With the age of what was seen its weight fades, and the host's price with it."""
    seen, bad = np.full((4, 2), 100.0), np.zeros((4, 2))
    bad[0] = 100.0
    prices = []
    for halflives in range(10):
        seen[0] = bad[0] = 100.0 * 0.5**halflives
        prices.append(weight_in_cost(success_rates(seen, bad))[0].max())
    assert (np.diff(prices) <= 0).all()
    assert prices[0] > 300
    assert prices[-1] < 2


class ClosedLoop:
    """Hosts with a few places; windows, history, success and costs of ours decide where each request goes.

    Args:
        fails: (host, category, seconds since the beginning) to whether a request fails, within 1 ms.
    """

    hosts, slots, window_s, halflife_s = 6, 4, 5.0, 30.0

    def __init__(self, fails, categories=4, rps=40.0, seed=3):
        self.fails, self.categories, self.rps = fails, categories, rps
        self.rng = np.random.default_rng(seed)
        self.history = History(self.hosts, categories, self.window_s, self.halflife_s)
        self.seen, self.bad = np.zeros((2, self.hosts, categories))
        self.slope = np.ones((categories, self.hosts + 1))
        self.sent = []  # when, where, what, failed

    def run(self, seconds):
        inflight, busy = np.zeros(self.hosts), np.zeros(self.hosts, dtype=int)
        queues = [deque() for _ in range(self.hosts)]
        ends, records, now_s, due_s = [], [], self.rng.exponential(1 / self.rps), self.window_s

        def start(host, category, came_s, before, at_s):
            failed = self.fails(host, category, at_s)
            took_s = 0.001 if failed else self.rng.exponential(0.05)
            heapq.heappush(ends, (at_s + took_s, host, category, came_s, before, failed))

        while now_s < seconds:
            if ends and ends[0][0] < min(now_s, due_s):
                end_s, host, category, came_s, before, failed = heapq.heappop(ends)
                inflight[host] -= 1
                records.append((end_s, host, category, 500 if failed else 200, end_s - came_s, before))
                self.sent.append((end_s, host, category, failed))
                if queues[host]:
                    start(host, *queues[host].popleft(), end_s)
                else:
                    busy[host] -= 1
            elif now_s < due_s:
                category = int(self.rng.integers(self.categories))
                cost = self.slope[category, : self.hosts] * (inflight + 1)
                explore = self.rng.random() < 0.01
                host = int(self.rng.choice(self.hosts if explore else np.flatnonzero(cost <= cost.min())))
                before = inflight[host]
                inflight[host] += 1
                if busy[host] < self.slots:
                    busy[host] += 1
                    start(host, category, now_s, before, now_s)
                else:
                    queues[host].append((category, now_s, before))
                now_s += self.rng.exponential(1 / self.rps)
            else:
                self._learn(records, due_s)
                records, due_s = [], due_s + self.window_s
        return np.array(self.sent)

    def _learn(self, records, end_s):
        time_s, host, category, status, took_s, before = np.array(records).T
        place, kind = host.astype(np.int64), category.astype(np.int64)
        begin_us = 1_795_678_000 * US
        requests = {"time_us": (begin_us + time_s * US).astype(np.int64), "host": place, "category": kind}
        requests |= {"status": status, "duration_s": took_s, "service_time_s": took_s}
        samples = {"time_us": np.full(self.hosts, begin_us + int(end_s * US) - 1), "host": np.arange(self.hosts)}
        samples |= {name: np.full(self.hosts, 4.0) for name in ("cores", "slots")}
        samples |= {name: np.full(self.hosts, 0.1) for name in ("cpu_util", "mem_share")}
        requests["inflight"] = before
        loads = aggregate_loads(samples, self.window_s)
        windows = aggregate(requests, self.window_s, loads)
        loads = with_background(loads, windows, self.window_s)
        windows, end_us = with_throughput(windows, loads), begin_us + int(end_s * US)
        self.history.observe(end_us, select_window(windows, end_us), select_window(loads, end_us))
        fade = 0.5 ** (self.window_s / self.halflife_s)
        self.seen, self.bad = self.seen * fade, self.bad * fade
        np.add.at(self.seen, (place, kind), 1)
        np.add.at(self.bad, (place, kind), status >= 500)
        rate = np.exp(self.history.columns()[..., HISTORY_COLUMNS.index("throughput_rps_ewma")])
        success = success_rates(self.seen, self.bad)
        self.slope, _ = picker_cells(rate.T, np.zeros(rate.T.shape), success.T, np.ones(self.hosts), Settings())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_host_that_fails_fast_is_left_alone(share):
    rng = np.random.default_rng(1)
    sent = ClosedLoop(lambda host, _category, _at: host == 0 and rng.random() < share).run(200)
    late = sent[sent[:, 0] > 50]
    assert late[:, 3].mean() < 0.02
    assert (late[:, 1] == 0).mean() < 0.04


def test_a_host_that_is_well_again_gets_its_requests_again():
    sent = ClosedLoop(lambda host, _category, at_s: host == 0 and 50 < at_s < 110).run(420)

    def part(begin_s, end_s):
        return (sent[(sent[:, 0] >= begin_s) & (sent[:, 0] < end_s), 1] == 0).mean()

    assert part(20, 50) > 0.1
    assert part(80, 110) < 0.05
    assert part(340, 420) > 0.1


def test_a_route_that_fails_everywhere_stays_where_it_was():
    rng = np.random.default_rng(1)
    sent = ClosedLoop(lambda _host, category, _at: category == 0 and rng.random() < 0.7, rps=250.0).run(100)
    late = sent[sent[:, 0] > 50]
    for broken in (True, False):
        parts = np.bincount(late[(late[:, 2] == 0) == broken, 1].astype(int), minlength=6)
        assert parts.min() / parts.sum() > 0.02, (broken, parts)
        assert parts.max() / parts.sum() < 0.45, (broken, parts)
