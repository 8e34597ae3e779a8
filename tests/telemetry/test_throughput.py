"""Throughput as windows, fingerprints and the baseline have it: a mean that no amount of traffic moves."""

import heapq
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fingerpost.agent.host_history import HostHistory
from fingerpost.category import CategoryTable, category_key
from fingerpost.clock import US
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.serving.fleet_state import HostState, build_fleet
from fingerpost.telemetry.history import HISTORY_COLUMNS, History
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.telemetry.throughput import PLACES_A_CORE, at_resolution, throughput_rps, unloaded_s
from fingerpost.telemetry.windows import (
    aggregate,
    aggregate_loads,
    in_flight,
    select_window,
    with_background,
    with_throughput,
)
from tests.support.records import record

BEGIN_US = 1_795_678_000 * US
WINDOW_S, SLOTS, WORK_S = 10.0, 8.0, 0.05
TRUTH = SLOTS / WORK_S
DRAWS = {
    "exponential": lambda rng, count: rng.exponential(1.0, count),
    "lognormal": lambda rng, count: rng.lognormal(-np.log(1.36) / 2, np.sqrt(np.log(1.36)), count),  # cv 0.6
}


def windows_of(end_s, seconds, slots=SLOTS, cores=8.0, busy=0.1, **known):
    """Windows and loads of one host and one category."""
    end_s, seconds = np.asarray(end_s, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    nothing = np.zeros(len(end_s), dtype=np.int64)
    requests = {"time_us": BEGIN_US + (end_s * US).astype(np.int64), "host": nothing, "category": nothing}
    requests |= {"status": nothing + 200, "duration_s": seconds, **known}
    ends_us = np.arange(int(end_s.max() // WINDOW_S) + 1) * int(WINDOW_S * US) + BEGIN_US + 5 * US
    samples = {"time_us": ends_us, "host": np.zeros(len(ends_us), dtype=np.int64)}
    values = {"slots": slots, "cores": cores, "cpu_util": busy, "mem_share": 0.1}
    samples |= {name: np.full(len(ends_us), value) for name, value in values.items()}
    loads = aggregate_loads(samples, WINDOW_S)
    windows = aggregate(requests, WINDOW_S, loads)
    loads = with_background(loads, windows, WINDOW_S)
    return with_throughput(windows, loads), loads


def queue(rng, draw, load, seconds=400.0):
    """Requests at a host of SLOTS places, first come, first served: when each ended, sojourn, others there."""
    now, ends, rows, waiting, there = 0.0, [], [], deque(), 0
    arrivals = np.cumsum(rng.exponential(1 / (load * TRUTH), int(load * TRUTH * seconds)))
    for came in arrivals.tolist():
        while ends and ends[0][0] <= came:
            now, began, before = heapq.heappop(ends)
            rows.append((now, now - began, before))
            there -= 1
            if waiting:
                began, before = waiting.popleft()
                heapq.heappush(ends, (now + WORK_S * draw(rng, 1)[0], began, before))
        if there - len(waiting) < SLOTS:
            heapq.heappush(ends, (came + WORK_S * draw(rng, 1)[0], came, there))
        else:
            waiting.append((came, there))
        there += 1
    return np.array(rows).T


@pytest.mark.process
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("count", [1, 2, 5, 20, 100, 500])
def test_the_number_of_requests_does_not_move_it(kind, count):
    rng = np.random.default_rng(count)
    windows = max(40, 3000 // count)
    end_s = np.repeat(np.arange(windows), count) * WINDOW_S + rng.uniform(0, 9.9, windows * count)
    made, loads = windows_of(end_s, WORK_S * DRAWS[kind](rng, windows * count))
    assert (made["requests"] == count).all()
    assert len(made["throughput_rps"]) == windows
    assert 1 / (1 / made["throughput_rps"]).mean() == pytest.approx(TRUTH, rel=0.15)
    # And so has the history, whose averages models and routing begin with.
    history, found = History(1, 1, WINDOW_S, 60.0 * WINDOW_S), []
    for end_us in made["end_us"].tolist():
        history.observe(end_us, select_window(made, end_us), select_window(loads, end_us))
        found.append(history.columns()[0, 0, HISTORY_COLUMNS.index("throughput_rps_long")])
    assert np.exp(np.mean(found[windows // 2 :])) == pytest.approx(TRUTH, rel=0.15)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.95])
def test_nor_does_the_load(load, told):
    """With in-flight in the records or by Little's law without; also where most requests had to wait."""
    end_s, took_s, before = queue(np.random.default_rng(7), DRAWS["exponential"], load)
    made, _ = windows_of(end_s, took_s, **({"inflight": before} if told else {}))
    capacity = np.average(1 / made["throughput_rps"], weights=made["measured"])
    assert 1 / capacity == pytest.approx(TRUTH, rel=0.15)
    if load == 0.95:  # the mean time alone is far off
        assert SLOTS / made["service_time_mean_s"].mean() < 0.5 * TRUTH


@pytest.mark.parametrize("told", [True, False])
def test_without_slots_what_came_when_the_host_was_least_crowded_tells_most(told):
    """A plain log: nobody told of places, and where not told, requests in flight are counted in the log itself."""
    end_s, took_s, before = queue(np.random.default_rng(7), DRAWS["exponential"], 0.95)
    made, _ = windows_of(end_s, took_s, slots=np.nan, **({"inflight": before} if told else {}))
    unloaded_mean_s = np.average(made["unloaded_mean_s"], weights=made["measured"])
    assert np.average(made["service_time_mean_s"], weights=made["measured"]) > 2 * WORK_S
    assert unloaded_mean_s == pytest.approx(WORK_S, rel=0.4)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=40))
def test_requests_in_flight_are_those_that_had_begun_and_not_ended(drawn):
    begin, took, host = np.array(drawn).T
    found = in_flight((begin + took) * US, took.astype(float), host)
    end = begin + took
    truth = [((begin < at) & (end > at) & (host == where)).sum() for at, where in zip(begin, host, strict=True)]
    assert found.tolist() == truth


def test_a_host_that_is_never_idle_is_not_taken_to_be_busy_with_other_things():
    """Eight cores, four to eight requests at any time, whose costs scatter: all of the CPU is theirs."""
    rng = np.random.default_rng(2)
    attribution, costs = HostAttribution(3, 60.0, 600.0, 0.0), np.array([0.02, 0.05, 0.2])
    count = 6_000
    begin_s = np.sort(rng.uniform(0, 100, count))
    category = rng.choice(3, count, p=[0.4, 0.4, 0.2])
    took_s = costs[category] * rng.exponential(1.0, count)
    edges_s = np.arange(0, 100.01, 0.25)
    used_s = np.array(
        [
            np.clip(np.minimum(begin_s + took_s, to) - np.maximum(begin_s, at), 0, None).sum()
            for at, to in pairwise(edges_s)
        ]
    )
    assert (used_s > 0).all()
    for number in range(len(used_s)):
        attribution.add_sample(edges_s[number : number + 2], used_s[number : number + 1], 0.0, 8.0)
    end_s, nothing = begin_s + took_s, np.full(count, np.nan)
    attribution.add_requests(end_s, took_s, nothing, np.ones(count, dtype=bool), category, 103.0)
    found = attribution.costs(103.0).cpu_s
    assert found @ np.bincount(category) == pytest.approx(used_s.sum(), rel=0.05)
    np.testing.assert_allclose(found, costs, rtol=0.5)


def test_a_cheap_request_behind_dear_ones_stays_cheap():
    """One queue of two categories, one ten times as dear as the other, at a host where most have to wait."""
    rng = np.random.default_rng(3)
    dear = rng.random(200_000) < 0.5
    work = iter(np.where(dear, 1.8, 0.2) * rng.exponential(1.0, len(dear)))
    end_s, took_s, before = queue(rng, lambda _rng, _count: [next(work)], 0.9, seconds=200.0)
    # First come, first served: the n-th to come did the n-th work.
    kind = np.zeros(len(end_s), dtype=bool)
    kind[np.argsort(end_s - took_s)] = dear[: len(end_s)]
    found, weight = unloaded_s(took_s, before, SLOTS)
    for dear_one, factor in ((True, 1.8), (False, 0.2)):
        mine = kind == dear_one
        assert np.average(found[mine], weights=weight[mine]) == pytest.approx(factor * WORK_S, rel=0.3)


@given(st.floats(1e-6, 100), st.integers(0, 1000), st.integers(1, 64))
def test_time_without_waiting_is_never_more_than_the_time(seconds, inflight, slots):
    took_s = np.array([seconds, seconds])
    found, weight = unloaded_s(took_s, np.array([inflight, 0]), slots)
    assert (found > 0).all() and (found <= seconds).all()
    assert (weight > 0).all() and (weight <= 1).all()
    assert (found[0], weight[0]) == (seconds, 1) or inflight >= slots
    for unknown in ((np.nan, slots), (inflight, np.nan)):
        assert unloaded_s(took_s, *unknown)[0].tolist() == took_s.tolist()


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-4, 10)))
def test_hosts_of_which_only_a_log_is_known_are_on_one_scale(seconds):
    """No slots: finite, in order, and the same whether the host is sampled or not."""
    rates = throughput_rps(np.nan, np.nan, seconds, np.nan)
    np.testing.assert_allclose(rates, PLACES_A_CORE / seconds)
    np.testing.assert_allclose(throughput_rps(np.nan, 4.0, seconds, np.nan), 4 * PLACES_A_CORE / seconds)
    # What is known counts instead.
    np.testing.assert_allclose(throughput_rps(np.nan, 4.0, seconds, 2.0), 2 / seconds)


def test_without_slots_waiting_tells_hosts_apart_where_cpu_does_not():
    """A log before a service whose process nobody named: the CPU is the proxy's, and alike on all hosts."""
    service_s = np.array([0.06, 0.24])
    assert throughput_rps(0.0002, 2.0, service_s, np.nan) == pytest.approx(2 * PLACES_A_CORE / service_s)
    # Work that computes is bound by the CPU it takes, however long it waited for it.
    assert throughput_rps([0.06, 0.12], 2.0, [0.09, 0.2], np.nan) == pytest.approx([2 / 0.06, 2 / 0.12])


@pytest.mark.parametrize(("written", "least"), [(1e-3, 0.0005), (1.0, 0.5)])
def test_a_log_of_whole_milliseconds_or_seconds_says_that_it_took_some_time(written, least):
    rng = np.random.default_rng(2)
    took_s = np.floor(rng.exponential(0.6, 400)) * written
    found = at_resolution(took_s, np.zeros(400, dtype=np.int64))
    assert (found[took_s == 0] == least).all()
    assert (found[took_s > 0] == took_s[took_s > 0]).all()
    made, _ = windows_of(np.linspace(0, 9, 400), took_s, slots=np.nan)
    assert made["latency_p50_s"][0] > 0
    assert np.isfinite(made["throughput_rps"]).all()


def test_the_resolution_is_that_of_each_log():
    found = at_resolution(np.array([0.0, 0.002, 0.0, 0.0000123, 0.0, np.nan]), np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_allclose(found, [0.0005, 0.002, 0.0000005, 0.0000123, 0.0005, np.nan])


def test_without_a_sample_nothing_is_said_of_a_host_that_is_sampled():
    end_s, took_s = np.array([5.0, 15.0]), np.array([0.05, 0.05])
    made, loads = windows_of(end_s, took_s)
    first = {name: each[:1] for name, each in loads.items()}
    rates = with_throughput(made, first)["throughput_rps"]
    assert np.isfinite(rates[0])
    assert np.isnan(rates[1])


@pytest.mark.parametrize("slots", [None, 4])
@pytest.mark.parametrize("cpu_known", [True, False])
def test_windows_and_the_baseline_say_the_same_throughput(slots, cpu_known):
    """The engine's baseline, made of a fingerprint, and the windows that models learn, of the same requests."""
    rng = np.random.default_rng(11)
    key = category_key("GET", "/a", "0", "none", "browser", "DE")
    own = HostHistory(CategoryTable((key,)), WINDOW_S, 60.0)
    ends, took, cpu = [], [], []
    for second in range(120):
        count = rng.poisson(20)
        seconds, end_s = rng.exponential(0.02, count), second + rng.uniform(0, 1, count)
        used = np.full(count, 0.01)
        time_us = BEGIN_US + second * US
        sample = {"time": time_us, "cpu_util": used.sum() / 2, "cores": 2.0, "mem_bytes": 10**8}
        own.add_sample({**sample, "mem_limit_bytes": 10**9, "inflight": None, "slots": slots})
        rows = [
            record(
                time=BEGIN_US + int(at_s * US),
                method="GET",
                route="/a",
                bytes_in=0,
                inflight=None,
                cpu_s=0.01 if cpu_known else None,
                duration_s=each,
                service_time_s=each,
            )
            for at_s, each in zip(end_s, seconds, strict=True)
        ]
        own.add_requests(rows)
        own.close(time_us)
        ends, took, cpu = [*ends, *end_s], [*took, *seconds], [*cpu, *used]
    own.close(BEGIN_US + 123 * US)
    block, nothing = own.block(), np.full(len(FINGERPRINT_HOST_COLUMNS), np.nan)
    made = Fingerprint("shop", "h1", "b", 0, BEGIN_US + 125 * US, "v", block.categories, nothing, block)
    fleet = build_fleet("shop", {"h1": HostState(made, 0, 0)}, 16)
    said = np.exp(fleet.baseline().own[0, 0, 0])
    known = {"cpu_s": np.array(cpu)} if cpu_known else {}
    slots = np.nan if slots is None else slots
    windows, _ = windows_of(ends, took, slots=slots, cores=2.0, busy=np.sum(cpu) / 120 / 2, **known)
    assert said == pytest.approx(1 / np.average(1 / windows["throughput_rps"], weights=windows["measured"]), rel=0.1)
