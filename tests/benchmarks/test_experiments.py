"""The suite of experiments: made slices are as noisy as is said, and the product's rules are asked."""

import numpy as np
import pytest

from benchmarks import closed_arms, experiments
from benchmarks.closed_arms import measure_closed_arms
from benchmarks.experiments import (
    KINDS,
    differences,
    make_slices,
    measure_exposure,
    measure_power,
    measure_several,
    measure_watch,
    schedule,
    strength_of,
)
from benchmarks.interference import HORIZONS_S, make_arrivals, make_fleet, measure_interference, run
from benchmarks.sequences import measure_sequences
from fingerpost.settings import Settings


@pytest.mark.parametrize("kind", experiments.KINDS)
def test_slices_are_as_noisy_as_is_said(kind):
    strength = strength_of(kind, 0.4, 100.0)
    times_s = np.arange(400) * 30.0
    made = make_slices(kind, strength, times_s, np.full(400, 25.0), 100.0, 40, np.random.default_rng(5))
    raw = np.diff(np.log(made.raw.reshape(40, 200, 2)), axis=-1).std()
    assert raw == pytest.approx(0.4, rel=0.15)


def test_an_effect_is_what_is_measured():
    plan = schedule(Settings(), 1.0)
    times_s = np.array([plan.slot_begin_us(slot) for slot in range(2 * plan.pairs)]) / 1e6
    made = make_slices("mix", 0.3, times_s, np.full(len(times_s), 20.0), 100.0, 30, np.random.default_rng(6))
    assert differences(made, plan, -0.2).mean() == pytest.approx(np.log(0.8), abs=0.02)
    assert plan.end_us <= plan.begin_us + 3600 * 10**6


def test_what_is_told_of_power(monkeypatch):
    monkeypatch.setattr(experiments, "KINDS", ("mix",))
    monkeypatch.setattr(experiments, "NOISES", (0.4,))
    [row] = measure_power(100.0, 20, 60, lambda _: None)
    assert row["found_5_percent_in_60_min"] > 0.9
    assert row["noise_that_decides"] < 0.1
    assert row["worse_5_percent_called_not_worse"] <= 0.1


def test_what_is_told_of_watches(monkeypatch):
    monkeypatch.setattr(experiments, "NOISES", (0.4,))
    found = {row["change"]: row for row in measure_watch(100.0, 4, lambda _: None)}
    assert found["none"]["rolled_back"] == 0
    assert all(row["rolled_back"] == 1 for change, row in found.items() if change != "none")


def test_a_version_that_fails_everything_has_had_two_short_slices():
    assert measure_exposure()["exposed_s"] == 20


def test_what_is_told_of_closed_arms(monkeypatch):
    """The new version is closed within a slot, and has had few seconds by when that is for good."""
    monkeypatch.setattr(closed_arms, "HARMS", ("20% fail",))
    monkeypatch.setattr(closed_arms, "NO_HARMS", ("nothing",))
    found = measure_closed_arms(schedule(Settings(), 0.25), 50.0, 2, 1, lambda _: None)
    for harmed, same in (found[:2], found[2:]):
        assert harmed["closed_for_good"] == 1
        assert harmed["first_s"][0] < 10
        assert harmed["routed_s"][0] < 25
        assert same["closed_for_good"] == 0


def test_several_equal_challengers_are_called_no_oftener_than_one():
    [row, *_] = rows = measure_several(50.0, 40)
    assert [each["kind"] for each in rows] == [*KINDS]
    assert row["challengers"] == 3
    assert all(each["any_equal_called_better_or_worse"] <= min(each["alone"], 0.1) for each in rows)


def test_what_is_told_of_sequences():
    found = {(row["differences"], row["effect_in_sd"]): row for row in measure_sequences(400)}
    assert found["normal", 0.0]["sequence_found"] <= 0.05
    assert found["normal", 0.0]["groups_found"] <= 0.07
    strong = found["normal", 0.8]
    assert strong["sequence_pairs_mean"] < strong["groups_pairs_mean"]


def test_a_switchback_tells_what_is_true_where_arms_share_hosts():
    found = measure_interference(3, 60.0)["designs"]
    assert set(found) == {
        *("hash split", "switchback", "replay", "off-policy"),
        *(f"Q {each:g} s" for each in HORIZONS_S),
    }
    assert found["switchback"]["said"] == 3
    assert found["switchback"]["told"] == pytest.approx(1.0, abs=0.2)
    assert found["switchback"]["off"] < found["hash split"]["off"]


def test_a_request_that_finds_a_free_place_takes_its_own_time():
    fleet = make_fleet(0.0, np.random.default_rng(1))
    arrivals = make_arrivals(fleet, 5.0, np.random.default_rng(2))
    host, latency_s, seen = run(fleet, arrivals, np.zeros(len(arrivals.times_s), np.int64))
    own = arrivals.size * fleet.service_s[host, arrivals.category]
    free = seen[np.arange(len(host)), host] < 4
    assert free.any()
    assert latency_s[free] == pytest.approx(own[free])
    assert (latency_s >= own - 1e-9).all()
