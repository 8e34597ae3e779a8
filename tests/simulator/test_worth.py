"""`fingerpost worth` against fleets whose answer is known."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
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


def test_places_are_measured_where_hosts_were_full_and_no_more_than_seen_elsewhere():
    _, frame = fleet(FLEETS["by category"], load=0.7)
    places = measured_of(frame).places
    assert places.source == "measured"
    assert np.abs(places.count - SLOTS).max() <= 1
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
