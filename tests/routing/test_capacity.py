"""What a fleet could carry: fleets whose answer is known, and large ones against the programme without groups."""

import numpy as np
import pytest

from fingerpost.routing.capacity import capacity_rps, fleet_capacity


def test_two_hosts_that_are_good_at_different_things():
    """Each serves 100/s of what it is good at and 10/s of the other; half of the requests are of each kind."""
    throughput = np.array([[100.0, 10.0], [10.0, 100.0]])
    found = fleet_capacity(throughput, np.full((2, 2), 5.0))
    assert found.rate_rps == 20
    assert found.bound_rps == pytest.approx(200)
    # Blind to categories a request takes (0.01 + 0.1) / 2 of either host.
    assert found.blind_rps == pytest.approx(2 / 0.055)
    assert found.busiest == pytest.approx(0.55)
    assert found.present_rps == pytest.approx(20 / 0.55)
    assert found.used_share == pytest.approx(0.1)
    assert found.saved_share == pytest.approx(1 - found.blind_rps / 200)


def test_where_hosts_are_alike_predictions_save_nothing():
    found = fleet_capacity(np.full((5, 3), 50.0), np.ones((5, 3)))
    assert found.bound_rps == pytest.approx(found.blind_rps) == pytest.approx(250)
    assert found.saved_share == pytest.approx(0, abs=1e-9)


def test_what_is_not_known_is_taken_as_the_others_or_left_out():
    throughput = np.array([[100.0, np.nan, np.nan], [50.0, 20.0, np.nan]])
    rates = np.array([[1.0, 1.0, 9.0], [1.0, 1.0, 9.0]])
    found = fleet_capacity(throughput, rates)
    assert found.rate_rps == 4
    filled = np.array([[100.0, 20.0], [50.0, 20.0]])
    assert found.bound_rps == pytest.approx(capacity_rps((1 / filled).T, np.ones(2), np.array([0.5, 0.5])))
    assert fleet_capacity(throughput, np.zeros((2, 3))) is None
    assert fleet_capacity(np.full((2, 3), np.nan), rates) is None


def test_groups_come_close_to_the_whole_programme():
    """200 hosts of five kinds, 45 categories of very different traffic."""
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 5, 200)
    throughput = 100 * rng.lognormal(0, 0.7, (5, 45))[kinds] * rng.lognormal(0, 0.1, (200, 45))
    rates = rng.lognormal(0, 1.5, 45)[None] * np.ones((200, 1))
    found = fleet_capacity(throughput, rates)
    exact = capacity_rps((1 / throughput).T, np.ones(200), rates.sum(axis=0) / rates.sum())
    assert found.grouped
    assert 0.9 < found.bound_rps / exact < 1.05
    assert found.bound_rps >= found.blind_rps
