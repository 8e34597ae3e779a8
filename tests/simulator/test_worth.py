"""`fingerpost worth` against fleets whose answer is known."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.worth.difference import difference
from fingerpost.simulator.worth.model import busiest, measure
from fingerpost.simulator.worth.traffic import traffic_of
from fingerpost.simulator.worth.worth import OURS, PEER, Options, simulated

pytestmark = pytest.mark.process  # they compute for long

HOSTS, CATEGORIES, SLOTS, MEAN_S = 8, 5, 4, 0.05
SPEED = np.linspace(-0.5, 0.5, HOSTS)
BY_CATEGORY = np.random.default_rng(3).normal(0, 0.5, (CATEGORIES, HOSTS))
FLEETS = {
    "not at all": np.zeros((CATEGORIES, HOSTS)),
    "in speed only": np.tile(SPEED, (CATEGORIES, 1)),
    "by category": BY_CATEGORY,
}


def fleet(log_factor, load=0.5, seconds=60.0, **changes):
    """A simulated fleet of which each host takes exp(log_factor) of the mean; its bench, and records of a run of it."""
    made = Scenario.model_validate(
        {
            "name": "test",
            "fleet": {"kind": "matrix", "service_time_s": (MEAN_S * np.exp(log_factor)).tolist()},
            "slots": SLOTS,
            "service_time": {"kind": "lognormal", "cv": 0.7},
            "warmup_s": 20,
            "duration_s": seconds,
            **changes,
        }
    )
    bench, chunks = Bench(made, 1), []
    bench.run(PEER, load, 1, watch=chunks.append)
    return bench, pd.concat([records(chunk.records) for chunk in chunks], ignore_index=True)


def records(of):
    count = len(of.host)
    return pd.DataFrame(
        {
            "time": np.round((of.time_s + 1_790_000_000) * 1e6).astype(np.int64),
            "host": [f"h{each}" for each in of.host],
            "method": "GET",
            "route": [f"/c{each}" for each in of.category],
            "status": np.where(of.error, 503, 200),
            "bytes_in": np.zeros(count, dtype=np.int64),
            "auth": "none",
            "user_agent_class": "library",
            "region": "none",
            "duration_s": of.duration_s,
            "service_time_s": of.duration_s - 0.001,
            "inflight": np.nan,
        }
    )


NOTHING_TOLD = pd.DataFrame({"host": [], "slots": [], "cores": []})


def measured_of(frame, slots=None):
    return measure(traffic_of(frame, NOTHING_TOLD, [], Counter()), slots)


@pytest.mark.parametrize("verdict", FLEETS)
def test_how_unlike_hosts_are_is_said_as_they_were_made(verdict):
    made = FLEETS[verdict]
    _, frame = fleet(made)
    found = measured_of(frame).difference
    assert found.verdict == verdict
    of_host = made.mean(axis=0).std(ddof=1)
    of_cell = made - made.mean(axis=0) - made.mean(axis=1)[:, None] + made.mean()
    of_cell = np.sqrt((of_cell**2).sum() / ((HOSTS - 1) * (CATEGORIES - 1)))
    assert found.host.low - 0.02 <= of_host <= found.host.high + 0.02 or verdict == "by category"
    assert found.interaction.low - 0.02 <= of_cell <= found.interaction.high + 0.02
    assert found.interaction.high - found.interaction.low < 0.15


def made_times(rng, host_sd, cell_sd, count=4000, noise_sd=0.5, burst_sd=0.0):
    """Log times of requests at random hosts and categories, with an error that neighbours in time share."""
    host, category = rng.integers(0, HOSTS, count), rng.integers(0, CATEGORIES, count)
    of_host = rng.normal(0, host_sd, HOSTS) if host_sd else np.zeros(HOSTS)
    of_cell = rng.normal(0, cell_sd, (HOSTS, CATEGORIES)) if cell_sd else np.zeros((HOSTS, CATEGORIES))
    burst = rng.normal(0, burst_sd, (100, HOSTS, CATEGORIES)) if burst_sd else np.zeros((100, HOSTS, CATEGORIES))
    shared = burst[np.arange(count) * 100 // count, host, category]
    log_s = rng.normal(0, 1, CATEGORIES)[category] + of_host[host] + of_cell[host, category] + shared
    return log_s + rng.normal(0, noise_sd, count), host, category


SHAPE = (HOSTS, CATEGORIES)


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5))
@settings(max_examples=15)
def test_units_order_and_what_is_common_to_a_category_change_no_spread(seed, shift):
    rng = np.random.default_rng(seed)
    log_s, host, category = made_times(rng, 0.3, 0.2, 1000)
    found = difference(log_s, host, category, SHAPE, draws=10)
    order = rng.permutation(HOSTS)
    moved = difference(log_s + shift + category, order[host], category, SHAPE, draws=10)
    assert (found.verdict, found.residual) == (moved.verdict, pytest.approx(moved.residual, rel=1e-6))
    for name in ("value", "low", "high"):
        for spread in ("host", "interaction"):
            assert getattr(getattr(moved, spread), name) == pytest.approx(
                getattr(getattr(found, spread), name), abs=1e-6
            )
    assert moved.log_s[order] == pytest.approx(found.log_s + shift + np.arange(CATEGORIES), abs=1e-6)


@pytest.mark.parametrize("burst_sd", [0.0, 0.5])
def test_like_hosts_are_seldom_said_to_differ_even_where_neighbouring_requests_are_slow_together(burst_sd):
    said = [
        difference(*made_times(np.random.default_rng(seed), 0, 0, burst_sd=burst_sd), SHAPE, draws=60).verdict
        for seed in range(40)
    ]
    assert said.count("by category") + said.count("in speed only") <= 2


def test_intervals_hold_the_spread_of_the_fleet():
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        host, category = np.repeat(np.arange(HOSTS), CATEGORIES), np.tile(np.arange(CATEGORIES), HOSTS)
        cells = rng.normal(0, 0.3, SHAPE)
        at = rng.integers(0, HOSTS * CATEGORIES, 4000)
        log_s = cells[host[at], category[at]] + rng.normal(0, 0.6, len(at))
        apart = cells - cells.mean(axis=1)[:, None] - cells.mean(axis=0) + cells.mean()
        true = np.sqrt((apart**2).sum() / ((HOSTS - 1) * (CATEGORIES - 1)))
        found = difference(log_s, host[at], category[at], SHAPE, draws=60).interaction
        held += found.low <= true <= found.high
    assert held >= 34


def test_few_requests_are_drawn_to_what_is_known_of_host_and_category():
    rng = np.random.default_rng(1)
    log_s, host, category = made_times(rng, 0.3, 0.3, 4000)
    rare = (host == 0) & (category == 0)
    keep = ~rare | (np.cumsum(rare) <= 2)
    found = difference(log_s[keep], host[keep], category[keep], SHAPE)
    assert found.count[0, 0] == 2
    assert found.error[0, 0] > 3 * np.median(found.error)
    drawn = np.array([found.drawn(np.random.default_rng(seed))[0, 0] for seed in range(200)])
    assert drawn.std() == pytest.approx(found.error[0, 0], rel=0.2)


def test_places_are_measured_where_hosts_were_full_and_no_more_than_seen_elsewhere():
    _, frame = fleet(FLEETS["by category"], load=0.7)
    places = measured_of(frame).places
    assert places.source == "measured"
    assert np.abs(places.count - SLOTS).max() <= 1
    # Times that scatter little show it with less waiting.
    _, steady = fleet(FLEETS["by category"], load=0.45, service_time={"kind": "lognormal", "cv": 0.3})
    assert np.abs(measured_of(steady).places.count - SLOTS).max() <= 1
    # Two of the hosts are smaller than the others.
    _, uneven = fleet(FLEETS["not at all"], load=0.8, slots=[SLOTS] * (HOSTS - 2) + [1, 2])
    assert measured_of(uneven).places.count.tolist() == pytest.approx([SLOTS] * (HOSTS - 2) + [1, 2], abs=1)
    _, calm = fleet(FLEETS["not at all"], load=0.1)
    places = measured_of(calm).places
    assert places.source == "seen"
    assert places.count.max() <= SLOTS


@pytest.mark.parametrize(("verdict", "load"), [("not at all", 0.7), ("in speed only", 0.6), ("by category", 0.45)])
def test_the_gain_is_that_of_the_fleet_itself(verdict, load):
    bench, frame = fleet(FLEETS[verdict], load)
    measured = measured_of(frame)
    found = simulated(
        measured, busiest(measured.traffic), Options(fleets=1, shares=(), highest=False), lambda _text: None
    )
    assert found.bounds_rps[0] == pytest.approx(bench.bound_rps, rel=0.15)
    true = bench.run(PEER, load, 1).p99_s / bench.run(OURS, load, 1).p99_s
    assert found.gain()[0] == pytest.approx(true, rel=0.25)
    if verdict == "not at all":
        assert found.gain()[0] == pytest.approx(1.0, abs=0.1)
