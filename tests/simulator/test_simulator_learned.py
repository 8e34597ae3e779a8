"""Learned predictions in the simulator: the project's features and training on what a simulation emits."""

import numpy as np
import pytest

from fingerpost.category import ATTRIBUTES, OTHER, category_attributes
from fingerpost.clock import US
from fingerpost.features.definition import NUMERIC_FEATURES
from fingerpost.simulator.learned import Learned, category_names, fit, training_rows
from fingerpost.simulator.run import Bench, past_rows
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.telemetry import Telemetry, joined


def scenario(**changes):
    return Scenario.model_validate(
        {
            "name": "small",
            "fleet": {"kind": "classes", "hosts": 8, "classes": 4, "categories": 4, "affinity_sigma": 0.45},
            "slots": 8,
            "drift": {"kind": "wander", "low": 0.5, "high": 1.0, "period_s": 60},
            "predictions": {"kind": "learned", "memory_s": 15},
            "warmup_s": 30,
            "duration_s": 20,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def small():
    return scenario()


@pytest.fixture(scope="module")
def rows(small):
    return past_rows(small, 1)


@pytest.fixture(scope="module")
def bundle(small, rows):
    return fit(rows, small.predictions.window_s)


@pytest.fixture(scope="module")
def bench(small):
    return Bench(small, 1)


def run(bench, bundle, load):
    return bench.run("fingerpost", load, 3, predictor=Learned(bundle, bench.scenario))


@pytest.mark.process
def test_learned_predictions_are_nearly_as_good_as_the_truth(bench, bundle):
    ours = run(bench, bundle, 0.8)
    truth = Bench(scenario(predictions={"kind": "oracle"}), 1).run("fingerpost", 0.8, 3)
    peer = bench.run("least_request_full", 0.8, 3)
    assert not ours.overloaded
    assert ours.trust > 0.5
    assert ours.p99_s < 1.3 * truth.p99_s
    assert ours.p99_s < 0.8 * peer.p99_s


@pytest.mark.process
def test_the_same_seed_learns_the_same_model_and_runs_the_same():
    tiny = scenario(fleet={"kind": "classes", "hosts": 3, "classes": 3, "categories": 2}, slots=4)
    first, again, other = (Bench(tiny, seed) for seed in (1, 1, 2))
    figures = [bench.run("fingerpost", 0.6, 2) for bench in (first, again, other)]
    assert figures[0] == figures[1] != figures[2]
    texts = [
        [each.model_to_string() for boosters in bench.model().boosters.values() for each in boosters]
        for bench in (first, again, other)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert first.model() is first.model()


def test_served_features_are_those_that_training_computes(small, bench, bundle):
    """What is served when a window ends is the training row of the window that begins then, to the bit."""
    live, telemetry = Learned(bundle, small), Telemetry(small.predictions.window_s)
    parts, served = [], {}

    class Watched:
        def observe(self, chunk):
            live.observe(chunk)
            ended = telemetry.closed(chunk)
            if ended is not None:
                parts.append(ended)
                served[int(ended[1]["end_us"].max())] = live.features()

        def table(self, now_s):
            return live.table(now_s)

    bench.run("fingerpost", 0.6, 3, predictor=Watched())
    rows = training_rows(small, parts)
    rows = rows[~rows["cold_start"]]
    names = category_names(small.categories)
    compared = 0
    for began, group in rows.groupby("time"):
        found = served[began.value // 1000]
        host = np.array([int(name.removeprefix("host-")) for name in group["host"]])
        category = np.array([names.index(name) for name in group["category"]])
        place = host * small.categories + category
        np.testing.assert_array_equal(found.numeric[place], group[list(NUMERIC_FEATURES)].to_numpy())
        encoder = bundle.encoder
        np.testing.assert_array_equal(
            encoder.encode_cells(found.numeric[place], names, category), encoder.encode(group)
        )
        compared += len(group)
    assert compared > 300


def test_telemetry_says_what_happened(bench):
    """Windows hold every request once, and throughput is slots over the mean service time."""
    telemetry, chunks, parts = Telemetry(2.0), [], []

    def watch(chunk):
        chunks.append(chunk)
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    bench.run("least_request", 0.5, 2, watch)
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    assert (np.diff(windows["end_us"]) >= 0).all()
    records = [chunk.records for chunk in chunks]
    time_s = np.concatenate([each.time_s for each in records])
    ended_s = (parts[-1][1]["end_us"].max() - parts[0][1]["end_us"].min()) / US + 2.0
    assert windows["requests"].sum() == (time_s < ended_s).sum()
    assert set(loads["host"]) == set(range(8))
    service = bench.fleet.service_s.mean(axis=0).T
    measured = np.zeros(service.shape)
    np.add.at(measured, (windows["host"], windows["category"]), np.log(windows["throughput_rps"]))
    counts = np.zeros(service.shape)
    np.add.at(counts, (windows["host"], windows["category"]), 1)
    off = measured / counts - np.log(8 / service)
    assert abs(off.mean()) < 0.25
    assert off.std() < 0.15


def test_a_lost_host_reports_nothing_and_what_it_failed_is_no_measurement():
    lost = scenario(events=[{"host": 2, "at_s": 20, "kind": "fail"}], warmup_s=10, duration_s=20)
    telemetry, parts = Telemetry(2.0), []

    def watch(chunk):
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    Bench(lost, 1).run("least_request", 0.6, 2, watch)
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    origin_us = loads["end_us"].min() - 2 * US
    assert loads["end_us"][loads["host"] == 2].max() == origin_us + 20 * US
    assert windows["errors"].sum() > 0
    assert set(windows["host"][windows["errors"] > 0]) == {2}
    assert not (windows["throughput_rps"] <= 0).any()


def test_categories_of_a_simulation_are_categories():
    names = category_names(12)
    assert len(set(names)) == 12
    assert OTHER not in names
    assert all(set(category_attributes(name)) == set(ATTRIBUTES) for name in names)
