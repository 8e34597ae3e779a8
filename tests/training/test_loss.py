"""The losses that boosters are fitted with have the minimum that they say, and gradients that lead there."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.training.loss import time_deviance, time_objective

# Near enough to each other for all errors to count by their size.
LOGS = st.lists(st.floats(-0.65, 0.65), min_size=1, max_size=20)


def data_of(outcome, weight=None):
    outcome = np.array(outcome)
    weights = np.ones(len(outcome)) if weight is None else np.array(weight)
    return SimpleNamespace(get_label=lambda: outcome, get_weight=lambda: None if weight is None else weights)


@given(LOGS)
def test_the_best_prediction_of_a_throughput_is_the_mean_of_the_seconds_that_requests_take(outcome):
    best = np.full(len(outcome), -np.log(np.mean(np.exp(-np.array(outcome)))))
    gradient, curvature = time_objective(best, data_of(outcome))
    assert gradient.sum() == pytest.approx(0, abs=1e-9)
    assert (curvature > 0).all()
    weight = np.ones(len(outcome))
    least = time_deviance(best, np.array(outcome), weight)
    assert all(time_deviance(best + step, np.array(outcome), weight) >= least for step in (-0.01, 0.01))


def test_a_host_that_is_slow_with_a_chance_of_two_in_five_is_not_predicted_to_be_fast():
    outcome = np.log([1.0, 1.0, 1.0, 1 / 8, 1 / 8])
    assert np.exp(-np.median(outcome)) == 1.0
    assert np.mean(np.exp(-outcome)) == pytest.approx(3.8)
    gradient, _ = time_objective(np.full(5, -np.log(3.8)), data_of(outcome))
    assert gradient.sum() == pytest.approx(0)


@given(st.floats(-0.65, 0.65), st.floats(-0.65, 0.65))
def test_the_gradient_is_that_of_the_measure(outcome, predicted):
    def measured(at):
        return time_deviance(np.array([at]), np.array([outcome]), np.ones(1))

    step = 1e-6
    gradient, _ = time_objective(np.array([predicted]), data_of([outcome], [2.0]))
    slope = (measured(predicted + step) - measured(predicted - step)) / (2 * step)
    assert gradient[0] == pytest.approx(2 * slope, abs=1e-4)


def test_one_row_that_is_far_off_does_not_decide_alone():
    gradient, curvature = time_objective(np.array([10.0, 0.0]), data_of([0.0, 0.0]))
    assert gradient.tolist() == pytest.approx([3.0, 0.0])
    assert curvature.tolist() == pytest.approx([4.0, 1.0])
