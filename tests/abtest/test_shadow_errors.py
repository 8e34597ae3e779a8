"""The losses that predictions are compared by, against numeric integrals and known distributions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.abtest.shadow.compare import TAIL, prediction_errors, tail_loss
from fingerpost.features.definition import TARGETS
from fingerpost.telemetry.windows import LATENCY_SHARES

LOGS = st.floats(-8, 3)
SHARES = np.array([0.0, *LATENCY_SHARES.values(), 1.0])


def quantiles(marks):
    """A window's durations as `tail_loss` takes them, at many even shares; logs."""
    shares = (np.arange(40_000) + 0.5) / 40_000
    points = np.array([marks[0], *marks, marks[-1]])
    piece = np.searchsorted(SHARES, shares, side="right") - 1
    part = (shares - SHARES[piece]) / (SHARES[piece + 1] - SHARES[piece])
    return points[piece] + part * (points[piece + 1] - points[piece])


def pinball(durations, predicted, share):
    return np.mean(np.where(durations >= predicted, share, share - 1) * (durations - predicted))


@given(st.lists(LOGS, min_size=3, max_size=3).map(sorted), LOGS, st.floats(0.01, 0.99))
def test_it_is_twice_the_pinball_loss_over_the_windows_requests(marks, predicted, share):
    found = tail_loss(np.array([marks]), np.array([predicted]), share)
    assert found[0] == pytest.approx(2 * pinball(quantiles(marks), predicted, share), abs=2e-3)
    assert found[0] >= 0


@given(LOGS, LOGS)
def test_of_a_single_request_and_the_median_it_is_the_absolute_error(measured, predicted):
    found = tail_loss(np.full((1, 3), measured), np.array([predicted]), 0.5)
    assert found[0] == pytest.approx(abs(measured - predicted), abs=1e-6)


def windows(requests, count=6000, seed=0):
    """Windows of a few requests whose durations are log-normal: log-quantiles 0 and 2.33 at 0.5 and 0.99."""
    durations = np.exp(np.random.default_rng(seed).normal(size=(count, requests)))
    marks = np.quantile(durations, list(LATENCY_SHARES.values()), axis=1)
    table = pd.DataFrame(dict(zip((f"actual_{name}" for name in LATENCY_SHARES), marks, strict=True)))
    return table.assign(actual_throughput_rps=1.0)


@pytest.mark.parametrize("requests", [1, 2, 5, 40])
def test_the_true_p99_is_better_than_what_windows_of_few_requests_measure(requests):
    rows = windows(requests)
    said = {"champion": np.median(np.log(rows[f"actual_{TAIL}"])), "challenger": 2.33, "naive": 3.5}
    for side, tail in said.items():
        rows = rows.assign(**{**{f"{side}_{target}": 1.0 for target in TARGETS}, f"{side}_{TAIL}": np.exp(tail)})
    errors = {side: values[:, TARGETS.index(TAIL)].mean() for side, values in prediction_errors(rows).items()}
    # Of 40 requests the slowest is nearly at the p99; one that is too high costs a little.
    assert errors["challenger"] < errors["champion"] + (0.0 if requests < 40 else 0.02)
    assert errors["challenger"] < errors["naive"]


def test_both_are_judged_by_the_same_outcomes():
    rows = windows(3, count=4)
    for side in ("champion", "challenger", "naive"):
        rows = rows.assign(**{f"{side}_{target}": 1.0 for target in TARGETS})
    rows.loc[0, "champion_throughput_rps"] = np.nan
    rows.loc[1, "challenger_latency_p99_s"] = 0.0
    rows.loc[2, "actual_latency_p90_s"] = np.nan
    rows.loc[3, "naive_latency_p50_s"] = np.nan
    errors = prediction_errors(rows)
    for side in ("champion", "challenger"):
        unknown = np.argwhere(np.isnan(errors[side])).tolist()
        assert unknown == [[0, 0], [1, 2], [2, 2]]
    assert np.isnan(errors["naive"][3, 1])
