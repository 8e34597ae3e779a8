"""The guard in simulated fleets with absurd predictions, beside least request and true predictions."""

import pytest

from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from tests.support.guard_fleets import judge


def fleet(**changes):
    """Hosts that differ a little, where least request is good."""
    mild = {"kind": "classes", "hosts": 20, "classes": 5, "categories": 6, "affinity_sigma": 0.2}
    return Scenario.model_validate({"name": "mild", "fleet": mild, "slots": 8, **changes})


@pytest.mark.process
@pytest.mark.parametrize("tell", [True, False], ids=["told", "untold"])
def test_a_fleet_with_absurd_predictions_is_no_worse_than_with_least_request(tell):
    """One host of twenty is predicted ten times too fast, or three, or all of them, or predictions are shuffled."""
    true, *absurd, shuffled = judge("mild", fleet(), 0.7, [0, 1, 3, 20], 1, tell, 4)
    for each in (true, *absurd, shuffled):
        assert each.p99_ratio <= 1.05, each
    for each in (true, *absurd):
        # Concurrency that nobody tells has to be found first.
        assert each.trust > 0.7 or not tell
        assert each.gain_kept >= (0.9 if tell else 0.7), each
    assert shuffled.trust < 0.2


@pytest.mark.parametrize("kind", ["all_equal", "ten_times_off"])
def test_other_nonsense_is_no_worse_than_least_request_either(kind):
    times = {"warmup_s": 15, "duration_s": 15}
    theirs = Bench(fleet(**times), 1).run("least_request_full", 0.7, 4)
    ours = Bench(fleet(**times, predictions={"kind": kind}), 1).run("fingerpost", 0.7, 4)
    assert ours.p99_s <= 1.05 * theirs.p99_s


def test_in_a_fleet_of_equal_hosts_the_guard_costs_nothing():
    equal = {"fleet": {"kind": "classes", "hosts": 20, "classes": 1, "categories": 6}}
    for each in judge("equal", fleet(**equal), 0.7, [0, 1], 1, True, 4):
        assert each.p99_ratio <= 1.02
        assert each.mean_s <= 1.01 * each.true_mean_s
