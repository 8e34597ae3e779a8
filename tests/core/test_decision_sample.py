"""Sampled decision records: explored ones all, of the rest a share, and weighted sums unbiased."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingerpost.decision_sample import sample_decisions


def record(number, propensity=0.95, **more):
    return {
        "time": 1_700_000_000_000_000 + 1000 * number,
        "host": f"h{number % 7}",
        "method": "GET",
        "route": "/a",
        "bytes_in": 0,
        "bytes_out": number % 13,
        "duration_s": 0.01 + (number % 101) / 1000,
        "policy": "fingerpost",
        "propensity": propensity,
        **more,
    }


def test_explored_requests_all_travel_and_the_others_by_a_known_share():
    rows = [record(number, 0.02 if number % 50 == 0 else 0.95) for number in range(2000)]
    kept = sample_decisions(rows, 100)
    explored = [row for row in kept if row["propensity"] < 0.5]
    assert len(explored) == 40 and {row["weight"] for row in explored} == {1.0}
    others = [row for row in kept if row["propensity"] > 0.5]
    assert {row["weight"] for row in others} == {19.6} and 60 < len(others) < 150


def test_records_without_a_decision_stay_where_they_are():
    assert sample_decisions([record(1, None), record(2, policy=None)], 100) == []
    assert len(sample_decisions([record(1, None, arm="treatment")], 100)) == 1


def test_few_records_all_travel_with_weight_one():
    kept = sample_decisions([record(number) for number in range(50)], 100)
    assert len(kept) == 50 and {row["weight"] for row in kept} == {1.0}


def test_a_policy_that_always_draws_at_random_is_bounded_too():
    kept = sample_decisions([record(number, 0.1) for number in range(5000)], 100)
    assert 50 < len(kept) < 160 and {row["weight"] for row in kept} == {50.0}


def test_the_same_records_are_drawn_again():
    rows = [record(number) for number in range(1000)]
    assert sample_decisions(rows, 100) == sample_decisions(rows, 100)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_totals_and_means_are_unbiased(first, explored_share):
    rng = np.random.default_rng(first)
    totals, sums = [], []
    rows_per_round, most = 600, 150
    truth_sum = truth_count = 0.0
    for turn in range(60):
        rows = [
            record(first + 10_000 * turn + number, 0.03 if rng.random() < explored_share else 0.9)
            for number in range(rows_per_round)
        ]
        kept = sample_decisions(rows, most)
        totals.append(sum(row["weight"] for row in kept) - rows_per_round)
        sums.append(sum(row["weight"] * row["duration_s"] for row in kept) - sum(row["duration_s"] for row in rows))
        truth_count += rows_per_round
        truth_sum += sum(row["duration_s"] for row in rows)
    # Errors of independent reports, mean 0: their mean is within five standard errors of it.
    for errors in (np.array(totals), np.array(sums)):
        assert abs(errors.mean()) <= 5 * errors.std() / np.sqrt(len(errors)) + 1e-9
    assert (truth_sum + sum(sums)) / (truth_count + sum(totals)) == pytest.approx(truth_sum / truth_count, rel=0.05)
