"""A sampled record counts as often as its weight says, wherever records are read."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.abtest.experiment.slots import measure_slots
from fingerpost.abtest.offpolicy.estimate import evaluate_policy
from fingerpost.abtest.shadow.join import join_outcomes
from fingerpost.decision_sample import sample_decisions

COUNTED = ["weight", "error_rate", "latency_mean_s", "throughput_rps", "predicted_cost"]
rows = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([200, 404, 503]), st.floats(0.001, 5), st.integers(1, 9)),
    min_size=1,
    max_size=40,
)


def frame_of(given_rows):
    slot, status, duration, weight = (np.array(each) for each in zip(*given_rows, strict=True))
    costs = duration * 2
    about = {"status": status, "duration_s": duration, "predicted_cost": costs, "weight": weight.astype(np.float64)}
    return pd.DataFrame(about), slot, weight


@given(rows)
def test_a_weight_is_as_if_the_request_had_come_so_often(given_rows):
    frame, slot, weight = frame_of(given_rows)
    weighted = measure_slots(frame, slot, 4, 10.0)
    again = frame.drop(columns="weight").loc[frame.index.repeat(weight)].reset_index(drop=True)
    repeated = measure_slots(again, np.repeat(slot, weight), 4, 10.0)
    np.testing.assert_allclose(weighted[COUNTED], repeated[COUNTED], rtol=1e-9)
    assert weighted["requests"].tolist() == np.bincount(slot, minlength=4).tolist()


@given(rows)
def test_equal_weights_leave_quantiles_as_they_are(given_rows):
    frame, slot, _ = frame_of(given_rows)
    found = measure_slots(frame.assign(weight=7.0), slot, 4, 10.0)
    known = (frame["status"] < 500).to_numpy()
    for number in range(4):
        values = frame["duration_s"].to_numpy()[known & (slot == number)]
        wanted = np.quantile(values, [0.5, 0.99]) if len(values) else [np.nan, np.nan]
        np.testing.assert_allclose(found.loc[number, ["latency_p50_s", "latency_p99_s"]].to_numpy(float), wanted)


def logged(count=4000, seed=4):
    """Requests of two kinds, routed greedily but for one in ten that is explored; host 1 takes twice as long."""
    rng = np.random.default_rng(seed)
    explored = rng.random(count) < 0.1
    host = np.where(explored, 1, 0)
    duration = rng.lognormal(-3, 0.3, count) * (1 + host)
    return pd.DataFrame(
        {
            "time": 1_700_000_000_000_000 + np.arange(count) * 20_000,
            "host": [f"h{each}" for each in host],
            **{"method": "GET", "route": "/a", "bytes_in": 0, "bytes_out": 0, "policy": "fingerpost", "status": 200},
            "duration_s": duration,
            "propensity": np.where(explored, 0.1, 0.9),
        }
    )


def test_estimates_from_sampled_records_are_those_of_all():
    """Totals are unbiased; what is told of another policy is what all records tell, within its interval."""
    frame = logged()
    kept = pd.DataFrame(sample_decisions(frame.to_dict("records"), 400))
    assert len(kept) < 1000 and kept["weight"].sum() == pytest.approx(len(frame), rel=0.1)

    def estimate(records):
        host = records["host"].str[1:].astype(int).to_numpy()
        target = np.tile([0.0, 1.0], (len(records), 1))  # all go to the slow host
        weight = records.get("weight")
        return evaluate_policy(
            *(records["time"], np.zeros(len(records), dtype=np.int64), host, records["duration_s"]),
            *(records["propensity"], target),
            stands_for=weight,
        )

    whole, part = estimate(frame), estimate(kept)
    assert part.usable and part.dr.low < whole.dr.value < part.dr.high
    assert part.logged.value == pytest.approx(whole.logged.value, rel=0.05)
    # Without their weights explored requests, all of which were kept, would count ten times too often.
    assert estimate(kept.drop(columns="weight")).logged.value > whole.logged.value * 1.15


def test_windows_weigh_by_what_they_measured_over_the_probability_of_an_outcome():
    window_us = 10_000_000
    cell = {"host": "h0", "category": "c"}
    outcome = dict.fromkeys(("throughput_rps", "latency_p50_s", "latency_p90_s", "latency_p99_s"), 1.0)
    predictions = pd.DataFrame([{"time_us": window_us, **cell}, {"time_us": window_us, **cell, "host": "h1"}])
    windows = pd.DataFrame([{"time_us": 2 * window_us, **cell, **outcome, "host": host} for host in ("h0", "h1")])
    records = pd.DataFrame(
        [
            {"time_us": 15_000_000, **cell, "propensity": 0.1, "weight": 1.0},
            {"time_us": 15_000_000, **cell, "propensity": 0.9, "weight": 9.0},
            {"time_us": 15_000_000, **cell, "host": "h1", "propensity": 0.41, "weight": 1.0},
        ]
    )
    rows = join_outcomes(predictions, windows, pd.DataFrame(), records, 10.0).set_index("host")["weight"]
    reached = {"h0": 1 - (1 - 0.82) ** 11, "h1": 1 - (1 - 0.41) ** 11}
    assert rows["h0"] == pytest.approx(10 / 15 / reached["h0"])
    assert rows["h1"] == pytest.approx(1 / 6 / reached["h1"])
