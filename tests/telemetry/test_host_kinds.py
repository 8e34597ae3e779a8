"""What is expected of a host that nothing was measured of: what its class does, category by category."""

import numpy as np
import pytest

from fingerpost.telemetry.baseline import estimate_baseline, host_kinds

NAN = np.nan


def logs(seconds):
    """Forecasts of cells by how long a request takes, shape (H, C, 3)."""
    took = np.asarray(seconds, dtype=np.float64)
    return np.log(np.stack([1 / took, took, 3 * took], axis=-1))


# Two classes of hosts that are good at different things, alike on the whole.
FIRST, SECOND = [0.01, 0.04], [0.04, 0.01]


def expected(classes, seconds, cores=None):
    own = logs(seconds)
    count = len(own)
    cores = np.full(count, NAN) if cores is None else np.array(cores, dtype=np.float64)
    evidence = np.where(np.isfinite(own[..., 0]), 100.0, NAN)
    kinds = host_kinds(cores, np.full(count, NAN), classes)
    return np.exp(estimate_baseline(own, evidence, np.zeros_like(evidence), kinds).filled()[..., 1])


@pytest.mark.parametrize("told", ["class", "cores"])
def test_a_new_host_is_expected_to_do_as_its_class_does_in_each_category(told):
    seconds = [FIRST, FIRST, FIRST, SECOND, SECOND, SECOND, [NAN, NAN], [NAN, NAN]]
    classes = ["a", "a", "a", "b", "b", "b", "a", "b"] if told == "class" else None
    found = expected(classes, seconds, None if classes else [2, 2, 2, 4, 4, 4, 2, 4])
    # Drawn to the fleet by as much as one cell.
    assert found[6, 0] < 0.6 * found[6, 1]
    assert found[7, 1] < 0.6 * found[7, 0]
    assert found[:6] == pytest.approx(np.array(seconds[:6]), rel=0.05)


def test_a_host_of_an_unknown_class_is_expected_to_do_as_the_fleet_does():
    found = expected(["a", "a", "b", "b", "c"], [FIRST, FIRST, SECOND, SECOND, [NAN, NAN]])
    assert found[4] == pytest.approx([0.02, 0.02], rel=0.05)


def test_an_announced_class_goes_before_cores_and_slots():
    kinds = host_kinds(np.array([2.0, 4.0, 2.0, 2.0]), np.full(4, NAN), ["a", "a", "", ""])
    assert kinds[0] == kinds[1]
    assert kinds[2] == kinds[3] != kinds[0]
    assert host_kinds(np.array([2.0, 4.0]), np.full(2, NAN)).tolist() == [0, 1]


def test_what_a_host_measures_itself_is_not_told_twice():
    """A host's own cell is no evidence for its class: a lone host's estimates stay as they were."""
    alone = expected(["a", "b", "b"], [FIRST, SECOND, SECOND])
    apart = expected(["a", "b", "c"], [FIRST, SECOND, SECOND])
    assert alone[0] == pytest.approx(apart[0], rel=0.02)


def test_a_fleet_without_hosts_or_categories_is_no_error():
    assert (
        estimate_baseline(np.zeros((0, 2, 3)), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int)).filled().size == 0
    )
    kinds = np.array([0, 0, 1])
    assert estimate_baseline(np.zeros((3, 0, 3)), np.zeros((3, 0)), np.zeros((3, 0)), kinds).filled().size == 0
